"""A table as plain data: what each cell shows, and the same as named machine-readable values.

Every file format is rendered from this one structure, so they cannot disagree.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sweep.report.aggregate import Column, Results
from sweep.report.paper_values import PAPER_STRATEGY
from sweep.report.statistics import Summary

Value = float | int | str | None
DASH = "–"
RANGE_ABSENT = "no ratio of 1 to 10 % in this sweep"
SPREAD_NOTE = "± is the sample standard deviation over all trials of a cell, of all its ratios."

OUTCOME_WORDS = {
    "not_converged": "not converged",
    "failed": "failed",
    "blocked": "blocked",
    "missing": "missing",
    "damaged": "damaged",
}


@dataclass(frozen=True)
class Cell:
    """One cell: `lines` is what a reader sees, `values` the same for a machine."""

    lines: tuple[str, ...]
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Row:
    """One row of a section; `csv_only` where the page would grow too long with it."""

    label: str
    cells: tuple[Cell, ...]
    csv_only: bool = False


@dataclass(frozen=True)
class Section:
    """Rows that share their columns; a table may have several."""

    title: str
    corner: str  # what the rows are, such as "model"
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table of the report; `name` is that of its files."""

    name: str
    title: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Style:
    """How a quantity is written."""

    decimals: int = 2
    signed: bool = False
    unit: str = "%"  # for the csv column `unit`


PERCENT = Style()
POINTS = Style(signed=True, unit="percentage points")
EPOCHS = Style(decimals=1, unit="epochs")
SAMPLES = Style(decimals=0, unit="samples")
SECONDS = Style(unit="s")


def number(value: float, style: Style = PERCENT) -> str:
    """The value as text, with thousands separators; a dash where there is none."""
    if math.isnan(value):
        return DASH
    rounded = round(value, style.decimals) + 0.0  # adding 0.0 turns -0.0 into 0.0
    return f"{rounded:{'+' if style.signed and rounded else ''},.{style.decimals}f}"


def with_spread(summary: Summary, style: Style) -> str:
    """Mean ± sample standard deviation; the mean alone where there is one value."""
    text = number(summary.mean, style)
    spread = number(summary.sd, Style(style.decimals))
    return text if math.isnan(summary.sd) else f"{text} ± {spread}"


def unfinished(counts: Mapping[str, int], but: Collection[str] = ()) -> str:
    """The units that gave no number, in words: "2 not converged, 3 missing"; empty for none."""
    named = ((counts[name], word) for name, word in OUTCOME_WORDS.items() if name not in but)
    return ", ".join(f"{count} {word}" for count, word in named if count)


def strategy_label(strategy: str) -> str:
    """The strategy's name, the paper's own marked so."""
    return f"{strategy} (the paper's method)" if strategy == PAPER_STRATEGY else strategy


def labels_of(results: Results) -> tuple[str, ...]:
    """The data sets as column heads."""
    return tuple(column.label for column in results.columns)


def cell_keys(
    column: Column | None, state: str, quantity: str, strategy: str | None
) -> dict[str, Value]:
    """What a cell is about, for the csv; no column where it is an average over data sets."""
    return {
        "dataset": None if column is None else column.dataset,
        "strategy": strategy,
        "state": state,
        "quantity": quantity,
    }


def measured(
    summary: Summary,
    counts: Mapping[str, int],
    keys: Mapping[str, Value],
    style: Style = PERCENT,
    *,
    headline: str | None = None,
    details: tuple[str, ...] = (),
    paper: float | None = None,
    paper_words: str | None = None,
    extras: Mapping[str, Value] | None = None,
    absent: str = "not in this sweep",
    said: Collection[str] = (),
) -> Cell:
    """A cell for the mean of finished trials.

    Args:
        counts: units by outcome, finished ones included; names those that gave no number.
        keys: what the cell is about, as of `cell_keys`.
        headline: the first line where there is a value; by default mean ± standard deviation.
        details: lines after the count, shown also where there is no value.
        paper: the paper's value for this cell, in the same unit.
        paper_words: how to write it; by default as a number.
        extras: further machine-readable values.
        absent: what to say where the sweep has no unit for this cell.
        said: outcomes that the details name already.
    """
    lines = [DASH]
    if summary.n:
        lines = [with_spread(summary, style) if headline is None else headline, f"n = {summary.n}"]
    lines.extend(details)
    if paper_words is None and paper is not None:
        paper_words = number(paper, Style(style.decimals))
    lines.extend([] if paper_words is None else [f"paper {paper_words}"])
    planned = sum(counts.values())
    remark = unfinished(counts, said) if planned else absent
    lines.extend([remark] if remark else [])
    values: dict[str, Value] = {
        **keys,
        "unit": style.unit,
        "value": summary.mean,
        "n": summary.n,
        "spread": summary.sd,
        **(extras or {}),
        "paper": paper,
        "planned": planned,
        **{name: counts[name] for name in OUTCOME_WORDS},
    }
    return Cell(tuple(lines), values)
