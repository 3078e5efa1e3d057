"""The comparisons behind the paper's claims: one estimate with its interval for each data set.

A comparison supports its claim when the whole interval does, contradicts it when the whole
interval does, and is undecided in between. docs/report.md states every rule.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from sweep.report import paper_values as paper
from sweep.report.aggregate import (
    PAIR,
    SEEDS,
    STAGES,
    Column,
    Results,
    Trials,
    paired,
    select,
    two_stage_cost,
)
from sweep.report.cells import unfinished
from sweep.report.statistics import (
    Array,
    Interval,
    mean_interval,
    rank_correlation,
    slope,
    trend_interval,
    variance_ratio_interval,
)

HOLDS, FAILS, NOT_ENOUGH_DATA = "holds", "fails", "not enough data"
OURS, RIVAL = paper.PAPER_STRATEGY, paper.RIVAL_STRATEGY
DECIDING_STATES = ("neutralized",)  # claims 4 and 5: the paper does not say at which it measured


@dataclass(frozen=True)
class Finding:
    """One comparison on one data set."""

    dataset: str  # the name in the configuration
    label: str
    aspect: str  # what is compared
    unit: str
    supports: str  # "below 0", "0 or below", "above 0", "0 or above"; the same with 1 for ratios
    interval: Interval
    verdict: str
    decides: bool = True  # whether the claim's verdict rests on it
    paper: str = ""  # the paper's own value of the same estimate
    note: str = ""


def judge(interval: Interval, supports: str) -> str:
    """Whether the whole interval lies where the claim puts it, or the whole of it elsewhere."""
    reference, low, high = float("1" in supports), interval.low, interval.high
    if not interval.known:
        return NOT_ENOUGH_DATA
    side = supports.replace("1", "0")
    inside, outside = {
        "below 0": (high < reference, low >= reference),
        "0 or below": (high <= reference, low > reference),
        "above 0": (low > reference, high <= reference),
        "0 or above": (low >= reference, high < reference),
    }[side]
    if inside:
        return HOLDS
    return FAILS if outside else NOT_ENOUGH_DATA


def _trials(
    results: Results, column: Column, state: str, strategy: str | None, in_range: bool = False
) -> Trials:
    kind = "scratch" if strategy is None else "two_stage"
    ratios = paper.in_ratio_range if in_range else None
    return select(results.frame, column.dataset, kind, state, strategy, ratios)


def _finding(
    column: Column,
    aspect: str,
    unit: str,
    supports: str,
    interval: Interval,
    trials: Mapping[str, Trials],
    *,
    paper: str = "",
    note: str = "",
) -> Finding:
    """The judged comparison; its note names the trials that it lacks."""
    notes = [note] if note else []
    for name, found in trials.items():
        words = unfinished(found.counts) if found.planned else "not in this sweep"
        notes += [f"{name}: {words}"] if words else []
    verdict, about = judge(interval, supports), (column.dataset, column.label, aspect, unit)
    return Finding(*about, supports, interval, verdict, True, paper, "; ".join(notes))


def _cells(pairs: pd.DataFrame, values: "pd.Series[float]") -> pd.DataFrame:
    """One value a (ratio, training seed, forget seed): the mean of trials that share them."""
    keys = ["forget_ratio", *PAIR]
    named = pairs[keys].assign(value=values.astype("float64"))
    return named.groupby(keys)["value"].mean().reset_index()


def _difference(
    results: Results, column: Column, quantity: str, in_range: bool = False
) -> tuple[pd.DataFrame, dict[str, Trials]]:
    """Retrained minus scratch in paired cells, and the trials of both."""
    retrained = _trials(results, column, "retrained", OURS, in_range)
    scratch = _trials(results, column, "scratch", None, in_range)
    pairs = paired(retrained.rows, scratch.rows, quantity, PAIR)
    trials = {f"retrained ({OURS})": retrained, "scratch": scratch}
    return _cells(pairs, pairs["first"] - pairs["second"]), trials


def _percent(interval: Interval) -> Interval:
    return interval.transformed(lambda value: 100 * value)


def accuracy_on_test_set(results: Results, column: Column) -> list[Finding]:
    """Claim 1: retrained minus scratch on the test set."""
    cells, trials = _difference(results, column, "test_accuracy")
    words = []
    tables = {"Table 2": paper.TEST_ACCURACY, "section 5": paper.TEST_ACCURACY_IN_TEXT}
    for source, table in tables.items():
        if column.reader in table["retrained"]:
            gap = table["retrained"][column.reader] - table["scratch"][column.reader]
            words.append(f"{gap:+.2f} ({source})")
    interval = _percent(mean_interval(cells))
    aspect, unit, known = (
        "retrained - scratch, test accuracy",
        "percentage points",
        ", ".join(words),
    )
    return [_finding(column, aspect, unit, "0 or above", interval, trials, paper=known)]


def variance_over_ratios(results: Results, column: Column) -> list[Finding]:
    """Claim 2: variance over ratios of retrained against that of scratch."""
    retrained = _trials(results, column, "retrained", OURS)
    scratch = _trials(results, column, "scratch", None)
    pairs = paired(retrained.rows, scratch.rows, "test_accuracy", PAIR)
    grids = [
        pairs.pivot_table(index=list(PAIR), columns="forget_ratio", values=side, dropna=False)
        for side in ("first", "second")
    ]
    first, second = (100 * grid.to_numpy(dtype=np.float64) for grid in grids)
    interval, on_log_scale = variance_ratio_interval(first, second)
    trials = {f"retrained ({OURS})": retrained, "scratch": scratch}
    known = paper.TEST_ACCURACY_VARIANCE
    words = ""
    if column.reader in known["retrained"]:
        words = f"{known['retrained'][column.reader] / known['scratch'][column.reader]:.2f}"
    if on_log_scale:
        aspect = "variance over ratios, retrained / scratch"
        interval = interval.transformed(math.exp)
        return [_finding(column, aspect, "ratio", "below 1", interval, trials, paper=words)]
    aspect, unit = "variance over ratios, retrained - scratch", "squared percentage points"
    return [_finding(column, aspect, unit, "below 0", interval, trials)]


def best_epoch(results: Results, column: Column) -> list[Finding]:
    """Claim 3: best epoch of retrained minus that of scratch, ratios of 1 to 10 %."""
    cells, trials = _difference(results, column, "best_epoch", in_range=True)
    gap = paper.BEST_EPOCH_GAP.get(column.reader)
    known = "" if gap is None else f"{-gap:+g}"
    interval, aspect = mean_interval(cells), "retrained - scratch, best epoch"
    return [_finding(column, aspect, "epochs", "below 0", interval, trials, paper=known)]


def minimum_against_maximum(results: Results, column: Column) -> list[Finding]:
    """Claim 4: accuracy on the forget set, `minimum` minus `maximum`, by augmentation and stage."""
    findings = []
    for state, stage in STAGES.items():
        trials = {
            name: _trials(results, column, state, name, in_range=True) for name in (OURS, RIVAL)
        }
        ours, rival = (found.rows for found in trials.values())
        for name, words in paper.AUGMENTATIONS.items():
            pairs = paired(ours, rival, f"forget_{name}_accuracy", SEEDS["two_stage"])
            interval = _percent(mean_interval(_cells(pairs, pairs["first"] - pairs["second"])))
            first, second = (_paper_accuracy(column, strategy, name) for strategy in (OURS, RIVAL))
            known = "" if first is None or second is None else f"{first - second:+.2f}"
            aspect, unit = f"{OURS} - {RIVAL}, {words}, {stage}", "percentage points"
            finding = _finding(column, aspect, unit, "below 0", interval, trials, paper=known)
            findings.append(dataclasses.replace(finding, decides=state in DECIDING_STATES))
    return findings


def _paper_accuracy(column: Column, strategy: str, augmentation: str) -> float | None:
    return paper.AUGMENTED_FORGET_ACCURACY[strategy, augmentation].get(column.reader)


def against_chance(results: Results, column: Column) -> list[Finding]:
    """Claim 5: accuracy on the forget set minus chance, by strategy, augmentation and stage."""
    findings = []
    sides = {OURS: "below 0", RIVAL: "above 0"}
    for state, (strategy, supports), (name, words) in product(
        STAGES, sides.items(), paper.AUGMENTATIONS.items()
    ):
        trials = _trials(results, column, state, strategy, in_range=True)
        values = trials.rows[f"forget_{name}_accuracy"] - column.chance
        interval = _percent(mean_interval(_cells(trials.rows, values)))
        value = _paper_accuracy(column, strategy, name)
        known = "" if value is None else f"{value - paper.CHANCE[column.reader]:+.2f}"
        aspect, unit = f"{strategy} - chance, {words}, {STAGES[state]}", "percentage points"
        named = {strategy: trials}
        finding = _finding(column, aspect, unit, supports, interval, named, paper=known)
        findings.append(dataclasses.replace(finding, decides=state in DECIDING_STATES))
    return findings


def _lower_median(values: "pd.Series[float]") -> float:
    """An observed value, never a mean of two: the middle one, the lower of two middle ones."""
    return float(np.sort(values.to_numpy(dtype=np.float64))[(len(values) - 1) // 2])


def _trend(ratios: Array, epochs: Array) -> Interval:
    """Interval of the rank correlation; infinite epochs are of unknown order among themselves.

    The widest over both extreme orders, growing and falling with the ratio: whatever the order
    is, its interval lies inside.
    """
    unknown = np.isinf(epochs)
    top = float(epochs[~unknown].max(initial=0.0)) + 1
    tied = np.where(unknown, top, epochs)
    growing = trend_interval(ratios, np.where(unknown, top + ratios, epochs))
    falling = trend_interval(ratios, np.where(unknown, top + 1 - ratios, epochs))
    reason = growing.reason or falling.reason
    ends = (math.nan, math.nan) if reason else (falling.low, growing.high)
    estimate = rank_correlation(ratios, tied) if len(ratios) else math.nan
    return Interval(estimate, *ends, len(ratios), growing.method, reason)


def stage_1_epochs(results: Results, column: Column) -> list[Finding]:
    """Claim 6: rank correlation of the epochs to zero with the forget ratio."""
    trials = _trials(results, column, "neutralized", OURS)
    rows = results.frame
    rows = rows[(rows["dataset"] == column.dataset) & (rows["strategy"] == OURS)]
    rows = rows[rows["state"] == "neutralized"]
    epochs = rows["first_epoch_at_zero"].astype("float64")
    capped = rows["outcome"] == "not_converged"
    epochs = epochs.mask(capped, math.inf)
    points = epochs.dropna().groupby(rows["forget_ratio"]).apply(_lower_median)
    ratios, values = (np.asarray(part, np.float64) for part in (points.index, points))
    notes = []
    if capped.any():
        notes.append(f"{int(capped.sum())} not converged, counted as later than any that did")
    if epochs.isna().any():
        notes.append(f"{int(epochs.isna().sum())} stopped at chance, before zero")
    finite = np.isfinite(values)
    if finite.sum() > 1:
        change = slope(100 * ratios[finite], values[finite])
        notes.append(f"Theil-Sen slope {change:+.2f} epochs per percentage point")
    words = _paper_trend(column)
    aspect, interval = "epochs of stage 1 to zero against the forget ratio", _trend(ratios, values)
    named = {OURS: Trials(trials.rows, {**trials.counts, "not_converged": 0})}
    unit, note = "Spearman's correlation", "; ".join(notes)
    return [_finding(column, aspect, unit, "0 or below", interval, named, paper=words, note=note)]


def _paper_trend(column: Column) -> str:
    rows = paper.EPOCHS_TO_ZERO
    known = [(ratio, row[column.reader]) for ratio, row in rows.items() if column.reader in row]
    return f"{rank_correlation(*np.array(known, np.float64).T):+.2f}" if known else ""


def computation(results: Results, column: Column) -> list[Finding]:
    """Claim 7: samples and seconds of both stages as a multiple of scratch's."""
    trials = _trials(results, column, "retrained", OURS)
    scratch = _trials(results, column, "scratch", None)
    ours = results.frame[
        (results.frame["dataset"] == column.dataset) & (results.frame["strategy"] == OURS)
    ]
    cost, capped = two_stage_cost(ours), trials.counts["not_converged"]
    findings = []
    for quantity in ("samples", "seconds"):
        pairs = paired(cost, scratch.rows, quantity, PAIR)
        pairs = pairs[(pairs["first"] > 0) & (pairs["second"] > 0)].astype({"first": "float64"})
        logs = np.log(pairs["first"] / pairs["second"].astype("float64"))
        interval = mean_interval(_cells(pairs, logs)).transformed(math.exp)
        named = {f"retrained ({OURS})": trials, "scratch": scratch}
        aspect = f"{quantity}, (stage 1 + stage 2) / scratch"
        finding = _finding(column, aspect, "ratio", "below 1", interval, named)
        if capped:
            note = "trials that did not converge count with what they spent, a lower bound"
            # Their true cost is unknown, so they can refute "less", never establish it.
            verdict = NOT_ENOUGH_DATA if finding.verdict == HOLDS else finding.verdict
            joined = f"{note}; {finding.note}"
            finding = dataclasses.replace(finding, verdict=verdict, note=joined)
        findings.append(finding)
    return findings
