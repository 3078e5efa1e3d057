"""A glance at single units: how far those under way are, and what came of those finished last.

Read from the store while others write to it: what is missing, damaged or half-written is not shown.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import StoreError, one_line
from sweep.plan import Plan, PlannedUnit
from sweep.snapshot import MAX_FINISHED, Snapshot, duration
from sweep.store import METRICS, Store

MAX_READ = 12  # units under way that are looked up at a time
_TAIL_BYTES = 4096  # longer than any line of METRICS


@dataclass(frozen=True)
class Glance:
    """What is shown of one unit."""

    label: str
    seconds: float | None = None  # under way for so long, or computed in so long
    words: tuple[str, ...] = ()  # further columns
    is_converged: bool = True


def under_way(plan: Plan, store: Store, snapshot: Snapshot) -> list[Glance]:
    """The units under way, the oldest first, with their last epoch."""
    known = {key: s for key, s in snapshot.running_s.items() if key in plan.units}
    if not known:  # written by a version that gave no keys
        return [Glance(one_line(label)) for label in snapshot.running]
    oldest_first = sorted(known, key=lambda key: -known[key])
    return [
        Glance(
            one_line(plan.units[key].label),
            known[key],
            _last_epoch(plan, plan.units[key], store) if number < MAX_READ else (),
        )
        for number, key in enumerate(oldest_first)
    ]


def finished_last(plan: Plan, store: Store, snapshot: Snapshot) -> list[Glance]:
    """The units finished last, the newest first, with their results."""
    known = [key for key in snapshot.finished if key in plan.units]
    newest_first = sorted(known, key=lambda key: -snapshot.finished[key])
    return [_result(plan.units[key], store) for key in newest_first[:MAX_FINISHED]]


def _last_epoch(plan: Plan, unit: PlannedUnit, store: Store) -> tuple[str, ...]:
    event = _last_event(store.root / "building" / unit.key)
    epoch, state = event.get("epoch"), event.get("state")
    if type(epoch) is not int or not 0 <= epoch < 10**9:
        return ()
    if state == "neutralized":  # ends when the forget set is lost
        place = f"stage 1, epoch {epoch:,}"
    else:
        stage = "stage 2, " if state == "retrained" else ""
        place = f"{stage}epoch {epoch:,}/{plan.epochs(unit):,}"
    measured = {"valid.": "validation_accuracy", "forget": "forget_accuracy"}
    return place, *_percentages((name, event.get(key)) for name, key in measured.items())


def _last_event(building: Path) -> dict[str, Any]:
    """The last whole line of a unit's METRICS; empty if there is none."""
    try:
        files = [Path(entry.path) / METRICS for entry in os.scandir(building)]
        newest = max((path for path in files if path.is_file()), key=lambda p: p.stat().st_mtime)
        with newest.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).split(b"\n")
        event = json.loads(lines[-2])  # after the last line break is a line under way, or nothing
    except (OSError, ValueError, IndexError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _result(unit: PlannedUnit, store: Store) -> Glance:
    label = one_line(unit.label)
    try:
        record = store.read_record(unit.kind, unit.key)
        metrics = record["metrics"]
        seconds = float(sum(part["seconds"] for part in record["training"].values()))
        is_converged = record["outcome"] != "not_converged"
        state = "retrained" if unit.kind == "two_stage" else unit.kind
        state, sets = (state, ("test", "forget")) if is_converged else ("neutralized", ("forget",))
        words = _percentages((name, metrics.get(f"{state}/{name}/accuracy")) for name in sets)
        duration(seconds)  # raises for what is no time
    except (StoreError, KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return Glance(label)
    if not is_converged:
        words = ("not converged", *words)
    return Glance(label, seconds, words, is_converged)


def _percentages(values: Iterable[tuple[str, Any]]) -> tuple[str, ...]:
    return tuple(
        f"{name} {100 * value:.1f} %"
        for name, value in values
        if type(value) in (int, float) and 0 <= value <= 1
    )
