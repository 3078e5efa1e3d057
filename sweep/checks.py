"""What `usweep verify` asks of a finished unit without computing it again: its files, its rows."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sweep.artifacts import model_file, read_tensors
from sweep.errors import DamagedError
from sweep.files import read_bounded
from sweep.plan import Plan, PlannedUnit
from sweep.store import METRICS, OUTPUTS, RECORD, Record, Store
from unlearning.datasets import PreparedDataset
from unlearning.splits import Rows, draw_forget_set, draw_split
from unlearning.unit import UnitSpec, spec_key

# The only set on whose images a state's loss may have been computed.
TRAINED_ON = {
    "original": "train",
    "scratch": "retain",
    "neutralized": "forget",
    "retrained": "retain",
}


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    file: str
    what: str


def guarded(check: Iterator[Finding], file: str) -> list[Finding]:
    """All that a check finds; content that stops it is a finding too, of `file` if none is named.

    Catches everything: a record that was forged and sealed again can hold anything.
    """
    found = []
    try:
        for finding in check:
            found.append(finding)
    except DamagedError as error:
        found.append(Finding(error.path.name, problem_of(error)))
    except Exception as error:
        found.append(Finding(file, f"cannot be checked ({type(error).__name__}: {error})"))
    return found


def problem_of(error: DamagedError) -> str:
    """What is wrong, without what `usweep run` would do: it looks at fewer files than this."""
    return error.problem.partition("; the same `usweep run`")[0]


def check_files(store: Store, unit: PlannedUnit, record: Record) -> Iterator[Finding]:
    """Every file that the record names is there with its digest, and no other file is."""
    files = record["files"]
    present = set(os.listdir(store.folder(unit.kind, unit.key))) - {RECORD}
    for name in sorted(present - files.keys()):
        yield Finding(name, "the record does not name this file")
    due = {METRICS, OUTPUTS} | ({model_file("original")} if unit.kind == "original" else set())
    for name in sorted(due - files.keys()):
        yield Finding(name, "the record does not name it, but every such unit has it")
    for name in files:
        if name not in present:
            yield Finding(name, "missing")
            continue
        try:
            store.checked_file(unit.kind, unit.key, name)
        except DamagedError as error:
            yield Finding(name, problem_of(error))
        except OSError as error:
            yield Finding(name, f"cannot be read ({error.strerror})")


def check_spec(unit: PlannedUnit, record: Record) -> Iterator[Finding]:
    """The key is the recorded specification's."""
    if spec_key(record["spec"]) != unit.key:
        yield Finding(RECORD, "its specification does not have the unit's key")


def check_planned_spec(spec: UnitSpec, record: Record) -> Iterator[Finding]:
    """The plan says the same as the record, whatever recipe each of them is of.

    A record whose specification has its key is not damaged; then the plan is another one's.
    """
    recorded, planned = record["spec"], spec.to_json()
    names = sorted((recorded.keys() | planned.keys()) - {"recipe"})
    other = [name for name in names if recorded.get(name) != planned.get(name)]
    if other:
        yield Finding(RECORD, f"plan.json specifies the unit otherwise: {', '.join(other)}")


def check_history(folder: Path, plan: Plan, unit: PlannedUnit, record: Record) -> Iterator[Finding]:
    """Every epoch of every state is in METRICS once and in order, and no other one."""
    training = record["training"]
    states = [unit.kind] if unit.kind != "two_stage" else ["neutralized", "retrained"]
    if record["outcome"] == "not_converged":
        states = states[:1]
    if list(training) != states:
        yield Finding(RECORD, f"holds trainings of {_list(training)}, where {_list(states)} is due")
        return
    neutralization = plan.datasets[unit.dataset].settings.neutralization
    for state, part in training.items():
        capped = state == "neutralized"
        most = neutralization.max_epochs if capped else plan.epochs(unit)
        if not (0 if capped else most) <= part["epochs"] <= most:
            yield Finding(RECORD, f"{part['epochs']} epochs of {state}, where {most} are planned")
            return  # also since a list of a forged number of epochs could fill the memory
    due = [
        (state, epoch)
        for state, part in training.items()
        for epoch in range(0 if state == "neutralized" else 1, part["epochs"] + 1)
    ]
    lines = [json.loads(line) for line in read_bounded(folder / METRICS).splitlines()]
    found = [(line["state"], line["epoch"]) for line in lines]
    times = Counter(found)
    problems = {
        "missing": [entry for entry in due if not times[entry]],
        "there more than once": [entry for entry in times if times[entry] > 1],
        "not one of this training": [entry for entry in times if entry not in set(due)],
    }
    for what, entries in problems.items():
        if entries:
            (state, epoch), more = entries[0], len(entries) - 1
            yield Finding(METRICS, f"epoch {epoch} of {state} is {what}" + and_more(more))
    if found != due and not any(problems.values()):
        yield Finding(METRICS, "its epochs are not in order")


