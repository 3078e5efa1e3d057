"""Training throughput of the two-conv network on one CPU thread, against the obvious loop.

Both train the same network (28x28 images, 32 and 64 channels, batch 128) on the same images with
Adam; they take turns, so that a machine whose speed drifts slows both. The obvious loop is what
most code for this paper's data sets does: a torchvision data set with ToTensor and Normalize, a
DataLoader without workers, contiguous images.

    python scripts/bench_training.py [--images 6000] [--rounds 7]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from unlearning.config import ModelConfig, NumericsConfig
from unlearning.datasets.prepared import PreparedDataset
from unlearning.images import ImageBatches, ResidentImages
from unlearning.models import build_model
from unlearning.numerics import numerics
from unlearning.training import TrainState, shuffled_batches, train_epoch

BATCH_SIZE = 128


def random_images(count: int) -> PreparedDataset:
    """Seeded noise in MNIST's shape; throughput does not depend on what is in the images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, count, dtype=np.int64)
    names = tuple(str(label) for label in range(10))
    return PreparedDataset("noise", "0" * 64, images, labels, names, 0, None)


class ImageFolderLike(Dataset[tuple[torch.Tensor, int]]):
    """Hands out one image at a time as torchvision's MNIST does: array, PIL image, transforms."""

    def __init__(self, data: PreparedDataset) -> None:
        self.images, self.labels = data.images[:, 0], data.labels
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.images[index], mode="L")
        return self.transform(image), int(self.labels[index])


def obvious_epoch(data: PreparedDataset) -> Callable[[], None]:
    """One epoch of the obvious PyTorch loop, to be called again and again."""
    model = build_model(ModelConfig(), (1, 28, 28), 10, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(ImageFolderLike(data), batch_size=BATCH_SIZE, shuffle=True)

    def epoch() -> None:
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return epoch


def our_epoch(data: PreparedDataset) -> Callable[[], None]:
    """One epoch of this project's loop, under its default numerics."""
    config = NumericsConfig()
    batches = ImageBatches(ResidentImages.load(data, torch.device("cpu")), ModelConfig(), config)
    model = build_model(ModelConfig(), (1, 28, 28), 10, seed=0)
    state = TrainState.start(model.to(memory_format=torch.channels_last), 1e-3)  # type: ignore[call-overload]
    rows = torch.arange(len(data.labels))

    def loss(images: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(images), batches.labels(batch))

    def epoch() -> None:
        with numerics(config):
            order = shuffled_batches(rows, BATCH_SIZE, "bench", state.epoch)
            train_epoch(state, order, loss, batches, config)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = random_images(arguments.images)
    epochs = {"obvious loop": obvious_epoch(data), "this project": our_epoch(data)}
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for round_number in range(arguments.rounds + 1):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            epoch()
            if round_number > 0:  # the first warms up
                seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        print(f"{name}: {arguments.images / statistics.median(times):,.0f} images/s (median)")
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(
        f"ratio, round by round: median {statistics.median(ratios):.2f}, "
        f"lowest {min(ratios):.2f}, highest {max(ratios):.2f} (n = {len(ratios)})"
    )


if __name__ == "__main__":
    main()
