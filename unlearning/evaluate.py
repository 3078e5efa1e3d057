"""What a model gets right, by set of images; logits are kept so that nothing is run twice."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unlearning.augment import AUGMENTATIONS, Augmentation
from unlearning.config import NumericsConfig
from unlearning.errors import DivergedError
from unlearning.images import ImageBatches
from unlearning.numerics import autocast
from unlearning.splits import Rows

METRIC_DESCRIPTIONS = {
    "STATE/test/accuracy": "share of the test set that is right, in [0, 1]; STATE is original, "
    "neutralized, retrained or scratch",
    "STATE/validation/accuracy": "on the validation set, which chooses the best epoch",
    "STATE/retain/accuracy": "on the retain set",
    "STATE/forget/accuracy": "on the forget set",
    **{
        f"STATE/forget_{name}/accuracy": f"on the forget set under {name.replace('_', ' ')}"
        for name in AUGMENTATIONS
    },
}

EVALUATION_BATCH_SIZE = 256  # on a CPU twice as fast as 1,024, whose activations leave the cache


@torch.no_grad()
def predict(
    model: nn.Module,
    rows: Rows,
    data: ImageBatches,
    numerics: NumericsConfig,
    augmentation: Augmentation | None = None,
) -> Tensor:
    """Logits [n, classes], float32 on the data's device, of rows [n] in evaluation mode.

    Raises:
        DivergedError: a logit is not finite; its argmax would pass for a prediction.
    """
    model.eval()
    parts = []
    for batch in torch.split(rows, EVALUATION_BATCH_SIZE):
        images = data.images(batch.to(data.resident.device))
        if augmentation is not None:
            images = augmentation(images)
        with autocast(numerics, data.resident.device):
            parts.append(model(images).float())
    logits = torch.cat(parts)
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError("the model's outputs are not finite")
    return logits


def accuracy(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Share of images whose highest logit is the label's, in [0, 1].

    Raises:
        ValueError: no images, since a mean over nothing is not a metric.
    """
    if len(labels_N) == 0:
        raise ValueError("accuracy over no images")
    return int((logits_NC.argmax(dim=1) == labels_N).sum()) / len(labels_N)


def accuracy_on(
    model: nn.Module, rows: Rows, data: ImageBatches, numerics: NumericsConfig
) -> float:
    """Accuracy of a model on rows [n], in [0, 1]."""
    labels = data.labels(rows.to(data.resident.device))
    return accuracy(predict(model, rows, data, numerics), labels)


def per_class_accuracy(logits_NC: Tensor, labels_N: Tensor) -> list[float | None]:
    """Accuracy on the images of each class, in [0, 1]; None for a class without an image."""
    num_classes = logits_NC.shape[1]
    hits_N = (logits_NC.argmax(dim=1) == labels_N).cpu()
    labels_N = labels_N.cpu()
    total_C = torch.bincount(labels_N, minlength=num_classes).tolist()
    right_C = torch.bincount(labels_N[hits_N], minlength=num_classes).tolist()
    return [right / total if total else None for right, total in zip(right_C, total_C, strict=True)]


@dataclass
class Evaluation:
    """Measurements of one or more model states, under the keys `state/set/metric`."""

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, list[float | None]] = field(default_factory=dict)  # key: state/set
    outputs: dict[str, Tensor] = field(default_factory=dict)  # logits, key: state/set

    def add(self, state: str, name: str, logits: Tensor, labels: Tensor, keep: bool) -> None:
        """Record the accuracies that a state's logits on a named set of images give.

        `keep` also keeps the logits, so that later metrics need no training.
        """
        key = f"{state}/{name}"
        self.metrics[f"{key}/accuracy"] = accuracy(logits, labels)
        self.per_class[key] = per_class_accuracy(logits, labels)
        if keep:
            self.outputs[key] = logits.cpu()


def evaluate_state(
    evaluation: Evaluation,
    state: str,
    model: nn.Module,
    sets: dict[str, Rows],
    data: ImageBatches,
    numerics: NumericsConfig,
    drop: Collection[str] = (),
) -> None:
    """Measure a model state on every named set of rows, the forget set also under augmentation.

    Args:
        evaluation: where the measurements go.
        state: "original", "neutralized", "retrained" or "scratch".
        sets: rows by name; "forget" is augmented too where it is there.
        drop: names of sets whose logits are not kept.
    """
    for name, rows in sets.items():
        labels = data.labels(rows.to(data.resident.device))
        logits = predict(model, rows, data, numerics)
        evaluation.add(state, name, logits, labels, keep=name not in drop)
        if name == "forget":
            for label, augmentation in AUGMENTATIONS.items():
                logits = predict(model, rows, data, numerics, augmentation)
                evaluation.add(state, f"forget_{label}", logits, labels, keep=True)
