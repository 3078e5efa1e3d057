"""The training loop, shared by pre-training, neutralization and retraining.

The loop owns nothing: its state, its batches, its loss and its stopping rule come from outside, so
that it can be stopped after any epoch and continued, and need not be alone in its process.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.config import NumericsConfig
from unlearning.errors import DivergedError
from unlearning.images import ImageBatches
from unlearning.numerics import autocast
from unlearning.seeding import generator

Weights = dict[str, Tensor]
Event = dict[str, Any]
Log = Callable[[Event], None]  # takes one JSON-ready mapping for each epoch
Loss = Callable[[Tensor, Tensor], Tensor]  # (images, rows) -> mean loss over the batch


@dataclass
class TrainState:
    """A training in progress: all that changes from epoch to epoch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0  # epochs completed
    samples: int = 0  # images seen so far, each pass counted
    seconds: float = 0.0  # wall time so far, measurements between epochs included
    best_epoch: int | None = None
    best_accuracy: float = -math.inf  # on the validation set
    best_weights: Weights = field(default_factory=dict)
    first_epoch_at: dict[str, int] = field(default_factory=dict)  # by target; stage 1 alone
    seen: Tensor | None = None  # bool [N]: which images the loss was computed on, on the CPU

    @classmethod
    def start(cls, model: nn.Module, learning_rate: float) -> "TrainState":
        """A fresh state with Adam, the paper's optimiser (section 4.1)."""
        # Fused: one kernel for all weights instead of several for each.
        return cls(model, torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True))

    def see(self, rows: Tensor, num_images: int) -> None:
        """Take note of the images of a batch, so that it can be checked what was trained on."""
        if self.seen is None:
            self.seen = torch.zeros(num_images, dtype=torch.bool)
        self.seen[rows] = True

    def keep_if_best(self, validation_accuracy: float) -> None:
        """Remember the weights if no earlier epoch was as accurate on the validation set."""
        if validation_accuracy > self.best_accuracy:
            self.best_epoch = self.epoch
            self.best_accuracy = validation_accuracy
            self.best_weights = copy_weights(self.model)


def copy_weights(model: nn.Module) -> Weights:
    """The model's weights and buffers, copied, on the device where they are."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def shuffled_batches(
    rows: Tensor, batch_size: int, *names: object, fraction: float = 1.0
) -> list[Tensor]:
    """One epoch's batches of rows, in the order that the named draw gives.

    The order of an epoch depends on the names alone, not on earlier epochs, so a training can be
    continued at any epoch. A last batch of one image is joined to the batch before it: batch
    normalisation cannot be trained on a single image.

    Args:
        rows: row numbers [n], int64.
        batch_size: images a batch.
        names: name of the draw, such as ("order", "scratch", seed, epoch).
        fraction: share of the rows that this epoch sees, at least one row.
    """
    order = torch.randperm(len(rows), generator=generator(*names))
    count = max(1, round(fraction * len(rows)))
    batches = list(torch.split(rows[order[:count]], batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        tail = batches.pop()
        batches[-1] = torch.cat([batches[-1], tail])
    return batches


def train_epoch(
    state: TrainState,
    batches: list[Tensor],
    loss: Loss,
    data: ImageBatches,
    numerics: NumericsConfig,
) -> float:
    """Train for one epoch and return its mean loss, an image's.

    Raises:
        DivergedError: the mean loss is not finite.
    """
    device = data.resident.device
    state.model.train()
    total = torch.zeros((), dtype=torch.float64, device=device)
    for cpu_rows in batches:
        state.see(cpu_rows, len(data.resident.pixels))
        rows = cpu_rows.to(device, non_blocking=True)
        if len(rows) == 1:  # a forget set of one image
            _normalise_with_running_statistics(state.model)
        with autocast(numerics, device):
            batch_loss = loss(data.images(rows), rows)
        state.optimizer.zero_grad(set_to_none=True)
        batch_loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        total += batch_loss.detach().double() * len(rows)
    num_samples = sum(len(rows) for rows in batches)
    mean_loss = float(total) / num_samples  # the epoch's only wait for the device
    if not math.isfinite(mean_loss):
        raise DivergedError(f"the loss became {mean_loss} in epoch {state.epoch + 1}")
    state.epoch += 1
    state.samples += num_samples
    return mean_loss


def _normalise_with_running_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def train_with_selection(
    state: TrainState,
    *,
    epochs: int,
    epoch_batches: Callable[[int], list[Tensor]],
    epoch_loss: Callable[[int], Loss],
    validate: Callable[[], float],
    data: ImageBatches,
    numerics: NumericsConfig,
) -> Iterator[Event]:
    """Train up to `epochs` epochs, yield an event after each, end with the best epoch's weights.

    The best epoch (the paper's saving point, Table 3) has the highest validation accuracy, the
    earliest of equals. Test and forget sets play no part in it.

    Args:
        state: where to start or continue; `state.epoch` epochs are already done.
        epoch_batches: the batches of an epoch, counted from 1.
        epoch_loss: the loss of an epoch, counted from 1.
        validate: accuracy of the model on the validation set, in [0, 1].
    """
    while state.epoch < epochs:
        started = time.perf_counter()
        epoch = state.epoch + 1
        mean_loss = train_epoch(state, epoch_batches(epoch), epoch_loss(epoch), data, numerics)
        accuracy = validate()
        state.keep_if_best(accuracy)
        state.seconds += time.perf_counter() - started
        yield {"epoch": epoch, "loss": mean_loss, "validation_accuracy": accuracy}
    state.model.load_state_dict(state.best_weights)
