"""What the store says of a sweep's units right now: which run, which are finished, and their rows.

Only read. A unit under way grows line by line in `<store>/building/<key>/<holder>/`; a finished one
lies in `<store>/<kind>/<key>/`. Both hold the same history, so how far a unit has been sent is a
number of rows.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep import node_usage
from sweep.errors import DamagedError
from sweep.failures import Failure, read_failures
from sweep.files import read_bounded
from sweep.overview import running_units
from sweep.plan import KINDS, Plan
from sweep.store import METRICS, Record, Store
from sweep.tracking.content import Row, history_row


@dataclass(frozen=True)
class Look:
    """A sweep at one moment, by unit key."""

    finished: frozenset[str]
    building: Mapping[str, Path]  # the folder of each unit that this very run computes
    failures: Mapping[str, Failure]


class Ledger:
    """The units of one plan in a store, and what a run's folder says of those that failed."""

    def __init__(self, plan: Plan, store: Store, run_folder: Path) -> None:
        self.plan, self._store, self._run_folder = plan, store, run_folder

    def look(self) -> Look:
        """Where every unit is now, in a few looks at the disk."""
        held = {kind: self._store.keys(kind) for kind in KINDS}
        units = self.plan.units
        finished = frozenset(key for key, unit in units.items() if key in held[unit.kind])
        # What another sweep computes in this store is for its own stream to show.
        mine = (running_units(self._run_folder) & units.keys()) - finished
        building = {key: folder for key, folder in self._under_way() if key in mine}
        failures = {
            key: failure
            for key, failure in read_failures(self._run_folder).items()
            if key in units and key not in finished and key not in building
        }
        return Look(finished, building, failures)

    def _under_way(self) -> list[tuple[str, Path]]:
        found = []
        for entry in _folders(self._store.root / "building"):
            for holder in _folders(entry):
                if (holder / METRICS).exists():
                    found.append((entry.name, holder))
        return found

    def folder(self, key: str) -> Path:
        """Where a finished unit lies."""
        return self._store.folder(self.plan.units[key].kind, key)

    def record(self, key: str) -> Record:
        """The record of a finished unit whose history is whole.

        Raises:
            DamagedError: it, or the history, is not what was written.
        """
        kind = self.plan.units[key].kind
        record = self._store.read_record(kind, key)
        if METRICS in record["files"]:
            self._store.checked_file(kind, key, METRICS)
        return record

    def sign(self, folder: Path) -> tuple[int, ...]:
        """Something that is another once a unit's history has changed.

        Raises:
            FileNotFoundError: the unit has moved on.
        """
        found = (folder / METRICS).stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def rows(self, folder: Path, start: int = 0) -> list[Row]:
        """Rows of a unit's history from number `start` on, with what its machine was doing.

        The last line of a unit under way counts once it is written to its end.

        Raises:
            OSError: the folder is gone; the unit has moved on.
            DamagedError: a line is not one that the core writes.
        """
        path = folder / METRICS
        try:
            lines = read_bounded(path).split(b"\n")[:-1]
        except ValueError as error:
            raise DamagedError(path, "no history, or one that is too long") from error
        node = {line.pop("row"): line for line in node_usage.read_usage(folder / node_usage.FILE)}
        rows = []
        for number, line in enumerate(lines[start:], start):
            try:
                rows.append(history_row(_event(line), node.get(number)))
            except (ValueError, RecursionError) as error:
                raise DamagedError(path, f"line {number + 1}: {error}") from error
        return rows


def _event(line: bytes) -> dict[str, Any]:
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(event.get("state"), str):
        raise ValueError("no event")
    return event


def _folders(parent: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:  # not there yet, or just published
        return []
