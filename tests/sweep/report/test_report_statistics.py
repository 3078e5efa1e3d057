import itertools
import math
import statistics as standard

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sweep.report.statistics import (
    mean_interval,
    rank_correlation,
    slope,
    summarize,
    trend_interval,
    variance_ratio_interval,
    variance_within,
)

# Two seeds by three ratios, by hand:
#   seed 0: 90, 92, 94   variance over ratios 4
#   seed 1: 80, 81, 82   variance over ratios 1, mean of both 2.5
#   ratios: (90, 80), (92, 81), (94, 82): variances over seeds 50, 60.5, 72, mean 60.8333...
GRID = pd.DataFrame(
    {
        "value": [90.0, 92, 94, 80, 81, 82],
        "seed": [0, 0, 0, 1, 1, 1],
        "ratio": [0.01, 0.02, 0.03, 0.01, 0.02, 0.03],
    }
)


def cells(values, seeds=None):
    seeds = [0] * len(values) if seeds is None else seeds
    return pd.DataFrame({"training_seed": seeds, "value": values})


def test_variance_over_ratios_is_free_of_the_difference_between_seeds():
    variance = variance_within(GRID, "value", ["seed"])
    assert (variance.value, variance.groups, variance.n) == (2.5, 2, 6)


def test_variance_over_seeds_is_free_of_the_trend_in_the_ratio():
    variance = variance_within(GRID, "value", ["ratio"])
    assert variance.value == pytest.approx((50 + 60.5 + 72) / 3)
    assert (variance.groups, variance.n) == (3, 6)


def test_a_group_of_one_value_says_nothing_of_spread():
    variance = variance_within(GRID.iloc[:4], "value", ["seed"])
    assert (variance.value, variance.groups, variance.n) == (4.0, 1, 3)
    nothing = variance_within(GRID.iloc[:1], "value", ["seed"])
    assert math.isnan(nothing.value) and (nothing.groups, nothing.n) == (0, 0)


def test_summaries_count_only_numbers():
    summary = summarize([1.0, math.nan, 3.0])
    assert (summary.mean, summary.n, summary.sd) == (2.0, 2, math.sqrt(2))
    assert math.isnan(summarize([]).mean) and summarize([]).n == 0
    assert math.isnan(summarize([5.0]).sd)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_summaries_agree_with_the_standard_library_in_any_order(values):
    summary = summarize(values)
    assert summary.mean == pytest.approx(standard.fmean(values))
    assert summary.sd == pytest.approx(standard.stdev(values), abs=1e-9)
    assert summarize(values[::-1]) == summary


def test_interval_of_a_mean_is_students():
    values = [0.1, 0.4, 0.2, 0.5]
    interval = mean_interval(cells(values))
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval.n == 4 and interval.method == "t over 4 cells"


def test_cells_that_share_a_seed_are_not_independent():
    values, seeds = [1.0, 1.2, 2.0, 2.2, 3.0, 3.2], [0, 0, 1, 1, 2, 2]
    interval = mean_interval(cells(values, seeds))
    means = [1.1, 2.1, 3.1]
    expected = stats.t.interval(0.95, 2, 2.1, stats.sem(means))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval.n == 6 and interval.method == "t over 3 training seeds"
    over_cells = mean_interval(cells(values))
    assert interval.high - interval.low > over_cells.high - over_cells.low


def test_two_values_are_too_few_for_an_interval():
    interval = mean_interval(cells([0.1, 0.2]))
    assert not interval.known and interval.estimate == pytest.approx(0.15)
    assert "at least 3" in interval.reason


@pytest.mark.parametrize(("count", "known"), [(3, False), (5, False), (6, True)])
def test_identical_values_need_six_for_an_interval_of_no_width(count, known):
    interval = mean_interval(cells([-0.1] * count))
    assert interval.known is known
    assert interval.estimate == pytest.approx(-0.1)
    if known:
        assert interval.low == interval.high == interval.estimate


def test_seeds_whose_means_coincide_do_not_make_an_interval_of_no_width():
    values, seeds = [1.0, 3.0, 3.0, 1.0, 2.0, 2.0], [0, 0, 1, 1, 2, 2]
    interval = mean_interval(cells(values, seeds))
    assert interval == mean_interval(cells(values)) and interval.high > interval.low


def slow_variance_interval(first, second):
    """Leave one ratio out at a time, with loops; both without gaps, of shape [seeds, ratios]."""

    def log_ratio(columns):
        variances = []
        for rows in (first, second):
            of_seeds = [standard.variance([row[index] for index in columns]) for row in rows]
            variances.append(sum(of_seeds) / len(of_seeds))
        return math.log(variances[0] / variances[1])

    everything = list(range(len(first[0])))
    n, full = len(everything), log_ratio(everything)
    rest = [log_ratio([other for other in everything if other != one]) for one in everything]
    pseudo = [n * full - (n - 1) * value for value in rest]
    half = stats.t.ppf(0.975, n - 1) * standard.stdev(pseudo) / math.sqrt(n)
    return full - half, full + half


