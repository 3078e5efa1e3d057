"""CIFAR-10 and CIFAR-100: pickles that are read and never run."""

import codecs
import os
import pickle
import struct
from typing import Any

import numpy as np
import pytest

from unlearning.datasets import prepare
from unlearning.datasets.cifar import load_batch
from unlearning.errors import DatasetError


class Runs:
    """What a malicious file holds: unpickling it calls a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def python_2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch byte for byte as Python 2.7's cPickle wrote the publisher's files, protocol 2."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    dtype += b"NNN" + integer(-1) * 2 + b"K\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    )
    content = pixels.tobytes()
    array += b"(K\x01" + integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"\x86" + dtype
    array += b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    body = text(b"batch_label") + text(b"training batch 1 of 5")
    body += text(b"labels") + b"](" + b"".join(map(integer, labels)) + b"e"
    body += text(b"data") + array
    return b"\x80\x02}(" + body + b"u."


@pytest.fixture
def cifar(build, tmp_path):
    return build("cifar10", tmp_path / "data")


@pytest.mark.parametrize(
    ("function", "symbol"),
    [
        (os.system, r"posix\.system|nt\.system"),
        (eval, r"builtins\.eval|__builtin__\.eval"),
        (getattr, r"getattr"),
        (np.load, r"numpy\.load|load"),
        (codecs.decode, r"_codecs\.decode"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_pickle_is_refused_and_does_not_run(
    cifar, prepared_root, tmp_path, save_batch, function, symbol, protocol
):
    proof = tmp_path / "it_ran"
    command = f"open({str(proof)!r}, 'w')" if function is eval else f"touch {proof}"
    batch = {b"labels": [0], b"data": Runs(function, command)}
    save_batch(cifar.files[2], batch, protocol)
    with pytest.raises(DatasetError, match=symbol) as caught:
        prepare(cifar.source, cifar.data_root, prepared_root)

    assert str(cifar.files[2]) in str(caught.value)
    assert not proof.exists()
    assert list(prepared_root.iterdir()) == []


def test_known_names_of_other_modules_are_refused(tmp_path):
    path = tmp_path / "batch"
    for content in (
        b"cnumpy\n_reconstruct\n.",
        b"cnumpy.core.multiarray\ndtype\n.",
        b"cos\nencode\n.",
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="which no CIFAR file needs"):
            load_batch(path)


def test_encoding_is_latin1_and_nothing_else(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"text": Runs(codecs.encode, "abc", "rot13")}, protocol=2))
    with pytest.raises(DatasetError, match="rot13"):
        load_batch(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_batches_of_every_protocol_numpy_writes_alike_are_read(
    cifar, prepared_root, save_batch, protocol
):
    rows = slice(4, 8)
    content = {
        b"labels": cifar.labels[rows].tolist(),
        b"data": cifar.images[rows].reshape(4, 3072),
    }
    save_batch(cifar.files[1], content, protocol)
    data = prepare(cifar.source, cifar.data_root, prepared_root)
    np.testing.assert_array_equal(data.images, cifar.images)


def test_batch_written_by_python_2_is_read(cifar, prepared_root):
    rows = slice(4)
    pixels = cifar.images[rows].reshape(4, 3072)
    content = python_2_batch(pixels, cifar.labels[rows].tolist())
    oracle = pickle.loads(content, encoding="latin1")  # our own bytes: the oracle for the layout
    np.testing.assert_array_equal(oracle["data"], pixels)

    cifar.files[0].write_bytes(content)
    data = prepare(cifar.source, cifar.data_root, prepared_root)
    np.testing.assert_array_equal(data.images, cifar.images)
    np.testing.assert_array_equal(data.labels, cifar.labels)


def test_array_in_column_order_is_read(cifar, prepared_root, save_batch):
    pixels = np.asfortranarray(cifar.images[:4].reshape(4, 3072))
    save_batch(cifar.files[0], {b"labels": cifar.labels[:4].tolist(), b"data": pixels})
    data = prepare(cifar.source, cifar.data_root, prepared_root)
    np.testing.assert_array_equal(data.images, cifar.images)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_classes_are_numbers_where_the_meta_file_is_missing(build, tmp_path, prepared_root, kind):
    cifar = build(kind, tmp_path / "data")
    for path in cifar.files[0].parent.glob("*meta"):
        path.unlink()
    data = prepare(cifar.source, cifar.data_root, prepared_root)
    assert data.class_names == tuple(str(n) for n in range(len(cifar.class_names)))


def test_meta_file_with_too_few_names_is_refused(cifar, prepared_root, save_batch):
    save_batch(cifar.files[0].with_name("batches.meta"), {b"label_names": [b"plane", b"car"]})
    with pytest.raises(DatasetError, match=r"batches\.meta.*10 names"):
        prepare(cifar.source, cifar.data_root, prepared_root)


PIXELS = np.zeros((2, 3072), np.uint8)
DAMAGED = {
    "no dictionary": ([1, 2], "holds a list"),
    "no labels": ({b"data": PIXELS}, "list of whole numbers under 'labels'"),
    "labels as text": ({b"labels": [b"cat", b"dog"], b"data": PIXELS}, "list of whole numbers"),
    "no array": ({b"labels": [0, 1]}, "no array under 'data'"),
    "bytes for an array": ({b"labels": [0, 1], b"data": b"abc"}, "no array under 'data'"),
    "wide array": ({b"labels": [0, 1], b"data": PIXELS.astype(np.int16)}, "not of unsigned bytes"),
    "object array": ({b"labels": [0, 1], b"data": PIXELS.astype(object)}, "not of unsigned bytes"),
    "wrong width": ({b"labels": [0, 1], b"data": PIXELS[:, :-1]}, r"\(2, 3071\)"),
    "flat array": ({b"labels": [0, 1], b"data": PIXELS.ravel()}, r"\(6144,\)"),
    "too few labels": ({b"labels": [0], b"data": PIXELS}, "2 images but 1 labels"),
    "label too large": ({b"labels": [0, 10], b"data": PIXELS}, "outside 0 to 9"),
    "negative label": ({b"labels": [-1, 0], b"data": PIXELS}, "outside 0 to 9"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_batch_that_is_none_is_refused(cifar, prepared_root, save_batch, case):
    content, complaint = DAMAGED[case]
    save_batch(cifar.files[3], content)
    with pytest.raises(DatasetError, match=complaint) as caught:
        prepare(cifar.source, cifar.data_root, prepared_root)
    assert str(cifar.files[3]) in str(caught.value)


def test_empty_test_batch_is_refused(cifar, prepared_root, save_batch):
    save_batch(cifar.files[5], {b"labels": [], b"data": PIXELS[:0]}, protocol=4)
    with pytest.raises(DatasetError, match=r"test_batch.*no images"):
        prepare(cifar.source, cifar.data_root, prepared_root)
