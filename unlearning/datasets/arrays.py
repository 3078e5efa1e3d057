"""A user's own images and labels from .npy or .npz files.

Shape letters: N = images, C = channels (1 or 3), H = height, W = width.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unlearning.config import SourceConfig, require
from unlearning.datasets.prepared import Integers, Pixels, RawDataset, map_npy
from unlearning.datasets.reader import (
    ARRAY_SETTINGS,
    OfficialSplit,
    Reader,
    numbered_classes,
    require_room,
    stack_splits,
)
from unlearning.errors import DatasetError

CHANNELS = (1, 3)
SUFFIXES = (".npy", ".npz")


class ArraysReader(Reader):
    """Images and labels that the configuration names; a test pair is the official test split."""

    name = "arrays"
    description = "your own images and labels, .npy or .npz files"
    obtain = "source.train_images and the other paths name them, relative to the data root"

    def options(self, source: SourceConfig, data_root: Path) -> dict[str, Any]:
        """Absolute path of every file by its setting.

        Raises:
            ConfigError: a path is missing or of another kind, or an image size is asked for.
        """
        allowed = "nothing with reader 'arrays', which does not resize"
        require(source.image_size is None, "source.image_size", source.image_size, allowed)
        return {name: str(path) for name, path in _paths(source, data_root).items()}

    def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
        """Each named file once."""
        return list(dict.fromkeys(_paths(source, data_root).values()))

    def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
        """Both pairs; as many classes as the largest label says."""
        paths = _paths(source, data_root)
        train = _read_split(paths["train_images"], paths["train_labels"])
        test = None
        if "test_images" in paths:
            test = _read_split(paths["test_images"], paths["test_labels"])
        splits = [train] if test is None else [train, test]
        highest = max(int(split.labels.max(initial=-1)) for split in splits)
        # Such a label is an id or a hash rather than a class, and would make as many classes.
        if highest >= sum(len(split.labels) for split in splits):
            raise DatasetError(
                f"{paths['train_labels']}: label {highest} is more than there are images; "
                "number the classes 0, 1, 2, ..."
            )
        return stack_splits(train, test, numbered_classes(highest + 1))


def _paths(source: SourceConfig, data_root: Path) -> dict[str, Path]:
    """Absolute paths by setting; labels default to the .npz that holds the images."""
    named = {name: getattr(source, name) for name in ARRAY_SETTINGS}
    require(named["train_images"] is not None, "source.train_images", None, "a .npy or .npz file")
    paths: dict[str, Path] = {}
    for name, value in named.items():
        if value is not None:
            suffix_ok = Path(value).suffix in SUFFIXES
            require(suffix_ok, f"source.{name}", value, "a .npy or .npz file")
            paths[name] = Path(os.path.abspath(data_root / Path(value).expanduser()))
    for images, labels in (("train_images", "train_labels"), ("test_images", "test_labels")):
        if images in paths and labels not in paths:
            in_images = paths[images].suffix == ".npz"
            allowed = f"a .npy or .npz file, since source.{images} is not an .npz that holds both"
            require(in_images, f"source.{labels}", None, allowed)
            paths[labels] = paths[images]
        complete = images in paths or labels not in paths
        require(complete, f"source.{images}", None, f"a file, since source.{labels} is given")
    return paths


def _read_split(images: Path, labels: Path) -> OfficialSplit:
    return OfficialSplit(
        images=as_pixels(_load(images, "images"), images),
        labels=as_labels(_load(labels, "labels"), labels),
        origin=images,
    )


def _load(path: Path, key: str) -> npt.NDArray[Any]:
    """The array of an .npy file, or the one of this key in an .npz file; never unpickled."""
    try:
        if path.suffix == ".npy":
            return map_npy(path)
        return _load_member(path, key)
    except (DatasetError, FileNotFoundError):
        raise
    except Exception as error:  # NumPy and zipfile raise a dozen types on damaged files
        raise DatasetError(
            f"{path} cannot be read as plain arrays ({error}); it is damaged, cut short, or "
            "holds Python objects, which are never loaded"
        ) from error


def _load_member(path: Path, key: str) -> npt.NDArray[Any]:
    # NumPy leaves a file of its own open when it cannot read it.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if key not in archive.files:
            raise DatasetError(
                f"{path} has no array {key!r}, only {', '.join(archive.files) or 'nothing'}; "
                "save it with np.savez(path, images=..., labels=...)"
            )
        name = f"{key}.npy"  # in full: another member could be called what NumPy shortens it to
        require_room(path, archive.zip.getinfo(name).file_size)  # no more than that is unpacked
        array: npt.NDArray[Any] = archive[name]
        if not isinstance(array, np.ndarray):  # NumPy hands over the bytes of other files
            raise ValueError(f"{name} in it is no array")
        return array


def as_pixels(images: npt.NDArray[Any], path: Path) -> Pixels:
    """Images as [N, C, H, W].

    Three axes are always [N, H, W]. Of four, the one of length 1 or 3 is the channels: the second
    or the last. Where both are, nothing says which is meant, and the file is refused.

    Raises:
        DatasetError: not unsigned bytes, or not of these shapes.
    """
    if images.dtype != np.uint8:
        hint = "(images * 255).round().astype('uint8') if they are in [0, 1]"
        hint = hint if images.dtype.kind == "f" else "images.astype('uint8') if they are in 0..255"
        raise DatasetError(f"{path}: images are {images.dtype}, not uint8; convert with {hint}")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DatasetError(
            f"{path}: images have shape {images.shape}; allowed are [N, H, W], [N, H, W, C] and "
            "[N, C, H, W], with C 1 or 3"
        )
    first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
    if first == last:
        found = "both are" if first else "neither is"
        raise DatasetError(
            f"{path}: images have shape {images.shape}; the second or the last axis must be the "
            f"channels, 1 or 3, and {found}"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def as_labels(labels: npt.NDArray[Any], path: Path) -> Integers:
    """Labels as int64 [N], from 0.

    Raises:
        DatasetError: not whole numbers, not one axis, or not class numbers.
    """
    if labels.dtype.kind not in "iu":
        raise DatasetError(f"{path}: labels are {labels.dtype}; whole numbers from 0 are needed")
    if labels.ndim != 1:
        raise DatasetError(
            f"{path}: labels have shape {labels.shape}; one axis is needed: labels.reshape(-1)"
        )
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high > np.iinfo(np.int64).max:
        raise DatasetError(f"{path}: labels are {low} to {high}; classes are numbered 0, 1, 2, ...")
    return labels.astype(np.int64)
