"""From records in the store to one tidy frame; no other number of the report is from a record.

One row per unit and model state. A unit without a usable record still has one row, with the
state that it was to produce and nothing measured, so that no planned unit can vanish from a
count. Accuracies are in [0, 1], times in seconds, epochs count from 1 (0 in `first_epoch_*`:
already so before the first epoch).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweep.errors import StoreError
from sweep.plan import ALL_STATES, TRAINED_STATES
from sweep.report.paper_values import DISPLAY_NAMES, PAPER_STRATEGY, RIVAL_STRATEGY

if TYPE_CHECKING:
    from sweep.failures import Failure
    from sweep.plan import Plan, PlannedUnit
    from sweep.store import Store

OUTCOMES = ("done", "not_converged", "failed", "blocked", "missing", "damaged")
STAGES = {"neutralized": "after stage 1", "retrained": "after stage 2"}
PRINCIPAL_STATES = {"original": "original", "two_stage": "retrained", "scratch": "scratch"}

# The seeds that decide a unit's numbers, by kind; the rest is the same for all of that kind.
SEEDS = {
    "original": ("training_seed",),
    "scratch": ("training_seed", "forget_seed"),
    "two_stage": ("training_seed", "forget_seed", "unlearning_seed"),
}
PAIR = SEEDS["scratch"]  # what a two-stage unit shares with its scratch model, beside the ratio
SPLITS = (
    "test",
    "validation",
    "retain",
    "forget",
    "forget_horizontal_flip",
    "forget_vertical_flip",
    "forget_center_crop",
    "train",
)
_TEXT = (
    *("unit", "kind", "dataset", "state", "outcome", "cause", "strategy"),
    *("device", "host", "commit", "versions", "record"),
)
_COUNTS = ("num_classes", "num_train", "num_forget", "num_retain")
_EPOCHS = ("best_epoch", "epochs", "first_epoch_at_random", "first_epoch_at_zero", "samples")
COLUMNS = (
    *("unit", "kind", "dataset", "state", "outcome", "cause", "forget_ratio", "strategy"),
    *("training_seed", "forget_seed", "unlearning_seed", *_COUNTS),
    *(f"{split}_accuracy" for split in SPLITS),
    *(*_EPOCHS, "seconds", "device", "host", "commit", "versions", "record"),
)

LARGEST = 2**53  # counts and seconds beyond it are damage, and would overflow in sums

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One data set of the sweep, as the tables name it."""

    dataset: str  # the name in the configuration
    label: str
    reader: str  # decides which of the paper's columns stands beside it
    chance: float  # 1 / number of classes; nan while that is unknown
    max_epochs: int  # cap on the epochs of stage 1
    target: str  # accuracy on the forget set at which stage 1 stops: "zero" or "random"


@dataclass(frozen=True)
class Results:
    """What tables, claims and figures are made of."""

    frame: pd.DataFrame  # as of `results_frame`
    columns: tuple[Column, ...]  # the data sets, in the paper's order
    strategies: tuple[str, ...]


@dataclass(frozen=True)
class Trials:
    """The finished rows of one state, and how many units ended how, planned ones included."""

    rows: pd.DataFrame
    counts: Mapping[str, int]

    @property
    def planned(self) -> int:
        """Number of units that the sweep is to have here, finished or not."""
        return sum(self.counts.values())


def _planned_row(unit: "PlannedUnit", outcome: str, cause: str, num_classes: int | None) -> Row:
    return {
        "unit": unit.key,
        "kind": unit.kind,
        "dataset": unit.dataset,
        "state": PRINCIPAL_STATES[unit.kind],
        "outcome": outcome,
        "cause": cause,
        "forget_ratio": math.nan if unit.forget_ratio is None else unit.forget_ratio,
        "strategy": unit.strategy,
        "training_seed": unit.seeds.training,
        "forget_seed": unit.seeds.forget,
        "unlearning_seed": unit.seeds.unlearning,
        "num_classes": num_classes,
    }


def _accuracy(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{key} is {value!r}, not an accuracy in [0, 1]")
    return float(value)


def _number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise ValueError(f"{key} is {value!r}, not a number of 0 or more")
    return value


def _count(value: object, key: str) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"{key} is {value!r}, not a count")
    return value


