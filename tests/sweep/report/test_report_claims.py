import math

import pytest

from sweep.report import paper_values as paper
from sweep.report.claims import answer_claims, combined
from sweep.report.findings import judge
from sweep.report.statistics import Interval
from unlearning.config import Seeds

HOLDS, FAILS, NOT_ENOUGH = "holds", "fails", "not enough data"
RATIOS = tuple(step / 100 for step in range(1, 9))
# One number for each of the ratios, with a mean of 0.
OFFSETS = dict(enumerate((0, 3, -2, 1, -3, 2, -1, 0), start=1))


def answer(sweep, number):
    return answer_claims(sweep.results())[number - 1]


def wobble(unit, size):
    """A number in [-size, size] that differs between units and repeats on every machine."""
    return size * (int(unit.key[:4], 16) / 0x8000 - 1)


@pytest.fixture
def sweep_of(made_up_sweep):
    """One seed and eight ratios, all units with the numbers that a function gives."""

    def build(numbers, **grid):
        sweep = made_up_sweep(**{"ratios": RATIOS, "seeds": (0,), **grid})
        sweep.finish_all(numbers)
        return sweep

    return build


def test_accuracy(unit, retrained, scratch, size):
    values = {"two_stage": ("retrained", retrained), "scratch": ("scratch", scratch)}
    if unit.kind not in values:
        return {}
    state, value = values[unit.kind]
    return {"metrics": {f"{state}/test/accuracy": value + wobble(unit, size)}}


test_accuracy.__test__ = False


@pytest.mark.parametrize(
    ("retrained", "scratch", "size", "verdict"),
    [
        (0.92, 0.90, 0.005, HOLDS),
        (0.90, 0.92, 0.005, FAILS),
        (0.91, 0.91, 0.02, NOT_ENOUGH),
        (0.91, 0.91, 0.0, HOLDS),  # exactly equal: at least as accurate
    ],
)
def test_claim_1_follows_the_interval_of_the_paired_difference(
    sweep_of, retrained, scratch, size, verdict
):
    sweep = sweep_of(lambda unit: test_accuracy(unit, retrained, scratch, size))
    claim = answer(sweep, 1)
    assert claim.verdict == verdict and claim.by_dataset == {"MNIST": verdict}
    assert claim.findings[0].interval.n == 8
    assert claim.findings[0].interval.estimate == pytest.approx(
        100 * (retrained - scratch), abs=100 * 2 * size
    )


def spread_over_ratios(unit, retrained, scratch):
    size = {"two_stage": retrained, "scratch": scratch}.get(unit.kind)
    if size is None:
        return {}
    state = "retrained" if unit.kind == "two_stage" else "scratch"
    # Both kinds vary in the same way but for the size.
    value = 0.9 + size * (OFFSETS[round(100 * unit.forget_ratio)] + wobble(unit, 0.3))
    return {"metrics": {f"{state}/test/accuracy": value}}


@pytest.mark.parametrize(
    ("retrained", "scratch", "verdict"),
    [
        (0.001, 0.01, HOLDS),
        (0.01, 0.001, FAILS),
        (0.01, 0.01, NOT_ENOUGH),
    ],
)
def test_claim_2_compares_variances_over_the_ratios(sweep_of, retrained, scratch, verdict):
    sweep = sweep_of(lambda unit: spread_over_ratios(unit, retrained, scratch))
    finding = answer(sweep, 2).findings[0]
    assert finding.verdict == verdict
    assert finding.interval.estimate == pytest.approx((retrained / scratch) ** 2, rel=0.4)
    assert finding.paper == "0.20"


def test_claim_2_is_not_moved_by_a_difference_between_seeds(sweep_of):
    def numbers(unit):
        found = spread_over_ratios(unit, 0.001, 0.01)
        if unit.kind == "two_stage":
            metrics = found["metrics"]
            metrics["retrained/test/accuracy"] -= 0.3 * unit.seeds.training
        return found

    assert answer(sweep_of(numbers, seeds=(0, 1)), 2).verdict == HOLDS


def test_claim_2_with_a_model_that_does_not_vary_at_all(sweep_of):
    ratios = [step / 1000 for step in range(1, 31)]
    numbers = {"two_stage": (0.9, 0.9, 0.0), "scratch": (0.9, 0.9, 0.03), "original": (0, 0, 0)}
    sweep = sweep_of(lambda unit: test_accuracy(unit, *numbers[unit.kind]), ratios=ratios)
    finding = answer(sweep, 2).findings[0]
    assert finding.verdict == HOLDS and finding.unit == "squared percentage points"
    assert answer(sweep_of(lambda unit: spread_over_ratios(unit, 0.0, 0.0)), 2).verdict == FAILS


