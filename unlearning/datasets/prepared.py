"""A data set after preparation: memory-mapped arrays and a fingerprint of their content.

A prepared folder holds images.npy (uint8 [N, C, H, W]), labels.npy (int64 [N]), groups.npy
(int64 [N], only where rows belong together) and dataset.json, which describes them.

Shape letters: N = images, C = channels, H = height, W = width.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from unlearning.errors import DatasetError

IMAGES, LABELS, GROUPS, FACTS = "images.npy", "labels.npy", "groups.npy", "dataset.json"
FORMAT = 1  # of dataset.json; a folder of another format is prepared again
HASH_CHUNK_BYTES = 1 << 24

Pixels = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawDataset:
    """What a reader hands over, in memory: all rows, the official test split last."""

    images: npt.NDArray[np.uint8]  # [N, channels, height, width]
    labels: npt.NDArray[np.int64]  # [N], in [0, number of classes)
    class_names: tuple[str, ...]
    num_official_test: int  # rows at the end; 0 where there is no official test split
    groups: npt.NDArray[np.int64] | None = None  # [N]; rows of one group stay on one side


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared data set, opened; its arrays are read-only maps that processes share."""

    name: str
    fingerprint: str  # SHA-256 of the content, hexadecimal
    images: npt.NDArray[np.uint8]  # [N, channels, height, width]
    labels: npt.NDArray[np.int64]  # [N]
    class_names: tuple[str, ...]
    num_official_test: int
    groups: npt.NDArray[np.int64] | None

    @property
    def num_classes(self) -> int:
        """Number of classes, also of those that have no image."""
        return len(self.class_names)


@dataclass(frozen=True)
class DatasetFacts:
    """What dataset.json says of a prepared data set; known without opening an array."""

    name: str
    fingerprint: str
    num_images: int  # all rows, the official test split included
    num_official_test: int
    num_classes: int
    image_shape: tuple[int, int, int]  # channels, height, width
    folder: Path


@dataclass(frozen=True)
class FileStamp:
    """Size and time of an original file when it was read; another stamp means another file."""

    path: str  # relative to the data root where the file is below it, else absolute
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    """dataset.json, parsed."""

    name: str
    fingerprint: str
    images_shape: tuple[int, int, int, int]
    has_groups: bool
    class_names: tuple[str, ...]
    num_official_test: int
    recipe: dict[str, Any]  # reader, version and options: what the folder's name is made from
    originals: tuple[FileStamp, ...]

    def facts(self, folder: Path) -> DatasetFacts:
        """The part that callers outside this package see."""
        num_images, channels, height, width = self.images_shape
        return DatasetFacts(
            name=self.name,
            fingerprint=self.fingerprint,
            num_images=num_images,
            num_official_test=self.num_official_test,
            num_classes=len(self.class_names),
            image_shape=(channels, height, width),
            folder=folder,
        )


def canonical_json(value: Any) -> str:
    """The one JSON text of a value, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def content_fingerprint(
    images: Pixels,
    labels: Integers,
    groups: Integers | None,
    num_official_test: int,
    num_classes: int,
) -> str:
    """SHA-256 of everything that can move a number; equal content gives equal fingerprints.

    Hashed are one line of JSON with the shapes, dtypes and counts, and then the arrays' bytes in C
    order. Names of the data set, its classes and its files are not in it.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"images": images, "labels": labels}
    if groups is not None:
        arrays["groups"] = groups
    header = {
        "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()},
        "num_classes": num_classes,
        "num_official_test": num_official_test,
    }
    digest = hashlib.sha256(canonical_json(header).encode() + b"\n")
    for array in arrays.values():
        rows = max(1, HASH_CHUNK_BYTES * len(array) // max(1, array.nbytes))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()


def write_prepared(
    raw: RawDataset,
    folder: Path,
    name: str,
    recipe: dict[str, Any],
    originals: tuple[FileStamp, ...],
) -> Manifest:
    """Fill an existing empty folder with a prepared data set; what its dataset.json now says.

    Raises:
        OSError: a file cannot be written.
    """
    # Little-endian on every machine, so that a folder and its fingerprint can be moved.
    labels = raw.labels.astype("<i8", copy=False)
    groups = None if raw.groups is None else raw.groups.astype("<i8", copy=False)
    num_images, channels, height, width = raw.images.shape
    manifest = Manifest(
        name=name,
        fingerprint=content_fingerprint(
            raw.images, labels, groups, raw.num_official_test, len(raw.class_names)
        ),
        images_shape=(num_images, channels, height, width),
        has_groups=groups is not None,
        class_names=raw.class_names,
        num_official_test=raw.num_official_test,
        recipe=recipe,
        originals=originals,
    )
    np.save(folder / IMAGES, np.ascontiguousarray(raw.images), allow_pickle=False)
    np.save(folder / LABELS, labels, allow_pickle=False)
    if groups is not None:
        np.save(folder / GROUPS, groups, allow_pickle=False)
    text = json.dumps({"format": FORMAT} | asdict(manifest), indent=1)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """dataset.json of a prepared folder.

    Raises:
        DatasetError: the file is missing, damaged or of another format.
    """
    path = folder / FACTS
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r} where {FORMAT} is read")
        num_images, channels, height, width = (int(size) for size in data["images_shape"])
        manifest = Manifest(
            name=str(data["name"]),
            fingerprint=str(data["fingerprint"]),
            images_shape=(num_images, channels, height, width),
            has_groups=bool(data["has_groups"]),
            class_names=tuple(str(name) for name in data["class_names"]),
            num_official_test=int(data["num_official_test"]),
            recipe=dict(data["recipe"]),
            originals=tuple(
                FileStamp(str(file["path"]), int(file["size"]), int(file["mtime_ns"]))
                for file in data["originals"]
            ),
        )
        _check_manifest(manifest)
        return manifest
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist; the data set must be prepared first") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DatasetError(_damaged(path, repr(error))) from error


