"""The prepared folder: what its fingerprint covers, and that damage to it is noticed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unlearning.config import SourceConfig
from unlearning.datasets import RawDataset, find_prepared, open_prepared, prepare
from unlearning.datasets import prepared as prepared_module
from unlearning.datasets.prepared import FileStamp, content_fingerprint, write_prepared
from unlearning.errors import DatasetError

DIGITS_FINGERPRINT = "58e5207db04806a22065ab765069b5b984c6523e22d366dd631b66ca4f45b0cf"


def small_dataset(with_groups: bool = True) -> RawDataset:
    rng = np.random.default_rng(0)
    return RawDataset(
        images=rng.integers(0, 256, (12, 1, 5, 4), dtype=np.uint8),
        labels=np.arange(12) % 3,
        class_names=("a", "b", "c"),
        num_official_test=4,
        groups=np.arange(12) // 2 if with_groups else None,
    )


def fingerprint(raw: RawDataset) -> str:
    num_classes = len(raw.class_names)
    return content_fingerprint(
        raw.images, raw.labels, raw.groups, raw.num_official_test, num_classes
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "prepared-folder"
    folder.mkdir()
    write_prepared(small_dataset(), folder, "small", {"reader": "none"}, (FileStamp("x", 1, 2),))
    return folder


def test_fingerprint_of_digits_never_changes(tmp_path):
    data = prepare(SourceConfig(reader="digits"), tmp_path, tmp_path / "prepared")
    assert data.fingerprint == DIGITS_FINGERPRINT


def test_digits_are_scaled_to_the_whole_range(tmp_path):
    from sklearn.datasets import load_digits

    data = prepare(SourceConfig(reader="digits"), tmp_path, tmp_path / "prepared")
    expected = [round(value * 255 / 16) for value in load_digits().images.ravel().tolist()]
    assert data.images.ravel().tolist() == expected
    assert (data.images.min(), data.images.max()) == (0, 255)
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.num_official_test == 0 and data.groups is None


def test_same_content_as_idx_and_as_arrays_has_one_fingerprint(build, tmp_path):
    mnist = build("mnist_gz", tmp_path)
    train = len(mnist.labels) - mnist.num_official_test
    for name, rows in (("train", slice(train)), ("test", slice(train, None))):
        images, labels = mnist.images[rows, 0], mnist.labels[rows].astype(np.uint16)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    own = SourceConfig(reader="arrays", train_images="train.npz", test_images="test.npz")

    from_idx = prepare(mnist.source, tmp_path, tmp_path / "prepared")
    from_arrays = prepare(own, tmp_path, tmp_path / "prepared")
    assert from_arrays.fingerprint == from_idx.fingerprint
    assert from_arrays.name != from_idx.name


def test_fingerprint_covers_everything_but_names():
    raw = small_dataset()
    others = [
        replace(raw, images=raw.images ^ np.eye(1, dtype=np.uint8)),
        replace(raw, images=raw.images.reshape(12, 1, 4, 5)),
        replace(raw, images=raw.images[:, :, ::-1]),
        replace(raw, labels=raw.labels[::-1].copy()),
        replace(raw, groups=None),
        replace(raw, groups=raw.labels),
        replace(raw, num_official_test=3),
        replace(raw, class_names=(*raw.class_names, "d")),
    ]
    assert len({fingerprint(other) for other in [raw, *others]}) == 1 + len(others)
    assert fingerprint(replace(raw, class_names=("x", "y", "z"))) == fingerprint(raw)


@given(
    images=arrays(np.uint8, st.tuples(st.integers(1, 9), st.just(1), st.just(2), st.just(3))),
    chunk_bytes=st.integers(1, 64),
)
def test_fingerprint_does_not_depend_on_chunks_or_memory_layout(images, chunk_bytes):
    labels = np.arange(len(images))
    expected = content_fingerprint(images, labels, None, 0, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_module, "HASH_CHUNK_BYTES", chunk_bytes)
        assert content_fingerprint(images, labels, None, 0, 10) == expected
    assert content_fingerprint(np.asfortranarray(images), labels, None, 0, 10) == expected


@pytest.mark.parametrize("with_groups", [True, False])
def test_what_is_written_is_what_is_opened(tmp_path, with_groups):
    raw = small_dataset(with_groups)
    write_prepared(raw, tmp_path, "small", {}, ())
    data = open_prepared(tmp_path, verify=True)

    np.testing.assert_array_equal(data.images, raw.images)
    np.testing.assert_array_equal(data.labels, raw.labels)
    assert (data.groups is None) == (raw.groups is None)
    assert (data.name, data.class_names, data.num_classes) == ("small", ("a", "b", "c"), 3)
    assert data.num_official_test == 4
    assert data.fingerprint == fingerprint(raw)


def test_images_in_another_memory_order_are_stored_alike(tmp_path):
    raw = small_dataset()
    write_prepared(replace(raw, images=np.asfortranarray(raw.images)), tmp_path, "small", {}, ())
    assert open_prepared(tmp_path, verify=True).images.flags.c_contiguous


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "groups.npy", "dataset.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "too long", "not an array"])
def test_damaged_file_is_named(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    damaged = {
        "empty": b"",
        "cut short": content[:-3],
        "too long": content + b"abc",
        "not an array": b"\x93NUMPY\x01\x00\x10\x00{'descr': (((  \n" + content,
    }
    if damage != "missing":
        path.write_bytes(damaged[damage])
    with pytest.raises(DatasetError, match=str(path)):
        open_prepared(folder)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "groups.npy"])
def test_array_of_another_type_or_shape_is_named(folder, name):
    array = np.load(folder / name)
    for other in (array[:-1], array.astype(np.int32)):
        np.save(folder / name, other)
        with pytest.raises(DatasetError, match=name):
            open_prepared(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 99), ("images_shape", [1, 2]), ("originals", [{}]), ("class_names", None)],
)
def test_facts_that_make_no_sense_are_refused(folder, key, value):
    path = folder / "dataset.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {key: value}))
    with pytest.raises(DatasetError, match=r"dataset\.json is damaged"):
        open_prepared(folder)
    del data[key]
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"dataset\.json is damaged"):
        open_prepared(folder)


def test_flipped_bit_is_noticed_when_verified(folder):
    content = bytearray((folder / "images.npy").read_bytes())
    content[-1] ^= 1
    (folder / "images.npy").write_bytes(content)

    open_prepared(folder)  # a quick look cannot know
    with pytest.raises(DatasetError, match=str(folder)):
        open_prepared(folder, verify=True)


def test_prepared_folder_can_be_moved(tmp_path):
    source = SourceConfig(reader="digits")
    prepare(source, tmp_path, tmp_path / "prepared")
    facts = find_prepared(source, tmp_path, tmp_path / "prepared")
    assert facts is not None
    shutil.move(facts.folder, tmp_path / "moved")
    assert open_prepared(tmp_path / "moved", verify=True).fingerprint == facts.fingerprint
