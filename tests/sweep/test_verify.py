"""`usweep verify`: it finds nothing where nothing is wrong, and names all that is."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from sweep import verify
from sweep.checks import same_bits
from sweep.cli import main
from sweep.config import MODEL_STATES, ResolvedConfig, load_config
from sweep.files import file_digest, seal
from sweep.plan import KINDS, Plan, PlannedUnit, make_plan
from sweep.provenance import Provenance
from sweep.recompute import (
    TOLERANCE,
    compare_accuracies,
    draw_sample,
    reasons_against_bits,
    recompute,
)
from sweep.run import prepare_datasets, write_run_folder
from sweep.store import Store
from sweep.verify import Options, verify_run
from sweep.worker import RunContext, Task, compute_and_publish
from unlearning.config import NumericsConfig, TrialSettings
from unlearning.datasets import PreparedDataset, prepare
from unlearning.errors import DatasetError
from unlearning.unit import RECIPES
from unlearning.workspace import UnitResult

WriteTiny = Callable[[Path], Path]
Change = Callable[["Run", PlannedUnit], object]
Flaw = tuple[str, str, str]  # kind of the unit, file, and a part of the line


class Run:
    """A run's folder, store and plan, and hands to spoil them with."""

    def __init__(self, config: ResolvedConfig) -> None:
        self.config, self.folder = config, config.sweep.run_folder
        self.store = Store(Path(config.sweep.output.store))
        prepare_datasets(config, Console(quiet=True))
        self.plan: Plan = make_plan(config)
        write_run_folder(config, self.plan)

    def context(self) -> RunContext:
        data = self.config.sweep.data
        roots = Path(data.root), data.prepared_root
        origin = Provenance.of_this_code()
        return RunContext(self.plan, self.store.root, *roots, MODEL_STATES, origin)

    def compute(self, *units: PlannedUnit) -> None:
        self.store.open_for_writing()
        for unit in units:
            compute_and_publish(self.context(), Task(unit.key))

    def dataset(self) -> PreparedDataset:
        source = self.config.trials["digits"].source
        data = self.config.sweep.data
        return prepare(source, Path(data.root), data.prepared_root)

    def unit(self, kind: str) -> PlannedUnit:
        return next(unit for unit in self.plan.units.values() if unit.kind == kind)

    def path(self, unit: PlannedUnit, name: str = "record.json") -> Path:
        return self.store.folder(unit.kind, unit.key) / name

    def forge(self, unit: PlannedUnit, change: Callable[[dict[str, Any]], object]) -> None:
        """Change a record and seal it again."""
        record = self.store.read_record(unit.kind, unit.key)
        change(record)
        self.path(unit).write_text(seal(record))

    def fit_digest(self, unit: PlannedUnit, name: str) -> None:
        digest = file_digest(self.path(unit, name))
        self.forge(unit, lambda record: record["files"].update({name: digest}))

    def forge_tensors(
        self, unit: PlannedUnit, name: str, change: Callable[[dict[str, torch.Tensor]], object]
    ) -> None:
        path = self.path(unit, name)
        tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
        change(tensors)
        save_file(tensors, path)
        self.fit_digest(unit, name)

    def flaws(self, *arguments: object) -> set[tuple[str, str]]:
        """Unit and file of every problem; also that exit code and verdict say the same."""
        code, text = self.verify("--json", *arguments)
        found = json.loads(text)
        assert code == (1 if found["problems"] else 0)
        assert found["verified"] == (not found["problems"])
        return {(problem["unit"], problem["file"]) for problem in found["problems"]}

    def verify(self, *arguments: object) -> tuple[int, str]:
        """Exit code and standard output of the command."""
        return usweep("verify", self.folder, *arguments)


def usweep(*arguments: object) -> tuple[int, str]:
    """The command line in this process; an error that `main` does not expect is one here too."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["usweep", *map(str, arguments)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", out)
        main()
    return int(ended.value.code or 0), out.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_in: WriteTiny) -> Path:
    """Folder of a tiny sweep of which every unit is computed; not to be changed."""
    folder = tmp_path_factory.mktemp("verify")
    run = Run(load_config([tiny_in(folder)], []))
    run.compute(*run.plan.units.values())
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, tiny_in: WriteTiny) -> Run:
    """A copy of the finished sweep."""
    for name in ("data", "store"):
        shutil.copytree(finished / name, tmp_path / name)
    return Run(load_config([tiny_in(tmp_path)], []))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_finished_run_is_verified_and_every_unit_repeats_bit_for_bit(run: Run) -> None:
    before = contents(run.store.root)
    code, text = run.verify("--all")
    assert code == 0
    assert text.splitlines()[1:] == ["recomputed: 7 units compared bit for bit, 0 within 0.02",
                                     "verified"]  # fmt: skip
    size = sum(len(content) for _, content in before.values()) / 1e6
    files = f"{len(before)} files, {size:.1f} MB"
    assert text.splitlines()[0] == f"tiny: 7 finished units checked, {files}"
    assert contents(run.store.root) == before


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


def flip(name: str) -> Change:
    def change(run: Run, unit: PlannedUnit) -> None:
        content = bytearray(run.path(unit, name).read_bytes())
        content[len(content) * 2 // 3] ^= 1
        run.path(unit, name).write_bytes(content)

    return change


def truncate(name: str, fit: bool = False) -> Change:
    def change(run: Run, unit: PlannedUnit) -> None:
        path = run.path(unit, name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        if fit:
            run.fit_digest(unit, name)

    return change


def edit_history(edit: Callable[[list[str]], list[str]]) -> Change:
    """Change the lines of metrics.jsonl, and make the digest fit."""

    def change(run: Run, unit: PlannedUnit) -> None:
        path = run.path(unit, "metrics.jsonl")
        path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))
        run.fit_digest(unit, "metrics.jsonl")

    return change


def forge(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda run, unit: run.forge(unit, change)


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


def mark(state: str, rows: str) -> Callable[[dict[str, torch.Tensor]], object]:
    """Say that a state was trained on an image of a set."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"trained_on/{state}"][tensors[f"rows/{rows}"][0]] = True

    return change


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