@pytest.mark.parametrize(
    ("retrained", "scratch", "size", "verdict"),
    [
        (5, 20, 3, HOLDS),
        (20, 5, 3, FAILS),
        (12, 12, 6, NOT_ENOUGH),
        (12, 12, 0, FAILS),  # exactly equal: not earlier
    ],
)
def test_claim_3_asks_for_an_earlier_best_epoch(sweep_of, retrained, scratch, size, verdict):
    def numbers(unit):
        base = retrained if unit.kind == "two_stage" else scratch
        return {"best_epoch": base + round(wobble(unit, size))}

    assert answer(sweep_of(numbers), 3).verdict == verdict


def augmented(after_stage_1, after_stage_2=None, size=0.01):
    """Accuracy on the forget set under all augmentations by strategy, around these means."""

    def numbers(unit):
        metrics = {}
        sign = {"minimum": 1, "maximum": -1}.get(unit.strategy, 0)
        noise = sign * size * OFFSETS[round(100 * (unit.forget_ratio or 0.01))] / 3
        for state, values in {"neutralized": after_stage_1, "retrained": after_stage_2}.items():
            for name in paper.AUGMENTATIONS:
                value = (values or after_stage_1).get(unit.strategy, 0.5) + noise
                metrics[f"{state}/forget_{name}/accuracy"] = value
        return {"metrics": metrics}

    return numbers


@pytest.mark.parametrize(
    ("minimum", "maximum", "size", "verdict"),
    [(0.05, 0.2, 0.01, HOLDS), (0.2, 0.05, 0.01, FAILS), (0.1, 0.1, 0.05, NOT_ENOUGH)],
)
def test_claim_4_asks_for_less_than_maximum(sweep_of, minimum, maximum, size, verdict):
    sweep = sweep_of(augmented({"minimum": minimum, "maximum": maximum}, size=size))
    assert answer(sweep, 4).verdict == verdict


def test_claim_4_rests_on_stage_1_and_shows_stage_2_beside_it(sweep_of):
    first, second = {"minimum": 0.05, "maximum": 0.2}, {"minimum": 0.9, "maximum": 0.7}
    claim = answer(sweep_of(augmented(first, second)), 4)
    assert claim.verdict == HOLDS
    beside = [finding for finding in claim.findings if not finding.decides]
    assert len(beside) == 3 and {finding.verdict for finding in beside} == {FAILS}
    assert all("after stage 2" in finding.aspect for finding in beside)
    assert any("does not say after which stage" in note for note in claim.notes)


def test_claim_4_asks_for_every_augmentation(sweep_of):
    values = augmented({"minimum": 0.05, "maximum": 0.2})

    def numbers(unit):
        found = values(unit)
        if unit.strategy == "minimum":
            found["metrics"]["neutralized/forget_center_crop/accuracy"] = 0.6 + wobble(unit, 0.01)
        return found

    claim = answer(sweep_of(numbers), 4)
    assert claim.verdict == FAILS
    assert [finding.verdict for finding in claim.findings[:3]] == [HOLDS, HOLDS, FAILS]


@pytest.mark.parametrize(
    ("minimum", "maximum", "size", "verdict"),
    [
        (0.05, 0.2, 0.01, HOLDS),
        (0.05, 0.06, 0.01, FAILS),  # maximum falls below chance too
        (0.15, 0.2, 0.01, FAILS),  # minimum stays above chance
        (0.1, 0.2, 0.05, NOT_ENOUGH),
    ],
)
def test_claim_5_asks_for_opposite_sides_of_chance(sweep_of, minimum, maximum, size, verdict):
    sweep = sweep_of(augmented({"minimum": minimum, "maximum": maximum}, size=size))
    claim = answer(sweep, 5)
    assert claim.verdict == verdict
    assert len(claim.findings) == 12 and sum(finding.decides for finding in claim.findings) == 6


def test_claim_5_with_identical_accuracies_needs_six(sweep_of):
    numbers = augmented({"minimum": 0.0, "maximum": 0.2}, size=0.0)
    assert answer(sweep_of(numbers), 5).verdict == HOLDS
    few = answer(sweep_of(numbers, ratios=RATIOS[:5]), 5)
    assert few.verdict == NOT_ENOUGH
    assert "5 identical values" in few.findings[0].interval.reason


def epochs(by_ratio):
    return lambda unit: {"at_zero": by_ratio(round(100 * (unit.forget_ratio or 0)), unit)}


