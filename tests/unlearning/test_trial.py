"""unlearning.trial: one trial in five lines, as the README shows it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unlearning.config import (
    ModelConfig,
    NeutralizationConfig,
    Seeds,
    TrainingConfig,
    TrialSettings,
)
from unlearning.datasets import PreparedDataset
from unlearning.errors import ConfigError
from unlearning.pipeline import run_unit
from unlearning.trial import TrialResult, load_dataset, run_trial
from unlearning.unit import UnitSpec

MakeSettings = Callable[..., TrialSettings]


def test_a_trial_on_real_digits_takes_five_lines(tmp_path: Path) -> None:
    digits = load_dataset("digits", tmp_path)
    training = TrainingConfig(epochs=12, batch_size=32, learning_rate=0.01)
    stage_1 = NeutralizationConfig(learning_rate=0.01)
    settings = TrialSettings(
        model=ModelConfig(widths=[4, 8]), training=training, neutralization=stage_1
    )
    trial = run_trial(digits, forget_ratio=0.05, strategy="minimum", seed=0, settings=settings)
    metrics = trial.metrics

    assert digits.images.shape == (1797, 1, 8, 8)
    assert metrics["original/test/accuracy"] > 0.9
    assert metrics["scratch/test/accuracy"] > 0.9
    assert metrics["retrained/test/accuracy"] > 0.8
    assert metrics["neutralized/forget/accuracy"] == 0.0
    assert len(trial.two_stage.sets["forget"]) == round(0.05 * len(trial.original.sets["train"]))


def test_prepared_digits_are_found_again(tmp_path: Path) -> None:
    first = load_dataset(data_root=tmp_path)
    assert list((tmp_path / "prepared").iterdir())
    assert load_dataset(data_root=str(tmp_path)).fingerprint == first.fingerprint


def test_impossible_trials_are_refused_before_anything_is_trained(
    patterns: PreparedDataset, make_settings: MakeSettings
) -> None:
    def log(event: object) -> None:
        raise AssertionError(f"an epoch was trained: {event}")

    for ratio in (0.0, 1.0, 0.001, 1.5):
        with pytest.raises(ConfigError, match="forget_ratio"):
            run_trial(patterns, ratio, settings=make_settings(), log=log)
    with pytest.raises(ConfigError, match=r"unknown; known: .*minimum"):
        run_trial(patterns, 0.1, "minimun", settings=make_settings(), log=log)
    with pytest.raises(ConfigError, match="known models"):
        run_trial(patterns, settings=TrialSettings(model=ModelConfig(name="vgg")), log=log)
    with pytest.raises(ConfigError, match="known: "):
        load_dataset("nmist")


def test_a_seed_may_be_a_number_of_any_kind_or_three_seeds(
    patterns: PreparedDataset, make_settings: MakeSettings, tiny_trial: TrialResult
) -> None:
    settings = make_settings(
        neutralization=NeutralizationConfig(max_epochs=100, learning_rate=0.01)
    )
    for seed in (np.int64(0), Seeds(0, 0, 0)):
        again = run_trial(patterns, 0.1, "minimum", seed, settings)  # type: ignore[arg-type]
        assert again.metrics == tiny_trial.metrics


def test_a_trial_is_made_of_the_units_that_a_sweep_would_store(
    patterns: PreparedDataset,
    make_settings: MakeSettings,
    make_spec: Callable[..., UnitSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = []

    def noted(spec: UnitSpec, *arguments: object, **named: object) -> object:
        keys.append(spec.key)
        return run_unit(spec, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("unlearning.trial.run_unit", noted)
    run_trial(patterns, 0.1, "minimum", 0, make_settings())
    kinds = ("original", "scratch", "two_stage")
    assert keys == [make_spec(kind, patterns, make_settings()).key for kind in kinds]


def test_the_metrics_of_shared_sets_agree_between_units(tiny_trial: TrialResult) -> None:
    shared = tiny_trial.original.metrics.keys() & tiny_trial.two_stage.metrics.keys()
    assert shared == {"original/validation/accuracy", "original/test/accuracy"}
    for key in shared:
        assert tiny_trial.original.metrics[key] == tiny_trial.two_stage.metrics[key]
    retain, forget = (tiny_trial.two_stage.sets[name] for name in ("retain", "forget"))
    train = torch.cat([retain, forget]).sort().values
    assert torch.equal(train, tiny_trial.original.sets["train"])
