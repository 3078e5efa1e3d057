"""A user's own arrays: shapes, types, and everything that can be wrong with them."""

from pathlib import Path

import numpy as np
import pytest

from unlearning.config import SourceConfig
from unlearning.datasets import find_prepared, prepare
from unlearning.errors import ConfigError, DatasetError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)  # [N, H, W, C]
LABELS = np.array([0, 2, 1, 0, 1, 2])


def own(**paths: str) -> SourceConfig:
    return SourceConfig(reader="arrays", **paths)


@pytest.fixture
def prepare_arrays(tmp_path: Path):
    """Prepares images and labels, saved as .npy files."""

    def run(images: np.ndarray, labels: np.ndarray = LABELS):
        np.save(tmp_path / "x.npy", images)
        np.save(tmp_path / "y.npy", labels)
        source = own(train_images="x.npy", train_labels="y.npy")
        return prepare(source, tmp_path, tmp_path / "prepared")

    return run


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (IMAGES[..., 0], IMAGES[:, None, :, :, 0]),
        (IMAGES, IMAGES.transpose(0, 3, 1, 2)),
        (IMAGES[..., :1], IMAGES[:, None, :, :, 0]),
        (IMAGES.transpose(0, 3, 1, 2), IMAGES.transpose(0, 3, 1, 2)),
        (IMAGES[:, None, :, :, 0], IMAGES[:, None, :, :, 0]),
        (np.asfortranarray(IMAGES), IMAGES.transpose(0, 3, 1, 2)),
        (IMAGES[:, :, 0, :], IMAGES[:, None, :, 0, :]),  # three axes: never channels
    ],
)
def test_every_layout_becomes_channels_first(prepare_arrays, images, expected):
    data = prepare_arrays(images)
    np.testing.assert_array_equal(data.images, expected)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.class_names == ("0", "1", "2")
    assert data.num_official_test == 0


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (np.zeros((6, 3, 5, 3), np.uint8), "both are"),
        (np.zeros((6, 1, 5, 1), np.uint8), "both are"),
        (np.zeros((6, 5, 5, 2), np.uint8), "neither is"),
        (np.zeros((6, 25), np.uint8), r"shape \(6, 25\)"),
        (np.zeros((6, 3, 5, 5, 5), np.uint8), r"shape \(6, 3, 5, 5, 5\)"),
        (IMAGES / 255, r"float64.*\* 255\)\.round\(\)\.astype\('uint8'\)"),
        (IMAGES.astype(np.float32), "float32"),
        (IMAGES.astype(np.int64), r"int64.*astype\('uint8'\)"),
        (IMAGES > 9, "bool"),
        (IMAGES[:0], "no images"),
        (IMAGES[:5], "5 images but 6 labels"),
    ],
)
def test_images_that_cannot_be_used_are_refused(prepare_arrays, images, complaint):
    with pytest.raises(DatasetError, match=complaint) as caught:
        prepare_arrays(images)
    assert "x.npy" in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, ">i4", np.uint64, np.int64])
def test_labels_of_every_whole_number_type_are_read(prepare_arrays, dtype):
    np.testing.assert_array_equal(prepare_arrays(IMAGES, LABELS.astype(dtype)).labels, LABELS)


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (LABELS - 1, "labels are -1 to 1"),
        (LABELS.astype(float), "float64"),
        (LABELS[:, None], r"\(6, 1\).*reshape"),
        (np.array(list("abcabc")), "<U1"),
        (LABELS + 1_000_000, "label 1000002 is more than there are images"),
        (LABELS.astype(np.uint64) + np.uint64(2**63), "to 9223372036854775810"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(prepare_arrays, labels, complaint):
    with pytest.raises(DatasetError, match=complaint) as caught:
        prepare_arrays(IMAGES, labels)
    assert "y.npy" in str(caught.value)


def test_labels_of_one_class_are_refused(prepare_arrays):
    with pytest.raises(DatasetError, match="two classes"):
        prepare_arrays(IMAGES, np.zeros(6, np.int64))


def test_class_of_the_test_pair_alone_counts(tmp_path):
    np.savez(tmp_path / "train.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "test.npz", images=IMAGES[:2], labels=np.array([7, 0]))
    source = own(train_images="train.npz", test_images="test.npz")
    data = prepare(source, tmp_path, tmp_path / "prepared")
    assert data.num_classes == 8
    assert data.num_official_test == 2
    assert data.labels.tolist() == [*LABELS, 7, 0]


@pytest.mark.parametrize("broken", ["images", "labels"])
def test_python_objects_are_never_loaded(tmp_path, broken):
    class Marks:
        def __reduce__(self):
            return (open, (str(tmp_path / "it_ran"), "w"))

    arrays = {"images": IMAGES, "labels": LABELS, broken: np.array([Marks()] * 6, dtype=object)}
    np.savez(tmp_path / "both.npz", **arrays)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    pair = own(train_images="images.npy", train_labels="labels.npy")
    for source, file in ((own(train_images="both.npz"), "both.npz"), (pair, f"{broken}.npy")):
        with pytest.raises(DatasetError, match=f"{file}.*never loaded"):
            prepare(source, tmp_path, tmp_path / "prepared")
    assert not (tmp_path / "it_ran").exists()


def test_npz_without_the_needed_arrays_lists_what_it_has(tmp_path):
    np.savez(tmp_path / "keras.npz", x_train=IMAGES, y_train=LABELS)
    with pytest.raises(DatasetError, match=r"keras\.npz has no array 'images', only x_train"):
        prepare(own(train_images="keras.npz"), tmp_path, tmp_path / "prepared")


def test_labels_may_be_in_a_file_of_another_kind(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS[::-1])
    np.save(tmp_path / "y.npy", LABELS)
    source = own(train_images="x.npz", train_labels="y.npy")
    assert prepare(source, tmp_path, tmp_path / "p").labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        ({}, "source.train_images is None"),
        ({"train_images": "x.npy"}, "source.train_labels is None"),
        ({"train_images": "x.csv", "train_labels": "y.npy"}, "source.train_images is 'x.csv'"),
        ({"train_images": "x.npz", "test_images": "t.npy"}, "source.test_labels is None"),
        ({"train_images": "x.npz", "test_labels": "t.npy"}, "source.test_images is None"),
    ],
)
def test_incomplete_paths_are_a_configuration_error(tmp_path, paths, complaint):
    with pytest.raises(ConfigError, match=complaint):
        prepare(own(**paths), tmp_path, tmp_path / "prepared")
    with pytest.raises(ConfigError, match=complaint):
        find_prepared(own(**paths), tmp_path, tmp_path / "prepared")


def test_test_images_of_another_shape_are_refused(tmp_path):
    np.savez(tmp_path / "train.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "test.npz", images=IMAGES[:, 1:], labels=LABELS)
    with pytest.raises(DatasetError, match=r"test\.npz: images are \(3, 4, 4\)"):
        prepare(
            own(train_images="train.npz", test_images="test.npz"), tmp_path, tmp_path / "prepared"
        )


def test_absolute_and_relative_paths_are_one_copy_and_other_files_another(tmp_path):
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, images=IMAGES, labels=LABELS)
    for path in ("a.npz", str(tmp_path / "a.npz"), "./a.npz", "b.npz"):
        prepare(own(train_images=path), tmp_path, tmp_path / "prepared")
    assert len(list((tmp_path / "prepared").iterdir())) == 2
