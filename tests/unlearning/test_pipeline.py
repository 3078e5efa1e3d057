"""unlearning.pipeline and unlearning.workspace: whole units and what they report."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from unlearning.config import (
    ModelConfig,
    NeutralizationConfig,
    NumericsConfig,
    RetrainingConfig,
    Seeds,
    SplitConfig,
    TrainingConfig,
    TrialSettings,
)
from unlearning.datasets import PreparedDataset
from unlearning.errors import ConfigError, DatasetError, StrategyError
from unlearning.models import build_model
from unlearning.pipeline import run_unit
from unlearning.splits import draw_forget_set, draw_split
from unlearning.training import Event
from unlearning.trial import TrialResult, run_trial
from unlearning.unit import UnitSpec
from unlearning.workspace import UnitResult

MakeDataset = Callable[..., PreparedDataset]
MakeSettings = Callable[..., TrialSettings]
MakeSpec = Callable[..., UnitSpec]

AUGMENTED = [f"forget_{name}" for name in ("horizontal_flip", "vertical_flip", "center_crop")]


# What a whole trial reports


def test_a_trial_measures_every_state_on_every_set(tiny_trial: TrialResult) -> None:
    expected = {f"original/{name}/accuracy" for name in ("train", "validation", "test")}
    for state in ("scratch", "original", "neutralized", "retrained"):
        for name in ("validation", "test", "retain", "forget", *AUGMENTED):
            expected.add(f"{state}/{name}/accuracy")
    assert set(tiny_trial.metrics) == expected
    assert all(0 <= value <= 1 for value in tiny_trial.metrics.values())
    for unit in (tiny_trial.original, tiny_trial.scratch, tiny_trial.two_stage):
        assert unit.outcome == "done"
        assert set(unit.evaluation.per_class) == {key.rsplit("/", 1)[0] for key in unit.metrics}


def test_the_paper_in_small_holds_on_the_patterns(tiny_trial: TrialResult) -> None:
    metrics = tiny_trial.metrics
    assert metrics["original/forget/accuracy"] > 0.9
    assert metrics["neutralized/forget/accuracy"] == 0.0
    assert metrics["retrained/test/accuracy"] > metrics["neutralized/test/accuracy"]
    assert metrics["scratch/test/accuracy"] > 0.7


def test_metrics_belong_to_the_weights_that_are_kept(
    patterns: PreparedDataset, tiny_trial: TrialResult, make_settings: MakeSettings
) -> None:
    """Each state's model, rebuilt from its weights, is as accurate as its unit says."""
    sets = tiny_trial.two_stage.sets
    units = (tiny_trial.original, tiny_trial.scratch, tiny_trial.two_stage)
    for state, weights in [item for unit in units for item in unit.models.items()]:
        model = build_model(make_settings().model, (1, 8, 8), 4, 99)
        model.load_state_dict(weights)
        for name in ("validation", "test", "retain", "forget"):
            rows = sets[name].numpy()
            images = (torch.tensor(patterns.images[rows]).float() / 255 - 0.5) / 0.5
            with torch.no_grad():
                right = model(images).argmax(1) == torch.tensor(patterns.labels[rows])
            found = tiny_trial.metrics[f"{state}/{name}/accuracy"]
            assert found == pytest.approx(float(right.double().mean())), (state, name)


def test_costs_are_counted_for_every_training(tiny_trial: TrialResult) -> None:
    trial = tiny_trial
    num_train = len(trial.original.sets["train"])
    forget, retain = (len(trial.two_stage.sets[name]) for name in ("forget", "retain"))
    stage_1 = trial.two_stage.training["neutralized"]
    assert trial.two_stage.neutralization is not None
    assert trial.original.training["original"].samples == 6 * num_train
    assert trial.scratch.training["scratch"].samples == 6 * retain
    assert trial.two_stage.training["retrained"].samples == 3 * retain
    assert stage_1.samples == stage_1.epochs * forget
    assert stage_1.epochs == trial.two_stage.neutralization["first_epoch_at_zero"]
    assert stage_1.best_epoch is None
    summaries = trial.original.training | trial.scratch.training | trial.two_stage.training
    for state, summary in summaries.items():
        assert summary.seconds > 0
        if state != "neutralized":
            assert summary.best_epoch is not None and 1 <= summary.best_epoch <= summary.epochs