@pytest.mark.parametrize(
    ("by_ratio", "verdict"),
    [
        (lambda percent, unit: 40 - 4 * percent, HOLDS),
        (lambda percent, unit: 4 * percent, FAILS),
        (lambda percent, unit: 20 + (percent * 5) % 7, NOT_ENOUGH),
        (lambda percent, unit: 9, HOLDS),  # the same at eight ratios: it does not grow
    ],
)
def test_claim_6_asks_for_no_growth_with_the_ratio(sweep_of, by_ratio, verdict):
    finding = answer(sweep_of(epochs(by_ratio)), 6).findings[0]
    assert finding.verdict == verdict
    assert finding.interval.n == 8 and finding.paper == "-0.99"


def test_claim_6_counts_a_capped_trial_as_later_than_any_other(sweep_of):
    sweep = sweep_of(epochs(lambda percent, unit: 40 - 4 * percent), strategies=("minimum",))
    last = sweep.find(kind="two_stage", forget_ratio=RATIOS[-1])[0]
    assert answer(sweep, 6).verdict == HOLDS
    sweep.finish(last, outcome="not_converged")
    finding = answer(sweep, 6).findings[0]
    assert finding.verdict == NOT_ENOUGH
    assert "1 not converged, counted as later than any that did" in finding.note


def test_claim_6_holds_only_whatever_the_order_of_the_capped_trials_is(sweep_of):
    sweep = sweep_of(epochs(lambda percent, unit: 30 - percent), strategies=("minimum",))
    for unit in sweep.find(kind="two_stage"):
        if unit.forget_ratio < 0.055:
            sweep.finish(unit, outcome="not_converged")
    finding = answer(sweep, 6).findings[0]
    # Five capped at the low ratios: tied or falling among themselves this would hold.
    assert finding.interval.estimate < -0.7
    assert finding.interval.high > 0 and finding.verdict == NOT_ENOUGH


def test_claim_6_fails_only_whatever_the_order_of_the_capped_trials_is(sweep_of):
    sweep = sweep_of(epochs(lambda percent, unit: percent), strategies=("minimum",))
    for unit in sweep.find(kind="two_stage"):
        if unit.forget_ratio > 0.035:
            sweep.finish(unit, outcome="not_converged")
    finding = answer(sweep, 6).findings[0]
    # Five capped at the high ratios: tied or growing among themselves this would fail.
    assert finding.interval.estimate > 0.7
    assert finding.interval.low < 0 and finding.verdict == NOT_ENOUGH


def test_claim_6_takes_the_lower_of_two_seeds_so_that_a_capped_one_is_no_guess(sweep_of):
    by_ratio = epochs(lambda percent, unit: 40 - 4 * percent)
    sweep = sweep_of(by_ratio, strategies=("minimum",), seeds=(0, 1))
    observed = answer(sweep, 6).findings[0].interval
    for unit in sweep.find(kind="two_stage", seed=1):
        sweep.finish(unit, outcome="not_converged")
    assert answer(sweep, 6).findings[0].interval == observed


def test_claim_6_does_not_use_trials_that_stopped_at_chance(sweep_of):
    sweep = sweep_of(lambda unit: {"at_zero": None, "at_random": 3}, target="random")
    finding = answer(sweep, 6).findings[0]
    assert finding.verdict == NOT_ENOUGH and "8 stopped at chance" in finding.note


def cost(two_stage, scratch):
    def numbers(unit):
        base = (100, two_stage - 100) if unit.kind == "two_stage" else (0, scratch)
        factor = 1 + wobble(unit, 0.01)
        seconds = tuple(factor * part / 100 for part in base)
        return {"samples": tuple(round(factor * part) for part in base), "seconds": seconds}

    return numbers


@pytest.mark.parametrize(
    ("two_stage", "scratch", "verdict"),
    [(5000, 9000, HOLDS), (9000, 5000, FAILS), (7000, 7000, NOT_ENOUGH)],
)
def test_claim_7_compares_the_cost_of_both_stages_with_scratch(
    sweep_of, two_stage, scratch, verdict
):
    claim = answer(sweep_of(cost(two_stage, scratch)), 7)
    assert claim.verdict == verdict
    assert [finding.aspect.split(",")[0] for finding in claim.findings] == ["samples", "seconds"]
    assert claim.findings[0].interval.estimate == pytest.approx(two_stage / scratch, rel=0.02)


def test_claim_7_lists_the_settings_that_the_method_has(sweep_of):
    notes = " ".join(answer(sweep_of(None), 7).notes)
    assert "14 settings" in notes
    for name in ("neutralization.max_epochs", "retraining.temperature", "retraining.alpha"):
        assert name in notes


def test_claim_7_cannot_hold_while_a_trial_has_not_converged(sweep_of):
    sweep = sweep_of(cost(5000, 9000), strategies=("minimum",))
    unit = sweep.find(kind="two_stage")[0]
    sweep.finish(unit, outcome="not_converged", samples=(3000, 0), seconds=(30.0, 0.0))
    claim = answer(sweep, 7)
    assert claim.verdict == NOT_ENOUGH
    assert claim.findings[0].interval.high < 1 and "lower bound" in claim.findings[0].note


