"""scikit-learn's digits: 1,797 real 8x8 images that come with the library, no download."""

from pathlib import Path

import numpy as np

from unlearning.config import SourceConfig
from unlearning.datasets.prepared import RawDataset
from unlearning.datasets.reader import NominalSize, Reader, numbered_classes
from unlearning.errors import DatasetError


class DigitsReader(Reader):
    """Handwritten digits of the UCI repository, as scikit-learn ships them; no official test split.

    Pixels are counts from 0 to 16, here scaled to the usual 0 to 255.
    """

    name = "digits"
    description = "1,797 8x8 handwritten digits from scikit-learn, nothing to download"
    obtain = "it comes with scikit-learn: pip install scikit-learn"
    nominal = NominalSize(1797, 0, 10)

    def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
        """None: the images are inside scikit-learn."""
        return []

    def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
        """All images, [1797, 1, 8, 8].

        Raises:
            DatasetError: scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import (
                load_digits,
            )
        except ImportError as error:
            raise DatasetError(f"data set digits: {self.obtain}") from error
        digits = load_digits()
        pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
        labels = digits.target.astype(np.int64)
        return RawDataset(pixels[:, None], labels, numbered_classes(10), num_official_test=0)
