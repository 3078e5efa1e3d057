"""`usweep verify`: is the store what was written, was the right set forgotten, does it repeat."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group
from rich.progress import track
from rich.text import Text

from sweep.checks import (
    Finding,
    check_files,
    check_forgetting,
    check_history,
    check_planned_spec,
    check_spec,
    guarded,
    problem_of,
)
from sweep.config import ResolvedConfig, load_config
from sweep.errors import DamagedError, one_line
from sweep.plan import Plan, PlannedUnit, read_plan
from sweep.recompute import TOLERANCE, Recomputation, draw_sample, recompute
from sweep.run import CONFIG_FILE, PLAN_FILE
from sweep.store import METRICS, OUTPUTS, RECORD, Record, Store
from unlearning.datasets import PreparedDataset, prepare
from unlearning.errors import ConfigError, UnlearningError
from unlearning.unit import RECIPES, UnitSpec


@dataclass(frozen=True)
class Options:
    """How much to look at, and where."""

    sample: int | None = 2  # units to compute again; None: all
    seed: int = 0  # of the sample
    device: str | None = None  # None: where the unit was computed, as far as that is here
    set_aside: bool = False  # damaged units, so that the next run computes them again


@dataclass(frozen=True)
class Problem:
    """One line of the result: what is wrong with which file of which unit."""

    unit: str  # its label
    key: str | None  # None: of a whole data set
    file: str
    what: str


@dataclass
class Verification:
    """What was looked at, and what was found."""

    run: str
    seed: int
    finished: int = 0
    unfinished: list[str] = field(default_factory=list)  # labels
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    recomputed: list[Recomputation] = field(default_factory=list)
    not_recomputed: dict[str, list[str]] = field(default_factory=dict)  # reason -> labels
    set_aside: dict[str, str] = field(default_factory=dict)  # label -> folder

    def add(self, unit: PlannedUnit | str, findings: Iterable[Finding]) -> None:
        """Take up what was found of a unit, or of something else, each as one printable line."""
        label, key = (unit, None) if isinstance(unit, str) else (unit.label, unit.key)
        self.problems += [Problem(label, key, _line(f.file), _line(f.what)) for f in findings]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "run": self.run,
            "verified": not self.problems,
            "problems": [vars(problem) for problem in self.problems],
            "units": {"finished": self.finished, "unfinished": self.unfinished},
            "files": self.files,
            "bytes": self.bytes,
            "seed": self.seed,
            "tolerance": TOLERANCE,
            "recomputed": [
                {
                    "unit": again.unit,
                    "device": again.device,
                    "bit_for_bit": not again.loosened_by,
                    "loosened_by": again.loosened_by,
                    "same": not again.findings,
                }
                for again in self.recomputed
            ],
            "not_recomputed": self.not_recomputed,
            "set_aside": self.set_aside,
        }


def verify_run(run_folder: Path, options: Options, console: Console) -> Verification:
    """Check the finished units of a run; nothing in the store is changed unless asked for.

    Raises:
        ConfigError: not a run's folder or a damaged one, a device that is not there, or a run of
            which nothing is finished, since that nothing is wrong with nothing says nothing.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch sees no GPU; allowed: cpu")
    plan = read_plan(run_folder / PLAN_FILE)
    config = load_config([run_folder / CONFIG_FILE], [])
    store = Store(Path(config.sweep.output.store))
    specs = _specs(plan, run_folder / PLAN_FILE)
    result = Verification(plan.name, options.seed)
    units = [unit for unit in plan.units.values() if store.has(unit.kind, unit.key)]
    held = {unit.key for unit in units}
    result.unfinished = [unit.label for key, unit in plan.units.items() if key not in held]
    if not units:
        raise ConfigError(f"nothing to verify: no unit of {plan.name} is in {store.root}")
    datasets = _open_datasets({unit.dataset for unit in units}, plan, config, result)
    sound: dict[str, Record] = {}
    for unit in track(units, "checking", **_display(console)):
        damaged, record = _check_unit(store, plan, unit, specs[unit.key], datasets, result)
        if damaged and options.set_aside:
            _set_aside(store, unit, result)
        elif record is not None and not damaged:
            sound[unit.key] = record
    if not result.finished:
        raise ConfigError(f"nothing to verify: {store.root} was emptied meanwhile")
    _recompute(store, plan, sound, datasets, options, result, console)
    return result


