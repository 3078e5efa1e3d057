"""unlearning.evaluate: accuracies by set, by class and under augmentation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlearning import evaluate
from unlearning.augment import AUGMENTATIONS
from unlearning.config import NumericsConfig, TrialSettings
from unlearning.datasets import PreparedDataset
from unlearning.errors import DivergedError
from unlearning.evaluate import (
    Evaluation,
    accuracy,
    accuracy_on,
    evaluate_state,
    per_class_accuracy,
    predict,
)
from unlearning.images import ImageBatches, ResidentImages
from unlearning.models import build_model

NUMERICS = NumericsConfig()


@pytest.fixture
def data(
    patterns: PreparedDataset,
    make_settings: Callable[..., TrialSettings],
    make_batches: Callable[[PreparedDataset, TrialSettings], ImageBatches],
) -> ImageBatches:
    return make_batches(patterns, make_settings())


@pytest.fixture
def model(make_settings: Callable[..., TrialSettings]) -> nn.Module:
    """Fresh weights, which are neither right nor wrong on all images."""
    return build_model(make_settings().model, (1, 8, 8), 4, 0)


def test_accuracy_is_the_share_of_images_whose_label_has_the_highest_logit() -> None:
    logits = torch.tensor([[0.1, 0.2, -1.0], [5.0, 4.0, 3.0], [-3.0, -2.0, -1.0], [0.0, 1.0, 0.0]])
    assert accuracy(logits, torch.tensor([1, 0, 2, 1])) == 1.0
    assert accuracy(logits, torch.tensor([1, 0, 2, 0])) == 0.75
    assert accuracy(logits, torch.tensor([0, 1, 0, 0])) == 0.0
    # The label's own column is meant, not the columns of the whole batch's labels.
    assert accuracy(torch.eye(3), torch.tensor([2, 0, 1])) == 0.0


def test_accuracy_over_no_images_is_refused(data: ImageBatches, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="no images"):
        accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="no images"):
        accuracy_on(model, nothing, data, NUMERICS)
    with pytest.raises(ValueError, match="no images"):
        evaluate_state(Evaluation(), "original", model, {"forget": nothing}, data, NUMERICS)


def test_a_class_without_an_image_has_no_accuracy() -> None:
    logits = torch.tensor([[9.0, 0, 0, 0], [9.0, 0, 0, 0], [0, 0, 9.0, 0], [0, 0, 0, 9.0]])
    labels = torch.tensor([0, 2, 2, 2])
    assert per_class_accuracy(logits, labels) == [1.0, None, 1 / 3, None]
    assert per_class_accuracy(logits, torch.tensor([1, 1, 1, 1])) == [None, 0.0, None, None]


def test_accuracy_is_that_of_an_image_by_image_loop(
    data: ImageBatches, model: nn.Module, patterns: PreparedDataset
) -> None:
    rows = torch.arange(0, 240, 3)
    right, of_class, seen = 0, [0] * 4, [0] * 4
    for row in rows.tolist():
        image = (torch.tensor(patterns.images[row : row + 1]).double() / 255 - 0.5) / 0.5
        with torch.no_grad():
            label = int(model.double()(image).argmax())
        hit = label == patterns.labels[row]
        right += int(hit)
        of_class[patterns.labels[row]] += int(hit)
        seen[patterns.labels[row]] += 1
    model.float()
    evaluation = Evaluation()
    evaluate_state(evaluation, "neutralized", model, {"some": rows}, data, NUMERICS)
    assert 0 < right < len(rows)
    assert evaluation.metrics == {"neutralized/some/accuracy": right / len(rows)}
    expected = [hits / count for hits, count in zip(of_class, seen, strict=True)]
    assert evaluation.per_class == {"neutralized/some": expected}
    assert accuracy_on(model, rows, data, NUMERICS) == right / len(rows)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1024])
def test_the_batch_size_of_evaluation_does_not_change_accuracies(
    data: ImageBatches, model: nn.Module, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    sets = {"forget": torch.arange(100), "test": torch.arange(100, 240)}
    whole = Evaluation()
    evaluate_state(whole, "neutralized", model, sets, data, NUMERICS)
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH_SIZE", batch_size)
    parts = Evaluation()
    evaluate_state(parts, "neutralized", model, sets, data, NUMERICS)
    assert parts.metrics == whole.metrics
    assert parts.per_class == whole.per_class
    for key, logits in whole.outputs.items():
        torch.testing.assert_close(parts.outputs[key], logits)


def test_the_batch_size_of_evaluation_does_not_matter_with_batch_normalisation_either(
    data: ImageBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 4)).train()
    rows = torch.arange(50)
    whole = predict(model, rows, data, NUMERICS)
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH_SIZE", 3)
    torch.testing.assert_close(predict(model, rows, data, NUMERICS), whole)
    assert model.state_dict()["0.num_batches_tracked"].item() == 0


def test_prediction_needs_no_gradient_and_does_not_change_the_model(
    data: ImageBatches, model: nn.Module
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = predict(model.train(), torch.arange(30), data, NUMERICS)
    assert logits.dtype == torch.float32 and not logits.requires_grad
    assert all(torch.equal(before[name], after) for name, after in model.state_dict().items())


def test_the_forget_set_alone_is_also_measured_under_each_augmentation(
    data: ImageBatches, model: nn.Module
) -> None:
    sets = {"test": torch.arange(20), "forget": torch.arange(100, 150)}
    evaluation = Evaluation()
    evaluate_state(evaluation, "retrained", model, sets, data, NUMERICS)
    names = ["test", "forget", *(f"forget_{name}" for name in AUGMENTATIONS)]
    assert list(evaluation.metrics) == [f"retrained/{name}/accuracy" for name in names]
    labels = data.labels(sets["forget"])
    for name, augmentation in AUGMENTATIONS.items():
        with torch.no_grad():
            logits = model(augmentation(data.images(sets["forget"])))
        found = evaluation.metrics[f"retrained/forget_{name}/accuracy"]
        assert found == accuracy(logits, labels)
        torch.testing.assert_close(evaluation.outputs[f"retrained/forget_{name}"], logits)
    flipped = evaluation.outputs["retrained/forget_horizontal_flip"]
    assert not torch.equal(flipped, evaluation.outputs["retrained/forget"])


def test_images_are_augmented_after_scaling_so_that_flips_of_flips_are_the_image(
    data: ImageBatches,
) -> None:
    rows = torch.arange(10)
    seen: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return images.flatten(1)

    predict(Recorder(), rows, data, NUMERICS, AUGMENTATIONS["horizontal_flip"])
    np.testing.assert_array_equal(seen[0].flip(3).numpy(), data.images(rows).numpy())


def test_logits_are_kept_unless_dropped(data: ImageBatches, model: nn.Module) -> None:
    sets: dict[str, Any] = {"test": torch.arange(20), "retain": torch.arange(20, 90)}
    evaluation = Evaluation()
    evaluate_state(evaluation, "scratch", model, sets, data, NUMERICS, drop=("retain",))
    assert list(evaluation.outputs) == ["scratch/test"]
    assert list(evaluation.metrics) == ["scratch/test/accuracy", "scratch/retain/accuracy"]
    with torch.no_grad():
        logits = model(data.images(sets["test"]))
    torch.testing.assert_close(evaluation.outputs["scratch/test"], logits)


def test_outputs_that_are_not_finite_are_no_predictions(patterns: PreparedDataset) -> None:
    settings = TrialSettings()
    data = ImageBatches(
        ResidentImages.load(patterns, torch.device("cpu")), settings.model, settings.numerics
    )
    model = build_model(settings.model, data.resident.shape, data.resident.num_classes, 0)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="not finite"):
        predict(model, torch.arange(4), data, settings.numerics)
