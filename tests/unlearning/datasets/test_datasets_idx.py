"""MNIST and Fashion-MNIST: the idx format."""

import gzip
import struct

import numpy as np
import pytest

from unlearning.datasets import prepare
from unlearning.datasets.idx import read_idx
from unlearning.errors import DatasetError


@pytest.mark.parametrize("shape", [(7,), (3, 2, 4), (0, 28, 28)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_array_is_read_back(tmp_path, encode_idx, shape, suffix):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path / f"array{suffix}"
    content = encode_idx(array)
    path.write_bytes(gzip.compress(content) if suffix else content)
    np.testing.assert_array_equal(read_idx(path, len(shape)), array)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x08\x01\x00\x00", "begins with 00 00 08 01"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "begins with 00 00 0d 01"),
        (b"\x00\x00\x08\x03" + b"\x00\x00\x00\x01" * 3 + b"x", "of 1 dimensions"),
        (b"<html>not found</html>", "begins with 3c 68 74 6d"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x03ab", "cut short: it holds 10 bytes.*announces 11"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x03abcd", "too long: it holds 12 bytes.*announces 11"),
        (b"\x00\x00\x08\x01\xff\xff\xff\xffabcd", "cut short.*announces 4294967303"),
    ],
)
def test_file_that_is_not_what_it_announces_is_refused(tmp_path, content, complaint):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=complaint) as caught:
        read_idx(path, 1)
    assert str(path) in str(caught.value)


def test_sizes_that_overflow_are_cut_short(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(b"\x00\x00\x08\x03" + struct.pack(">3I", 2**31, 2**31, 4))
    with pytest.raises(DatasetError, match=f"cut short.*announces {2**64 + 16}"):
        read_idx(path, 3)


def test_wrong_checksum_of_a_compressed_file_is_noticed(tmp_path, encode_idx):
    path = tmp_path / "labels.gz"
    content = bytearray(gzip.compress(encode_idx(np.arange(50, dtype=np.uint8))))
    content[-5] ^= 1  # in the CRC
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"labels\.gz is damaged.*CRC"):
        read_idx(path, 1)


def test_file_that_is_gz_by_name_only_is_refused(tmp_path, encode_idx):
    path = tmp_path / "labels.gz"
    path.write_bytes(encode_idx(np.arange(5, dtype=np.uint8)))
    with pytest.raises(DatasetError, match=r"labels\.gz is damaged"):
        read_idx(path, 1)


def test_plain_file_goes_before_the_compressed_one(build, tmp_path, prepared_root):
    build("mnist_gz", tmp_path / "data", seed=1)
    plain = build("mnist", tmp_path / "data", seed=2)
    data = prepare(plain.source, plain.data_root, prepared_root)
    np.testing.assert_array_equal(data.images, plain.images)


def test_plain_and_compressed_files_may_be_mixed(build, tmp_path, prepared_root):
    compressed = build("mnist_gz", tmp_path / "data")
    build("mnist", tmp_path / "data")
    for path in compressed.files[:2]:
        path.unlink()
    for path in compressed.files[2:]:
        path.with_suffix("").unlink()
    data = prepare(compressed.source, compressed.data_root, prepared_root)
    np.testing.assert_array_equal(data.images, compressed.images)


@pytest.mark.parametrize(
    ("file", "array", "complaint"),
    [
        (1, np.arange(19) % 10, "train-images.*20 images but 19 labels"),
        (3, np.full(10, 10), "t10k-images.*label 10 is not a class"),
        (2, np.zeros((0, 28, 28)), "t10k-images.*no images"),
        (2, np.zeros((10, 28, 27)), r"t10k-images.*\(1, 28, 27\).*\(1, 28, 28\)"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    build, tmp_path, prepared_root, encode_idx, file, array, complaint
):
    mnist = build("mnist", tmp_path / "data")
    mnist.files[file].write_bytes(encode_idx(array.astype(np.uint8)))
    with pytest.raises(DatasetError, match=complaint):
        prepare(mnist.source, mnist.data_root, prepared_root)
