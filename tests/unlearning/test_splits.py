"""unlearning.splits: who trains, validates, tests, and is forgotten."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearning.config import SplitConfig
from unlearning.datasets import PreparedDataset
from unlearning.errors import ConfigError, DatasetError
from unlearning.splits import Split, draw_forget_set, draw_split, num_forgotten

MakeDataset = Callable[..., PreparedDataset]


def sides(split: Split) -> list[set[int]]:
    return [set(rows.tolist()) for rows in (split.train, split.validation, split.test)]


def same(first: Split, second: Split) -> bool:
    return sides(first) == sides(second)


@given(
    num_pool=st.integers(20, 90),
    num_official_test=st.sampled_from([0, 1, 13]),
    rows_of_group=st.sampled_from([None, 1, 2, 3]),
    config=st.builds(
        SplitConfig,
        validation_fraction=st.floats(0.1, 0.4),
        test_fraction=st.floats(0.1, 0.4),
        seed=st.integers(0, 9),
    ),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_sides_are_disjoint_and_cover_every_row(
    make_dataset: MakeDataset,
    num_pool: int,
    num_official_test: int,
    rows_of_group: int | None,
    config: SplitConfig,
) -> None:
    num_images = num_pool + num_official_test
    num_groups = None if rows_of_group is None else -(-num_images // rows_of_group)
    data = make_dataset(
        num_images, side=2, num_official_test=num_official_test, num_groups=num_groups
    )
    split = draw_split(data, config)
    train, validation, test = sides(split)
    assert train | validation | test == set(range(num_images))
    assert len(train) + len(validation) + len(test) == num_images
    assert min(len(train), len(validation), len(test)) > 0
    for rows in (split.train, split.validation, split.test):
        assert rows.dtype == torch.int64
        assert rows.tolist() == sorted(rows.tolist())
    if num_official_test:
        assert test == set(range(num_pool, num_images))
    if data.groups is not None:
        pool = range(num_pool) if num_official_test else range(num_images)
        for group in np.unique(data.groups):
            members = {row for row in pool if data.groups[row] == group}
            assert sum(bool(members & side) for side in (train, validation, test)) <= 1


def test_the_official_test_split_is_all_of_the_test_set_whatever_the_seed(
    make_dataset: MakeDataset,
) -> None:
    data = make_dataset(120, num_official_test=20)
    for seed in range(5):
        split = draw_split(data, SplitConfig(seed=seed))
        assert split.test.tolist() == list(range(100, 120))
        assert len(split.validation) == 10


def test_without_an_official_test_split_a_tenth_each_is_held_out(make_dataset: MakeDataset) -> None:
    split = draw_split(make_dataset(200), SplitConfig())
    assert [len(side) for side in sides(split)] == [160, 20, 20]


def test_fractions_count_groups_where_there_are_groups(make_dataset: MakeDataset) -> None:
    data = make_dataset(300, num_groups=100)
    split = draw_split(data, SplitConfig(validation_fraction=0.2, test_fraction=0.1))
    assert data.groups is not None
    counts = [len(np.unique(data.groups[list(side)])) for side in sides(split)]
    assert counts == [70, 20, 10]


def test_the_split_is_the_same_again_and_another_for_another_seed(
    make_dataset: MakeDataset,
) -> None:
    data = make_dataset()
    first = draw_split(data, SplitConfig(seed=0))
    assert same(first, draw_split(data, SplitConfig(seed=0)))
    assert not same(first, draw_split(data, SplitConfig(seed=1)))


def test_the_split_depends_on_no_pixel_and_no_label(make_dataset: MakeDataset) -> None:
    data = make_dataset()
    other = replace(data, images=255 - data.images, labels=np.zeros_like(data.labels))
    assert same(draw_split(data, SplitConfig()), draw_split(other, SplitConfig()))


def test_too_few_images_for_three_sides_are_refused_by_name(make_dataset: MakeDataset) -> None:
    with pytest.raises(DatasetError, match="patterns: 4 images are too few"):
        draw_split(make_dataset(4), SplitConfig())
    with pytest.raises(DatasetError, match="too few"):
        draw_split(make_dataset(30, num_groups=3), SplitConfig())


@given(ratio=st.floats(0.001, 0.999), num_train=st.integers(2, 70_000))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_nearest_number_of_images_is_forgotten_and_at_least_one_on_each_side(
    ratio: float, num_train: int
) -> None:
    exact = Fraction(ratio) * num_train
    if exact < Fraction(1, 3) or exact > num_train - Fraction(1, 3):
        with pytest.raises(ConfigError):
            num_forgotten(ratio, num_train)
    elif 1 <= exact <= num_train - 1:
        assert abs(num_forgotten(ratio, num_train) - exact) <= Fraction(51, 100)


@pytest.mark.parametrize(
    ("ratio", "num_train", "count"),
    [(0.001, 54_000, 54), (0.1, 54_000, 5400), (0.001, 8012, 8), (0.003, 1000, 3), (0.5, 3, 2)],
)
def test_the_papers_ratios_take_the_expected_number(
    ratio: float, num_train: int, count: int
) -> None:
    assert num_forgotten(ratio, num_train) == count
    draw = draw_forget_set(torch.arange(num_train), ratio, 0)
    assert (len(draw.forget), len(draw.retain)) == (count, num_train - count)


def test_a_ratio_that_leaves_a_side_empty_is_refused_with_what_would_do() -> None:
    with pytest.raises(ConfigError, match=r"0\.001 of 100 .* is no image; .* about 0\.005"):
        num_forgotten(0.001, 100)
    for ratio in (1.0, 0.999):
        with pytest.raises(ConfigError, match="takes all 100 training images"):
            num_forgotten(ratio, 100)
    for ratio in (0.0, -0.1, 1.5):
        with pytest.raises(ConfigError, match="above 0 and at most 1"):
            num_forgotten(ratio, 100)


def test_forget_and_retain_sets_divide_the_training_rows() -> None:
    train = torch.arange(3, 600, 2)
    draw = draw_forget_set(train, 0.2, seed=4)
    forget, retain = draw.forget.tolist(), draw.retain.tolist()
    assert sorted(forget + retain) == train.tolist()
    assert forget == sorted(forget) and retain == sorted(retain)
    assert len(forget) == 60


def test_draws_of_one_ratio_repeat_and_of_others_are_independent() -> None:
    train = torch.arange(10_000)
    drawn = {
        (ratio, seed): set(draw_forget_set(train, ratio, seed).forget.tolist())
        for ratio in (0.1, 0.101, 0.2)
        for seed in (0, 1)
    }
    assert drawn[0.1, 0] == set(draw_forget_set(train, 0.1, 0).forget.tolist())
    keys = sorted(drawn)
    for position, first in enumerate(keys):
        for second in keys[position + 1 :]:
            # Independent draws share ratio * ratio of all rows; nested ones would share far more.
            expected = first[0] * second[0] * len(train)
            shared = len(drawn[first] & drawn[second])
            assert abs(shared - expected) < 6 * expected**0.5, (first, second)


def test_the_forget_draw_is_uniform_over_the_training_rows() -> None:
    hits = torch.zeros(50)
    for seed in range(400):
        hits[draw_forget_set(torch.arange(50), 0.2, seed).forget] += 1
    # Each row is drawn with probability 0.2: mean 80, standard deviation 8.
    assert hits.min() > 80 - 5 * 8
    assert hits.max() < 80 + 5 * 8
