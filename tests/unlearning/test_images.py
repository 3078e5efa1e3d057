"""unlearning.images: arrays on a device, and float batches of them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from unlearning.config import ModelConfig, NumericsConfig, TrialSettings
from unlearning.datasets import PreparedDataset
from unlearning.images import ImageBatches, ResidentImages

MakeDataset = Callable[..., PreparedDataset]
CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channels_last", [True, False])
def test_pixels_are_scaled_by_the_two_fixed_numbers(
    make_dataset: MakeDataset, channels: int, channels_last: bool
) -> None:
    data = make_dataset(40, channels=channels)
    model = ModelConfig(pixel_mean=0.3, pixel_std=0.25)
    numerics = NumericsConfig(channels_last=channels_last)
    batches = ImageBatches(ResidentImages.load(data, CPU), model, numerics)
    rows = torch.tensor([7, 0, 39, 7])
    images = batches.images(rows)
    expected = (data.images[rows.numpy()].astype(np.float64) / 255 - 0.3) / 0.25
    assert images.dtype == torch.float32
    assert images.shape == (4, channels, 8, 8)
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-6)
    if channels == 3:
        assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert batches.labels(rows).tolist() == data.labels[rows.numpy()].tolist()


def test_black_and_white_become_minus_one_and_one_by_default(make_dataset: MakeDataset) -> None:
    data = make_dataset(40)
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    pixels[1] = 255
    resident = ResidentImages(data.fingerprint, pixels, torch.tensor([0, 1]), 2)
    images = ImageBatches(resident, ModelConfig(), NumericsConfig()).images(torch.tensor([0, 1]))
    torch.testing.assert_close(images[0], torch.full((1, 8, 8), -1.0))
    torch.testing.assert_close(images[1], torch.full((1, 8, 8), 1.0))


def test_a_batch_owes_nothing_to_the_other_images(
    make_dataset: MakeDataset,
    make_batches: Callable[[PreparedDataset, TrialSettings], ImageBatches],
) -> None:
    data = make_dataset(40)
    rows = torch.arange(10)
    changed = data.images.copy()
    changed[10:] = 255
    clean = ImageBatches(ResidentImages.load(data, CPU), ModelConfig(), NumericsConfig())
    other = PreparedDataset("x", "x", changed, data.labels, data.class_names, 0, None)
    poisoned = ImageBatches(ResidentImages.load(other, CPU), ModelConfig(), NumericsConfig())
    assert torch.equal(clean.images(rows), poisoned.images(rows))


def test_a_data_set_on_the_cpu_is_mapped_not_copied_and_batches_do_not_write_to_it(
    make_dataset: MakeDataset,
) -> None:
    data = make_dataset(40)
    before = data.images.copy()
    resident = ResidentImages.load(data, CPU)
    assert resident.pixels.data_ptr() == data.images.ctypes.data
    assert (resident.shape, resident.device, resident.num_classes) == ((1, 8, 8), CPU, 4)
    ImageBatches(resident, ModelConfig(), NumericsConfig()).images(torch.arange(40)).zero_()
    assert np.array_equal(data.images, before)
