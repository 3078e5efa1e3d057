"""Which images train, validate, test, and are to be forgotten: row numbers only, no pixels."""

from dataclasses import dataclass

import numpy as np
import torch

from unlearning.config import SplitConfig, require_ratio
from unlearning.datasets.prepared import PreparedDataset
from unlearning.errors import ConfigError, DatasetError
from unlearning.seeding import generator

Rows = torch.Tensor  # int64 [n], sorted row numbers into a data set's arrays


@dataclass(frozen=True)
class Split:
    """Disjoint rows of one data set; together they are all of it."""

    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True)
class ForgetDraw:
    """The training rows divided in two: `forget` is P of the paper, `retain` is D without P."""

    forget: Rows
    retain: Rows


def draw_split(data: PreparedDataset, config: SplitConfig) -> Split:
    """Training, validation and test rows; the official test split stays whole where there is one.

    Where the data set has groups (HAM10000's lesions), a group is never on two sides; fractions
    then count groups, not images. The draw depends on `config.seed` and on the data set's size
    alone, never on a trial's seeds.

    Raises:
        DatasetError: too few images for three non-empty sides.
    """
    num_rows = len(data.labels)
    num_pool = num_rows - data.num_official_test
    groups = np.arange(num_pool) if data.groups is None else np.asarray(data.groups[:num_pool])
    _, group_of_row = np.unique(groups, return_inverse=True)
    num_groups = int(group_of_row.max()) + 1
    order = torch.randperm(num_groups, generator=generator("split", config.seed)).numpy()

    num_validation = round(config.validation_fraction * num_groups)
    num_test = 0 if data.num_official_test else round(config.test_fraction * num_groups)
    side_of_group = np.full(num_groups, "train", dtype=object)
    side_of_group[order[:num_validation]] = "validation"
    side_of_group[order[num_validation : num_validation + num_test]] = "test"
    side_of_row = side_of_group[group_of_row]

    def rows_of(side: str) -> Rows:
        return torch.from_numpy(np.flatnonzero(side_of_row == side).astype(np.int64))

    official_test = torch.arange(num_pool, num_rows)
    test = official_test if data.num_official_test else rows_of("test")
    split = Split(rows_of("train"), rows_of("validation"), test)
    if min(len(split.train), len(split.validation), len(split.test)) == 0:
        raise DatasetError(
            f"{data.name}: {num_rows} images are too few for training, validation and test sets"
        )
    return split


def num_forgotten(ratio: float, num_train: int) -> int:
    """How many of `num_train` training images a forget ratio takes, rounded to the nearest.

    Raises:
        ConfigError: the ratio is impossible, or leaves the forget or the retain set empty.
    """
    require_ratio(ratio)
    count = round(ratio * num_train)
    if count == 0:
        raise ConfigError(
            f"forget_ratio {ratio:g} of {num_train} training images is no image; "
            f"the smallest that takes one is about {0.5 / num_train:.2g}"
        )
    if count == num_train:
        raise ConfigError(
            f"forget_ratio {ratio:g} takes all {num_train} training images; "
            "at least one must be retained"
        )
    return count


def draw_forget_set(train: Rows, ratio: float, seed: int) -> ForgetDraw:
    """A uniform draw of `ratio` of the training rows, independent for every ratio and seed.

    Paper, section 5.3: the requested images are extracted at random for each percentage, so the
    draws are not nested.

    Raises:
        ConfigError: see `num_forgotten`.
    """
    count = num_forgotten(ratio, len(train))
    order = torch.randperm(len(train), generator=generator("forget", seed, f"{ratio:.6f}"))
    return ForgetDraw(
        forget=train[order[:count].sort().values],
        retain=train[order[count:].sort().values],
    )