def set_metric(name: str, value: float) -> Change:
    return forge(lambda record: record["metrics"].update({name: value}))


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


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"datasets": [], "units": []}', "\x00"])
@pytest.mark.parametrize("name", ["plan.json", "config.yaml"])
def test_a_damaged_run_folder_is_bad_input(content: str, name: str, run: Run) -> None:
    (run.folder / name).write_text(content)
    code, text = run.verify()
    assert code == 2 and text.startswith("error: ")


def test_what_is_no_finished_run_or_no_option_is_bad_input(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usweep("verify", tmp_path / "nothing")[0] == 2
    assert run.verify("--sample", -1)[0] == 2
    assert run.verify("--device", "tpu")[0] == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, text = run.verify("--device", "cuda")
    assert code == 2 and "torch sees no GPU" in text
    shutil.rmtree(run.store.root)
    code, text = run.verify()
    assert code == 2 and f"no unit of tiny is in {run.store.root}" in text


def test_unfinished_units_are_counted_and_no_problem(run: Run) -> None:
    gone = [unit for unit in run.plan.units.values() if unit.forget_ratio == 0.1]
    for unit in gone:
        shutil.rmtree(run.store.folder(unit.kind, unit.key))
    code, text = run.verify("--sample", 1)
    assert code == 0
    assert text.startswith("tiny: 4 finished units checked")
    assert "3 units are not finished, which is no problem\n" in text
    _, text = run.verify("--sample", 0, "--json")
    assert json.loads(text)["units"] == {"finished": 4, "unfinished": [u.label for u in gone]}


def test_a_unit_that_did_not_converge_is_verified_too(tmp_path: Path, tiny_in: WriteTiny) -> None:
    cap = "datasets.digits.neutralization.max_epochs=1"
    run = Run(load_config([tiny_in(tmp_path)], [cap]))
    run.compute(run.unit("original"), run.unit("two_stage"))
    unit = run.unit("two_stage")
    assert run.store.read_record(unit.kind, unit.key)["outcome"] == "not_converged"
    code, text = run.verify("--all")
    assert code == 0 and "2 units compared bit for bit" in text
    # A unit that stopped after stage 1 cannot pass for one that did not.
    run.forge(unit, lambda record: record.update(outcome="done"))
    assert run.flaws("--sample", 0) == {(unit.label, "record.json")}


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


def test_a_plan_that_specifies_a_unit_otherwise_is_a_problem_but_no_damage(run: Run) -> None:
    path = run.folder / "plan.json"
    plan = json.loads(path.read_text())
    plan["datasets"][0]["settings"]["training"]["learning_rate"] = 0.5
    path.write_text(json.dumps(plan))
    code, text = run.verify("--all", "--set-aside")
    assert code == 1 and text.splitlines()[-1] == "NOT verified: 7 problems"
    assert text.count("record.json: plan.json specifies the unit otherwise: training\n") == 7
    assert all(run.store.has(unit.kind, unit.key) for unit in run.plan.units.values())


@pytest.mark.parametrize("problem", ["unreadable", "changed"])
def test_without_the_data_set_files_are_checked_and_the_run_is_not_verified(
    problem: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*arguments: object, **options: object) -> None:
        raise DatasetError("no such\nfiles")

    def changed(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(prepare(*arguments, **options), fingerprint="0" * 64)

    monkeypatch.setattr(verify, "prepare", unreadable if problem == "unreadable" else changed)
    unit = run.unit("scratch")
    run.forge_tensors(unit, "outputs.safetensors", mark("scratch", "forget"))
    code, text = run.verify()
    assert code == 1
    what = "no such files" if problem == "unreadable" else "its files have changed since"
    assert f"data set digits: prepared data: {what}" in text
    assert f"{unit.label}: outputs.safetensors: trained_on/scratch holds 1 images" in text
    assert "7 units: its data set cannot be used: not recomputed\n" in text
    assert text.splitlines()[-1] == "NOT verified: 2 problems"


def test_json_says_what_the_text_says(run: Run) -> None:
    unit = run.unit("scratch")
    flip("outputs.safetensors")(run, unit)
    code, text = run.verify("--json", "--all", "--set-aside", "--seed", 3)
    found = json.loads(text)
    assert code == 1 and found["verified"] is False
    (problem,) = found["problems"]
    assert (problem["unit"], problem["key"]) == (unit.label, unit.key)
    assert problem["file"] == "outputs.safetensors" and "recorded" in problem["what"]
    assert list(found["set_aside"]) == [unit.label]
    assert (found["seed"], found["tolerance"]) == (3, TOLERANCE)
    assert len(found["recomputed"]) == 6
    first = found["recomputed"][0]
    assert (first["device"], first["loosened_by"], first["same"]) == ("cpu", [], True)


def test_a_pipe_gets_the_result_alone_and_a_terminal_a_display(run: Run) -> None:
    command = [sys.executable, "-m", "sweep", "verify", str(run.folder), "--sample", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3 and done.stdout.endswith("\nverified\n")
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal)
        assert verify_run(run.folder, Options(sample=1), console).problems == []
        assert isinstance(console.file, io.StringIO)
        shown = console.file.getvalue()
        assert ("checking" in shown and "computing again" in shown) is is_terminal
        assert is_terminal or shown == ""
