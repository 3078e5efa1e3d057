"""CIFAR-10 and CIFAR-100 from their Python batches, read without running what is in them.

The batches are pickles, and unpickling can run any code. So Python's unpickler never sees them:
`_BatchReader` follows only the instructions that put plain values together, and for the five names
that the original files use it keeps what stands beside them.
"""

import os
import pickletools
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

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
                        member = archive.getmember(f"{self.folder}/{name}")
                        # Links are not followed: one that leads to itself has no end.
                        content = archive.extractfile(member) if member.isreg() else None
                        if content is None:
                            raise DatasetError(f"{origin.url}: {name} in it is not a file")
                        (path.parent / name).write_bytes(content.read())
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
        if not all(isinstance(name, str | bytes) for name in names):
            _refuse(path, f"its names under {self.class_names_key!r} are not text")
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
            batch = _BatchReader(path).read(file)
        except DatasetError:
            raise
        except Exception as error:  # pickletools and the stack raise a dozen types on damage
            _refuse(path, repr(error), error)
    if not isinstance(batch, dict):
        _refuse(path, f"it holds a {type(batch).__name__}, not a dictionary")
    return {_text(key): value for key, value in batch.items()}


@dataclass(frozen=True)
class StoredName:
    """A function or class that a pickle names; never looked up."""

    name: str  # module and name


@dataclass(frozen=True)
class StoredDtype:
    """Stands in for numpy.dtype in a pickle: keeps the type's code."""

    code: str


@dataclass
class StoredArray:
    """Stands in for numpy.ndarray in a pickle: keeps the array's state, unchecked."""

    state: object = None


RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
KNOWN_NAMES = (*RECONSTRUCT, "numpy.ndarray", "numpy.dtype", "_codecs.encode")

# Pickle instructions by what they do; pickletools documents each. Those that are not here make
# other objects, sets or references to other files.
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"} | {
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "NONE", "NEWTRUE", "NEWFALSE"),
}
_PYTHON_2_TEXT = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLE_SIZES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# The publisher's largest file has a third of a million; each can make an object of 100 bytes.
MAX_INSTRUCTIONS = 5_000_000


class _BatchReader:
    """Puts together what a pickle holds, from plain values and the stand-ins above alone.

    Any exception means that the file is no batch: nothing in here guards against a stack that
    runs empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, file: BinaryIO) -> object:
        """What the whole file holds."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count == MAX_INSTRUCTIONS:
                _refuse(self.path, f"it has more than {MAX_INSTRUCTIONS:,} instructions")
            self._follow(opcode.name, argument)
        return self.stack.pop()  # genops ends at STOP, or raises

    def _follow(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(_CONSTANTS.get(name, argument))
        elif name in _PYTHON_2_TEXT:
            self.stack.append(argument.encode("latin1"))  # pickletools decoded the bytes as such
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT", "TUPLE", *_TUPLE_SIZES):
            self._collect(name)
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._fill(name)
        elif name in ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"):
            self._stand_in(name, argument)
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name not in ("PROTO", "FRAME", "STOP"):
            _refuse(self.path, f"it uses the pickle instruction {name}, which no batch needs")

    def _pop(self, count: int) -> list[Any]:
        """The last values of the stack, which must be there."""
        start = len(self.stack) - count
        if start < 0:
            raise IndexError("its stack runs empty")
        values, self.stack[start:] = self.stack[start:], []
        return values

    def _pop_to_mark(self) -> list[Any]:
        return self._pop(len(self.stack) - self.marks.pop())

    def _collect(self, name: str) -> None:
        if name.startswith("EMPTY_") or name in _TUPLE_SIZES:
            values = self._pop(_TUPLE_SIZES.get(name, 0))
        else:
            values = self._pop_to_mark()
        if name.endswith("DICT"):
            self.stack.append({})
            self._set_items(values)
        else:
            self.stack.append(values if name.endswith("LIST") else tuple(values))

    def _fill(self, name: str) -> None:
        if name.startswith("APPEND"):
            values = self._pop_to_mark() if name == "APPENDS" else self._pop(1)
            if not isinstance(self.stack[-1], list):
                _refuse(self.path, "it appends to something other than a list")
            self.stack[-1].extend(values)
        else:
            self._set_items(self._pop_to_mark() if name == "SETITEMS" else self._pop(2))

    def _set_items(self, values: list[Any]) -> None:
        # Keys of text alone: the hash of nested tuples can take for ever, or all of C's stack.
        keys = values[::2]
        if not isinstance(self.stack[-1], dict) or not all(
            isinstance(k, str | bytes) for k in keys
        ):
            _refuse(self.path, "it holds a dictionary with keys other than text")
        self.stack[-1].update(zip(keys, values[1::2], strict=True))

    def _stand_in(self, name: str, argument: Any) -> None:
        if name == "GLOBAL":
            self._name(argument.replace(" ", "."))  # pickletools puts a space between
        elif name == "STACK_GLOBAL":
            self._name(".".join(self._pop(2)))
        elif name == "REDUCE":
            self._call(*self._pop(2))
        else:
            (state,) = self._pop(1)
            if isinstance(self.stack[-1], StoredArray):
                self.stack[-1].state = state
            elif not isinstance(self.stack[-1], StoredDtype):  # byte order means nothing for bytes
                _refuse(self.path, "it sets the state of something other than an array")

    def _name(self, name: str) -> None:
        if name not in KNOWN_NAMES:
            raise DatasetError(
                f"{self.path} refers to {name}, which no CIFAR file needs. It was not "
                "loaded, since it could run code; do not use this file, fetch the original"
            )
        self.stack.append(StoredName(name))

    def _call(self, function: object, arguments: tuple[Any, ...]) -> None:
        """Do what NumPy, or a pickle that holds bytes by an old protocol, means by a call."""
        name = function.name if isinstance(function, StoredName) else None
        if name in RECONSTRUCT:
            self.stack.append(StoredArray())
        elif name == "numpy.dtype" and isinstance(arguments[0], str | bytes):
            self.stack.append(StoredDtype(_text(arguments[0])))
        elif name == "_codecs.encode" and isinstance(arguments[1], str):
            if arguments[1] != "latin1":
                _refuse(self.path, f"encoding {arguments[1]!r} where latin1 is used")
            self.stack.append(arguments[0].encode("latin1"))
        else:
            _refuse(self.path, f"it calls {name} in a way that no batch does")


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
        _refuse(path, f"its array{_shape(shape)} holds {len(content)} bytes, not N x 3072")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if column_major else "C")
    return np.ascontiguousarray(rows).reshape(-1, *IMAGE_SHAPE)


def _shape(shape: object) -> str:
    """A shape for an error; nothing where it is none, whose text might have no end."""
    is_shape = isinstance(shape, tuple) and all(
        isinstance(size, int) and abs(size) < 1 << 64 for size in shape
    )
    return f" of shape {shape}" if is_shape else ""


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _refuse(path: Path, what: str, cause: Exception | None = None) -> NoReturn:
    raise DatasetError(
        f"{path} is damaged, cut short or no CIFAR batch ({what}); fetch it again"
    ) from cause