def check_forgetting(
    store: Store, spec: UnitSpec, record: Record, data: PreparedDataset | None
) -> Iterator[Finding]:
    """The sets are those that the data set and the seeds give, and no state saw a wrong image.

    Args:
        data: None where it cannot be read; the recorded sets are then held against themselves.
    """
    tensors = read_tensors(store, spec.kind, record["key"], OUTPUTS)
    names = ["train"] if spec.kind == "original" else ["retain", "forget"]
    names += ["validation", "test"]
    recorded = {name: tensors[f"rows/{name}"] for name in names}
    sets = recorded
    if data is not None:
        train = draw_split(data, spec.settings.split).train
        sets = draw_sets(spec, data)
        yield from _compare_rows(recorded, sets, train)
    due = {state for state, part in record["training"].items() if part["epochs"] > 0}
    masks = {name for name in tensors if name.startswith("trained_on/")}
    if masks != {f"trained_on/{state}" for state in due}:
        yield Finding(OUTPUTS, f"holds {_list(sorted(masks))}, but {_list(sorted(due))} trained")
    num_images = sum(len(rows) for rows in sets.values())
    for state in sorted(due):
        mask = tensors.get(f"trained_on/{state}")
        if mask is None:
            continue
        if mask.dtype != torch.bool or mask.shape != (num_images,):
            what = f"is {mask.dtype} {list(mask.shape)}, not one bool for each of {num_images}"
            yield Finding(OUTPUTS, f"trained_on/{state} {what} images")
            continue
        if not mask.any():
            yield Finding(OUTPUTS, f"trained_on/{state} holds no image")
        for name, rows in sets.items():
            count = int(mask[rows].sum())
            if count and name != TRAINED_ON[state]:
                yield Finding(OUTPUTS, f"trained_on/{state} holds {count} images of the {name} set")


def draw_sets(spec: UnitSpec, data: PreparedDataset) -> dict[str, Rows]:
    """A unit's sets of rows, drawn anew; together they are the whole data set."""
    split = draw_split(data, spec.settings.split)
    rest = {"validation": split.validation, "test": split.test}
    if spec.forget_ratio is None:
        return {"train": split.train} | rest
    draw = draw_forget_set(split.train, spec.forget_ratio, spec.seeds.forget)
    return {"retain": draw.retain, "forget": draw.forget} | rest


def _compare_rows(
    recorded: dict[str, Rows], drawn: dict[str, Rows], train: Rows
) -> Iterator[Finding]:
    if "forget" in recorded:
        forget, retain = recorded["forget"], recorded["retain"]
        common = int(torch.isin(forget, retain).sum())
        if common:
            yield Finding(OUTPUTS, f"rows/forget and rows/retain have {common} images in common")
        if not same_bits(torch.cat([forget, retain]).sort().values, train):
            yield Finding(OUTPUTS, "rows/forget and rows/retain together are not the training set")
    for name, rows in recorded.items():
        if not same_bits(rows, drawn[name]):
            what = "is not what is drawn from the data set and the seeds"
            yield Finding(OUTPUTS, f"rows/{name} {what}")


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors on the CPU are one and the same; a NaN equals itself, 0 is not -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))


def and_more(count: int) -> str:
    """The end of a line that names the first of several."""
    return f" (and {count} more)" if count else ""


def _list(names: object) -> str:
    return ", ".join(map(str, names)) or "nothing"  # type: ignore[call-overload]
