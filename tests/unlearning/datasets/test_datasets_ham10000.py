"""HAM10000: metadata, two image folders, and decoding."""

import logging

import numpy as np
import pytest
from PIL import Image

from unlearning.datasets import prepare
from unlearning.datasets.ham10000 import decode_centre_square
from unlearning.errors import DatasetError


@pytest.fixture
def ham(build, tmp_path):
    return build("ham10000", tmp_path / "data")


def rewrite(ham, old: str, new: str, count: int = 1) -> None:
    metadata = ham.files[0]
    text = metadata.read_text()
    assert old in text
    metadata.write_text(text.replace(old, new, count))


@pytest.mark.parametrize(
    ("size", "square"), [((30, 20), (5, 0, 25, 20)), ((20, 31), (0, 5, 20, 25))]
)
def test_only_the_centre_square_is_seen(tmp_path, size, square):
    image = Image.new("RGB", size, (255, 0, 0))
    left, top, right, bottom = square
    image.paste((10, 200, 30), (left, top, right, bottom))
    image.save(tmp_path / "image.png")
    pixels = decode_centre_square(tmp_path / "image.png", 8)
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.broadcast_to([[[10]], [[200]], [[30]]], (3, 8, 8)))


def test_shrinking_averages_over_all_pixels(tmp_path):
    # A checkerboard of single pixels: picking pixels would give 0 or 255, averaging gives grey.
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "image.png")
    pixels = decode_centre_square(tmp_path / "image.png", 8)
    assert pixels.min() >= 120 and pixels.max() <= 135


def test_image_of_that_size_is_not_resampled(tmp_path):
    expected = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(expected).save(tmp_path / "image.png")
    pixels = decode_centre_square(tmp_path / "image.png", 9)
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    Image.new(mode, (9, 9)).save(tmp_path / "image.jpg")
    assert decode_centre_square(tmp_path / "image.jpg", 4).shape == (3, 4, 4)


def test_order_of_the_metadata_does_not_matter(ham, prepared_root, tmp_path):
    first = prepare(ham.source, ham.data_root, prepared_root)
    header, *lines = ham.files[0].read_text().splitlines()
    ham.files[0].write_text("\r\n".join(["\ufeff" + header, *reversed(lines)]) + "\r\n")
    second = prepare(ham.source, ham.data_root, tmp_path / "other")
    assert second.fingerprint == first.fingerprint


def test_images_that_are_not_listed_are_ignored_and_counted(ham, prepared_root, caplog):
    first = prepare(ham.source, ham.data_root, prepared_root)
    ham.files[1].with_name("ISIC_9999999.jpg").write_bytes(b"no image at all")
    with caplog.at_level(logging.WARNING):
        second = prepare(ham.source, ham.data_root, prepared_root)
    assert second.fingerprint == first.fingerprint
    assert "1 images that" in caplog.text


def test_all_images_may_be_in_one_folder(ham, prepared_root, tmp_path):
    first = prepare(ham.source, ham.data_root, prepared_root)
    part_1, part_2 = sorted(ham.data_root.glob("HAM10000/*part*"))
    for path in list(part_2.iterdir()):
        path.rename(part_1 / path.name)
    part_2.rmdir()
    second = prepare(ham.source, ham.data_root, tmp_path / "other")
    assert second.fingerprint == first.fingerprint


def test_missing_images_are_counted_and_the_first_ones_named(ham, prepared_root):
    images = sorted(ham.files[1:], key=lambda path: path.name)
    for path in images[2:7]:
        path.unlink()
    with pytest.raises(DatasetError, match="5 of the 20 images") as caught:
        prepare(ham.source, ham.data_root, prepared_root)
    message = str(caught.value)
    assert all(path.name in message for path in images[2:5])
    assert not any(path.name in message for path in images[5:7])


def test_image_that_is_none_is_named(ham, prepared_root):
    ham.files[4].write_text("<html>Not found</html>")
    with pytest.raises(DatasetError, match=ham.files[4].name):
        prepare(ham.source, ham.data_root, prepared_root)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (",dx,", ",diagnosis,", "no column dx"),
        ("lesion_id,image_id", "a,b", "no column lesion_id, image_id"),
        (",nv,", ",NV,", "line .*dx is 'NV'"),
        ("ISIC_0000003", "ISIC_0000004", "lists image ISIC_0000004 twice"),
        ("HAM_0000000", "", "line 2, is incomplete"),
        (",scalp,made_up", "", "line 2, is incomplete"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(ham, prepared_root, old, new, complaint):
    rewrite(ham, old, new)
    with pytest.raises(DatasetError, match=complaint) as caught:
        prepare(ham.source, ham.data_root, prepared_root)
    assert "HAM10000_metadata.csv" in str(caught.value)


def test_metadata_without_rows_or_in_another_encoding_is_refused(ham, prepared_root):
    header = ham.files[0].read_text().splitlines()[0] + "\n"
    for content, complaint in ((header.encode(), "lists no images"), (b"\xff\xfe\x00", "readable")):
        ham.files[0].write_bytes(content)
        with pytest.raises(DatasetError, match=complaint):
            prepare(ham.source, ham.data_root, prepared_root)
