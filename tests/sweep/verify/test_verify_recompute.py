"""What no digest shows, computing again does: bit for bit, or within a stated tolerance."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch
from spoiled_run import (
    Change,
    Flaw,
    Run,
    edit_history,
    forge,
    set_metric,
    truncate,
)

from sweep.checks import same_bits
from sweep.plan import KINDS, Plan
from sweep.recompute import (
    TOLERANCE,
    compare_accuracies,
    draw_sample,
    reasons_against_bits,
    recompute,
)
from unlearning.config import NumericsConfig, TrialSettings
from unlearning.unit import RECIPES
from unlearning.workspace import UnitResult


def test_the_sample_is_as_large_as_asked_for_and_drawn_by_the_seed(run: Run) -> None:
    def sample(*arguments: object) -> list[str]:
        code, text = run.verify("--json", *arguments)
        assert code == 0
        assert all(entry["bit_for_bit"] for entry in json.loads(text)["recomputed"])
        return [entry["unit"] for entry in json.loads(text)["recomputed"]]

    assert sample("--sample", 0) == []
    assert len(sample()) == 2
    units = run.plan.units.values()
    expected = [unit.label for unit in draw_sample(units, 1, seed=4)]
    assert sample("--sample", 1, "--seed", 4) == expected


def test_a_sample_takes_a_unit_of_each_kind_before_a_second_of_any(tiny_plan: Plan) -> None:
    units = list(tiny_plan.units.values())
    for seed in range(20):
        kinds = [unit.kind for unit in draw_sample(units, 5, seed)]
        assert set(kinds[:3]) == set(KINDS) and sorted(kinds[3:]) == ["scratch", "two_stage"]
    draws = {tuple(unit.key for unit in draw_sample(units, 2, seed)) for seed in range(20)}
    assert len(draws) > 5
    assert draw_sample(units[::-1], 2, 0) == draw_sample(units, 2, 0)
    assert Counter(draw_sample(units, 99, 0)) == Counter(units)


def flip_last_bit(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values())).view(torch.uint8).reshape(-1)[0] ^= 1


FORGERIES: dict[str, tuple[Change, Flaw]] = {
    "a metric": (
        set_metric("retrained/forget/accuracy", 0.0),
        ("two_stage", "record.json", "metrics: retrained/forget/accuracy is 0.0, computed again 0"),
    ),
    "a best epoch": (
        forge(lambda record: record["training"]["scratch"].update(best_epoch=7)),
        ("scratch", "record.json", "training: scratch: best_epoch is 7, computed again"),
    ),
    "an accuracy of a class": (
        forge(lambda record: record["per_class_accuracy"]["scratch/test"].__setitem__(3, 0.123)),
        ("scratch", "record.json", "per_class_accuracy: scratch/test is"),
    ),
    "a contrastive label": (
        forge(lambda record: record["neutralization"]["contrastive_labels"].update({"0": 0})),
        ("two_stage", "record.json", "neutralization: contrastive_labels: 0 is 0, computed again"),
    ),
    "a number of images": (
        forge(lambda record: record["counts"].update(test=1)),
        ("original", "record.json", "counts: test is 1, computed again"),
    ),
    "the last bit of a weight": (
        lambda run, unit: run.forge_tensors(unit, "scratch.safetensors", flip_last_bit),
        ("scratch", "scratch.safetensors", "is another"),
    ),
    "a weight too many": (
        lambda run, unit: run.forge_tensors(
            unit, "original.safetensors", lambda t: t.update(x=torch.zeros(1))
        ),
        ("original", "original.safetensors", "x is another"),
    ),
    "a logit": (
        lambda run, unit: run.forge_tensors(
            unit, "outputs.safetensors", lambda t: t["scratch/test"][0].add_(1)
        ),
        ("scratch", "outputs.safetensors", "computed again, scratch/test is another"),
    ),
    "a loss": (
        edit_history(lambda lines: [lines[0].replace('"loss": ', '"loss": 1'), *lines[1:]]),
        ("scratch", "metrics.jsonl", "computed again, line 1 is another"),
    ),
    "a model that is none": (
        truncate("scratch.safetensors", fit=True),
        ("scratch", "scratch.safetensors", "not a file of tensors"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_what_was_changed_and_sealed_again_is_found_by_recomputation_alone(
    name: str, run: Run
) -> None:
    spoil, (kind, file, what) = FORGERIES[name]
    unit = run.unit(kind)
    spoil(run, unit)
    assert run.flaws("--sample", 0) == set()
    code, text = run.verify("--all")
    named = [line for line in text.splitlines() if line.startswith(f"{unit.label}: {file}: ")]
    assert code == 1 and len(named) == 1 and what in named[0]


def test_a_difference_on_another_machine_says_so(run: Run) -> None:
    unit = run.unit("scratch")
    run.forge(unit, lambda record: record["provenance"].update(host="elsewhere"))
    assert run.flaws("--all") == set()
    set_metric("scratch/test/accuracy", 0.5)(run, unit)
    _, text = run.verify("--all")
    assert "computed again 0." in text and "; computed on elsewhere, another machine\n" in text


def with_provenance(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda record: record["provenance"].update(changes)


OTHER_TORCH = with_provenance(versions={"torch": "1.0"})
ON_GPU = with_provenance(device="NVIDIA H200")
CONTINUED = with_provenance(
    earlier_attempts=[{"device": "NVIDIA H200", "versions": {"torch": version("torch")}}]
)


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        (OTHER_TORCH, f"computed with torch 1.0, here {version('torch')}"),
        (ON_GPU, "computed on NVIDIA H200"),
        (CONTINUED, "computed on NVIDIA H200"),
    ],
)
def test_where_bits_cannot_be_the_same_accuracies_are_compared_within_a_tolerance(
    origin: Callable[[dict[str, Any]], object], reason: str, run: Run
) -> None:
    unit, name = run.unit("scratch"), "scratch/test/accuracy"
    run.forge(unit, origin)
    value = run.store.read_record(unit.kind, unit.key)["metrics"][name]
    # Not the same, but near enough; the best epoch's number is not an accuracy.
    set_metric(name, value - 0.9 * TOLERANCE)(run, unit)
    code, text = run.verify("--all", "--device", "cpu")
    assert code == 0
    why = f"{unit.label}: accuracies compared within 0.02, not bits, since {reason}\n"
    assert why in text
    assert "recomputed: 6 units compared bit for bit, 1 within 0.02\n" in text
    set_metric(name, value - 1.1 * TOLERANCE)(run, unit)
    code, text = run.verify("--all", "--device", "cpu")
    assert code == 1
    assert f"{unit.label}: record.json: {name} is {value - 1.1 * TOLERANCE:.4f}, comp" in text


@pytest.mark.parametrize(
    ("images", "wrong", "is_found"),
    [(10, 1, False), (10, 2, True), (200, 4, False), (200, 5, True)],
)
def test_in_a_small_set_one_image_may_be_another_one_and_in_a_large_one_two_percent(
    images: int, wrong: int, is_found: bool
) -> None:
    result = UnitResult("done", 10, {"forget": torch.arange(images), "test": torch.arange(9)})
    name = "scratch/forget_center_crop/accuracy"
    result.evaluation.metrics = {name: 0.5}
    record = {"outcome": "done", "metrics": {name: 0.5 - wrong / images}}
    assert bool(list(compare_accuracies(record, result))) is is_found


def test_within_the_tolerance_no_metric_may_be_missing(run: Run) -> None:
    unit = run.unit("scratch")
    run.forge(unit, ON_GPU)
    assert recompute(run.store, unit, run.dataset(), "cpu").findings == []
    run.forge(unit, lambda record: record["metrics"].pop("scratch/test/accuracy"))
    (finding,) = recompute(run.store, unit, run.dataset(), "cpu").findings
    assert finding.file == "record.json" and "computed again done with" in finding.what


def test_the_same_bits_are_of_the_same_type_and_shape() -> None:
    nan, zero = torch.tensor(float("nan")), torch.zeros(2)
    assert same_bits(nan, nan.clone()) and same_bits(zero, torch.zeros(2))
    assert same_bits(torch.ones(2, 3).T, torch.ones(3, 2))
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.int())
    assert not same_bits(zero, zero.reshape(2, 1))


def test_bits_are_not_compared_on_a_gpu_or_without_determinism(run: Run) -> None:
    unit = run.unit("original")
    record = run.store.read_record(unit.kind, unit.key)
    spec = run.plan.spec(unit)
    assert reasons_against_bits(record, spec, "cpu") == []
    assert reasons_against_bits(record, spec, "cuda") == ["computed again on cuda"]
    loose = TrialSettings(numerics=NumericsConfig(deterministic=False))
    spec = dataclasses.replace(spec, settings=loose)
    assert reasons_against_bits(record, spec, "cpu") == ["not deterministic"]


def test_units_of_another_recipe_are_checked_but_not_computed_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "two_stage", RECIPES["two_stage"] + 1)
    code, text = run.verify("--all")
    assert code == 0
    assert "4 units: computed with recipe 1, this code has 2: not recomputed\n" in text
    assert "recomputed: 3 units compared bit for bit" in text
