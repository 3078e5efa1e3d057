"""A finished run, and hands to spoil it with."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from sweep.cli import main
from sweep.config import MODEL_STATES, ResolvedConfig
from sweep.files import file_digest, seal
from sweep.plan import Plan, PlannedUnit, make_plan
from sweep.provenance import Provenance
from sweep.run import prepare_datasets, write_run_folder
from sweep.store import Store
from sweep.worker import RunContext, Task, compute_and_publish
from unlearning.datasets import PreparedDataset, prepare

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


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


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


def mark(state: str, rows: str) -> Callable[[dict[str, torch.Tensor]], object]:
    """Say that a state was trained on an image of a set."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"trained_on/{state}"][tensors[f"rows/{rows}"][0]] = True

    return change


def set_metric(name: str, value: float) -> Change:
    return forge(lambda record: record["metrics"].update({name: value}))