def test_claim_7_fails_where_what_capped_trials_spent_is_already_too_much(sweep_of):
    sweep = sweep_of(cost(5000, 9000), strategies=("minimum",))
    for unit in sweep.find(kind="two_stage"):
        samples = 90_000 + round(wobble(unit, 1000))
        seconds = (900.0 + wobble(unit, 10), 0.0)
        sweep.finish(unit, outcome="not_converged", samples=(samples, 0), seconds=seconds)
    assert answer(sweep, 7).verdict == FAILS


def test_a_claim_holds_only_on_every_data_set_of_the_sweep(made_up_sweep):
    names = {"mnist": ("mnist", 10), "digits": ("digits", 10)}
    sweep = made_up_sweep(names, ratios=RATIOS, seeds=(0,))
    sweep.finish_all(lambda unit: test_accuracy(unit, 0.92, 0.90, 0.005))
    claim = answer(sweep, 1)
    assert claim.verdict == HOLDS
    assert claim.notes[-1] == (
        "Not in this sweep: CIFAR-10, CIFAR-100, SVHN, Fashion-MNIST, HAM10000."
    )
    for unit in sweep.find(kind="scratch", dataset="digits"):
        sweep.forget(unit)
    assert answer(sweep, 1).by_dataset == {"MNIST": HOLDS, "digits": NOT_ENOUGH}
    assert answer(sweep, 1).verdict == NOT_ENOUGH
    for unit in sweep.find(kind="scratch", dataset="digits"):
        sweep.finish(unit, {"scratch/test/accuracy": 0.99})
    assert answer(sweep, 1).verdict == FAILS


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], NOT_ENOUGH),
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, NOT_ENOUGH], NOT_ENOUGH),
        ([HOLDS, NOT_ENOUGH, FAILS], FAILS),
    ],
)
def test_verdicts_combine_by_the_weakest(verdicts, expected):
    assert combined(verdicts) == expected


def test_claims_about_the_papers_method_need_its_strategy(sweep_of):
    sweep = sweep_of(None, strategies=("random",))
    for claim in answer_claims(sweep.results()):
        assert claim.verdict == NOT_ENOUGH
        assert any("minimum" in finding.note for finding in claim.findings), claim.number
        assert any("not in this sweep" in finding.note for finding in claim.findings)


def test_a_sweep_with_nothing_finished_answers_nothing(made_up_sweep):
    for claim in answer_claims(made_up_sweep().results()):
        assert claim.verdict == NOT_ENOUGH
        assert all(math.isnan(finding.interval.estimate) for finding in claim.findings)


def test_trials_of_one_scratch_model_count_as_one_pair(made_up_sweep):
    seeds = [Seeds(0, 0, unlearning) for unlearning in range(5)]
    sweep = made_up_sweep(ratios=(0.01, 0.02), seeds=seeds)
    sweep.finish_all(lambda unit: test_accuracy(unit, 0.92, 0.90, 0.005))
    finding = answer(sweep, 1).findings[0]
    assert finding.interval.n == 2 and finding.verdict == NOT_ENOUGH


def test_with_three_seeds_the_seeds_are_what_is_counted(sweep_of):
    finding = answer(
        sweep_of(lambda unit: test_accuracy(unit, 0.92, 0.90, 0.005), seeds=(0, 1, 2)), 1
    ).findings[0]
    assert finding.interval.n == 24 and finding.interval.method == "t over 3 training seeds"


@pytest.mark.parametrize(
    ("supports", "verdicts"),
    [
        # Intervals: below, touching from below, across, touching from above, above, exactly at 0.
        ("below 0", [HOLDS, NOT_ENOUGH, NOT_ENOUGH, FAILS, FAILS, FAILS]),
        ("0 or below", [HOLDS, HOLDS, NOT_ENOUGH, NOT_ENOUGH, FAILS, HOLDS]),
        ("above 0", [FAILS, FAILS, NOT_ENOUGH, NOT_ENOUGH, HOLDS, FAILS]),
        ("0 or above", [FAILS, NOT_ENOUGH, NOT_ENOUGH, HOLDS, HOLDS, HOLDS]),
    ],
)
def test_the_boundary_belongs_to_the_side_that_the_claim_gives_it(supports, verdicts):
    ends = [(-2, -1), (-1, 0), (-1, 1), (0, 1), (1, 2), (0, 0)]
    at_zero = [judge(Interval(low, low, high, 9, ""), supports) for low, high in ends]
    at_one = [
        judge(Interval(low, low + 1, high + 1, 9, ""), supports.replace("0", "1"))
        for low, high in ends
    ]
    assert at_zero == at_one == verdicts
