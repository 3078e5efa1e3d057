"""Small data sets in their original file formats, made on the fly, with what must come out."""

import gzip
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from unlearning.config import SourceConfig

NUM_TRAIN, NUM_TEST = 20, 10
HAM_CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True)
class Originals:
    """Original files below a data root, and the data set that they are."""

    source: SourceConfig
    data_root: Path
    images: npt.NDArray[np.uint8] | None  # None: lossy files, not to be compared pixel by pixel
    labels: npt.NDArray[np.int64]
    num_official_test: int
    class_names: tuple[str, ...]
    groups: npt.NDArray[np.int64] | None = None
    files: list[Path] = field(default_factory=list)  # those that must be there


def random_content(
    shape: tuple[int, ...], num_classes: int = 10, seed: int = 0, with_test: bool = True
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images [N, *shape] of noise, and labels among which every class up to N occurs."""
    rng = np.random.default_rng(seed)
    count = NUM_TRAIN + NUM_TEST if with_test else NUM_TRAIN
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, rng.permutation(np.arange(count) % num_classes).astype(np.int64)


def digit_names(count: int = 10) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def build_idx(data_root: Path, reader: str, seed: int = 0, compressed: bool = False) -> Originals:
    images, labels = random_content((1, 28, 28), seed=seed)
    raw = data_root / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[reader] / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    files = []
    for split, rows in (("train", slice(NUM_TRAIN)), ("t10k", slice(NUM_TRAIN, None))):
        arrays = (("images-idx3", images[rows, 0]), ("labels-idx1", labels[rows].astype(np.uint8)))
        for kind, array in arrays:
            path = raw / f"{split}-{kind}-ubyte{'.gz' if compressed else ''}"
            content = idx_bytes(array)
            path.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
            files.append(path)
    names = FASHION_CLASSES if reader == "fashion_mnist" else digit_names()
    source = SourceConfig(reader=reader)
    return Originals(source, data_root, images, labels, NUM_TEST, names, files=files)


def write_batch(path: Path, content: dict[bytes, Any], protocol: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def build_cifar(data_root: Path, reader: str, seed: int = 0) -> Originals:
    num_classes = {"cifar10": 10, "cifar100": 100}[reader]
    images, labels = random_content((3, 32, 32), num_classes, seed)
    if reader == "cifar10":
        folder, key = data_root / "cifar-10-batches-py", b"labels"
        batches = {f"data_batch_{n + 1}": slice(4 * n, 4 * n + 4) for n in range(5)}
        batches["test_batch"] = slice(NUM_TRAIN, None)
        names, meta, names_key = tuple("abcdefghij"), "batches.meta", b"label_names"
    else:
        folder, key = data_root / "cifar-100-python", b"fine_labels"
        batches = {"train": slice(NUM_TRAIN), "test": slice(NUM_TRAIN, None)}
        names, meta = tuple(f"fine {number}" for number in range(100)), "meta"
        names_key = b"fine_label_names"
    for name, rows in batches.items():
        coarse = [int(label) % 20 for label in labels[rows]]  # of CIFAR-100, and not to be used
        content = {
            b"batch_label": name.encode(),
            b"coarse_labels": coarse,
            key: labels[rows].tolist(),
            b"data": images[rows].reshape(-1, 3072),
            b"filenames": [b"a.png"] * len(coarse),
        }
        write_batch(folder / name, content)
    write_batch(folder / meta, {names_key: [name.encode() for name in names]})
    files = [folder / name for name in batches]
    source = SourceConfig(reader=reader)
    return Originals(source, data_root, images, labels, NUM_TEST, names, files=files)


def build_svhn(data_root: Path, seed: int = 0) -> Originals:
    from scipy.io import savemat

    images, labels = random_content((3, 32, 32), seed=seed)
    data_root.mkdir(parents=True, exist_ok=True)
    files = []
    for name, rows in (("train", slice(NUM_TRAIN)), ("test", slice(NUM_TRAIN, None))):
        path = data_root / f"{name}_32x32.mat"
        digits = np.where(labels[rows] == 0, 10, labels[rows]).astype(np.uint8)[:, None]
        content = {"X": images[rows].transpose(2, 3, 1, 0), "y": digits}
        savemat(path, content, do_compression=True)
        files.append(path)
    source = SourceConfig(reader="svhn")
    return Originals(source, data_root, images, labels, NUM_TEST, digit_names(), files=files)


def build_ham10000(data_root: Path, seed: int = 0) -> Originals:
    from PIL import Image

    root = data_root / "HAM10000"
    images, labels = random_content((15, 20, 3), num_classes=7, seed=seed, with_test=False)
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"]
    for row, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / f"HAM10000_images_part_{1 + row % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"ISIC_{row:07d}.jpg", quality=95)
        dx = HAM_CLASSES[label]
        lines.append(f"HAM_{row // 2:07d},ISIC_{row:07d},{dx},histo,,male,scalp,made_up")
    metadata = root / "HAM10000_metadata.csv"
    metadata.write_text("\n".join(lines) + "\n")
    groups = np.arange(NUM_TRAIN) // 2
    files = [metadata, *sorted(root.glob("*/*.jpg"))]
    source = SourceConfig(reader="ham10000")
    return Originals(source, data_root, None, labels, 0, HAM_CLASSES, groups, files)


def build_arrays(data_root: Path, layout: str, seed: int = 0) -> Originals:
    images, labels = random_content((3, 9, 8), num_classes=4, seed=seed)
    stored = images.transpose(0, 2, 3, 1)
    data_root.mkdir(parents=True, exist_ok=True)
    train, test = slice(NUM_TRAIN), slice(NUM_TRAIN, None)
    source = SourceConfig(reader="arrays")
    if layout == "npz":
        np.savez(data_root / "a.npz", images=stored[train], labels=labels[train].astype(np.uint8))
        np.savez_compressed(data_root / "b.npz", images=stored[test], labels=labels[test])
        source = replace(source, train_images="a.npz", test_images="b.npz")
        names = ["a.npz", "b.npz"]
    else:
        names = ["train_x.npy", "train_y.npy", "test_x.npy", "test_y.npy"]
        contents = (stored[train], labels[train].astype(np.int16), stored[test], labels[test])
        for name, array in zip(names, contents, strict=True):
            np.save(data_root / name, array)
        settings = ("train_images", "train_labels", "test_images", "test_labels")
        source = replace(source, **dict(zip(settings, names, strict=True)))
    files = [data_root / name for name in names]
    return Originals(source, data_root, images, labels, NUM_TEST, digit_names(4), files=files)


BUILDERS: dict[str, Callable[[Path, int], Originals]] = {
    "mnist": lambda root, seed: build_idx(root, "mnist", seed),
    "mnist_gz": lambda root, seed: build_idx(root, "mnist", seed, compressed=True),
    "fashion_mnist": lambda root, seed: build_idx(root, "fashion_mnist", seed),
    "cifar10": lambda root, seed: build_cifar(root, "cifar10", seed),
    "cifar100": lambda root, seed: build_cifar(root, "cifar100", seed),
    "svhn": build_svhn,
    "ham10000": build_ham10000,
    "arrays_npz": lambda root, seed: build_arrays(root, "npz", seed),
    "arrays_npy": lambda root, seed: build_arrays(root, "npy", seed),
}


@pytest.fixture
def build() -> Callable[..., Originals]:
    """`build(kind, data_root, seed=0)` writes the original files of one kind."""

    def write(kind: str, data_root: Path, seed: int = 0) -> Originals:
        return BUILDERS[kind](data_root, seed)

    return write


@pytest.fixture(params=sorted(BUILDERS))
def originals(request: pytest.FixtureRequest, tmp_path: Path) -> Originals:
    """Each kind of original files in turn, in `tmp_path / "data"`."""
    return BUILDERS[request.param](tmp_path / "data", 0)


@pytest.fixture
def prepared_root(tmp_path: Path) -> Path:
    return tmp_path / "prepared"


@pytest.fixture
def encode_idx() -> Callable[[npt.NDArray[np.uint8]], bytes]:
    """The bytes of an idx file that holds an array."""
    return idx_bytes


@pytest.fixture
def save_batch() -> Callable[..., None]:
    """`save_batch(path, content, protocol=2)` writes a dictionary as a CIFAR batch."""
    return write_batch


@pytest.fixture
def real_data() -> Path:
    """The folder of real original files; the test is skipped where there is none."""
    default = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("USWEEP_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real data: set USWEEP_TEST_DATA to a folder that holds MNIST/raw etc.")
    return folder
