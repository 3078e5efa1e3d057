"""A data set's arrays on the device that computes, and batches of them ready for a network."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearning.config import ModelConfig, NumericsConfig
from unlearning.datasets.prepared import PreparedDataset


@dataclass(frozen=True)
class ResidentImages:
    """All images and labels of a data set on one device, as uint8.

    On a CPU this is the memory map itself, one copy a node whatever the number of processes; on a
    GPU it is one upload a process. No decoding and no loader processes stand between the arrays
    and the network.
    """

    fingerprint: str
    pixels: Tensor  # uint8 [N, channels, height, width]
    labels: Tensor  # int64 [N]
    num_classes: int

    @classmethod
    def load(cls, data: PreparedDataset, device: torch.device) -> "ResidentImages":
        """Wrap the arrays (CPU) or copy them to the device (GPU)."""
        with warnings.catch_warnings():
            # The map is read-only and torch says so; nothing here writes to it.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            pixels = torch.from_numpy(data.images)
            labels = torch.from_numpy(data.labels)
        return cls(data.fingerprint, pixels.to(device), labels.to(device), data.num_classes)

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return self.pixels.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width


@dataclass(frozen=True)
class ImageBatches:
    """Turns row numbers into the float batches that a network takes."""

    resident: ResidentImages
    model: ModelConfig
    numerics: NumericsConfig

    def images(self, rows: Tensor) -> Tensor:
        """Scaled images [n, channels, height, width], float32, of rows [n] on the device."""
        scale = 1.0 / (255.0 * self.model.pixel_std)
        shift = -self.model.pixel_mean / self.model.pixel_std
        gathered = self.resident.pixels.index_select(0, rows)
        if self.numerics.channels_last:
            gathered = gathered.contiguous(memory_format=torch.channels_last)
        return gathered.to(torch.float32).mul_(scale).add_(shift)

    def labels(self, rows: Tensor) -> Tensor:
        """Class numbers [n], int64."""
        return self.resident.labels.index_select(0, rows)
