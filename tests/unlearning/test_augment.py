"""unlearning.augment: the paper's three test-time augmentations."""

import numpy as np
import pytest
import torch

from unlearning.augment import AUGMENTATIONS, center_crop, horizontal_flip, vertical_flip

IMAGES = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def test_the_papers_three_augmentations_are_there() -> None:
    assert list(AUGMENTATIONS) == ["horizontal_flip", "vertical_flip", "center_crop"]


def test_flips_exchange_columns_and_rows() -> None:
    for n, c, y, x in np.ndindex(*IMAGES.shape):
        assert horizontal_flip(IMAGES)[n, c, y, x] == IMAGES[n, c, y, 4 - x]
        assert vertical_flip(IMAGES)[n, c, y, x] == IMAGES[n, c, 5 - y, x]


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 3, 32, 32), (1, 1, 28, 28), (1, 3, 45, 60)])
def test_shape_is_kept_and_the_given_images_are_not_changed(
    name: str, shape: tuple[int, int, int, int]
) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    augmented = AUGMENTATIONS[name](images)
    assert augmented.shape == images.shape and augmented.dtype == torch.float32
    assert torch.equal(images, before)
    assert not torch.equal(augmented, images)


def enlarged_middle(image: list[list[float]]) -> list[list[float]]:
    """The middle nine tenths: each new pixel's centre looked up between the centres of the old."""
    size = len(image)
    margin = 0.05 * size

    def looked_up(position: int) -> tuple[int, float]:
        at = margin + (position + 0.5) * 0.9 - 0.5
        at = min(max(at, margin), size - 1 - margin)
        return int(at), at - int(at)

    result = []
    for y in range(size):
        row = []
        for x in range(size):
            (top, v), (left, u) = looked_up(y), looked_up(x)
            upper = (1 - u) * image[top][left] + u * image[top][left + 1]
            lower = (1 - u) * image[top + 1][left] + u * image[top + 1][left + 1]
            row.append((1 - v) * upper + v * lower)
        result.append(row)
    return result


@pytest.mark.parametrize("size", [8, 20, 28, 32, 64])
def test_the_crop_is_the_middle_nine_tenths_enlarged_back(size: int) -> None:
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor(enlarged_middle(image[0, 0].double().tolist()))
    found = center_crop(image)[0, 0]
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 28, 32])
def test_the_crop_is_centred_for_every_size(size: int) -> None:
    image = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(2))
    mirrored = center_crop(image.flip(2, 3)).flip(2, 3)
    torch.testing.assert_close(center_crop(image), mirrored, rtol=1e-4, atol=1e-5)


def test_what_is_outside_the_crop_does_not_show() -> None:
    image = torch.full((1, 1, 20, 20), 0.5)
    image[:, :, 0], image[:, :, -1], image[:, :, :, 0], image[:, :, :, -1] = 1, 1, 1, 1
    torch.testing.assert_close(center_crop(image), torch.full_like(image, 0.5))


def test_height_and_width_are_cropped_each_by_its_own_size() -> None:
    image = torch.rand(1, 1, 20, 60, generator=torch.Generator().manual_seed(2))
    middle = image[:, :, 1:19, 3:57]  # whole pixels: nine tenths of either
    expected = torch.nn.functional.interpolate(middle, (20, 60), mode="bilinear")
    torch.testing.assert_close(center_crop(image), expected, rtol=1e-4, atol=1e-5)