def _specs(plan: Plan, path: Path) -> dict[str, UnitSpec]:
    try:
        return {unit.key: plan.spec(unit) for unit in plan.units.values()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged; the same `usweep run` writes it again") from error


def _display(console: Console) -> dict[str, Any]:
    """A progress bar that leaves nothing behind, and is not there without a terminal."""
    return {"console": console, "transient": True, "disable": not console.is_terminal}


def _open_datasets(
    names: set[str], plan: Plan, config: ResolvedConfig, result: Verification
) -> dict[str, PreparedDataset]:
    """The data sets that can be read and are those of the plan, each byte of them checked."""
    opened, data = {}, config.sweep.data
    for name in sorted(names):
        planned = plan.datasets[name]
        roots = Path(data.root), data.prepared_root
        try:
            dataset = prepare(planned.settings.source, *roots, verify=True)
        except (UnlearningError, OSError) as error:
            problem = str(error)
        else:
            if dataset.fingerprint == planned.fingerprint:
                opened[name] = dataset
                continue
            problem = "its files have changed since the run was planned"
        result.add(f"data set {name}", [Finding("prepared data", problem)])
    return opened


def _check_unit(
    store: Store,
    plan: Plan,
    unit: PlannedUnit,
    spec: UnitSpec,
    datasets: dict[str, PreparedDataset],
    result: Verification,
) -> tuple[bool, Record | None]:
    """Whether a unit is damaged, and its record if it is that of the plan's unit.

    What is found goes into the result.
    """
    try:
        record = store.read_record(unit.kind, unit.key)
    except (DamagedError, RecursionError) as error:
        if not store.has(unit.kind, unit.key):  # set aside by a sweep that is under way
            result.unfinished.append(unit.label)
            return False, None
        what = problem_of(error) if isinstance(error, DamagedError) else "damaged"
        result.finished += 1
        result.add(unit, [Finding(RECORD, what)])
        return True, None
    damage = guarded(check_files(store, unit, record), RECORD)
    damage += guarded(check_spec(unit, record), RECORD)
    bad = {finding.file for finding in damage}
    folder = store.folder(unit.kind, unit.key)
    if METRICS not in bad:
        damage += guarded(check_history(folder, plan, unit, record), METRICS)
    other = [] if RECORD in bad else guarded(check_planned_spec(spec, record), RECORD)
    forgetting = []
    if OUTPUTS not in bad:
        data = datasets.get(unit.dataset)
        forgetting = guarded(check_forgetting(store, spec, record, data), OUTPUTS)
    result.finished += 1
    result.add(unit, damage + other + forgetting)
    with suppress(OSError):  # set aside by a sweep that is under way
        sizes = [entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder)]
        result.files += len(sizes)
        result.bytes += sum(sizes)
    return bool(damage), None if other else record


def _set_aside(store: Store, unit: PlannedUnit, result: Verification) -> None:
    try:
        result.set_aside[unit.label] = str(store.set_aside(unit.kind, unit.key))
    except OSError as error:  # what was found is still to be told
        result.add(unit, [Finding(RECORD, f"cannot be set aside ({error.strerror})")])


def _recompute(
    store: Store,
    plan: Plan,
    sound: dict[str, Record],
    datasets: dict[str, PreparedDataset],
    options: Options,
    result: Verification,
    console: Console,
) -> None:
    """Draw the sample from the units that can be computed again, and compute it."""
    if options.sample == 0:
        return
    possible = []
    for key, record in sound.items():
        unit = plan.units[key]
        reason = _obstacle(unit, record, sound, datasets)
        if reason is None:
            possible.append(unit)
        else:
            result.not_recomputed.setdefault(reason, []).append(unit.label)
    count = len(possible) if options.sample is None else options.sample
    sample = draw_sample(possible, count, options.seed)
    for unit in track(sample, "computing again", **_display(console)):
        again = recompute(store, unit, datasets[unit.dataset], options.device)
        result.recomputed.append(again)
        result.add(unit, again.findings)


def _obstacle(
    unit: PlannedUnit,
    record: Record,
    sound: dict[str, Record],
    datasets: dict[str, PreparedDataset],
) -> str | None:
    recipe, this = record["spec"].get("recipe"), RECIPES[unit.kind]
    if recipe != this:
        return _line(f"computed with recipe {recipe}, this code has {this}")
    if unit.dataset not in datasets:
        return "its data set cannot be used"
    if not set(unit.parents) <= sound.keys():
        return "its original is damaged or not in the store"
    return None


def describe_verification(result: Verification) -> Group:
    """The result for people: a line a problem, what was checked, and the verdict."""
    lines = [Text(one_line(f"{p.unit}: {p.file}: {p.what}"), style="red") for p in result.problems]
    for label, folder in result.set_aside.items():
        lines.append(
            Text(one_line(f"{label}: set aside in {folder}; the next `usweep run` computes it"))
        )
    for reason, labels in result.not_recomputed.items():
        lines.append(Text(one_line(f"{_units(labels)}: {reason}: not recomputed")))
    loosened: dict[str, list[str]] = {}
    for again in result.recomputed:
        if again.loosened_by:
            loosened.setdefault(", ".join(again.loosened_by), []).append(again.unit)
    for reason, labels in loosened.items():
        what = f"accuracies compared within {TOLERANCE:g}, not bits, since {reason}"
        lines.append(Text(one_line(f"{_units(labels)}: {what}")))
    checked = f"{result.files} files, {result.bytes / 1e6:.1f} MB"
    lines.append(
        Text(f"{one_line(result.run)}: {result.finished} finished units checked, {checked}")
    )
    if result.unfinished:
        lines.append(Text(f"{len(result.unfinished)} units are not finished, which is no problem"))
    bits = sum(not again.loosened_by for again in result.recomputed)
    within = len(result.recomputed) - bits
    lines.append(
        Text(f"recomputed: {bits} units compared bit for bit, {within} within {TOLERANCE:g}")
    )
    count = len(result.problems)
    problems = "1 problem" if count == 1 else f"{count} problems"
    lines.append(Text(f"NOT verified: {problems}", "red") if count else Text("verified", "green"))
    return Group(*lines)


def _units(labels: list[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{len(labels)} units"


def _line(text: str) -> str:
    """One line that every terminal can show, whatever a file is named or an error says."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
