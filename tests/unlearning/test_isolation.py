"""What each model state may read, what it starts from, and what it must leave as it was."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from unlearning import pipeline
from unlearning.config import (
    ModelConfig,
    NeutralizationConfig,
    RetrainingConfig,
    Seeds,
    SplitConfig,
    TrainingConfig,
    TrialSettings,
)
from unlearning.datasets import PreparedDataset
from unlearning.images import ImageBatches
from unlearning.models import build_model
from unlearning.pipeline import run_unit
from unlearning.retrain import retrain_neutralized
from unlearning.training import Event, TrainState, Weights, copy_weights
from unlearning.trial import TrialResult, run_trial
from unlearning.unit import UnitSpec

MakeDataset = Callable[..., PreparedDataset]
MakeSettings = Callable[..., TrialSettings]
MakeSpec = Callable[..., UnitSpec]


def equal(first: Weights, second: Weights) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def all_weights(trial: TrialResult) -> dict[str, Weights]:
    return trial.original.models | trial.scratch.models | trial.two_stage.models


# Who reads what


class ReadingSpy:
    """Notes the rows whose pixels are read to train on, and whose labels are read, by state."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pixels: dict[str, set[int]] = {}
        self.labels: dict[str, set[int]] = {}
        self._pixels: set[int] = set()
        self._labels: set[int] = set()
        read_images, read_labels = ImageBatches.images, ImageBatches.labels

        def images(batches: ImageBatches, rows: Tensor) -> Tensor:
            if torch.is_grad_enabled():  # predictions are made without
                self._pixels |= set(rows.tolist())
            return read_images(batches, rows)

        def labels(batches: ImageBatches, rows: Tensor) -> Tensor:
            self._labels |= set(rows.tolist())
            return read_labels(batches, rows)

        monkeypatch.setattr(ImageBatches, "images", images)
        monkeypatch.setattr(ImageBatches, "labels", labels)

    def log(self, event: Event) -> None:
        """What was read since the last event was read for this one's epoch."""
        if event["epoch"] > 0:  # 0 is a measurement, after measurements of the original
            self.pixels.setdefault(event["state"], set()).update(self._pixels)
            # The first epoch's labels also hold those of the evaluation of the state before.
            if event["epoch"] > 1:
                self.labels.setdefault(event["state"], set()).update(self._labels)
        self._pixels, self._labels = set(), set()


@pytest.mark.parametrize("num_official_test", [0, 40])
def test_each_state_trains_on_its_own_images_and_no_others(
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    num_official_test: int,
) -> None:
    data = make_dataset(num_official_test=num_official_test)
    spy = ReadingSpy(monkeypatch)
    trial = run_trial(data, 0.2, "minimum", 3, make_settings(), log=spy.log)
    sets = {name: set(rows.tolist()) for name, rows in trial.two_stage.sets.items()}
    train = set(trial.original.sets["train"].tolist())
    assert train == sets["retain"] | sets["forget"]
    assert spy.pixels == {
        "original": train,
        "scratch": sets["retain"],
        "neutralized": sets["forget"],
        "retrained": sets["retain"],
    }
    assert spy.labels == {
        "original": train | sets["validation"],
        "scratch": sets["retain"] | sets["validation"],
        "neutralized": sets["forget"],
        "retrained": sets["retain"] | sets["validation"],
    }


def poison(data: PreparedDataset, rows: Tensor, num_classes: int = 4) -> PreparedDataset:
    """The same data set with other pixels and another label in some rows."""
    images, labels = data.images.copy(), data.labels.copy()
    images[rows.numpy()] = 255 - images[rows.numpy()]
    labels[rows.numpy()] = (labels[rows.numpy()] + 1) % num_classes
    return replace(data, images=images, labels=labels)


def test_scratch_never_reads_the_forget_set(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
) -> None:
    poisoned = poison(patterns, tiny_trial.scratch.sets["forget"])
    result = run_unit(make_spec("scratch", patterns, make_settings()), poisoned)
    assert equal(result.models["scratch"], tiny_trial.scratch.models["scratch"])
    for name in ("validation", "test", "retain"):
        key = f"scratch/{name}/accuracy"
        assert result.metrics[key] == tiny_trial.metrics[key]
    assert (
        result.metrics["scratch/forget/accuracy"] != tiny_trial.metrics["scratch/forget/accuracy"]
    )


def test_the_test_set_plays_no_part_in_any_weights(
    make_dataset: MakeDataset, make_settings: MakeSettings
) -> None:
    data = make_dataset(num_official_test=60)
    other = poison(data, torch.arange(180, 240))
    trials = [run_trial(each, 0.1, "minimum", 0, make_settings()) for each in (data, other)]
    first, second = map(all_weights, trials)
    assert set(first) == {"original", "scratch", "neutralized", "retrained"}
    assert all(equal(first[state], second[state]) for state in first)
    assert (
        trials[0].metrics["original/test/accuracy"] != trials[1].metrics["original/test/accuracy"]
    )


