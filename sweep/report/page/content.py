"""What the page says, as plain data for its template."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from sweep.report.aggregate import OUTCOMES, Column, Results
from sweep.report.cells import strategy_label
from sweep.report.claims import VERDICTS, Claim
from sweep.report.overview import CauseGroup, cause_groups, origins

if TYPE_CHECKING:
    from sweep.failures import Failure
    from sweep.plan import Plan

MAX_GROUPS = 50  # causes, and rows of the origin, that the page lists
MAX_CAUSE, MAX_TRACEBACK = 2_000, 20_000  # characters
_NAMED = 10


@dataclass(frozen=True)
class Segment:
    """A part of the bar of states, in thousandths of its length."""

    outcome: str
    start: float
    length: float


@dataclass(frozen=True)
class Trouble:
    """A cause with its units and, if one was kept, the traceback of the first that failed of it."""

    group: CauseGroup
    cause: str
    traceback: str
    where: str


@dataclass(frozen=True)
class Listing:
    """Rows under heads, and how many more there are than are shown."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int


@dataclass(frozen=True)
class VerdictCount:
    """How many claims have a verdict."""

    verdict: str
    count: int


def facts_of(plan: "Plan", results: Results) -> list[tuple[str, str]]:
    """What the sweep is about, as terms and descriptions."""
    units = plan.units.values()
    ratios = sorted({unit.forget_ratio for unit in units if unit.forget_ratio is not None})
    seeds = sorted({unit.seeds.training for unit in units})
    shown = [f"{100 * ratio:g} %" for ratio in ratios]
    if len(shown) > _NAMED:
        shown = [f"{len(ratios)}, from {shown[0]} to {shown[-1]}"]
    named = [str(seed) for seed in seeds[:_NAMED]]
    if len(seeds) > len(named):
        named = [f"{len(seeds)}, from {seeds[0]} to {seeds[-1]}"]
    facts = {
        "data sets": [_with_classes(column) for column in results.columns],
        "forget ratios": shown,
        "strategies": [strategy_label(name) for name in results.strategies],
        "training seeds": named,
    }
    return [(term, ", ".join(values) or "none") for term, values in facts.items()]


def _with_classes(column: Column) -> str:
    known = not math.isnan(column.chance)
    return f"{column.label} ({round(1 / column.chance)} classes)" if known else column.label


def segments(counts: Mapping[str, int]) -> list[Segment]:
    """The outcomes that occur, side by side."""
    total, start, found = sum(counts.values()) or 1, 0.0, []
    for outcome in OUTCOMES:
        length = 1000 * counts[outcome] / total
        if length:
            found.append(Segment(outcome, round(start, 1), round(length, 1)))
        start += length
    return found


def verdict_counts(claims: Sequence[Claim]) -> list[VerdictCount]:
    """How many claims hold, fail, or are open."""
    return [
        VerdictCount(verdict, sum(claim.verdict == verdict for claim in claims))
        for verdict in VERDICTS
    ]


def troubles(
    plan: "Plan", frame: pd.DataFrame, failures: Mapping[str, "Failure"]
) -> tuple[list[Trouble], int]:
    """Causes with tracebacks, and how many further causes there are."""
    found = cause_groups(plan, frame)
    shown = []
    for group in found[:MAX_GROUPS]:
        kept = [failures[key] for key in group.keys if group.outcome == "failed"]
        failure = next((one for one in kept if one.traceback), None) or next(iter(kept), None)
        traceback = where = ""
        if failure is not None:
            traceback = _end(failure.traceback, MAX_TRACEBACK)
            where = ", ".join(filter(None, [failure.host, failure.when]))[:MAX_CAUSE]
        cause = group.cause[:MAX_CAUSE] + ("…" if len(group.cause) > MAX_CAUSE else "")
        shown.append(Trouble(group, cause, traceback, where))
    return shown, len(found) - len(shown)


def _end(text: str, most: int) -> str:
    """The last `most` characters: the end of a traceback says what happened."""
    return text if len(text) <= most else f"…{text[-most:]}"


def provenance(frame: pd.DataFrame) -> list[Listing]:
    """Commits with devices and hosts, then versions of packages, each with its number of units."""
    return [
        _listing(frame, ("commit", "device", "host")),
        _listing(frame, ("versions",)),
    ]


def _listing(frame: pd.DataFrame, by: tuple[str, ...]) -> Listing:
    rows = [(*names, f"{count:,}") for names, count in origins(frame, by)]
    heads = (*by, "units")
    return Listing(heads, tuple(rows[:MAX_GROUPS]), max(len(rows) - MAX_GROUPS, 0))
