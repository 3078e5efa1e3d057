"""Files that were made to run code, to crash, or to fill the memory: refused, with their name."""

import gzip
import io
import json
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unlearning.config import SourceConfig
from unlearning.datasets import find_prepared, open_prepared, prepare
from unlearning.datasets import reader as reader_module
from unlearning.datasets.cifar import CIFAR10, load_batch
from unlearning.datasets.ham10000 import MAX_PIXELS, decode_centre_square
from unlearning.datasets.idx import read_idx
from unlearning.datasets.svhn import read_mat
from unlearning.errors import DatasetError


@contextmanager
def memory_below(num_bytes: int) -> Iterator[None]:
    """Fails if the block allocates more than that at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


# ---- CIFAR: pickles ----

CODE = {
    "INST": b"(S'touch %s'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch %s'\no.",
    "GLOBAL and REDUCE": b"cos\nsystem\n(S'touch %s'\ntR.",
    "NEWOBJ": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04cnumpy\ndtype\n)}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "PERSID": b"Pabc\n.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "BUILD of a function": b"ccopyreg\n_reconstructor\n}b.",
    "BUILD of a known function": b"cnumpy.core.multiarray\n_reconstruct\n}S'a'\nK\x01sb0}.",
    "BUILD of a known class": b"cnumpy\nndarray\n}b0}.",
}


@pytest.mark.parametrize("case", CODE)
def test_pickle_instructions_that_reach_code_are_refused(tmp_path: Path, case: str) -> None:
    path, proof = tmp_path / "batch", tmp_path / "it_ran"
    content = CODE[case]
    path.write_bytes(content % os.fsencode(proof) if b"%s" in content else content)
    with pytest.raises(DatasetError, match=str(path)):
        load_batch(path)
    assert not proof.exists()


def nested(depth: int) -> bytes:
    """Instructions that leave a tuple of tuples, each twice in the next: 2 ** depth in all."""
    level = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1])
                     for n in range(depth))  # fmt: skip
    return b"\x80\x02)q\x00" + level


def batch_with_array(shape: bytes) -> bytes:
    """A CIFAR batch of one image whose array says that it has this shape."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(K\x00K\x00K\x00tR(K\x01" + shape
    array += b"cnumpy\ndtype\n(S'u1'\ntR\x89T" + struct.pack("<i", 3072) + bytes(3072) + b"tb"
    return b"\x80\x02}(U\x06labels]K\x01aU\x04data" + array + b"u."