def test_the_best_epochs_weights_are_kept(
    patterns: PreparedDataset, make_settings: MakeSettings, make_spec: MakeSpec
) -> None:
    events: list[Event] = []
    settings = make_settings(training=TrainingConfig(6, 32, 0.02))
    result = run_unit(make_spec("original", patterns, settings), patterns, log=events.append)
    accuracies = [event["validation_accuracy"] for event in events]
    summary = result.training["original"]
    assert result.metrics["original/validation/accuracy"] == max(accuracies)
    assert summary.best_epoch == 1 + accuracies.index(max(accuracies))


def test_logits_are_kept_for_later_metrics_but_not_those_of_the_retain_set(
    tiny_trial: TrialResult,
) -> None:
    kept = ["forget", *AUGMENTED]
    expected = [f"original/{name}" for name in kept]
    for state in ("neutralized", "retrained"):
        expected += [f"{state}/{name}" for name in ("validation", "test", *kept)]
    assert sorted(tiny_trial.two_stage.evaluation.outputs) == sorted(expected)
    sets = tiny_trial.two_stage.sets
    logits = tiny_trial.two_stage.evaluation.outputs["retrained/test"]
    assert logits.shape == (len(sets["test"]), 4) and logits.device.type == "cpu"


def test_every_epoch_is_logged_with_its_state(
    patterns: PreparedDataset, make_settings: MakeSettings
) -> None:
    events: list[Event] = []
    trial = run_trial(patterns, 0.1, "minimum", 0, make_settings(), log=events.append)
    epochs = {
        state: [event["epoch"] for event in events if event["state"] == state]
        for state in ("original", "scratch", "neutralized", "retrained")
    }
    assert epochs["original"] == epochs["scratch"] == [1, 2, 3, 4, 5, 6]
    assert epochs["retrained"] == [1, 2, 3]
    assert epochs["neutralized"] == list(range(trial.two_stage.training["neutralized"].epochs + 1))
    assert [event["state"] for event in events] == [
        state for state, numbers in epochs.items() for _ in numbers
    ]


# Not converged


@pytest.fixture(scope="module")
def capped(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
) -> UnitResult:
    config = NeutralizationConfig(max_epochs=1, learning_rate=1e-6)
    spec = make_spec("two_stage", patterns, make_settings(neutralization=config))
    return run_unit(spec, patterns, original=tiny_trial.original.models["original"])


def test_at_the_cap_a_trial_ends_as_not_converged_without_a_retrained_model(
    capped: UnitResult,
) -> None:
    assert capped.outcome == "not_converged"
    assert capped.neutralization is not None
    assert not capped.neutralization["converged"]
    assert capped.neutralization["first_epoch_at_zero"] is None
    assert set(capped.models) == {"neutralized"}
    assert set(capped.training) == {"neutralized"}
    assert capped.training["neutralized"].epochs == 1
    assert not any(key.startswith("retrained") for key in capped.metrics)
    assert not any(key.startswith("retrained") for key in capped.evaluation.outputs)


def test_what_was_measured_before_the_cap_is_kept(capped: UnitResult) -> None:
    assert capped.metrics["neutralized/forget/accuracy"] > 0
    assert {"original/forget/accuracy", "neutralized/test/accuracy"} <= set(capped.metrics)


def test_the_target_random_stops_earlier_than_zero(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
) -> None:
    results = {}
    for target in ("random", "zero"):
        # Small steps, so that the two targets are not reached in one epoch.
        config = NeutralizationConfig(target=target, max_epochs=300, learning_rate=0.001)
        spec = make_spec("two_stage", patterns, make_settings(neutralization=config))
        results[target] = run_unit(
            spec, patterns, original=tiny_trial.original.models["original"]
        ).neutralization
    random, zero = results["random"], results["zero"]
    assert random is not None and zero is not None
    assert random["converged"] and zero["converged"]
    assert random["first_epoch_at_zero"] is None
    assert random["first_epoch_at_random"] == zero["first_epoch_at_random"]
    assert zero["first_epoch_at_random"] < zero["first_epoch_at_zero"]


# What a strategy gets and what is reported of it


