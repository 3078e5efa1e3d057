"""The table of all units as compact data, which the page's script turns into rows."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from sweep.plan import TRAINED_STATES
from sweep.report.aggregate import PRINCIPAL_STATES
from sweep.report.overview import KIND_WORDS

if TYPE_CHECKING:
    from sweep.plan import Plan, PlannedUnit

MAX_CAUSE = 300  # characters in a row; the section on failures has more
_FINAL = "retrained or scratch"
_ACCURACIES = {"test": "test accuracy (%)", "forget": "accuracy on the forget set (%)"}


@dataclass(frozen=True)
class UnitColumn:
    """A column: its values are numbers, or words that are listed once and named by their index."""

    name: str
    title: str
    group: str = ""  # head over several columns
    numeric: bool = False
    decimals: int = 0
    is_filter: bool = False


COLUMNS = (
    UnitColumn("label", "unit"),
    UnitColumn("outcome", "outcome", is_filter=True),
    UnitColumn("dataset", "data set", is_filter=True),
    UnitColumn("kind", "kind", is_filter=True),
    UnitColumn("ratio", "forget ratio (%)", numeric=True, decimals=-1, is_filter=True),
    UnitColumn("strategy", "strategy", is_filter=True),
    UnitColumn("seeds", "seeds", is_filter=True),
    *(
        UnitColumn(f"{split}_{state}", title, group, numeric=True, decimals=2)
        for split, group in _ACCURACIES.items()
        for state, title in (
            ("original", "original"),
            ("neutralized", "neutralized"),
            ("final", _FINAL),
        )
    ),
    UnitColumn("best_epoch", "best epoch", numeric=True),
    UnitColumn("samples", "samples", numeric=True),
    UnitColumn("seconds", "seconds", numeric=True, decimals=2),
    UnitColumn("device", "device"),
    UnitColumn("commit", "commit"),
)


def units_data(plan: "Plan", frame: pd.DataFrame, folder: Path, store_root: Path) -> dict[str, Any]:
    """Everything that the table of units shows.

    Returns:
        `columns` as of COLUMNS; `words`, which rows name by their index; `rows`, one a unit in the
        plan's order: the columns' values, then kind and key of the record or null, then the cause;
        `records`, the way from the page to the store.
    """
    states: dict[str, dict[str, Mapping[str, Any]]] = {}
    # A unit that several data sets share has rows for each of them; they say the same.
    unique = frame.drop_duplicates(["unit", "state"])
    for row in unique.to_dict("records"):
        states.setdefault(str(row["unit"]), {})[str(row["state"])] = {
            str(name): None if pd.isna(value) else value for name, value in row.items()
        }
    words: dict[str, int] = {}
    rows = []
    for unit in plan.units.values():
        values = _values(unit, states[unit.key])
        cells = [_coded(values[column.name], column, words) for column in COLUMNS]
        first = next(iter(states[unit.key].values()))
        key = unit.key if first["record"] else None
        rows.append([*cells, key, _word(str(first["cause"] or "")[:MAX_CAUSE], words)])
    return {
        "columns": [asdict(column) for column in COLUMNS],
        "words": list(words),
        "rows": rows,
        "records": way(folder, store_root),
    }


def way(folder: Path, target: Path) -> str:
    """The relative address of `target` for a page in `folder`, wherever the two really are."""
    path = os.path.relpath(target.resolve(), folder.resolve())
    return quote(path)  # also quotes ":", so that no name can pass for a scheme


def _word(text: str, words: dict[str, int]) -> int:
    return words.setdefault(text, len(words))


def _coded(value: object, column: UnitColumn, words: dict[str, int]) -> object:
    if not column.numeric:
        return _word(str(value or ""), words)
    if value is None:
        return None
    rounded = round(float(value), 6 if column.decimals < 0 else column.decimals)  # type: ignore[arg-type]
    return int(rounded) if rounded == int(rounded) else rounded


def _values(unit: "PlannedUnit", states: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """A unit's cells by the names of the columns; None where nothing was measured."""
    principal = PRINCIPAL_STATES[unit.kind]
    trained = [states[state] for state in TRAINED_STATES[unit.kind] if state in states]
    first, own = next(iter(states.values())), states.get(principal, {})
    seeds = (unit.seeds.training, unit.seeds.forget, unit.seeds.unlearning)
    values: dict[str, object] = {
        "label": unit.label,
        "outcome": str(first["outcome"]).replace("_", " "),
        "dataset": ", ".join((unit.dataset, *unit.also_in)),
        "kind": KIND_WORDS[unit.kind],
        "ratio": None if unit.forget_ratio is None else 100 * unit.forget_ratio,
        "strategy": unit.strategy,
        "seeds": "/".join(map(str, seeds if len(set(seeds)) > 1 else seeds[:1])),
        "best_epoch": own.get("best_epoch"),
        "samples": _total(row["samples"] for row in trained),
        "seconds": _total(row["seconds"] for row in trained),
        **{name: first[name] for name in ("device", "commit")},
    }
    final = {} if principal == "original" else own
    shown = {name: states.get(name, {}) for name in ("original", "neutralized")} | {"final": final}
    for split in _ACCURACIES:
        for name, row in shown.items():
            accuracy = row.get(f"{split}_accuracy")
            values[f"{split}_{name}"] = None if accuracy is None else 100 * accuracy
    return values


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) if known else None