ENDLESS = {
    "key of nested tuples": nested(60) + b"}(h\x3cK\x01u.",
    "key of deep tuples": b"})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "encoding of nested tuples": nested(60) + b"c_codecs\nencode\n(S'a'\nh\x3ctR.",
    "type of nested tuples": nested(60) + b"cnumpy\ndtype\n(h\x3ctR.",
    "key of many digits": b"\x80\x02}\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000 + b"K\x01s.",
    "shape of nested tuples": nested(60) + batch_with_array(b"h\x3c"),
    "shape of many digits": batch_with_array(
        b"\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000 + b"\x85"
    ),
    "announced length": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "announced frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"abc.",
    "deep lists": b"]" * 500_000 + b"a" * 499_999 + b".",
}


@pytest.mark.timeout(30)  # as fast as that, or never
@pytest.mark.parametrize("case", ENDLESS)
def test_pickles_that_have_no_end_are_refused_at_once(
    build: Callable[..., Any], tmp_path: Path, case: str
) -> None:
    cifar = build("cifar10", tmp_path / "data")
    cifar.files[2].write_bytes(ENDLESS[case])
    with pytest.raises(DatasetError, match=str(cifar.files[2])):
        prepare(cifar.source, cifar.data_root, tmp_path / "prepared")


def test_a_memo_number_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(b"}r" + struct.pack("<I", 1 << 26) + b".")  # 1 GB in Python's unpickler
    with memory_below(1 << 20):
        assert load_batch(path) == {}


def test_names_that_are_no_text_are_refused(
    build: Callable[..., Any], save_batch: Callable[..., None], tmp_path: Path
) -> None:
    cifar = build("cifar10", tmp_path / "data")
    save_batch(cifar.files[0].with_name("batches.meta"), {b"label_names": [[n] for n in range(10)]})
    with pytest.raises(DatasetError, match=r"batches\.meta.*not text"):
        prepare(cifar.source, cifar.data_root, tmp_path / "prepared")


# ---- archives ----

LINKS = {
    "symbolic link out": (tarfile.SYMTYPE, "/etc/passwd"),
    "symbolic link to itself": (tarfile.SYMTYPE, "data_batch_3"),
    "hard link out": (tarfile.LNKTYPE, "../../../../etc/passwd"),
    "hard link to another": (tarfile.LNKTYPE, "cifar-10-batches-py/data_batch_1"),
    "device": (tarfile.CHRTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
    "folder": (tarfile.DIRTYPE, ""),
}


@pytest.mark.parametrize("case", LINKS)
def test_archive_with_something_other_than_files_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    archive_path = tmp_path / "unpacked" / "archive.tar.gz"
    archive_path.parent.mkdir()
    with tarfile.open(archive_path, "w:gz") as archive:
        for outside in ("../escaped", f"{tmp_path}/escaped"):
            archive.addfile(tarfile.TarInfo(outside), io.BytesIO())
        for name in (*CIFAR10.train_batches, CIFAR10.test_batch, CIFAR10.meta):
            member = tarfile.TarInfo(f"{CIFAR10.folder}/{name}")
            if name == "data_batch_3":
                member.type, member.linkname = LINKS[case]
            archive.addfile(member, io.BytesIO())

    @contextmanager
    def fetched(urls: Sequence[str], md5: str, folder: Path) -> Iterator[Path]:
        yield archive_path

    monkeypatch.setattr("unlearning.datasets.cifar.downloaded", fetched)
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(DatasetError, match="data_batch_3 in it is not a file"):
        CIFAR10.download(root)
    assert list(root.iterdir()) == []
    assert not list(tmp_path.rglob("escaped"))


# ---- compressed files ----


def test_compressed_idx_file_is_read_no_further_than_it_announces(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05" + bytes(100_000_000)))
    with memory_below(2_000_000), pytest.raises(DatasetError, match=r"labels\.gz is too long"):
        read_idx(path, 1)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_file_is_given_no_more_room_than_it_can_fill(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    content = b"\x00\x00\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 28) + b"abc"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with memory_below(2_000_000), pytest.raises(DatasetError, match="is cut short"):
        read_idx(path, 3)


def test_files_that_unpack_to_more_than_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module.os, "sysconf", lambda name: 1000)  # a million bytes
    small, large = np.zeros((900, 1000), np.uint8), np.zeros((1100, 1000), np.uint8)
    for name, images, refused in (("small", small, False), ("large", large, True)):
        (tmp_path / f"{name}.gz").write_bytes(
            gzip.compress(b"\0\0\x08\x02" + struct.pack(">2I", *images.shape) + images.tobytes())
        )
        np.savez_compressed(tmp_path / f"{name}.npz", images=images, labels=np.arange(3))
        source = SourceConfig(reader="arrays", train_images=f"{name}.npz")
        words = "more than this machine's memory" if refused else "have shape"
        with pytest.raises(DatasetError, match=rf"{name}\.npz.*{words}"):
            prepare(source, tmp_path, tmp_path / "prepared")
    assert read_idx(tmp_path / "small.gz", 2).shape == small.shape
    with pytest.raises(DatasetError, match=r"large\.gz holds 1,100,000 bytes once unpacked"):
        read_idx(tmp_path / "large.gz", 2)


@pytest.mark.parametrize("member", ["images", "images.npy"])
def test_npz_member_that_is_no_array_is_refused(tmp_path: Path, member: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr(member, b"hello")
    source = SourceConfig(reader="arrays", train_images="x.npz")
    with pytest.raises(DatasetError, match=r"x\.npz cannot be read as plain arrays"):
        prepare(source, tmp_path, tmp_path / "prepared")


# ---- SVHN: MATLAB files ----

MI_MATRIX, MX_CELL, MX_FUNCTION, MX_UINT8 = 14, 1, 16, 9


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix_head(kind: int, shape: tuple[int, ...], name: bytes) -> bytes:
    flags = element(6, struct.pack("<II", kind, 0))
    return flags + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)


def matrix(kind: int, shape: tuple[int, ...], name: bytes, content: bytes) -> bytes:
    return element(MI_MATRIX, matrix_head(kind, shape, name) + content)


def deep_cells(depth: int) -> bytes:
    """A cell in a cell in a cell, under the name X."""
    head = matrix_head(MX_CELL, (1, 1), b"")
    inner = matrix(MX_UINT8, (1, 1), b"", element(2, b"\x01"))
    sizes = [len(inner)]
    for _ in range(depth):
        sizes.append(8 + len(head) + sizes[-1])
    tags = [struct.pack("<II", MI_MATRIX, len(head) + size) + head for size in sizes[:-1]]
    return matrix(MX_CELL, (1, 1), b"X", b"".join(reversed(tags)) + inner)


def mat_file(path: Path, *elements: bytes) -> Path:
    compressed = (zlib.compress(content) for content in elements)
    parts = [struct.pack("<II", 15, len(content)) + content for content in compressed]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    path.write_bytes(header + b"".join(parts))
    return path


X = matrix(MX_UINT8, (32, 32, 3, 2), b"X", element(2, bytes(32 * 32 * 3 * 2)))
Y = matrix(MX_UINT8, (2, 1), b"y", element(2, b"\x01\x02"))


def test_hand_made_mat_file_is_read(tmp_path: Path) -> None:
    assert read_mat(mat_file(tmp_path / "x.mat", X, Y)).labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("elements", "complaint"),
    [
        ((deep_cells(100_000), Y), "X is a cell"),
        ((X, deep_cells(100_000), Y), "X is a cell"),
        ((X, matrix(MX_CELL, (1 << 28, 8), b"y", b"")), "y is a cell"),
        ((matrix(MX_FUNCTION, (1, 1), b"X", X), Y), "X is a function"),
    ],
    ids=["deep cells", "deep cells behind an array", "cells without end", "function"],
)
def test_mat_file_with_anything_but_numbers_is_refused(
    tmp_path: Path, elements: tuple[bytes, ...], complaint: str
) -> None:
    path = mat_file(tmp_path / "train_32x32.mat", *elements)
    with pytest.raises(DatasetError, match=rf"train_32x32\.mat.*{complaint}"):
        read_mat(path)


# ---- HAM10000: images ----


@pytest.mark.parametrize("form", ["EPS", "BMP", "GIF", "TIFF", "PPM"])
def test_only_jpeg_and_png_are_decoded_whatever_a_file_is_called(tmp_path: Path, form: str) -> None:
    path = tmp_path / "ISIC_0000000.jpg"
    Image.new("RGB", (9, 9)).save(path, form)
    with pytest.raises(DatasetError, match=r"ISIC_0000000\.jpg cannot be decoded as JPEG or PNG"):
        decode_centre_square(path, 4)


def test_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "ISIC_0000000.jpg"
    Image.new("L", (MAX_PIXELS // 4096 + 1, 4096)).save(path, "PNG")
    with memory_below(5_000_000), pytest.raises(DatasetError, match=r"ISIC_0000000\.jpg.*pixels"):
        decode_centre_square(path, 4)


# ---- files that are none ----


@pytest.mark.timeout(30)
def test_pipe_or_device_in_place_of_a_file_is_not_opened(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    mnist = build("mnist", tmp_path / "data")
    for make in (lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")):
        mnist.files[0].unlink()
        make(mnist.files[0])
        with pytest.raises(DatasetError, match=f"{mnist.files[0]} is neither a file nor a folder"):
            prepare(mnist.source, mnist.data_root, tmp_path / "prepared")


# ---- prepared folders ----


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The prepared folder of the digits in tmp_path."""
    source = SourceConfig(reader="digits")
    prepare(source, tmp_path, tmp_path / "prepared")
    facts = find_prepared(source, tmp_path, tmp_path / "prepared")
    assert facts is not None
    return facts.folder


LIES = {
    "no end of images": '"images_shape": [1e400, 1, 8, 8]',
    "nested without end": '"recipe": ' + "[" * 100_000 + "]" * 100_000,
    "more test images than images": '"num_official_test": 1798',
    "all images are test images": '"num_official_test": 1797',
    "less than no test images": '"num_official_test": -1',
    "one class": '"class_names": ["0"]',
    "fewer classes than labels": '"class_names": ["0", "1", "2"]',
    "another folder as fingerprint": '"fingerprint": "../../elsewhere"',
}


@pytest.mark.parametrize("case", LIES)
def test_dataset_json_that_lies_is_refused_and_made_again(
    digits: Path, tmp_path: Path, case: str
) -> None:
    path = digits / "dataset.json"
    true = json.loads(path.read_text())
    path.write_text(json.dumps(true)[:-1] + f", {LIES[case]}}}")
    with pytest.raises(DatasetError, match=rf"{digits}/(dataset\.json|labels\.npy) is damaged"):
        open_prepared(digits)
    data = prepare(SourceConfig(reader="digits"), tmp_path, tmp_path / "prepared")
    assert data.num_classes == 10
    assert json.loads(path.read_text()) == true


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_impossible_path_of_an_original_is_one_that_is_gone(
    digits: Path, tmp_path: Path, path: str
) -> None:
    true = json.loads((digits / "dataset.json").read_text())
    true["originals"] = [{"path": path, "size": 1, "mtime_ns": 1}]
    (digits / "dataset.json").write_text(json.dumps(true))
    assert find_prepared(SourceConfig(reader="digits"), tmp_path, tmp_path / "prepared") is not None
