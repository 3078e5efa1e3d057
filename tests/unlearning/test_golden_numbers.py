"""The numbers of a small run on scikit-learn's digits, kept in golden/numbers.json.

They may change only together with a recipe's version in unlearning/unit.py: keys then change too,
so that a store never holds results of two kinds under one key.

Measured on one machine with instruction sets from SSE4 to AVX-512, one and two threads, and both
memory layouts: losses differ by at most 2e-6 of their value, accuracies not at all.
"""

import os
from typing import Any

import pytest

from unlearning.config import (
    ModelConfig,
    NeutralizationConfig,
    RetrainingConfig,
    TrainingConfig,
    TrialSettings,
)
from unlearning.datasets import PreparedDataset
from unlearning.training import Event
from unlearning.trial import run_trial
from unlearning.unit import RECIPES

KINDS = ("original", "scratch", "two_stage")
LOSS_TOLERANCE = 1e-4  # of a loss's value
FORCE = "USWEEP_REFRESH_GOLDEN_FORCE"  # the run itself was changed, not the code that computes it


def small_run(data: PreparedDataset) -> dict[str, Any]:
    """Recipe, losses by state, accuracies and matching of each kind of unit."""
    settings = TrialSettings(
        model=ModelConfig(widths=[4, 8]),
        training=TrainingConfig(epochs=3, batch_size=64, learning_rate=0.003),
        neutralization=NeutralizationConfig(max_epochs=60, batch_size=16, learning_rate=0.01),
        retraining=RetrainingConfig(epochs=3, distillation_epochs=2),
    )
    events: list[Event] = []
    trial = run_trial(data, 0.05, "minimum", 0, settings, log=events.append)
    units = dict(zip(KINDS, (trial.original, trial.scratch, trial.two_stage), strict=True))
    numbers: dict[str, Any] = {}
    for kind, unit in units.items():
        losses = {
            state: [
                event["loss"] for event in events if event["state"] == state and "loss" in event
            ]
            for state in unit.training
        }
        best_epochs = {state: summary.best_epoch for state, summary in unit.training.items()}
        numbers[kind] = {
            "recipe": RECIPES[kind],
            "losses": losses,
            "best_epochs": best_epochs,
            "accuracies": unit.metrics,
            "neutralization": unit.neutralization,
        }
    return numbers


def same_numbers(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    exact = ("best_epochs", "accuracies", "neutralization")
    return (
        all(found[name] == expected[name] for name in exact)
        and found["losses"].keys() == expected["losses"].keys()
        and all(
            losses == pytest.approx(expected["losses"][state], rel=LOSS_TOLERANCE)
            for state, losses in found["losses"].items()
        )
    )


@pytest.fixture(scope="module")
def measured(digits: PreparedDataset) -> dict[str, Any]:
    return small_run(digits)


def test_golden_run_trains_forgets_and_recovers(measured: dict[str, Any]) -> None:
    """The kept numbers are of a run in which every part of the method does something."""
    two_stage = measured["two_stage"]
    assert two_stage["neutralization"]["converged"]
    assert two_stage["neutralization"]["first_epoch_at_zero"] > 1
    assert two_stage["accuracies"]["original/forget/accuracy"] > 0.5
    assert two_stage["accuracies"]["neutralized/forget/accuracy"] == 0
    assert len(two_stage["losses"]["retrained"]) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_golden_numbers_change_only_with_their_recipe(
    measured: dict[str, Any], golden: Any, kind: str
) -> None:
    expected = golden.read("numbers.json").get(kind)
    found = measured[kind]
    if golden.refreshing:
        unchanged = expected is not None and same_numbers(found, expected)
        if unchanged and found["recipe"] == expected["recipe"]:
            return  # so that the file does not change with the machine that refreshes it
        forced = expected is None or os.environ.get(FORCE) == "1"
        if not forced and found["recipe"] == expected["recipe"]:
            pytest.fail(
                f"the numbers of {kind} units have changed: raise RECIPES[{kind!r}] in "
                "unlearning/unit.py, mark the change [numbers] in the CHANGELOG, refresh again"
            )
        golden.write("numbers.json", golden.read("numbers.json") | {kind: found})
        return
    assert found["recipe"] == expected["recipe"], (
        "a recipe was raised: run scripts/refresh_golden.py"
    )
    assert same_numbers(found, expected), (
        f"the numbers of {kind} units have changed under recipe {found['recipe']}: found {found}, "
        f"expected {expected}. If that is meant, raise RECIPES[{kind!r}] in unlearning/unit.py and "
        "run scripts/refresh_golden.py"
    )


def test_golden_comparison_sees_small_changes(measured: dict[str, Any]) -> None:
    found = measured["original"]
    losses = found["losses"]["original"]
    nudged = [losses[0], losses[1] * (1 + 10 * LOSS_TOLERANCE), *losses[2:]]
    rounded = [loss * (1 + LOSS_TOLERANCE / 10) for loss in losses]
    assert same_numbers(found, found | {"losses": {"original": rounded}})
    assert not same_numbers(found, found | {"losses": {"original": nudged}})
    assert not same_numbers(found, found | {"losses": {"original": losses[:-1]}})
    flipped = found["accuracies"] | {"original/test/accuracy": 0.5}
    assert not same_numbers(found, found | {"accuracies": flipped})
