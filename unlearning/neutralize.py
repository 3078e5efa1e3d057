"""Stage 1 (Algorithm 3): train the original on the forget set with contrastive labels."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.config import NumericsConfig, TrialSettings
from unlearning.contrast import Matching
from unlearning.evaluate import accuracy_on
from unlearning.images import ImageBatches
from unlearning.splits import Rows
from unlearning.training import Event, TrainState, shuffled_batches, train_epoch


def record_targets(state: TrainState, forget_accuracy: float, chance: float) -> None:
    """Take note of the first epoch at which accuracy was at or below each target.

    "random" is `chance`, 1 / number of classes; "zero" is zero. Epoch 0 is before any training; a
    target that was not reached has no entry.
    """
    if forget_accuracy <= chance:
        state.first_epoch_at.setdefault("random", state.epoch)
    if forget_accuracy == 0.0:
        state.first_epoch_at.setdefault("zero", state.epoch)


def neutralize(
    state: TrainState,
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
        state: the original model with a fresh optimiser, or a state to continue; receives the
            first epochs at the two targets.
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
        yield {"epoch": 0, "forget_accuracy": _measure(state, forget, data, numerics)}
    while config.target not in state.first_epoch_at and state.epoch < config.max_epochs:
        started = time.perf_counter()
        batches = shuffled_batches(
            forget, config.batch_size, "order", "neutralize", seed, state.epoch + 1
        )
        mean_loss = train_epoch(state, batches, loss, data, numerics)
        forget_accuracy = _measure(state, forget, data, numerics)
        state.seconds += time.perf_counter() - started
        yield {"epoch": state.epoch, "loss": mean_loss, "forget_accuracy": forget_accuracy}


def _measure(
    state: TrainState, forget: Rows, data: ImageBatches, numerics: NumericsConfig
) -> float:
    forget_accuracy = accuracy_on(state.model, forget, data, numerics)
    record_targets(state, forget_accuracy, chance=1 / data.resident.num_classes)
    return forget_accuracy