def test_a_held_out_test_set_plays_no_part_either(
    patterns: PreparedDataset, tiny_trial: TrialResult, make_settings: MakeSettings
) -> None:
    other = poison(patterns, tiny_trial.original.sets["test"])
    first, second = (
        all_weights(tiny_trial),
        all_weights(run_trial(other, 0.1, settings=make_settings())),
    )
    assert all(equal(first[state], second[state]) for state in first)


def test_the_validation_set_chooses_the_epoch_and_is_not_trained_on(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
) -> None:
    spec = make_spec("original", patterns, make_settings())
    losses, accuracies = [], []
    for data in (patterns, poison(patterns, tiny_trial.original.sets["validation"])):
        events: list[Event] = []
        result = run_unit(spec, data, log=events.append)
        losses.append([event["loss"] for event in events])
        accuracies.append([event["validation_accuracy"] for event in events])
        best = accuracies[-1].index(max(accuracies[-1])) + 1
        assert result.training["original"].best_epoch == best
    assert losses[0] == losses[1]
    assert accuracies[0] != accuracies[1]


def test_each_seed_moves_its_own_part_of_a_trial(
    patterns: PreparedDataset, make_settings: MakeSettings, tiny_trial: TrialResult
) -> None:
    base = all_weights(tiny_trial)
    changes = {
        Seeds(training=1): {"original", "scratch", "neutralized", "retrained"},
        Seeds(forget=1): {"scratch", "neutralized", "retrained"},
        Seeds(unlearning=1): {"neutralized", "retrained"},
    }
    for seeds, states in changes.items():
        other = all_weights(run_trial(patterns, 0.1, "minimum", seeds, make_settings()))
        assert {state for state in base if not equal(base[state], other[state])} == states, seeds


# Fresh weights, and weights that stay


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """The weights that each training started from, in order."""
    starts: list[Weights] = []
    start = TrainState.start

    def noted(model: torch.nn.Module, learning_rate: float) -> TrainState:
        starts.append(copy_weights(model))
        return start(model, learning_rate)

    monkeypatch.setattr(TrainState, "start", noted)
    return starts


def test_scratch_starts_from_fresh_weights_in_every_layer(
    patterns: PreparedDataset, make_settings: MakeSettings, started: list[Weights]
) -> None:
    trial = run_trial(patterns, 0.1, "minimum", 0, make_settings())
    fresh = build_model(make_settings().model, (1, 8, 8), 4, seed=0).state_dict()
    original, scratch, _, retrained = started
    assert equal(original, fresh) and equal(scratch, fresh)
    trained = trial.original.models["original"]
    assert not any(torch.equal(scratch[name], trained[name]) for name in scratch)
    assert equal(retrained, trial.two_stage.models["neutralized"])


def test_stage_1_starts_from_the_original_and_stage_2_from_stage_1s_end(
    patterns: PreparedDataset, make_settings: MakeSettings, started: list[Weights]
) -> None:
    trial = run_trial(patterns, 0.1, "minimum", 0, make_settings())
    _, _, stage_1, stage_2 = started
    assert equal(stage_1, trial.original.models["original"])
    assert equal(stage_2, trial.two_stage.models["neutralized"])
    assert not equal(stage_1, stage_2)


def test_the_original_is_not_changed_by_the_two_stages(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = tiny_trial.original.models["original"]
    before = copy.deepcopy(original)
    teachers: list[torch.nn.Module] = []

    def spied(state: TrainState, teacher: torch.nn.Module, **arguments: Any) -> Any:
        teachers.append(teacher)
        return retrain_neutralized(state, teacher, **arguments)

    monkeypatch.setattr(pipeline, "retrain_neutralized", spied)
    spec = make_spec("two_stage", patterns, make_settings())
    result = run_unit(spec, patterns, original=original)
    assert equal(original, before)
    assert equal(copy_weights(teachers[0]), before)
    assert equal(result.models["retrained"], tiny_trial.two_stage.models["retrained"])
    assert not equal(result.models["retrained"], before)


def test_resnet50_forgets_a_single_image(
    make_dataset: MakeDataset, make_settings: MakeSettings, started: list[Weights]
) -> None:
    """Batch normalisation in every stage: a forget set of one, and fresh buffers for scratch."""
    settings = make_settings(
        model=ModelConfig(name="resnet50"),
        training=TrainingConfig(epochs=1, batch_size=8),
        neutralization=NeutralizationConfig(max_epochs=2),
        retraining=RetrainingConfig(epochs=1, distillation_epochs=1),
        split=SplitConfig(validation_fraction=0.2, test_fraction=0.2),
    )
    data = make_dataset(15, channels=3)
    trial = run_trial(data, 0.1, "minimum", 0, settings)
    assert len(trial.two_stage.sets["forget"]) == 1
    original, scratch = started[:2]
    assert equal(original, scratch)
    trained = trial.original.models["original"]
    assert not any(torch.equal(scratch[name], trained[name]) for name in scratch)
    assert scratch["bn1.num_batches_tracked"].item() == 0
    # One image moves no running statistics.
    neutralized = trial.two_stage.models["neutralized"]
    assert torch.equal(neutralized["bn1.running_mean"], trained["bn1.running_mean"])
