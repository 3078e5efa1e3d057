"""Every kind of damage is named, and set aside only if asked for."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spoiled_run import Change, Flaw, Run, contents, edit_history, flip, forge, mark, truncate

from sweep.files import seal
from sweep.plan import PlannedUnit
from sweep.recompute import (
    recompute,
)


def drop_outputs(run: Run, unit: PlannedUnit) -> None:
    run.path(unit, "outputs.safetensors").unlink()
    run.forge(unit, lambda record: record["files"].pop("outputs.safetensors"))


DAMAGE: dict[str, tuple[Change, Flaw]] = {
    "a bit of the record": (flip("record.json"), ("scratch", "record.json", "damaged")),
    "half a record": (truncate("record.json"), ("original", "record.json", "damaged")),
    "no record": (
        lambda run, unit: run.path(unit).unlink(),
        ("two_stage", "record.json", "No such file"),
    ),
    "a record that is nested without end": (
        lambda run, unit: run.path(unit).write_text("[" * 100_000),
        ("scratch", "record.json", "damaged"),
    ),
    "half a model": (
        truncate("retrained.safetensors"),
        ("two_stage", "retrained.safetensors", "not what was recorded"),
    ),
    "a bit of the outputs": (
        flip("outputs.safetensors"),
        ("scratch", "outputs.safetensors", "not what was recorded"),
    ),
    "an extra file": (
        lambda run, unit: run.path(unit, "notes [1].txt").write_text("x"),
        ("original", "notes [1].txt", "does not name this file"),
    ),
    "an extra folder": (
        lambda run, unit: run.path(unit, "old").mkdir(),
        ("scratch", "old", "does not name this file"),
    ),
    "an extra file with a name that cannot be printed": (
        lambda run, unit: run.path(unit, os.fsdecode(b"a\xff\nb")).write_text("x"),
        ("scratch", r"a\udcff b", "does not name this file"),
    ),
    "a missing file": (
        lambda run, unit: run.path(unit, "neutralized.safetensors").unlink(),
        ("two_stage", "neutralized.safetensors", "missing"),
    ),
    "a folder for a file": (
        lambda run, unit: (
            run.path(unit, "metrics.jsonl").unlink(),
            run.path(unit, "metrics.jsonl").mkdir(),
        ),
        ("scratch", "metrics.jsonl", "missing"),
    ),
    "outputs that the record does not name either": (
        drop_outputs,
        ("two_stage", "outputs.safetensors", "every such unit has it"),
    ),
    "a file outside the unit's folder": (
        forge(lambda record: record["files"].update({"../x": "0"})),
        ("scratch", "../x", "missing"),
    ),
    "an epoch twice": (
        edit_history(lambda lines: [*lines, lines[-1]]),
        ("two_stage", "metrics.jsonl", "epoch 1 of retrained is there more than once"),
    ),
    "an epoch less": (
        edit_history(lambda lines: lines[1:]),
        ("two_stage", "metrics.jsonl", "epoch 0 of neutralized is missing"),
    ),
    "epochs in another order": (
        edit_history(lambda lines: lines[::-1]),
        ("original", "metrics.jsonl", "not in order"),
    ),
    "epochs of another training": (
        edit_history(lambda lines: [*lines, '{"state": "retrained", "epoch": 1}\n']),
        ("scratch", "metrics.jsonl", "epoch 1 of retrained is not one of this training"),
    ),
    "a line that is no JSON": (
        edit_history(lambda lines: [*lines, "{"]),
        ("scratch", "metrics.jsonl", "cannot be checked (JSONDecodeError"),
    ),
    "fewer epochs than planned": (
        forge(lambda record: record["training"]["scratch"].update(epochs=1)),
        ("scratch", "record.json", "1 epochs of scratch, where 2 are planned"),
    ),
    "more epochs than memory": (
        forge(lambda record: record["training"]["neutralized"].update(epochs=10**15)),
        ("two_stage", "record.json", "epochs of neutralized, where 40 are planned"),
    ),
    "a training less": (
        forge(lambda record: record["training"].pop("retrained")),
        ("two_stage", "record.json", "neutralized, retrained is due"),
    ),
    "another specification": (
        forge(lambda record: record["spec"]["seeds"].update(training=1)),
        ("original", "record.json", "does not have the unit's key"),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_named_and_set_aside_only_if_asked_for(name: str, run: Run) -> None:
    spoil, (kind, file, what) = DAMAGE[name]
    unit = run.unit(kind)
    spoil(run, unit)
    before = contents(run.store.root)
    code, text = run.verify("--sample", 0)
    lines = text.splitlines()
    assert code == 1
    named = [line for line in lines if line.startswith(f"{unit.label}: {file}: ")]
    assert len(named) == 1 and what in named[0]
    assert contents(run.store.root) == before
    # Nothing else is wrong; but a training that the record denies has left a mask.
    assert lines[:-3] == named or name == "a training less"

    code, text = run.verify("--sample", 0, "--set-aside")
    assert code == 1
    assert f"{unit.label}: set aside in {run.store.root / 'damaged'}" in text
    assert run.flaws("--sample", 0) == set()
    assert not run.store.has(unit.kind, unit.key)


def test_a_unit_that_was_set_aside_is_unfinished_and_verified_once_computed_again(
    run: Run,
) -> None:
    unit = run.unit("original")
    flip("original.safetensors")(run, unit)
    code, text = run.verify("--set-aside", "--all")
    assert code == 1
    lines = text.splitlines()
    assert lines[-1] == "NOT verified: 1 problem"
    # Units that start from the damaged original cannot be computed again; the others are.
    assert "4 units: its original is damaged or not in the store: not recomputed" in lines
    assert "recomputed: 2 units compared bit for bit, 0 within 0.02" in lines
    code, text = run.verify("--sample", 0)
    assert code == 0
    assert "1 units are not finished, which is no problem" in text
    run.compute(unit)
    code, text = run.verify("--all")
    assert (code, text.splitlines()[-1]) == (0, "verified")
    assert "7 units compared bit for bit" in text and "not finished" not in text


def test_what_cannot_be_set_aside_is_still_named(run: Run) -> None:
    unit = run.unit("scratch")
    flip("outputs.safetensors")(run, unit)
    (run.store.root / "damaged").write_text("in the way")
    code, text = run.verify("--sample", 0, "--set-aside")
    assert code == 1 and text.splitlines()[-1] == "NOT verified: 2 problems"
    assert f"{unit.label}: record.json: cannot be set aside (File exists)" in text
    assert run.store.has(unit.kind, unit.key)


def overlap(tensors: dict[str, torch.Tensor]) -> None:
    tensors["rows/forget"][0] = tensors["rows/retain"][0]


def exchange(tensors: dict[str, torch.Tensor]) -> None:
    """Another draw of the same size: one image forgotten for another, in all places."""
    forget, retain = tensors["rows/forget"], tensors["rows/retain"]
    forget[0], retain[0] = retain[0].clone(), forget[0].clone()
    for name in ("rows/forget", "rows/retain"):
        tensors[name] = tensors[name].sort().values
    mask = tensors["trained_on/scratch"]
    mask[:] = False
    mask[tensors["rows/retain"]] = True


def shorten(tensors: dict[str, torch.Tensor]) -> None:
    tensors["trained_on/scratch"] = tensors["trained_on/scratch"][:-1]


def as_int32(tensors: dict[str, torch.Tensor]) -> None:
    tensors["rows/forget"] = tensors["rows/forget"].int()


TRESPASSES: list[tuple[str, Callable[[dict[str, torch.Tensor]], object], list[str]]] = [
    ("scratch", mark("scratch", "forget"), ["trained_on/scratch holds 1 images of the forget"]),
    ("scratch", mark("scratch", "test"), ["trained_on/scratch holds 1 images of the test set"]),
    ("two_stage", mark("retrained", "forget"), ["trained_on/retrained holds 1 images of the f"]),
    ("two_stage", mark("retrained", "validation"), ["holds 1 images of the validation set"]),
    ("two_stage", mark("neutralized", "retain"), ["holds 1 images of the retain set"]),
    ("original", mark("original", "test"), ["trained_on/original holds 1 images of the test"]),
    (
        "scratch",
        overlap,
        ["have 1 images in common", "together are not the training set", "rows/forget is not what"],
    ),
    (
        "scratch",
        exchange,
        ["rows/retain is not", "rows/forget is not", "scratch holds 1 images of the forget set"],
    ),
    ("scratch", lambda t: t["rows/test"].add_(1), ["rows/test is not what is drawn"]),
    ("two_stage", as_int32, ["rows/forget is not what is drawn"]),
    ("scratch", shorten, ["trained_on/scratch is torch.bool [1796], not one bool for each"]),
    ("scratch", lambda t: t["trained_on/scratch"].zero_(), ["trained_on/scratch holds no image"]),
    ("two_stage", lambda t: t.pop("trained_on/retrained"), ["neutralized, retrained trained"]),
    ("two_stage", lambda t: t.pop("rows/forget"), ["(KeyError: 'rows/forget')"]),
]


@pytest.mark.parametrize(("kind", "change", "expected"), TRESPASSES)
def test_a_trace_of_the_wrong_images_is_found(
    kind: str, change: Callable[[Any], object], expected: list[str], run: Run
) -> None:
    unit = run.unit(kind)
    run.forge_tensors(unit, "outputs.safetensors", change)
    code, text = run.verify("--sample", 0, "--set-aside")
    lines = text.splitlines()
    assert code == 1 and lines[-1] == f"NOT verified: {len(expected)} problem" + "s" * (
        len(expected) > 1
    )
    for part in expected:
        assert sum(part in line for line in lines) == 1
    assert all(line.startswith(f"{unit.label}: outputs.safetensors: ") for line in lines[:-3])
    assert run.store.has(unit.kind, unit.key)  # not damaged, so not set aside


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [3], {"x": 3}])
def test_no_content_of_a_sealed_record_stops_it(value: object, run: Run) -> None:
    unit = run.unit("two_stage")
    whole = run.store.read_record(unit.kind, unit.key)
    for name in whole:
        spoiled = {k: v for k, v in whole.items() if k != name} if value == 3 else dict(whole)
        if value != 3:
            spoiled[name] = value
        run.path(unit).write_text(seal(spoiled))
        found = run.flaws("--sample", 0)
        assert {label for label, _ in found} <= {unit.label}
        if name in ("files", "spec", "training", "schema", "key", "kind"):
            assert found, name
    run.path(unit).write_text(seal(whole | {"provenance": value}))
    assert recompute(run.store, unit, run.dataset(), None).findings
