"""Training from fresh weights: the original on all training images, scratch on the retain set."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional

from unlearning.config import TrialSettings
from unlearning.evaluate import accuracy_on
from unlearning.images import ImageBatches
from unlearning.splits import Rows
from unlearning.training import Event, Loss, TrainState, shuffled_batches, train_with_selection


def pretrain(
    state: TrainState,
    *,
    role: str,
    rows: Rows,
    validation: Rows,
    seed: int,
    data: ImageBatches,
    settings: TrialSettings,
) -> Iterator[Event]:
    """Train with cross-entropy (paper, section 4.1); yield an event after each epoch.

    Ends with the weights of the best epoch on the validation set.

    Args:
        state: fresh weights, or a state to continue.
        role: "original" or "scratch"; names the draw of the batches' order.
        rows: the training set for an original, the retain set for a scratch model. No other image
            is trained on.
        seed: the training seed.
    """
    config, numerics = settings.training, settings.numerics

    def loss(images: Tensor, batch: Tensor) -> Tensor:
        return functional.cross_entropy(state.model(images), data.labels(batch))

    def epoch_loss(epoch: int) -> Loss:
        return loss

    def epoch_batches(epoch: int) -> list[Tensor]:
        return shuffled_batches(rows, config.batch_size, "order", role, seed, epoch)

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
