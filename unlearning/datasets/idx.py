"""MNIST and Fashion-MNIST from their idx files, in the folders that torchvision uses.

The idx format (LeCun et al.): two zero bytes, a type byte (8: unsigned bytes), the number of
dimensions, each dimension as a big-endian 32-bit integer, then the values in C order.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from unlearning.config import SourceConfig
from unlearning.datasets.download import downloaded
from unlearning.datasets.prepared import Pixels, RawDataset
from unlearning.datasets.reader import (
    NominalSize,
    OfficialSplit,
    Reader,
    numbered_classes,
    require_room,
    stack_splits,
)
from unlearning.errors import DatasetError

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
UNSIGNED_BYTES = 8
DEFLATE_RATIO = 1032  # how many bytes one compressed byte can stand for at most
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class IdxReader(Reader):
    """Four idx files below `<data root>/<folder>/raw`, each plain or compressed (.gz)."""

    nominal = NominalSize(70_000, 10_000, 10)
    can_download = True

    def __init__(self, name: str, title: str, folder: str, class_names: tuple[str, ...]) -> None:
        self.name = name
        self.description = f"{title}, 70,000 28x28 grey images of 10 classes, idx files"
        self.obtain = (
            f"put the four idx files, plain or .gz, of {title} into <data root>/{folder}/raw"
        )
        self.folder = folder
        self.class_names = class_names

    def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
        """The four files; a .gz counts where the plain file is not there."""
        return [_plain_or_compressed(data_root / self.folder / "raw" / stem) for stem in STEMS]

    def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
        """Both splits; never writes below the data root, compressed files are read as they are."""
        train_images, train_labels, test_images, test_labels = self.files(source, data_root)
        train = _read_split(train_images, train_labels)
        test = _read_split(test_images, test_labels)
        return stack_splits(train, test, self.class_names)

    def download(self, data_root: Path) -> None:
        """The .gz files that are missing, from the mirrors that torchvision names."""
        target = data_root / self.folder / "raw"
        for urls, md5 in self.remote_files():
            filename = os.path.basename(urls[0])
            if _plain_or_compressed(target / filename.removesuffix(".gz")).exists():
                continue
            with downloaded(urls, md5, target) as path:
                os.replace(path, target / filename)

    def remote_files(self) -> Iterator[tuple[list[str], str]]:
        """Mirrors and MD5 of each compressed file."""
        import torchvision.datasets

        origin = getattr(torchvision.datasets, self.folder)
        for filename, md5 in origin.resources:
            yield [mirror + filename for mirror in origin.mirrors], md5


MNIST = IdxReader("mnist", "MNIST", "MNIST", numbered_classes(10))
FASHION_MNIST = IdxReader("fashion_mnist", "Fashion-MNIST", "FashionMNIST", FASHION_CLASSES)


def read_idx(path: Path, num_dimensions: int) -> Pixels:
    """The array of unsigned bytes in an idx file, plain or .gz.

    Raises:
        DatasetError: it is not such a file, or holds more or fewer bytes than it announces.
    """
    try:
        with _open(path) as file:
            shape = _read_shape(path, file, num_dimensions)
            size = math.prod(shape)
            # Never more than is announced, and room for no more than the file can hold.
            most = min(size, path.stat().st_size * (DEFLATE_RATIO if _is_compressed(path) else 1))
            require_room(path, most)
            content = file.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path} is damaged or cut short ({error}); delete it and fetch it again"
        ) from error
    if len(content) != size:
        fault, more = ("cut short", "") if len(content) < size else ("too long", " or more")
        header_size = 4 + 4 * num_dimensions
        raise DatasetError(
            f"{path} is {fault}: it holds {header_size + len(content)} bytes{more}, its header "
            f"announces {header_size + size}; delete it and fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_shape(path: Path, file: BinaryIO, num_dimensions: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * num_dimensions)
    expected = bytes([0, 0, UNSIGNED_BYTES, num_dimensions])
    if header[:4] != expected or len(header) < 4 + 4 * num_dimensions:
        raise DatasetError(
            f"{path} is not an idx file of {num_dimensions} dimensions: it begins with "
            f"{header[:4].hex(' ') or 'nothing'}, expected {expected.hex(' ')}"
        )
    return struct.unpack(f">{num_dimensions}I", header[4:])


def _plain_or_compressed(plain: Path) -> Path:
    compressed = plain.with_name(plain.name + ".gz")
    return compressed if compressed.exists() and not plain.exists() else plain


def _is_compressed(path: Path) -> bool:
    return path.suffix == ".gz"


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if _is_compressed(path) else path.open("rb")


def _read_split(images: Path, labels: Path) -> OfficialSplit:
    return OfficialSplit(
        images=read_idx(images, 3)[:, None],
        labels=read_idx(labels, 1).astype(np.int64),
        origin=images,
    )
