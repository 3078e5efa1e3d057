"""unlearning.config: what it refuses and resolves."""

from dataclasses import asdict, fields
from typing import Any

import pytest

from unlearning.config import (
    SECTIONS,
    NeutralizationConfig,
    RetrainingConfig,
    Seeds,
    TrainingConfig,
    TrialSettings,
    require_ratio,
)
from unlearning.errors import ConfigError

NAN, INFINITY = float("nan"), float("inf")
IMPOSSIBLE = [
    ("split", "validation_fraction", 0.0),
    ("split", "validation_fraction", 0.5),
    ("split", "validation_fraction", NAN),
    ("split", "test_fraction", -0.1),
    ("model", "widths", [32]),
    ("model", "widths", [32, 0]),
    ("model", "pixel_mean", INFINITY),
    ("model", "pixel_std", 0.0),
    ("model", "pixel_std", INFINITY),
    ("training", "epochs", 0),
    ("training", "batch_size", 1),
    ("training", "learning_rate", 0.0),
    ("training", "learning_rate", NAN),
    ("training", "learning_rate", INFINITY),
    ("neutralization", "target", "none"),
    ("neutralization", "outputs", "probabilities"),
    ("neutralization", "max_epochs", 0),
    ("neutralization", "batch_size", 1),
    ("neutralization", "learning_rate", -1.0),
    ("retraining", "epochs", 0),
    ("retraining", "batch_size", 1),
    ("retraining", "learning_rate", 0.0),
    ("retraining", "alpha", -0.1),
    ("retraining", "beta", NAN),
    ("retraining", "distillation_epochs", -1),
    ("retraining", "temperature", 0.0),
    ("retraining", "temperature", INFINITY),
    ("retraining", "data_fraction", 0.0),
    ("retraining", "data_fraction", 1.1),
    ("numerics", "precision", "float16"),
    ("numerics", "cpu_threads", 0),
]


@pytest.mark.parametrize(("section", "name", "value"), IMPOSSIBLE)
def test_an_impossible_setting_is_named_in_its_error(section: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        SECTIONS[section](**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{section}.{name} is {value!r}; allowed: ")


@pytest.mark.parametrize("ratio", [0.0, -0.01, 1.0001, NAN, INFINITY])
def test_a_ratio_that_is_no_share_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"forget_ratio is .*allowed: above 0 and at most 1"):
        require_ratio(ratio)


def test_config_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match=r"training\.epochs"):
        TrainingConfig(epochs=0)


def test_papers_numbers_are_the_defaults() -> None:
    settings = TrialSettings()
    assert settings.training.learning_rate == settings.retraining.learning_rate == 0.001
    assert (settings.retraining.alpha, settings.retraining.beta) == (1.1, 0.9)
    assert settings.retraining.distillation_epochs == 10
    assert settings.retraining.data_fraction == 1.0
    assert settings.neutralization.target == "zero"
    assert settings.numerics.deterministic


@pytest.mark.parametrize(("pretraining", "retraining"), [(50, 25), (5, 2), (1, 1)])
def test_retraining_lasts_half_the_pretraining_unless_told_otherwise(
    pretraining: int, retraining: int
) -> None:
    training = TrainingConfig(epochs=pretraining)
    assert TrialSettings(training=training).retraining.epochs == retraining
    given = TrialSettings(training=training, retraining=RetrainingConfig(epochs=7))
    assert given.retraining.epochs == 7


def test_both_stages_take_the_batch_size_of_pretraining_unless_told_otherwise() -> None:
    training = TrainingConfig(batch_size=48)
    resolved = TrialSettings(training=training)
    assert resolved.neutralization.batch_size == resolved.retraining.batch_size == 48
    given = TrialSettings(training=training, neutralization=NeutralizationConfig(batch_size=8))
    assert (given.neutralization.batch_size, given.retraining.batch_size) == (8, 48)


def test_a_section_shared_by_two_settings_is_resolved_for_each() -> None:
    neutralization, retraining = NeutralizationConfig(), RetrainingConfig()
    for epochs, batch_size in ((50, 64), (10, 16)):
        settings = TrialSettings(
            training=TrainingConfig(epochs, batch_size),
            neutralization=neutralization,
            retraining=retraining,
        )
        assert settings.neutralization.batch_size == batch_size
        assert settings.retraining.batch_size == batch_size
        assert settings.retraining.epochs == epochs // 2
    assert neutralization.batch_size is None and retraining.epochs is None


def test_settings_come_back_from_json_as_they_were() -> None:
    settings = TrialSettings(
        training=TrainingConfig(epochs=9, batch_size=20),
        retraining=RetrainingConfig(data_fraction=0.5, temperature_squared=False),
    )
    assert TrialSettings.from_json(asdict(settings)) == settings


def test_every_section_of_the_settings_is_listed() -> None:
    assert set(SECTIONS) == {entry.name for entry in fields(TrialSettings)}


def test_one_seed_sets_all_three() -> None:
    assert Seeds.all(0) == Seeds(training=0, forget=0, unlearning=0)
    assert Seeds.all(7) == Seeds(training=7, forget=7, unlearning=7)
