"""Runs as files that `wandb sync` sends, for machines without a way out.

A unit is written once it is finished, and its folder gets its name when it is whole: nobody watches
files grow, and a kill leaves nothing half-written that would be sent twice.

    <run>/wandb/offline-run-…-<key>/    as wandb writes it, and `usweep.json`: how much it holds
"""

import json
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from sweep.failures import Failure
from sweep.files import read_bounded, write_atomically
from sweep.plan import Plan, PlannedUnit
from sweep.store import Record
from sweep.tracking.client import ClientRuns
from sweep.tracking.content import MAX_NAME, tags_of
from sweep.tracking.runs import Arrived, Recording
from sweep.tracking.settings import TrackingConfig

FOLDER = "wandb"  # in a run's folder
_WHOLE = "usweep.json"
_PREFIX = "offline-run-"  # wandb's own


class OfflineRuns(ClientRuns):
    """Writes runs into a run's folder; see `runs.Runs`."""

    url: str | None = None

    def __init__(self, plan: Plan, config: TrackingConfig, run_folder: Path) -> None:
        super().__init__(plan, config, "offline")
        self._target = run_folder / FOLDER
        for half in self._target.glob(f".{_PREFIX}*"):  # of a process that was killed
            shutil.rmtree(half, ignore_errors=True)

    def open(self, unit: PlannedUnit, known: Arrived | None) -> "OfflineRun":
        """Begin a unit's run from its first row; what is there of it is replaced."""
        tags = tags_of(self._plan, unit)
        group, entity = self._plan.name[:MAX_NAME], self._config.entity
        run = self._init(unit, {}, entity=entity, group=group, tags=tags)
        return OfflineRun(run, unit, self._target, tuple(tags))

    def arrived(self, keys: Collection[str]) -> Mapping[str, Arrived]:
        """What whole folders say of themselves."""
        found = {}
        for key in keys:
            for path in self._target.glob(f"{_PREFIX}*-{key}/{_WHOLE}"):
                with suppress(OSError, ValueError, TypeError, KeyError):
                    said = json.loads(read_bounded(path))
                    found[key] = Arrived(said["num_rows"], said["outcome"], tuple(said["tags"]))
        return found


class OfflineRun(Recording):
    """A unit's run as files; there for `wandb sync` once the unit is finished."""

    def __init__(self, run: object, unit: PlannedUnit, target: Path, tags: tuple[str, ...]) -> None:
        super().__init__(run, unit)
        self._target, self._tags = target, tags
        self._written = Path(self._run.dir).parent

    def finish(self, record: Record) -> None:
        """Close the run and put its folder into its place."""
        super().finish(record)
        said = {"num_rows": self.next_row, "outcome": record["outcome"], "tags": self._tags}
        for leftover in ("logs", "tmp"):
            shutil.rmtree(self._written / leftover, ignore_errors=True)
        write_atomically(self._written / _WHOLE, json.dumps(said))
        for earlier in self._target.glob(f"{_PREFIX}*-{record['key']}"):
            shutil.rmtree(earlier, ignore_errors=True)
        self._target.mkdir(parents=True, exist_ok=True)
        # First beside its place, since the temporary folder may be on another disk.
        beside = self._target / f".{self._written.name}"
        shutil.move(self._written, beside)
        beside.rename(self._target / self._written.name)

    def fail(self, failure: Failure) -> None:
        """Leave nothing: a later attempt may succeed."""
        self.interrupt()

    def interrupt(self) -> None:
        """Leave nothing: the unit is written once it is finished."""
        self._run.finish(exit_code=1)
        shutil.rmtree(self._written, ignore_errors=True)
