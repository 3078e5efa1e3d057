"""`usweep verify`: it finds nothing where nothing is wrong, and says what it looked at."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from spoiled_run import (
    Run,
    WriteTiny,
    contents,
    flip,
    mark,
    usweep,
)

from sweep import verify
from sweep.config import load_config
from sweep.recompute import (
    TOLERANCE,
)
from sweep.verify import Options, verify_run
from unlearning.datasets import prepare
from unlearning.errors import DatasetError


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