def _check_manifest(manifest: Manifest) -> None:
    """Refuse what cannot be true whatever the arrays hold; with those it is compared when opened.

    Raises:
        ValueError: says which promise of `RawDataset` is broken.
    """
    if not re.fullmatch("[0-9a-f]{64}", manifest.fingerprint):
        raise ValueError(f"fingerprint {manifest.fingerprint[:64]!r}")
    if not 0 <= manifest.num_official_test < manifest.images_shape[0]:
        raise ValueError(f"a test split of {manifest.num_official_test} images")
    if len(manifest.class_names) < 2:
        raise ValueError(f"{len(manifest.class_names)} classes")


def open_prepared(folder: Path, *, verify: bool = False) -> PreparedDataset:
    """The data set in a prepared folder; takes milliseconds, its arrays are read when used.

    Args:
        folder: what `prepare` wrote.
        verify: also read every byte and compare with the recorded fingerprint.

    Raises:
        DatasetError: a file is missing, cut short or, with `verify`, changed; names it.
    """
    manifest = read_manifest(folder)
    shape = manifest.images_shape
    images = _open_array(folder / IMAGES, "|u1", shape)
    labels = _open_array(folder / LABELS, "<i8", shape[:1])
    groups = _open_array(folder / GROUPS, "<i8", shape[:1]) if manifest.has_groups else None
    low, high, num_classes = int(labels.min()), int(labels.max()), len(manifest.class_names)
    if low < 0 or high >= num_classes:
        what = f"labels are {low} to {high}, recorded are {num_classes} classes"
        raise DatasetError(_damaged(folder / LABELS, what))
    dataset = PreparedDataset(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        images=images,
        labels=labels,
        class_names=manifest.class_names,
        num_official_test=manifest.num_official_test,
        groups=groups,
    )
    if verify and not is_intact(dataset):
        what = f"its content does not have the recorded fingerprint {manifest.fingerprint}"
        raise DatasetError(_damaged(folder, what))
    return dataset


def is_intact(dataset: PreparedDataset) -> bool:
    """Whether the arrays still are what the fingerprint was made from; reads every byte."""
    found = content_fingerprint(
        dataset.images,
        dataset.labels,
        dataset.groups,
        dataset.num_official_test,
        dataset.num_classes,
    )
    return found == dataset.fingerprint


def map_npy(path: Path) -> npt.NDArray[Any]:
    """The array in an .npy file as a read-only memory map; Python objects are never loaded.

    Raises:
        Exception: of many types, if the file is damaged, cut short or too long.
    """
    array: np.memmap[Any, Any] = open_memmap(path, mode="r")
    announced, found = array.offset + array.nbytes, path.stat().st_size
    if announced != found:
        raise ValueError(f"its header announces {announced} bytes, it has {found}")
    return array


def _open_array(path: Path, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        array = map_npy(path)
    except Exception as error:  # NumPy's parser raises a dozen types on damaged headers
        raise DatasetError(_damaged(path, str(error))) from error
    if array.dtype.str != dtype or array.shape != shape:
        found = f"it holds {array.dtype.str} {array.shape}, recorded is {dtype} {shape}"
        raise DatasetError(_damaged(path, found))
    return array


def _damaged(path: Path, what: str) -> str:
    folder = path if path.is_dir() else path.parent
    return f"{path} is damaged ({what}); delete {folder} and prepare the data set again"
