"""unlearning.contrast: Algorithms 1 and 2 against oracles written the slow and obvious way."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearning.contrast import (
    ContrastInput,
    Matching,
    accumulate_outputs,
    allowed_labels,
    contrastive_labels,
    get_strategy,
    known_strategies,
    match_greedily,
    match_independently,
    register_strategy,
)
from unlearning.errors import ConfigError, StrategyError
from unlearning.seeding import generator

SEED = generator("strategy", 0)


def contrast_input(scores_CC: Any, classes: tuple[int, ...]) -> ContrastInput:
    scores = np.asarray(scores_CC, dtype=np.float64)
    allowed = allowed_labels(classes, len(scores))
    return ContrastInput(scores, classes, allowed, generator("strategy", 0))


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def oracle_mean_outputs(
    logits: list[list[float]], labels: list[int], outputs: str
) -> list[list[float]]:
    """Algorithm 1 as it is printed: add up, count, divide."""
    num_classes = len(logits[0])
    sums = [[0.0] * num_classes for _ in range(num_classes)]
    counts = [0] * num_classes
    for row, label in zip(logits, labels, strict=True):
        values = softmax(row) if outputs == "softmax" else row
        for column in range(num_classes):
            sums[label][column] += values[column]
        counts[label] += 1
    return [
        [value / count if count else math.nan for value in row]
        for row, count in zip(sums, counts, strict=True)
    ]


def may(source: int, target: int, classes: tuple[int, ...]) -> bool:
    """Whether PAPER.md lets a class be trained towards another."""
    return target != source and (target in classes or len(classes) == 1)


def oracle_greedy(
    scores: list[list[float]], classes: tuple[int, ...]
) -> tuple[dict[int, int], list[int]]:
    """Algorithm 2: all pairs from low to high, each taken if both ends are free."""
    pairs = [
        (scores[source][target], source, target)
        for source in classes
        for target in range(len(scores))
        if may(source, target, classes)
    ]
    labels: dict[int, int] = {}
    for _, source, target in sorted(pairs):
        if source not in labels and target not in labels.values():
            labels[source] = target
    return labels, [source for source in classes if source not in labels]


def oracle_completions(
    scores: list[list[float]], classes: tuple[int, ...], greedy: dict[int, int]
) -> list[tuple[float, dict[int, int]]]:
    """Cost and labels of every one-to-one matching that changes one greedy choice, low to high."""
    found = []
    for targets in itertools.permutations(classes):
        labels = dict(zip(classes, targets, strict=True))
        legal = all(may(source, target, classes) for source, target in labels.items())
        changed = [source for source in greedy if greedy[source] != labels[source]]
        if legal and len(changed) == 1:
            cost = math.fsum(scores[source][target] for source, target in labels.items())
            found.append((cost, labels))
    return sorted(found, key=lambda completion: completion[0])


@pytest.mark.parametrize("outputs", ["logits", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_outputs_agree_with_the_loop(outputs: str, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    logits = (10 * torch.randn(60, 6, generator=draw)).to(dtype)
    labels = torch.tensor([0, 2, 3, 5] * 15)
    expected = oracle_mean_outputs(logits.double().tolist(), labels.tolist(), outputs)
    found = accumulate_outputs(logits, labels, outputs)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, equal_nan=True)


def test_rows_of_absent_classes_are_nan_and_no_others() -> None:
    found = accumulate_outputs(torch.zeros(3, 5), torch.tensor([4, 1, 1]))
    assert np.isnan(found).all(axis=1).tolist() == [True, False, True, True, False]
    assert np.isnan(found).any(axis=1).tolist() == [True, False, True, True, False]


def test_many_float32_outputs_are_averaged_without_rounding_error() -> None:
    # Added up in float32, 2**25 + 1 is 2**25.
    logits = torch.ones(1001, 2)
    logits[0] = 2.0**25
    found = accumulate_outputs(logits, torch.zeros(1001, dtype=torch.int64))
    assert found[0].tolist() == [(2.0**25 + 1000) / 1001] * 2


def test_softmax_outputs_can_pick_another_label_than_logits() -> None:
    # One confident image decides the mean logit of class 1; class 2's mean probability is lower.
    logits = torch.tensor([[0.0, -90.0, -8.0], [0.0, 5.0, -8.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 2])
    by_logits = contrastive_labels("minimum_independent", logits, labels, SEED)
    by_softmax = contrastive_labels("minimum_independent", logits, labels, SEED, "softmax")
    assert (by_logits.labels[0], by_softmax.labels[0]) == (1, 2)


def test_a_mean_over_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        accumulate_outputs(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


def test_only_classes_of_the_forget_set_are_allowed_unless_there_is_but_one() -> None:
    three = allowed_labels((0, 2, 3), 5)
    assert [tuple(pair) for pair in np.argwhere(three).tolist()] == [
        (source, target) for source in (0, 2, 3) for target in (0, 2, 3) if target != source
    ]
    single = allowed_labels((2,), 5)
    assert np.argwhere(single).tolist() == [[2, 0], [2, 1], [2, 3], [2, 4]]


@given(
    num_classes=st.integers(2, 6),
    seed=st.integers(0, 10_000),
    levels=st.sampled_from([2, 3, 1000]),  # few levels: many ties
    data=st.data(),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_greedy_matching_agrees_with_the_oracle(
    num_classes: int, seed: int, levels: int, data: st.DataObject
) -> None:
    subsets = st.sets(st.integers(0, num_classes - 1), min_size=1, max_size=num_classes)
    classes = tuple(sorted(data.draw(subsets)))
    table = np.random.default_rng(seed).integers(0, levels, (num_classes, num_classes)) - levels / 2
    scores: list[list[float]] = table.tolist()
    greedy, left = oracle_greedy(scores, classes)
    found = match_greedily(np.asarray(scores), contrast_input(scores, classes))
    assert set(found.labels) == set(classes)
    if not left:
        assert found == Matching(greedy)


@pytest.mark.parametrize("levels", [3, 1000])  # with and without ties
def test_dead_ends_are_completed_at_the_least_added_cost(levels: int) -> None:
    """Against all one-to-one matchings that change one choice of the greedy rule."""
    num_dead_ends = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        num_classes = int(rng.integers(3, 6))
        table = rng.integers(0, levels, (num_classes, num_classes)) - levels / 2
        scores: list[list[float]] = table.tolist()
        classes = tuple(range(num_classes))
        greedy, left = oracle_greedy(scores, classes)
        if not left:
            continue
        num_dead_ends += 1
        completions = oracle_completions(scores, classes, greedy)
        changed = {
            next(source for source in greedy if greedy[source] != labels[source]): labels
            for cost, labels in completions
            if cost == completions[0][0]
        }
        partner = min(changed)  # of equal cost, the one that changes the lowest class
        completed = tuple(sorted((left[0], partner)))
        expected = Matching(changed[partner], completed)
        assert match_greedily(np.asarray(scores), contrast_input(scores, classes)) == expected, (
            scores
        )
    assert num_dead_ends > 50


def test_a_dead_end_is_completed_at_the_least_added_cost_and_reported() -> None:
    # 0 -> 1 and 1 -> 0 come first; class 2 has only itself left.
    scores = [[9.0, -5.0, 1.0], [-4.0, 9.0, 3.0], [6.0, 2.0, 9.0]]
    found = match_greedily(np.asarray(scores), contrast_input(scores, (0, 1, 2)))
    # 2 -> 1 and 0 -> 2 adds 2 + 1 + 5 = 8; 2 -> 0 and 1 -> 2 adds 6 + 3 + 4 = 13.
    assert found == Matching({0: 2, 1: 0, 2: 1}, completed=(0, 2))


def test_a_completion_takes_the_other_partner_where_that_costs_less() -> None:
    scores = [[9.0, -5.0, 8.0], [-4.0, 9.0, 3.0], [-3.0, 2.0, 9.0]]
    found = match_greedily(np.asarray(scores), contrast_input(scores, (0, 1, 2)))
    # 2 -> 1 and 0 -> 2 adds 2 + 8 + 5 = 15; 2 -> 0 and 1 -> 2 adds -3 + 3 + 4 = 4.
    assert found == Matching({0: 1, 1: 2, 2: 0}, completed=(1, 2))


def test_row_and_column_are_both_retired() -> None:
    # Row 0 holds the three lowest scores; the pseudo-code, which retires columns alone, would
    # record 0 -> 1, then 0 -> 2 over it.
    scores = [[0.0, -9.0, -8.0, -7.0], [1.0, 0, 2, 3], [1.0, 2, 0, 3], [1.0, 2, 3, 0]]
    found = match_greedily(np.asarray(scores), contrast_input(scores, (0, 1, 2, 3)))
    assert found.labels[0] == 1
    assert sorted(found.labels.values()) == [0, 1, 2, 3]


def test_ties_go_to_the_lower_class() -> None:
    scores = np.zeros((4, 4))
    found = match_greedily(scores, contrast_input(scores, (0, 1, 2, 3)))
    assert found == Matching({0: 1, 1: 0, 2: 3, 3: 2})
    alone = match_independently(scores, contrast_input(scores, (0, 1, 2, 3)))
    assert alone == Matching({0: 1, 1: 0, 2: 0, 3: 0})


def test_a_single_class_may_take_every_other_class_of_the_data_set() -> None:
    logits = torch.tensor([[3.0, -1.0, 9.0, -7.0]] * 2)
    labels = torch.tensor([2, 2])
    for strategy in ("minimum", "minimum_independent"):
        assert contrastive_labels(strategy, logits, labels, SEED).labels == {2: 3}
    for strategy in ("maximum", "maximum_independent"):
        assert contrastive_labels(strategy, logits, labels, SEED).labels == {2: 0}


def test_the_papers_strategies_pick_what_they_are_named_for() -> None:
    # Classes 0, 1 and 3 of 4; the highest and lowest outputs of all are for class 2, not in P.
    logits = torch.tensor([[9.0, 1.0, 50.0, 2.0], [3.0, 9.0, -50.0, 4.0], [1.0, 2.0, 50.0, 9.0]])
    labels = torch.tensor([0, 1, 3])
    picked = {
        name: contrastive_labels(name, logits, labels, SEED).labels
        for name in ("minimum", "maximum", "minimum_independent", "maximum_independent")
    }
    assert picked["minimum_independent"] == {0: 1, 1: 0, 3: 0}
    assert picked["maximum_independent"] == {0: 3, 1: 3, 3: 1}
    # minimum: 0 -> 1 and 3 -> 0 (both 1.0), then 1 -> 3; maximum: 1 -> 3, then 3 -> 1, 0 is left.
    assert picked["minimum"] == {0: 1, 3: 0, 1: 3}
    # Left-over 0: taking 3 -> 1's label costs 2 - 1 - 1 = 0 of output, 1 -> 3's 4 - 2 - 3 = -1.
    assert picked["maximum"] == {0: 3, 1: 0, 3: 1}


def test_an_unknown_strategy_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"'minimun' is unknown; known: maximum, .*minimum, "):
        get_strategy("minimun")


def test_a_data_set_of_one_class_has_no_wrong_label() -> None:
    with pytest.raises(StrategyError, match="one class"):
        contrastive_labels("minimum", torch.zeros(2, 1), torch.tensor([0, 0]), SEED)


@pytest.mark.usefixtures("own_strategies")
def test_a_name_can_be_registered_only_once() -> None:
    with pytest.raises(ConfigError, match="'minimum' is registered twice"):
        register_strategy("minimum", "again")(lambda contrast: Matching({}))
    assert "paper's method" in known_strategies()["minimum"].description


@pytest.mark.usefixtures("own_strategies")
def test_a_strategy_that_raises_is_named_with_its_error() -> None:
    @register_strategy("broken", "raises")
    def broken(contrast: ContrastInput) -> Matching:
        raise KeyError("no such row")

    with pytest.raises(StrategyError, match="'broken' raised KeyError: 'no such row'") as caught:
        contrastive_labels("broken", torch.zeros(2, 3), torch.tensor([0, 1]), SEED)
    assert isinstance(caught.value.__cause__, KeyError)


NONSENSE = {
    "nothing": None,
    "a bare dict": {0: 1, 1: 0},
    "a class left out": Matching({0: 1}),
    "a class too many": Matching({0: 1, 1: 0, 2: 0}),
    "the true class": Matching({0: 1, 1: 1}),
    "a class that does not exist": Matching({0: 1, 1: 3}),
    "a negative class": Matching({0: 1, 1: -1}),
    "a list of classes": Matching([0, 1]),  # type: ignore[arg-type]
    "no labels": Matching(None),  # type: ignore[arg-type]
    "labels that are words": Matching({0: "one", 1: "zero"}),  # type: ignore[dict-item]
    "labels that are fractions": Matching({0: 1.5, 1: 0.5}),  # type: ignore[dict-item]
    "no completed": Matching({0: 1, 1: 0}, completed=None),  # type: ignore[arg-type]
}


@pytest.mark.usefixtures("own_strategies")
@pytest.mark.parametrize("what", NONSENSE)
def test_a_strategy_that_returns_nonsense_is_named(what: str) -> None:
    returned: Any = NONSENSE[what]
    register_strategy("nonsense", "returns nonsense")(lambda contrast: returned)
    with pytest.raises(StrategyError, match="strategy 'nonsense' "):
        contrastive_labels("nonsense", torch.zeros(2, 3), torch.tensor([0, 1]), SEED)


@pytest.mark.usefixtures("own_strategies")
def test_numpy_integers_of_a_strategy_become_plain_ones() -> None:
    @register_strategy("numpy", "returns NumPy's integers")
    def with_numpy(contrast: ContrastInput) -> Matching:
        return Matching({np.int64(0): np.int64(1), np.int64(1): np.int64(0)})  # type: ignore[dict-item]

    found = contrastive_labels("numpy", torch.zeros(2, 3), torch.tensor([0, 1]), SEED)
    assert found == Matching({0: 1, 1: 0})
    assert {type(number) for pair in found.labels.items() for number in pair} == {int}
