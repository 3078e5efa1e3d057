"""What a data-set reader is, and what readers share.

Shape letters: N = images, C = channels, H = height, W = width.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlearning.config import SourceConfig, require
from unlearning.datasets.prepared import Integers, Pixels, RawDataset
from unlearning.errors import ConfigError, DatasetError

ARRAY_SETTINGS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class NominalSize:
    """How large a data set is said to be; lets a sweep be planned before its files are there."""

    num_images: int  # all of them, the official test split included
    num_official_test: int
    num_classes: int


class Reader(ABC):
    """Turns the original files of one data set into arrays.

    A reader names its files and decodes them; everything else (the fingerprint, the prepared copy,
    staleness, validation) is done for it. Set `version` one higher when the decoded arrays change.
    """

    name: str
    description: str  # one line, for listings
    obtain: str  # where the original files come from and where they go, for error messages
    version: int = 1
    nominal: NominalSize | None = None
    default_image_size: int | None = None  # pixels a side; None: this reader does not resize
    can_download: bool = False

    @abstractmethod
    def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
        """Original files (or folders of them) that `read` needs, whether or not they exist."""

    @abstractmethod
    def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
        """All images and labels, the official test split last.

        Raises:
            DatasetError: a file is damaged or not what it should be; names it.
        """

    def options(self, source: SourceConfig, data_root: Path) -> dict[str, Any]:
        """The settings that decide what is read, resolved; part of the prepared folder's name.

        Raises:
            ConfigError: a setting is impossible, or means nothing to this reader.
        """
        for setting in ARRAY_SETTINGS:
            value = getattr(source, setting)
            require(value is None, f"source.{setting}", value, f"nothing with reader {self.name!r}")
        if self.default_image_size is None:
            allowed = f"nothing with reader {self.name!r}, which does not resize"
            require(source.image_size is None, "source.image_size", source.image_size, allowed)
            return {}
        return {"image_size": self.image_size(source)}

    def image_size(self, source: SourceConfig) -> int:
        """Pixels a side after resizing.

        Raises:
            ConfigError: the setting is below 1.
        """
        assert self.default_image_size is not None
        size = self.default_image_size if source.image_size is None else source.image_size
        require(size >= 1, "source.image_size", size, "1 or more pixels a side")
        return size

    def download(self, data_root: Path) -> None:
        """Put the original files below the data root; only where `can_download` is set.

        Raises:
            DatasetError: a file cannot be fetched, or is not the one that was meant.
        """
        raise ConfigError(f"reader {self.name!r} cannot download; {self.obtain}")


@dataclass(frozen=True)
class OfficialSplit:
    """Images and labels of one split as its files hold them."""

    images: Pixels  # [N, C, H, W]
    labels: Integers  # [N]
    origin: Path  # the file to name when something is wrong


def require_room(path: Path, num_bytes: int) -> None:
    """Refuse a compressed file that could only fill the memory: a small one can announce anything.

    Raises:
        DatasetError: its content is larger than this machine's memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory:
        raise DatasetError(
            f"{path} holds {num_bytes:,} bytes once unpacked, more than this machine's memory "
            f"of {memory:,}; use a smaller file, or a larger machine"
        )


def numbered_classes(num_classes: int) -> tuple[str, ...]:
    """Class names where a data set has none: "0", "1", ..."""
    return tuple(str(number) for number in range(num_classes))


def stack_splits(
    train: OfficialSplit, test: OfficialSplit | None, class_names: tuple[str, ...]
) -> RawDataset:
    """One data set of the official splits, the test split last.

    Raises:
        DatasetError: a split is empty, its labels do not fit its images or the classes, or the
            splits differ in image shape; names the file.
    """
    splits = [train] if test is None else [train, test]
    for split in splits:
        _check_split(split, len(class_names))
        if split.images.shape[1:] != train.images.shape[1:]:
            raise DatasetError(
                f"{split.origin}: images are {split.images.shape[1:]} (channels, height, width), "
                f"but those of {train.origin} are {train.images.shape[1:]}"
            )
    if test is None:
        return RawDataset(train.images, train.labels, class_names, num_official_test=0)
    return RawDataset(
        images=np.concatenate([train.images, test.images]),
        labels=np.concatenate([train.labels, test.labels]),
        class_names=class_names,
        num_official_test=len(test.images),
    )


def _check_split(split: OfficialSplit, num_classes: int) -> None:
    if len(split.images) == 0:
        raise DatasetError(f"{split.origin} holds no images")
    if len(split.images) != len(split.labels):
        raise DatasetError(
            f"{split.origin}: {len(split.images)} images but {len(split.labels)} labels"
        )
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise DatasetError(
            f"{split.origin}: label {wrong} is not a class; allowed are 0 to {num_classes - 1}"
        )