def _state_row(record: Mapping[str, Any], kind: str, state: str) -> Row:
    """What one record says of one state.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the record is not what a record is.
    """
    row: Row = {"state": state}
    for split in SPLITS:
        key = f"{state}/{split}/accuracy"
        if key in record["metrics"]:
            row[f"{split}_accuracy"] = _accuracy(record["metrics"][key], key)
    if state in TRAINED_STATES[kind]:
        training = record["training"][state]
        row |= {name: _count(training[name], name) for name in ("epochs", "samples")}
        row["seconds"] = _number(training["seconds"], "seconds")
        if training.get("best_epoch") is not None:
            row["best_epoch"] = _count(training["best_epoch"], "best_epoch")
    if state == "neutralized":
        for name in ("first_epoch_at_random", "first_epoch_at_zero"):
            value = record["neutralization"][name]
            row[name] = None if value is None else _count(value, name)
    row["num_classes"] = _count(record["num_classes"], "num_classes")
    for split in ("train", "forget", "retain"):
        if split in record["counts"]:
            row[f"num_{split}"] = _count(record["counts"][split], f"counts.{split}")
    return row


def _recorded_rows(unit: "PlannedUnit", record: Mapping[str, Any], path: str) -> list[Row]:
    """The rows of a record, one a state; raises as `_state_row` does."""
    for name, expected in (("key", unit.key), ("kind", unit.kind)):
        if record[name] != expected:
            raise ValueError(f"{name} is {record[name]!r} where {expected!r} belongs")
    outcome = record["outcome"]
    if outcome not in ("done", "not_converged"):
        raise ValueError(f"outcome is {outcome!r}")
    if not isinstance(record["metrics"], Mapping):
        raise ValueError("metrics is not a table of accuracies by name")
    provenance = record["provenance"]
    commit = provenance.get("commit")
    if commit is not None and provenance.get("dirty"):
        commit = f"{commit}+dirty"
    measured = {key.split("/")[0] for key in record["metrics"]}
    principal = PRINCIPAL_STATES[unit.kind]
    if outcome == "done" and f"{principal}/test/accuracy" not in record["metrics"]:
        raise ValueError(f"no {principal}/test/accuracy although the unit is done")
    shared = _planned_row(unit, outcome, "", None)
    shared |= {"commit": commit, "record": path, "versions": _versions(provenance)}
    shared |= {name: provenance.get(name) for name in ("device", "host")}
    states = [state for state in ALL_STATES if state in measured]
    if not states:
        raise ValueError("no accuracy of any state")
    return [shared | _state_row(record, unit.kind, state) for state in states]


def _versions(provenance: Mapping[str, Any]) -> str | None:
    """The packages that computed a unit, such as "python 3.11.7, torch 2.15.0"."""
    found = provenance.get("versions") or {}
    return ", ".join(f"{name} {found[name]}" for name in found) or None


def _unit_rows(unit: "PlannedUnit", store: "Store", num_classes: int | None) -> list[Row]:
    """The rows of a unit that has a record; a damaged one gives one row that says so."""
    path = f"{unit.kind}/{unit.key}/record.json"
    try:
        record = store.read_record(unit.kind, unit.key)
        return _recorded_rows(unit, record, path)
    except StoreError as error:
        cause = str(error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error.args[0]} is absent" if isinstance(error, KeyError) else str(error)
        cause = f"{path}: {what}"
    cause = " ".join(cause.split())
    return [_planned_row(unit, "damaged", cause, num_classes) | {"record": path}]


def _unrecorded_outcome(
    unit: "PlannedUnit", failures: "Mapping[str, Failure]", outcomes: Mapping[str, str]
) -> tuple[str, str]:
    """Outcome and cause of a unit that has no record."""
    if unit.key in failures:
        return "failed", failures[unit.key].cause
    for parent in unit.parents:
        if outcomes.get(parent) in ("failed", "blocked"):
            state = "failed" if outcomes[parent] == "failed" else "is blocked"
            return "blocked", f"needs {parent[:12]}, which {state}"
    return "missing", ""


def results_frame(plan: "Plan", store: "Store", failures: "Mapping[str, Failure]") -> pd.DataFrame:
    """Everything the report knows, one row per unit and state, in the plan's order.

    Raises nothing for a damaged record: its unit has the outcome "damaged", the cause names the
    file and what is wrong with it, and no number of it is taken.
    """
    rows: list[Row] = []
    outcomes: dict[str, str] = {}
    for unit in plan.units.values():
        num_classes = plan.datasets[unit.dataset].num_classes
        if store.has(unit.kind, unit.key):
            unit_rows = _unit_rows(unit, store, num_classes)
        else:
            outcome, cause = _unrecorded_outcome(unit, failures, outcomes)
            unit_rows = [_planned_row(unit, outcome, cause, num_classes)]
        outcomes[unit.key] = unit_rows[0]["outcome"]
        for dataset in (unit.dataset, *unit.also_in):
            rows.extend({**row, "dataset": dataset} for row in unit_rows)
    return tidy_frame(rows)


