"""The real original files, where they are: counts and pixels that the publishers state."""

import numpy as np
import pytest

from unlearning.config import SourceConfig
from unlearning.datasets import nominal_facts, prepare

# SHA-256 as the prepared folder records it; a change here changes the key of every unit.
FINGERPRINTS = {
    "mnist": "c331134c6936ae1aed979bb53ee15c19bf633d966364225738fdd6f8a1a45182",
    "fashion_mnist": "00e8122d6e3dd126bf10e16ccfa71e009bf4b2c820848b31a444f4b4b14dd362",
}
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


@pytest.mark.parametrize("reader", sorted(FINGERPRINTS))
def test_idx_data_set_has_its_published_size_and_fingerprint(real_data, prepared_root, reader):
    if not (real_data / FOLDERS[reader]).is_dir():
        pytest.skip(f"no {FOLDERS[reader]} in the real data")
    source = SourceConfig(reader=reader)
    data = prepare(source, real_data, prepared_root)
    nominal = nominal_facts(source)

    assert nominal is not None
    assert data.images.shape == (nominal.num_images, 1, 28, 28)
    assert (data.num_official_test, data.num_classes) == (nominal.num_official_test, 10)
    assert data.fingerprint == FINGERPRINTS[reader]
    if reader == "mnist":
        assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
        assert data.labels[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
        assert data.images[:60_000].mean() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_ham10000_has_its_classes_and_groups(real_data, prepared_root):
    if not (real_data / "HAM10000").is_dir():
        pytest.skip("no HAM10000 in the real data")
    metadata = (real_data / "HAM10000" / "HAM10000_metadata.csv").read_text().splitlines()[1:]
    rows = sorted((line.split(",") for line in metadata), key=lambda row: row[1])
    data = prepare(SourceConfig(reader="ham10000", image_size=28), real_data, prepared_root)

    assert data.images.shape == (len(rows), 3, 28, 28)
    assert [data.class_names[label] for label in data.labels] == [row[2] for row in rows]
    assert data.groups is not None
    lesions = sorted({row[0] for row in rows})
    assert [lesions[group] for group in data.groups] == [row[0] for row in rows]
    red, _, blue = np.asarray(data.images).mean(axis=(0, 2, 3))
    assert red > blue  # skin
