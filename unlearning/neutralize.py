"""Stage 1 (Algorithm 3): train the original on the forget set with contrastive labels."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.config import NumericsConfig, TrialSettings
from unlearning.contrast import Matching
from unlearning.evaluate import accuracy_on
from unlearning.images import ImageBatches
from unlearning.splits import Rows
from unlearning.training import Event, TrainState, shuffled_batches, train_epoch


@dataclass
class FirstHits:
    """The first epoch at which accuracy on the forget set was at or below each target.

    0 means before any training; None means not reached in the epochs that were run.
    """

    random: int | None = None  # 1 / number of classes
    zero: int | None = None

    def record(self, epoch: int, forget_accuracy: float, chance: float) -> None:
        """Take note of an epoch's accuracy."""
        if self.random is None and forget_accuracy <= chance:
            self.random = epoch
        if self.zero is None and forget_accuracy == 0.0:
            self.zero = epoch

    def reached(self, target: str) -> bool:
        """Whether the named target, "random" or "zero", was reached."""
        return (self.zero if target == "zero" else self.random) is not None


def neutralize(
    state: TrainState,
    hits: FirstHits,
    *,
    forget: Rows,
    matching: Matching,
    seed: int,
    data: ImageBatches,
    settings: TrialSettings,
) -> Iterator[Event]:
    """Train on the forget set until it is lost, or up to the cap; yield an event each epoch.

    Paper: Algorithm 3 loops `while accuracy < 1/n`, which would never start. Here: while accuracy
    is above the target, measured in evaluation mode, first before any training (epoch 0).

    Args:
        state: the original model with a fresh optimiser, or a state to continue.
        hits: receives the first epochs at the two targets.
        forget: rows of the forget set.
        matching: contrastive label of each of its classes.
        seed: the unlearning seed; it orders the batches.
    """
    config, numerics = settings.neutralization, settings.numerics
    wrong_C = torch.zeros(data.resident.num_classes, dtype=torch.int64)
    for source, target in matching.labels.items():
        wrong_C[source] = target
    wrong_C = wrong_C.to(data.resident.device)
    assert config.batch_size is not None  # resolved by TrialSettings

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(state.model(images), wrong_C[data.labels(rows)])

    if state.epoch == 0:
        yield {"epoch": 0, "forget_accuracy": _measure(state, hits, forget, data, numerics)}
    while not hits.reached(config.target) and state.epoch < config.max_epochs:
        started = time.perf_counter()
        batches = shuffled_batches(
            forget, config.batch_size, "order", "neutralize", seed, state.epoch + 1
        )
        mean_loss = train_epoch(state, batches, loss, data, numerics)
        forget_accuracy = _measure(state, hits, forget, data, numerics)
        state.seconds += time.perf_counter() - started
        yield {"epoch": state.epoch, "loss": mean_loss, "forget_accuracy": forget_accuracy}


def _measure(
    state: TrainState, hits: FirstHits, forget: Rows, data: ImageBatches, numerics: NumericsConfig
) -> float:
    forget_accuracy = accuracy_on(state.model, forget, data, numerics)
    hits.record(state.epoch, forget_accuracy, chance=1 / data.resident.num_classes)
    return forget_accuracy
