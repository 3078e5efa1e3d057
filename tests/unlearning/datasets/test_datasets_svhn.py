"""SVHN: MATLAB files, in the data root or in a folder of their own."""

import numpy as np
import pytest
from scipy.io import savemat

from unlearning.datasets import prepare
from unlearning.errors import DatasetError


@pytest.fixture
def svhn(build, tmp_path):
    return build("svhn", tmp_path / "data")


def test_files_are_found_in_a_folder_of_their_own(svhn, prepared_root):
    folder = svhn.data_root / "SVHN"
    folder.mkdir()
    for path in svhn.files:
        path.rename(folder / path.name)
    data = prepare(svhn.source, svhn.data_root, prepared_root)
    np.testing.assert_array_equal(data.images, svhn.images)


def test_label_10_is_the_digit_0(svhn, prepared_root):
    data = prepare(svhn.source, svhn.data_root, prepared_root)
    assert set(data.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("compressed", [True, False])
def test_files_with_and_without_compression_are_read(svhn, prepared_root, compressed):
    content = {"X": svhn.images[:20].transpose(2, 3, 1, 0), "y": np.arange(1, 21) % 10 + 1}
    savemat(svhn.files[0], content, do_compression=compressed)
    data = prepare(svhn.source, svhn.data_root, prepared_root)
    np.testing.assert_array_equal(data.images, svhn.images)


X = np.zeros((32, 32, 3, 4), np.uint8)
Y = np.arange(1, 5, dtype=np.uint8)[:, None]
DAMAGED = {
    "no images": ({"y": Y}, "X is not"),
    "no labels": ({"X": X}, "y is not"),
    "float images": ({"X": X.astype(float), "y": Y}, "X is not"),
    "images first": ({"X": X.transpose(3, 0, 1, 2), "y": Y}, "X is not"),
    "float labels": ({"X": X, "y": Y / 2}, "y is not"),
    "table of labels": ({"X": X, "y": np.repeat(Y, 2, axis=1)}, "y is not"),
    "label 0": ({"X": X, "y": Y - 1}, "outside 1 to 10"),
    "label 11": ({"X": X, "y": Y + 7}, "outside 1 to 10"),
    "too few labels": ({"X": X, "y": Y[:-1]}, "4 images but 3 labels"),
    "nothing": ({"X": X[..., :0], "y": Y[:0]}, "no images"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_file_that_holds_something_else_is_refused(svhn, prepared_root, case):
    content, complaint = DAMAGED[case]
    savemat(svhn.files[1], content)
    with pytest.raises(DatasetError, match=complaint) as caught:
        prepare(svhn.source, svhn.data_root, prepared_root)
    assert str(svhn.files[1]) in str(caught.value)


def test_matlab_7_3_file_is_refused(svhn, prepared_root):
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    svhn.files[0].write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(500))
    with pytest.raises(DatasetError, match=r"train_32x32\.mat"):
        prepare(svhn.source, svhn.data_root, prepared_root)