def _encodable(value: object) -> object:
    """The value without half characters, which a file name in an error's message can hold."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def tidy_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a frame with the columns and types of `COLUMNS`; absent values are null."""
    encodable = [{name: _encodable(value) for name, value in row.items()} for row in rows]
    frame = pd.DataFrame(encodable, columns=list(COLUMNS))
    text = dict.fromkeys(_TEXT, "str")
    whole = {
        name: "Int64"
        for name in (*_COUNTS, *_EPOCHS, "training_seed", "forget_seed", "unlearning_seed")
    }
    decimals = {name: "float64" for name in COLUMNS if name not in text and name not in whole}
    return frame.astype(text | whole | decimals)


def results_of(plan: "Plan", frame: pd.DataFrame) -> Results:
    """The frame with the sweep's data sets and strategies in the order of the tables.

    Data sets stand in the paper's order, those that the paper lacks after them; strategies begin
    with the paper's own and its rival.
    """
    order = list(DISPLAY_NAMES)
    columns = sorted(_columns(plan, frame), key=lambda column: _rank(column.reader, order))
    first = [PAPER_STRATEGY, RIVAL_STRATEGY]
    names = sorted(set(frame["strategy"].dropna()))
    strategies = sorted(names, key=lambda name: _rank(name, first))
    return Results(frame, tuple(columns), tuple(strategies))


def _rank(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _columns(plan: "Plan", frame: pd.DataFrame) -> list[Column]:
    readers = [dataset.reader for dataset in plan.datasets.values()]
    recorded = frame.groupby("dataset")["num_classes"].max()
    columns = []
    for name, dataset in plan.datasets.items():
        label = DISPLAY_NAMES.get(dataset.reader, name)
        if label != name and readers.count(dataset.reader) > 1:
            label = f"{label} ({name})"
        found = recorded.get(name)
        num_classes = dataset.num_classes or (None if found is None or pd.isna(found) else found)
        chance = math.nan if not num_classes else 1 / int(num_classes)
        stage_1 = dataset.settings.neutralization
        columns.append(
            Column(name, label, dataset.reader, chance, stage_1.max_epochs, stage_1.target)
        )
    return columns


def select(
    frame: pd.DataFrame,
    dataset: str,
    kind: str,
    state: str,
    strategy: str | None = None,
    ratios: Callable[[float], bool] | None = None,
) -> Trials:
    """The trials that one cell of a table is about; strategies are never pooled.

    Args:
        strategy: which one; needed where `kind` is "two_stage".
        ratios: which forget ratios; None is all of them.
    """
    assert (strategy is not None) == (kind == "two_stage")
    units = frame[(frame["dataset"] == dataset) & (frame["kind"] == kind)]
    if strategy is not None:
        units = units[units["strategy"] == strategy]
    if ratios is not None:
        units = units[units["forget_ratio"].map(ratios).astype(bool)]
    finished = units[(units["state"] == state) & (units["outcome"] == "done")]
    return Trials(finished, outcome_counts(units))


def outcome_counts(rows: pd.DataFrame) -> dict[str, int]:
    """Number of units by outcome; a unit counts once however many states it has rows for."""
    outcomes = Counter(dict(zip(rows["unit"], rows["outcome"], strict=True)).values())
    return {outcome: outcomes[outcome] for outcome in OUTCOMES}


def two_stage_cost(frame: pd.DataFrame) -> pd.DataFrame:
    """What each two-stage unit has spent: samples and seconds of stage 1 plus stage 2.

    One row per unit that has a record, in the form of a row of the frame with state "retrained".
    A unit that did not converge has spent stage 1 alone, which is a lower bound.
    """
    rows = frame[(frame["kind"] == "two_stage") & frame["state"].isin(["neutralized", "retrained"])]
    rows = rows[rows["outcome"].isin(["done", "not_converged"])]
    spent = rows.groupby("unit")[["samples", "seconds"]].sum(min_count=1)
    units = rows.drop_duplicates("unit").drop(columns=["samples", "seconds"])
    return units.merge(spent, left_on="unit", right_index=True).assign(state="retrained")


def paired(
    first: pd.DataFrame, second: pd.DataFrame, value: str, on: Sequence[str]
) -> pd.DataFrame:
    """`value` of the first rows beside that of the second, for the trials that both have.

    Args:
        on: what a pair shares beside the forget ratio, such as the seeds of a scratch model.

    Returns:
        Columns `forget_ratio`, all seeds in `on`, `first` and `second`.
    """
    keys = ["forget_ratio", *on]
    left = first[[*keys, value]].rename(columns={value: "first"})
    right = second[[*keys, value]].rename(columns={value: "second"})
    return left.merge(right, on=keys).dropna(subset=["first", "second"])
