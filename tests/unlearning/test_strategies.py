"""A contract that every registered mislabel strategy keeps, whatever the forget set."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unlearning.contrast import contrastive_labels, known_strategies
from unlearning.seeding import generator

ONE_TO_ONE = {"minimum", "maximum", "random"}
BUILT_IN = ONE_TO_ONE | {"minimum_independent", "maximum_independent"}

every_strategy = pytest.mark.parametrize("strategy", sorted(BUILT_IN))


@st.composite
def forget_sets(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits [N, C] with many ties, and labels [N], of a forget set of at least one class."""
    num_classes = draw(st.integers(2, 9))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=20))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    logits = rng.integers(-3, 4, (len(labels), num_classes)) * draw(st.sampled_from([1.0, 0.1]))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def test_the_contract_is_kept_by_all_strategies_there_are() -> None:
    assert set(known_strategies()) == BUILT_IN
    for name, strategy in known_strategies().items():
        assert strategy.name == name
        assert strategy.description and strategy.version >= 1


@every_strategy
@given(forget_set=forget_sets(), seed=st.integers(0, 5))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_exactly_the_classes_of_the_forget_set_get_a_wrong_label(
    strategy: str, forget_set: tuple[Tensor, Tensor], seed: int
) -> None:
    logits, labels = forget_set
    matching = contrastive_labels(strategy, logits, labels, generator(seed))
    present = set(labels.tolist())
    assert set(matching.labels) == present
    assert all(target != source for source, target in matching.labels.items())
    targets = list(matching.labels.values())
    allowed = present if len(present) > 1 else set(range(logits.shape[1]))
    assert set(targets) <= allowed
    assert set(matching.completed) <= present
    if strategy in ONE_TO_ONE:
        assert len(set(targets)) == len(targets)
    else:
        assert matching.completed == ()


@every_strategy
@given(forget_set=forget_sets(), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_same_seed_gives_the_same_labels_and_no_global_state_is_moved(
    strategy: str, forget_set: tuple[Tensor, Tensor], seed: int
) -> None:
    logits, labels = forget_set
    before = torch.get_rng_state()
    first = contrastive_labels(strategy, logits, labels, generator(seed))
    torch.manual_seed(seed + 1)
    assert contrastive_labels(strategy, logits, labels, generator(seed)) == first
    torch.set_rng_state(before)


@every_strategy
@given(forget_set=forget_sets(), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_order_of_the_forget_images_does_not_matter(
    strategy: str, forget_set: tuple[Tensor, Tensor], seed: int
) -> None:
    logits, labels = forget_set
    logits = logits.round()  # whole numbers: their sums do not depend on the order
    order = torch.randperm(len(labels), generator=generator("order", seed))
    first = contrastive_labels(strategy, logits, labels, generator(seed))
    again = contrastive_labels(strategy, logits[order], labels[order], generator(seed))
    assert again == first


@every_strategy
def test_only_random_depends_on_the_seed(strategy: str) -> None:
    logits = torch.rand(40, 10, generator=generator("logits"))
    labels = torch.arange(40) % 10
    matchings = [
        contrastive_labels(strategy, logits, labels, generator(seed)).labels for seed in range(5)
    ]
    different = {tuple(sorted(labels.items())) for labels in matchings}
    assert len(different) == (5 if strategy == "random" else 1)


def test_random_is_blind_to_the_model() -> None:
    labels = torch.arange(40) % 10
    first, second = (
        contrastive_labels("random", torch.rand(40, 10), labels, generator("same")) for _ in "ab"
    )
    assert first == second


def test_random_reaches_every_wrong_class() -> None:
    reached = set()
    for seed in range(200):
        matching = contrastive_labels("random", torch.zeros(5, 5), torch.arange(5), generator(seed))
        reached |= set(matching.labels.items())
    assert reached == {(source, target) for source in range(5) for target in range(5)} - {
        (number, number) for number in range(5)
    }
