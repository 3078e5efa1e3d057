"""CIFAR-10 and CIFAR-100 from their Python batches, read without running what is in them.

The batches are pickles, and unpickling can run any code. Here only the five names that the
original files use are known, and those of NumPy are stand-ins that merely keep what they are
given: no function that a file names is ever called except these.
"""

import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from unlearning.config import SourceConfig
from unlearning.datasets.download import downloaded
from unlearning.datasets.prepared import Pixels, RawDataset
from unlearning.datasets.reader import (
    NominalSize,
    OfficialSplit,
    Reader,
    numbered_classes,
    stack_splits,
)
from unlearning.errors import DatasetError

IMAGE_SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32


class CifarReader(Reader):
    """Batches below `<data root>/<folder>`, as the publisher's archive unpacks."""

    can_download = True

    def __init__(
        self,
        name: str,
        folder: str,
        train_batches: tuple[str, ...],
        test_batch: str,
        meta: str,
        label_key: str,
        class_names_key: str,
        num_classes: int,
    ) -> None:
        self.name = name
        self.description = f"60,000 32x32 colour images of {num_classes} classes, Python batches"
        self.obtain = (
            f"unpack the Python version of https://www.cs.toronto.edu/~kriz/cifar.html, "
            f"so that <data root>/{folder}/{test_batch} exists"
        )
        self.nominal = NominalSize(60_000, 10_000, num_classes)
        self.folder = folder
        self.train_batches = train_batches
        self.test_batch = test_batch
        self.meta = meta
        self.label_key = label_key
        self.class_names_key = class_names_key
        self.num_classes = num_classes

    def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
        """All batches, and the file of class names where it is there."""
        folder = data_root / self.folder
        meta = folder / self.meta
        batches = [folder / batch for batch in (*self.train_batches, self.test_batch)]
        return [*batches, meta] if meta.exists() else batches

    def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
        """Both splits; CIFAR-100 by its 100 fine labels. Classes are numbers without meta file."""
        folder = data_root / self.folder
        parts = [self._read_batch(folder / batch) for batch in self.train_batches]
        train = OfficialSplit(
            images=np.concatenate([part.images for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            origin=folder,
        )
        test = self._read_batch(folder / self.test_batch)
        return stack_splits(train, test, self._read_class_names(folder / self.meta))

    def download(self, data_root: Path) -> None:
        """The publisher's archive, unpacked; torchvision's address and MD5."""
        import torchvision.datasets

        origin = getattr(torchvision.datasets, self.name.upper())
        wanted = [*self.train_batches, self.test_batch, self.meta]
        target = data_root / self.folder
        with downloaded([origin.url], origin.tgz_md5, data_root) as path:
            try:
                with tarfile.open(path) as archive:
                    # By name, never extractall: nothing lands outside the temporary folder.
                    for name in wanted:
                        member = archive.extractfile(f"{self.folder}/{name}")
                        if member is None:
                            raise DatasetError(f"{origin.url}: {name} in it is not a file")
                        (path.parent / name).write_bytes(member.read())
                target.mkdir(exist_ok=True)
                for name in wanted:
                    os.replace(path.parent / name, target / name)
            except (tarfile.TarError, KeyError, EOFError, OSError) as error:
                raise DatasetError(f"cannot unpack {origin.url} into {target}: {error}") from error

    def _read_batch(self, path: Path) -> OfficialSplit:
        batch = load_batch(path)
        labels = batch.get(self.label_key)
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            _refuse(path, f"it has no list of whole numbers under {self.label_key!r}")
        images = _stored_pixels(path, batch.get("data"))
        if len(images) != len(labels):
            _refuse(path, f"it holds {len(images)} images but {len(labels)} labels")
        if not all(0 <= label < self.num_classes for label in labels):
            _refuse(path, f"it has labels outside 0 to {self.num_classes - 1}")
        return OfficialSplit(images, np.array(labels, dtype=np.int64), path)

    def _read_class_names(self, path: Path) -> tuple[str, ...]:
        if not path.exists():
            return numbered_classes(self.num_classes)
        names = load_batch(path).get(self.class_names_key)
        if not isinstance(names, list) or len(names) != self.num_classes:
            _refuse(path, f"it has no {self.num_classes} names under {self.class_names_key!r}")
        return tuple(_text(name) for name in names)


CIFAR10 = CifarReader(
    name="cifar10",
    folder="cifar-10-batches-py",
    train_batches=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test_batch="test_batch",
    meta="batches.meta",
    label_key="labels",
    class_names_key="label_names",
    num_classes=10,
)
CIFAR100 = CifarReader(
    name="cifar100",
    folder="cifar-100-python",
    train_batches=("train",),
    test_batch="test",
    meta="meta",
    label_key="fine_labels",
    class_names_key="fine_label_names",
    num_classes=100,
)


def load_batch(path: Path) -> dict[str, Any]:
    """The dictionary in a batch file; its arrays are still `StoredArray`.

    Raises:
        DatasetError: the file names anything that a batch does not need, which is then not
            loaded, or it is damaged or cut short.
    """
    with path.open("rb") as file:
        try:
            batch = _BatchUnpickler(file, path).load()
        except DatasetError:
            raise
        except Exception as error:  # a damaged pickle may raise anything, says its documentation
            _refuse(path, repr(error), error)
    if not isinstance(batch, dict):
        _refuse(path, f"it holds a {type(batch).__name__}, not a dictionary")
    return {_text(key): value for key, value in batch.items()}


class StoredDtype:
    """Stands in for numpy.dtype in a pickle: keeps the type's code."""

    def __init__(self, code: str | bytes, *flags: object) -> None:
        self.code = _text(code)

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which mean nothing for single bytes."""


class StoredArray:
    """Stands in for numpy.ndarray in a pickle: keeps the array's state, unchecked."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def _reconstruct(kind: object, shape: object, code: object) -> StoredArray:
    """What numpy.core.multiarray._reconstruct does: an empty array, filled by __setstate__."""
    return StoredArray()


def _encode(text: str, encoding: str) -> bytes:
    """What _codecs.encode does in pickles that hold bytes by an old protocol."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} where latin1 is used")
    return text.encode("latin1")


KNOWN_NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # its module since NumPy 2
    ("numpy", "ndarray"): StoredArray,
    ("numpy", "dtype"): StoredDtype,
    ("_codecs", "encode"): _encode,
}


class _BatchUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="bytes")  # the originals were written by Python 2
        self.path = path

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        known = KNOWN_NAMES.get((module, name))
        if known is None:
            raise DatasetError(
                f"{self.path} refers to {module}.{name}, which no CIFAR file needs. It was not "
                "loaded, since it could run code; do not use this file, fetch the original"
            )
        return known


def _stored_pixels(path: Path, array: object) -> Pixels:
    """Images [N, 3, 32, 32] of a batch's array of unsigned bytes [N, 3072]."""
    state = array.state if isinstance(array, StoredArray) else None
    if not isinstance(state, tuple) or len(state) != 5:
        _refuse(path, "it has no array under 'data'")
    _, shape, dtype, column_major, content = state
    if not isinstance(dtype, StoredDtype) or dtype.code not in ("u1", "|u1"):
        _refuse(path, "its array is not of unsigned bytes")
    if not isinstance(content, bytes):
        _refuse(path, "its array holds no bytes")
    if shape != (len(content) // IMAGE_BYTES, IMAGE_BYTES) or len(content) % IMAGE_BYTES:
        _refuse(path, f"its array of shape {shape} holds {len(content)} bytes, not N x 3072")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if column_major else "C")
    return np.ascontiguousarray(rows).reshape(-1, *IMAGE_SHAPE)


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _refuse(path: Path, what: str, cause: Exception | None = None) -> NoReturn:
    raise DatasetError(
        f"{path} is damaged, cut short or no CIFAR batch ({what}); fetch it again"
    ) from cause