@pytest.mark.parametrize("strategy", ["minimum", "maximum", "random"])
def test_the_contrastive_labels_are_those_of_the_originals_outputs(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
    strategy: str,
) -> None:
    from unlearning.contrast import contrastive_labels
    from unlearning.seeding import generator

    spec = make_spec("two_stage", patterns, make_settings(), Seeds.all(0), strategy=strategy)
    result = run_unit(spec, patterns, original=tiny_trial.original.models["original"])
    forget = result.sets["forget"]
    model = build_model(make_settings().model, (1, 8, 8), 4, 0)
    model.load_state_dict(tiny_trial.original.models["original"])
    images = (torch.tensor(patterns.images[forget.numpy()]).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        logits = model(images)
    labels = torch.tensor(patterns.labels[forget.numpy()])
    # A draw of its own for each ratio, or the control would not vary over ratios.
    draws = generator("strategy", strategy, 0, f"{spec.forget_ratio:.6f}")
    matching = contrastive_labels(strategy, logits, labels, draws)
    assert result.neutralization is not None
    found = {int(k): v for k, v in result.neutralization["contrastive_labels"].items()}
    assert found == matching.labels
    assert result.neutralization["completed_classes"] == list(matching.completed)


@pytest.mark.usefixtures("own_strategies")
def test_a_strategy_that_raises_ends_its_unit_by_name(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
) -> None:
    from unlearning.contrast import ContrastInput, Matching, register_strategy

    @register_strategy("broken", "raises")
    def broken(contrast: ContrastInput) -> Matching:
        raise RuntimeError("out of luck")

    spec = make_spec("two_stage", patterns, make_settings(), strategy="broken")
    with pytest.raises(StrategyError, match="'broken' raised RuntimeError: out of luck"):
        run_unit(spec, patterns, original=tiny_trial.original.models["original"])


# Sets, and how seeds reach them


def test_the_sets_of_a_unit_are_those_of_its_seeds(
    patterns: PreparedDataset,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
    tiny_trial: TrialResult,
) -> None:
    split = draw_split(patterns, SplitConfig())
    draw = draw_forget_set(split.train, 0.1, 7)
    spec = make_spec("scratch", patterns, make_settings(), Seeds(training=1, forget=7))
    sets = run_unit(spec, patterns).sets
    assert set(sets) == {"validation", "test", "retain", "forget"}
    assert torch.equal(sets["forget"], draw.forget) and torch.equal(sets["retain"], draw.retain)
    assert torch.equal(sets["validation"], split.validation)
    assert torch.equal(sets["test"], tiny_trial.original.sets["test"])  # of other seeds


def test_impossible_units_are_refused_by_name(
    make_dataset: MakeDataset, make_settings: MakeSettings, make_spec: MakeSpec
) -> None:
    data, settings = make_dataset(), make_settings()
    with pytest.raises(ConfigError, match="is no image"):
        run_unit(make_spec("scratch", data, settings, forget_ratio=0.001), data)
    with pytest.raises(ConfigError, match="known models"):
        unknown = make_settings(model=ModelConfig(name="vgg"))
        run_unit(make_spec("original", data, unknown), data)
    with pytest.raises(DatasetError, match="too few"):
        few = make_dataset(4)
        run_unit(make_spec("original", few, settings), few)


def test_a_unit_of_another_data_set_is_not_computed(
    patterns: PreparedDataset,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
) -> None:
    with pytest.raises(DatasetError, match="its files have changed"):
        run_unit(make_spec("original", patterns, make_settings()), make_dataset(seed=1))


def test_data_fraction_halves_the_samples_of_stage_2(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
) -> None:
    config = RetrainingConfig(epochs=3, distillation_epochs=2, data_fraction=0.5)
    spec = make_spec("two_stage", patterns, make_settings(retraining=config))
    result = run_unit(spec, patterns, original=tiny_trial.original.models["original"])
    whole = tiny_trial.two_stage.training["retrained"].samples
    assert result.training["retrained"].samples == pytest.approx(whole / 2, abs=3)
    assert (
        result.training["neutralized"].samples
        == tiny_trial.two_stage.training["neutralized"].samples
    )


def test_color_images_and_wide_ones_run_through_all_stages(
    make_dataset: MakeDataset, make_settings: MakeSettings
) -> None:
    data = make_dataset(120, channels=3, side=9, num_official_test=20)
    trial = run_trial(data, 0.1, "maximum", 0, make_settings())
    assert np.isfinite(list(trial.metrics.values())).all()
    assert trial.two_stage.models["retrained"]["conv1.weight"].shape == (4, 3, 3, 3)


def test_the_numerics_of_a_unit_do_not_outlive_it(
    patterns: PreparedDataset, make_settings: MakeSettings, make_spec: MakeSpec
) -> None:
    settings = make_settings(numerics=NumericsConfig(cpu_threads=2))
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    seen = []

    def log(event: Event) -> None:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_unit(make_spec("original", patterns, settings), patterns, log=log)
    assert seen == [(2, True)]
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
