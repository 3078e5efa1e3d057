"""unlearning.checkpoint: a unit that is stopped after any epoch ends as if it never was."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unlearning.checkpoint import Checkpoint
from unlearning.config import ModelConfig, NumericsConfig, TrainingConfig, TrialSettings
from unlearning.datasets import PreparedDataset
from unlearning.images import ResidentImages
from unlearning.pipeline import run_unit
from unlearning.training import Event
from unlearning.unit import UnitSpec
from unlearning.workspace import UnitResult

MakeSettings = Callable[..., TrialSettings]
MakeSpec = Callable[..., UnitSpec]
KINDS = ("original", "scratch", "two_stage")


class Stopped(Exception):
    pass


def stored(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as a file would hold it: dense copies on the CPU, and JSON."""
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in checkpoint.tensors.items()}
    return Checkpoint(tensors, json.loads(json.dumps(checkpoint.facts, allow_nan=False)))


def stop_after(count: int) -> tuple[list[Checkpoint], Callable[..., None]]:
    """Where the checkpoint will be, and a hook that ends the unit after `count` epochs."""
    taken: list[Checkpoint] = []
    epochs = 0

    def after_epoch(make: Callable[[], Checkpoint]) -> None:
        nonlocal epochs
        epochs += 1
        if epochs == count:
            taken.append(stored(make()))
            raise Stopped

    return taken, after_epoch


def contents(result: UnitResult) -> dict[str, Any]:
    """Everything that a unit found out, times aside, in a form that can be compared."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return str(value.dtype), list(value.shape), value.contiguous().numpy().tobytes()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    costs = {n: dataclasses.replace(cost, seconds=0.0) for n, cost in result.training.items()}
    kept = {f.name: plain(getattr(result, f.name)) for f in dataclasses.fields(result)}
    evaluation = plain(dataclasses.asdict(result.evaluation))
    return kept | {"training": costs, "evaluation": evaluation}


@pytest.fixture(scope="module")
def compute(
    patterns: PreparedDataset, make_settings: MakeSettings, make_spec: MakeSpec
) -> Callable[..., UnitResult]:
    """`compute(kind, after_epoch=..., resume=...)` with the tiny settings."""
    settings = make_settings()
    original = run_unit(make_spec("original", patterns, settings), patterns)

    def run(kind: str, **options: Any) -> UnitResult:
        weights = original.models["original"] if kind == "two_stage" else None
        spec = make_spec(kind, patterns, settings)
        return run_unit(spec, patterns, original=weights, **options)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_stopped_after_any_epoch_ends_bit_for_bit_like_an_undisturbed_one(
    compute: Callable[..., UnitResult], kind: str
) -> None:
    whole = compute(kind)
    num_epochs = sum(cost.epochs for cost in whole.training.values())
    assert num_epochs > 5
    for count in range(1, num_epochs + 1):
        taken, hook = stop_after(count)
        with pytest.raises(Stopped):
            compute(kind, after_epoch=hook)
        logged: list[Event] = []
        continued = compute(kind, resume=taken[0], log=logged.append)
        assert contents(continued) == contents(whole), f"stopped after epoch {count}"
        # Only what was not done before is trained, and each epoch is in the history once.
        before = taken[0].facts["history"]
        assert before + logged == whole.history


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_may_be_stopped_again_and_again(
    compute: Callable[..., UnitResult], kind: str
) -> None:
    whole = compute(kind)
    resume, attempts = None, 0
    while True:
        taken, hook = stop_after(2)
        try:
            continued = compute(kind, resume=resume, after_epoch=hook)
            break
        except Stopped:
            resume = taken[0]
            attempts += 1
    assert attempts >= 3
    assert contents(continued) == contents(whole)


def test_seconds_of_all_attempts_are_added(compute: Callable[..., UnitResult]) -> None:
    taken, hook = stop_after(3)
    with pytest.raises(Stopped):
        compute("scratch", after_epoch=hook)
    facts = json.loads(json.dumps(taken[0].facts))
    facts["states"]["scratch"]["seconds"] = 1000.0
    continued = compute("scratch", resume=Checkpoint(taken[0].tensors, facts))
    assert continued.training["scratch"].seconds > 1000.0


def test_a_checkpoint_of_another_network_is_refused(compute: Callable[..., UnitResult]) -> None:
    taken, hook = stop_after(1)
    with pytest.raises(Stopped):
        compute("scratch", after_epoch=hook)
    other = {n: t for n, t in taken[0].tensors.items() if "conv2" not in n}
    with pytest.raises(RuntimeError, match="conv2"):
        compute("scratch", resume=Checkpoint(other, taken[0].facts))


def test_networks_with_batch_norm_and_channels_last_continue_bit_for_bit(
    make_dataset: Callable[..., PreparedDataset], make_settings: MakeSettings, make_spec: MakeSpec
) -> None:
    data = make_dataset(num_images=40, channels=3, side=32)
    settings = make_settings(
        model=ModelConfig(name="resnet50"),
        training=TrainingConfig(epochs=2, batch_size=16),
        numerics=NumericsConfig(channels_last=True),
    )
    spec = make_spec("original", data, settings)
    resident = ResidentImages.load(data, torch.device("cpu"))
    whole = run_unit(spec, data, resident=resident)
    taken, hook = stop_after(1)
    with pytest.raises(Stopped):
        run_unit(spec, data, resident=resident, after_epoch=hook)
    continued = run_unit(spec, data, resident=resident, resume=taken[0])
    assert contents(continued) == contents(whole)


def test_what_was_trained_on_is_recorded_image_by_image(
    compute: Callable[..., UnitResult],
) -> None:
    scratch, two_stage = compute("scratch"), compute("two_stage")

    def rows(result: UnitResult, state: str) -> set[int]:
        return set(result.trained_on[state].nonzero().flatten().tolist())

    for result, state, expected in (
        (scratch, "scratch", "retain"),
        (two_stage, "retrained", "retain"),
        (two_stage, "neutralized", "forget"),
    ):
        assert rows(result, state) == set(result.sets[expected].tolist())
