"""Means, variances and intervals, each with the number of values that it stands on.

None of the intervals draws random numbers, so the same trials always give the same report.
docs/report.md says why each one was chosen.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

LEVEL = 0.95
MIN_GROUPS = 3  # fewest independent values that an interval of a mean may stand on
MIN_RATIOS = 4  # fewest forget ratios for comparing variances over ratios
MIN_RATIOS_FOR_TREND = 5  # with four, even a perfect order has a chance of 2 in 24
# Identical values have no spread to make an interval from. Six of one sign are the fewest that a
# two-sided sign test at 5 % accepts: 2 * 0.5**6 = 0.031, while five give 0.063.
MIN_IDENTICAL = 6

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation of n values; nan where n is too small for it."""

    mean: float
    n: int
    sd: float


@dataclass(frozen=True)
class Variance:
    """Mean of the sample variances within groups of two or more values.

    `groups` is the number of such groups, `n` the number of values in them.
    """

    value: float
    groups: int
    n: int


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; `low` and `high` are nan where there are too few values.

    `n` counts the paired values behind it; `reason` says what is missing where there is no
    interval, and is empty otherwise.
    """

    estimate: float
    low: float
    high: float
    n: int
    method: str
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def transformed(self, change: Callable[[float], float]) -> "Interval":
        """The same interval on another scale, `change` being an increasing function."""
        ends = {name: change(getattr(self, name)) for name in ("estimate", "low", "high")}
        return dataclasses.replace(self, **ends)  # type: ignore[arg-type]


def summarize(values: "Sequence[float] | pd.Series[float]") -> Summary:
    """Mean, n and sample standard deviation (ddof 1) of the values that are numbers."""
    # Sorted, so that the order of the records cannot move the last bit of a sum.
    array = np.sort(np.asarray(values, dtype=np.float64))
    array = array[~np.isnan(array)]
    mean = float(array.mean()) if array.size else math.nan
    sd = float(array.std(ddof=1)) if array.size > 1 else math.nan
    return Summary(mean, int(array.size), sd)


def variance_within(rows: pd.DataFrame, value: str, groups: Sequence[str]) -> Variance:
    """The spread of `value` inside each group, averaged over the groups.

    Grouped by the seeds this is the variance over forget ratios, free of any difference between
    seeds; grouped by the ratio it is the variance over seeds, free of any trend in the ratio.
    Groups of a single value say nothing of spread and are left out.
    """
    rows = rows[rows[value].notna()]
    if rows.empty:
        return Variance(math.nan, 0, 0)
    grouped = rows.groupby(list(groups), dropna=False)[value]
    summaries = [summarize(part) for _, part in grouped]
    used = [summary for summary in summaries if summary.n > 1]
    mean = summarize([summary.sd**2 for summary in used]).mean
    return Variance(mean, len(used), sum(summary.n for summary in used))


def _no_interval(estimate: float, n: int, reason: str) -> Interval:
    return Interval(estimate, math.nan, math.nan, n, "none", reason)


def _t_half_width(values: Array) -> float:
    from scipy.stats import t

    quantile = float(t.ppf(0.5 + LEVEL / 2, values.size - 1))
    return quantile * float(values.std(ddof=1)) / math.sqrt(values.size)


def _identical(values: Array) -> bool:
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def mean_interval(cells: pd.DataFrame, value: str = "value") -> Interval:
    """Student's t interval of a mean over cells that may share a trained model.

    Args:
        cells: one row per (forget ratio, seeds), with the columns `training_seed` and `value`.

    Returns:
        With three training seeds or more, the interval over the means of the seeds, because
        cells of one seed share an original model and are not independent. With fewer, the
        interval over the cells, which then says nothing of other seeds.
    """
    cells = cells[cells[value].notna()]
    n = len(cells)
    over_cells = np.sort(cells[value].to_numpy(dtype=np.float64))
    means = [summarize(part).mean for _, part in cells.groupby("training_seed")[value]]
    # Means that coincide by chance would give an interval of no width: the cells decide then.
    by_seed = len(means) >= MIN_GROUPS and not _identical(np.asarray(means))
    values = np.sort(np.asarray(means)) if by_seed else over_cells
    estimate = float(values.mean()) if n else math.nan
    if len(values) < MIN_GROUPS:
        return _no_interval(estimate, n, f"{n} paired values; at least {MIN_GROUPS} are needed")
    identical = _identical(over_cells)
    if identical and n < MIN_IDENTICAL:
        reason = f"{n} identical values; at least {MIN_IDENTICAL} are needed"
        return _no_interval(estimate, n, reason)
    half = 0.0 if identical else _t_half_width(values)
    source = f"{len(values)} training seeds" if by_seed else f"{n} cells"
    return Interval(estimate, estimate - half, estimate + half, n, f"t over {source}")


def _jackknife(statistic: Callable[[Array], float], columns: Array, method: str) -> Interval:
    """The t interval of `statistic` from leaving out one column (one ratio) at a time."""
    n = columns.shape[1]
    full = statistic(columns)
    leave_one_out = [statistic(np.delete(columns, index, axis=1)) for index in range(n)]
    pseudo_values = n * full - (n - 1) * np.asarray(leave_one_out)
    half = _t_half_width(pseudo_values)
    return Interval(full, full - half, full + half, n, f"{method} over {n} ratios")


def _mean_variance(rows_SR: Array) -> float:
    """Sample variance over the ratios of each seed's row, averaged over seeds; skips nan."""
    counts = (~np.isnan(rows_SR)).sum(axis=1)
    return float(np.nanvar(rows_SR[counts > 1], axis=1, ddof=1).mean())


