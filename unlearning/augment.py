"""The paper's three test-time augmentations (section 4.1), on float images [N, C, H, W]."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

CROP_FRACTION = 0.9


def horizontal_flip(images: Tensor) -> Tensor:
    """Left and right exchanged."""
    return images.flip(3)


def vertical_flip(images: Tensor) -> Tensor:
    """Top and bottom exchanged."""
    return images.flip(2)


def center_crop(images: Tensor) -> Tensor:
    """The middle 90 % of height and width, enlarged back to the full size (bilinear).

    Sampled at exact positions: a crop of whole pixels would be off centre, and of another size,
    for most sizes of image (7 of 8 pixels, 25 of 28).
    """
    scale = torch.tensor([[CROP_FRACTION, 0.0, 0.0], [0.0, CROP_FRACTION, 0.0]])
    grid = functional.affine_grid(
        scale.to(images).expand(len(images), 2, 3), list(images.shape), align_corners=False
    )
    # Never looked up beyond the centres of the window's outermost pixels, as in a crop.
    height, width = images.shape[2:]
    limit = CROP_FRACTION - 1 / torch.tensor([width, height]).to(images)
    grid = torch.maximum(torch.minimum(grid, limit), -limit)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


Augmentation = Callable[[Tensor], Tensor]

AUGMENTATIONS: dict[str, Augmentation] = {
    "horizontal_flip": horizontal_flip,
    "vertical_flip": vertical_flip,
    "center_crop": center_crop,
}
