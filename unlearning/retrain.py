"""Stage 2: retrain the neutralized model on the retain set with distillation (equations 1 to 4)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.config import TrialSettings
from unlearning.evaluate import accuracy_on
from unlearning.images import ImageBatches
from unlearning.splits import Rows
from unlearning.training import Event, Loss, TrainState, shuffled_batches, train_with_selection


def distillation_loss(
    student_NC: Tensor, teacher_NC: Tensor, temperature: float, temperature_squared: bool
) -> Tensor:
    """KL(teacher || student) of softened class probabilities in nats, averaged over images.

    Paper: equation 2 is malformed. Here: Hinton et al. (2015), with the factor T^2 that keeps the
    gradient's size independent of T, unless `temperature_squared` is false.

    Args:
        student_NC: logits of the model that learns.
        teacher_NC: logits of the frozen original; no gradient flows into them.
        temperature: T of equation 1, above 0.
    """
    # torch's order of arguments is (student's log-probabilities, teacher's log-probabilities);
    # "batchmean" divides by N, where "mean" would divide by N * C.
    divergence = functional.kl_div(
        functional.log_softmax(student_NC.float() / temperature, dim=1),
        functional.log_softmax(teacher_NC.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2 if temperature_squared else divergence


def retrain_neutralized(
    state: TrainState,
    teacher: nn.Module,
    *,
    retain: Rows,
    validation: Rows,
    seed: int,
    data: ImageBatches,
    settings: TrialSettings,
) -> Iterator[Event]:
    """Train on the retain set, distilling in the first epochs; yield an event after each epoch.

    alpha * CE + beta * KD for `distillation_epochs` epochs, plain CE after them. Ends with the
    weights of the best epoch on the validation set.

    Args:
        state: the neutralized model with a fresh optimiser, or a state to continue.
        teacher: the original model, used in evaluation mode and not changed.
        seed: the unlearning seed; it orders the batches.
    """
    config, numerics = settings.retraining, settings.numerics
    assert config.epochs is not None and config.batch_size is not None  # by TrialSettings
    batch_size = config.batch_size
    teacher.eval()

    def with_distillation(images: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = teacher(images)
        logits = state.model(images)
        hard = functional.cross_entropy(logits, data.labels(rows))
        soft = distillation_loss(
            logits, teacher_logits, config.temperature, config.temperature_squared
        )
        return config.alpha * hard + config.beta * soft

    def plain(images: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(state.model(images), data.labels(rows))

    def epoch_loss(epoch: int) -> Loss:
        return with_distillation if epoch <= config.distillation_epochs else plain

    def epoch_batches(epoch: int) -> list[Tensor]:
        names = ("order", "retrain", seed, epoch)
        return shuffled_batches(retain, batch_size, *names, fraction=config.data_fraction)

    def validate() -> float:
        return accuracy_on(state.model, validation, data, numerics)

    yield from train_with_selection(
        state,
        epochs=config.epochs,
        epoch_batches=epoch_batches,
        epoch_loss=epoch_loss,
        validate=validate,
        data=data,
        numerics=numerics,
    )