def variance_ratio_interval(first_SR: Array, second_SR: Array) -> tuple[Interval, bool]:
    """Whether the first variance over ratios is smaller: interval of the log of their ratio.

    Args:
        first_SR, second_SR: values of [seeds, ratios], nan where either one is missing.

    Returns:
        The interval (below 0: the first varies less) by a jackknife over the ratios with the
        quantile of Student's t, and whether it is of the log of the variances' ratio. It is of
        their difference where a variance is zero, and so has no logarithm.
    """
    shared = ~(np.isnan(first_SR) | np.isnan(second_SR))
    num_shared = int(shared.any(axis=0).sum())
    shared[shared.sum(axis=1) < 3] = False  # two must be left when one ratio is taken out
    stacked = np.stack([np.where(shared, first_SR, np.nan), np.where(shared, second_SR, np.nan)])
    stacked = stacked[:, shared.any(axis=1)][:, :, shared.any(axis=0)]
    num_ratios = stacked.shape[2]
    if num_ratios < MIN_RATIOS:
        reason = f"{num_shared} forget ratios with both models; at least {MIN_RATIOS} are needed"
        if num_shared >= MIN_RATIOS:
            reason = "no seed has both models at three forget ratios or more"
        return _no_interval(math.nan, num_shared, reason), True
    # Seeds and ratios are laid side by side, so that one deletion takes a ratio from both.
    columns = stacked.reshape(-1, num_ratios)

    def variances(values: Array) -> tuple[float, float]:
        first, second = np.split(values, 2)
        return _mean_variance(first), _mean_variance(second)

    def difference(values: Array) -> float:
        first, second = variances(values)
        return first - second

    def log_ratio(values: Array) -> float:
        first, second = variances(values)
        return math.log(first / second)

    subsets = [columns, *(np.delete(columns, index, axis=1) for index in range(num_ratios))]
    on_log_scale = min(min(variances(subset)) for subset in subsets) > 1e-15
    if on_log_scale:
        interval = _jackknife(log_ratio, columns, "jackknife t of the log ratio")
    else:
        interval = _jackknife(difference, columns, "jackknife t of the difference")
    if interval.high - interval.low <= 1e-15 and num_ratios < MIN_IDENTICAL:
        reason = f"identical in {num_ratios} ratios; at least {MIN_IDENTICAL} are needed"
        return _no_interval(interval.estimate, num_ratios, reason), on_log_scale
    return interval, on_log_scale


def rank_correlation(first: Array, second: Array) -> float:
    """Spearman's correlation, ties sharing their mean rank; 0 where either one is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def trend_interval(ratios: Array, values: Array) -> Interval:
    """Interval of Spearman's correlation of `values` with the forget ratio; above 0 means growth.

    Fisher's z with the standard error of Bonett and Wright (2000), sqrt((1 + rho^2/2) / (n - 3)).
    """
    from scipy.stats import norm

    n = len(ratios)
    if n < MIN_RATIOS_FOR_TREND:
        reason = f"{n} forget ratios; at least {MIN_RATIOS_FOR_TREND} are needed"
        return _no_interval(math.nan, n, reason)
    rho = rank_correlation(ratios, values)
    method = f"Fisher z of Spearman's correlation over {n} ratios"
    if np.ptp(values) == 0:
        if n < MIN_IDENTICAL:
            reason = f"{n} identical values; at least {MIN_IDENTICAL} are needed"
            return _no_interval(rho, n, reason)
        return Interval(rho, 0.0, 0.0, n, method)
    if abs(rho) >= 1 - 1e-12:
        return Interval(rho, rho, rho, n, method)
    half = float(norm.ppf(0.5 + LEVEL / 2)) * math.sqrt((1 + rho * rho / 2) / (n - 3))
    center = math.atanh(rho)
    return Interval(rho, math.tanh(center - half), math.tanh(center + half), n, method)


def slope(ratios: Array, values: Array) -> float:
    """Theil-Sen slope: the median change of `values` for a change of 1 in `ratios`."""
    from scipy.stats import theilslopes

    return float(theilslopes(values, ratios)[0]) if len(np.unique(ratios)) > 1 else math.nan
