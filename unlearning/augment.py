"""The paper's three test-time augmentations (section 4.1), on float images [N, C, H, W]."""

from collections.abc import Callable

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
    """The middle 90 % of height and width, enlarged back to the full size (bilinear)."""
    height, width = images.shape[2:]
    crop_height, crop_width = round(CROP_FRACTION * height), round(CROP_FRACTION * width)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    middle = images[:, :, top : top + crop_height, left : left + crop_width]
    return functional.interpolate(middle, (height, width), mode="bilinear", align_corners=False)


Augmentation = Callable[[Tensor], Tensor]

AUGMENTATIONS: dict[str, Augmentation] = {
    "horizontal_flip": horizontal_flip,
    "vertical_flip": vertical_flip,
    "center_crop": center_crop,
}
