"""Street View House Numbers from its cropped MATLAB files (format 2)."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from unlearning.config import SourceConfig
from unlearning.datasets.download import downloaded
from unlearning.datasets.prepared import RawDataset
from unlearning.datasets.reader import (
    NominalSize,
    OfficialSplit,
    Reader,
    numbered_classes,
    stack_splits,
)
from unlearning.errors import DatasetError

FILENAMES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
# MATLAB's names for arrays of numbers; its other kinds nest.
NUMERIC = {"double", "single", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))}


class SvhnReader(Reader):
    """Two .mat files in the data root, where torchvision puts them, or in its folder SVHN.

    They are of MATLAB's version 5, which holds arrays and no code. The "extra" split is not used.
    """

    name = "svhn"
    description = "99,289 32x32 colour images of 10 digits, MATLAB files"
    obtain = (
        "put train_32x32.mat and test_32x32.mat of http://ufldl.stanford.edu/housenumbers/ "
        "into <data root> or <data root>/SVHN"
    )
    nominal = NominalSize(73_257 + 26_032, 26_032, 10)
    can_download = True

    def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
        """Training and test file, each where it is found."""
        return [_locate(data_root, filename) for filename in FILENAMES.values()]

    def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
        """Both splits; the files' label 10 is the digit 0, and becomes 0."""
        train, test = (read_mat(path) for path in self.files(source, data_root))
        return stack_splits(train, test, numbered_classes(10))

    def download(self, data_root: Path) -> None:
        """The files that are missing, into the data root; torchvision's addresses and MD5s."""
        from torchvision.datasets import SVHN

        for split, filename in FILENAMES.items():
            if _locate(data_root, filename).exists():
                continue
            url, _, md5 = SVHN.split_list[split]
            with downloaded([url], md5, data_root) as path:
                os.replace(path, data_root / filename)


def read_mat(path: Path) -> OfficialSplit:
    """One split: images X [H, W, 3, N] turned to [N, 3, H, W], labels y with 10 turned to 0.

    Raises:
        DatasetError: the file is damaged, cut short or holds something else.
    """
    from scipy.io import loadmat, whosmat

    try:
        # By their headers first: SciPy overflows C's stack on cells that are nested deeply.
        for name, _, kind in whosmat(path):
            if name in ("X", "y") and kind not in NUMERIC:
                raise _damaged(path, f"{name} is a {kind}, not an array of numbers")
        content: dict[str, Any] = loadmat(path, variable_names=["X", "y"])
    except (DatasetError, FileNotFoundError):
        raise
    except Exception as error:  # SciPy's parser raises a dozen types on damaged files
        raise _damaged(path, repr(error)) from error
    images, labels = content.get("X"), content.get("y")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3:
        raise _damaged(path, "X is not an array of unsigned bytes [height, width, 3, images]")
    if labels is None or labels.dtype.kind not in "iu" or 1 not in labels.shape:
        raise _damaged(path, "y is not one column of whole numbers")
    digits = labels.reshape(-1).astype(np.int64)
    if not np.all((digits >= 1) & (digits <= 10)):
        raise _damaged(path, "y has labels outside 1 to 10")
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return OfficialSplit(pixels, digits % 10, path)


def _locate(data_root: Path, filename: str) -> Path:
    in_folder = data_root / "SVHN" / filename
    in_root = data_root / filename
    return in_folder if in_folder.exists() and not in_root.exists() else in_root


def _damaged(path: Path, what: str) -> DatasetError:
    return DatasetError(f"{path} is damaged, cut short or not of SVHN ({what}); fetch it again")