def test_variance_ratio_is_the_jackknife_over_ratios():
    generator = np.random.default_rng(5)
    first, second = generator.normal(size=(2, 3, 7))
    interval, on_log_scale = variance_ratio_interval(first, second)
    assert on_log_scale and interval.n == 7
    expected = slow_variance_interval(first.tolist(), second.tolist())
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_variances_are_compared_on_shared_ratios_only():
    first = np.array([[1.0, 2, 4, 7, 100], [3, 5, 4, 9, math.nan]])
    second = np.array([[2.0, 1, 5, 3, math.nan], [2, 8, 1, 4, 50]])
    with_gaps, _ = variance_ratio_interval(first, second)
    without, _ = variance_ratio_interval(first[:, :4], second[:, :4])
    assert with_gaps == without and with_gaps.n == 4


def test_a_variance_of_zero_has_no_logarithm_but_a_difference():
    varied = np.array([[1.0, 3.0, 2.0, 5.0, 4.0]])
    interval, on_log_scale = variance_ratio_interval(np.ones((1, 5)), varied)
    assert not on_log_scale
    assert interval.estimate == pytest.approx(-2.5) and interval.high < 2.5
    nothing, _ = variance_ratio_interval(np.ones((1, 5)), np.ones((1, 5)))
    assert not nothing.known and "identical in 5 ratios" in nothing.reason
    enough, _ = variance_ratio_interval(np.ones((1, 6)), np.ones((1, 6)))
    assert (enough.low, enough.high) == (0.0, 0.0)


@pytest.mark.parametrize("num_ratios", [0, 1, 3])
def test_too_few_ratios_give_no_variance_interval(num_ratios):
    grid = np.arange(2.0 * num_ratios).reshape(2, num_ratios)
    interval, _ = variance_ratio_interval(grid, grid[::-1])
    assert not interval.known and f"{num_ratios} forget ratios" in interval.reason


def test_ratios_scattered_over_seeds_give_no_variance_interval():
    scattered = np.where(np.eye(6, dtype=bool), 1.0, math.nan)
    interval, _ = variance_ratio_interval(scattered, scattered)
    assert not interval.known and "no seed" in interval.reason and interval.n == 6


def test_rank_correlation_agrees_with_scipy_with_ties():
    generator = np.random.default_rng(1)
    for _ in range(20):
        first, second = generator.integers(0, 5, size=(2, 12)).astype(float)
        assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first, second)[0])
    assert rank_correlation(np.arange(4.0), np.ones(4)) == 0.0


def test_trend_interval_of_five_ratios_by_hand():
    ratios, values = np.arange(5.0), np.array([5.0, 3, 4, 2, 1])  # rho = 1 - 6 * 38 / 120 = -0.9
    interval = trend_interval(ratios, values)
    half = 1.959963984540054 * math.sqrt((1 + 0.81 / 2) / 2)
    assert interval.estimate == pytest.approx(-0.9)
    assert interval.low == pytest.approx(math.tanh(math.atanh(-0.9) - half))
    assert interval.high == pytest.approx(math.tanh(math.atanh(-0.9) + half))


def test_a_trend_needs_five_ratios_and_a_flat_one_six():
    assert not trend_interval(np.arange(4.0), np.arange(4.0)).known
    assert trend_interval(np.arange(5.0), np.arange(5.0)).low == pytest.approx(1.0)
    assert not trend_interval(np.arange(5.0), np.ones(5)).known
    flat = trend_interval(np.arange(6.0), np.ones(6))
    assert (flat.low, flat.high) == (0.0, 0.0)


def test_slope_is_the_median_of_all_pairwise_slopes():
    ratios, values = np.array([1.0, 2, 3, 5]), np.array([9.0, 7, 8, 100])
    pairs = itertools.combinations(zip(ratios, values, strict=True), 2)
    slopes = [(v - b) / (r - a) for (a, b), (r, v) in pairs]
    assert slope(ratios, values) == pytest.approx(standard.median(slopes))
    assert math.isnan(slope(np.ones(3), values[:3]))


@pytest.mark.parametrize("num_ratios", [5, 10, 30])
def test_equal_variances_are_seldom_told_apart(num_ratios):
    """The rate of wrong verdicts stays near the 5 % that a 95 % interval promises."""
    generator = np.random.default_rng(num_ratios)
    wrong = 0
    for _ in range(300):
        first, second = generator.normal(size=(2, 1, num_ratios))
        interval, _ = variance_ratio_interval(first, second)
        wrong += not interval.low <= 0 <= interval.high
    assert wrong / 300 < 0.10
