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

from cluster.temporary import remove, temporary_folder
from sweep.failures import Failure
from sweep.files import write_atomically
from sweep.plan import Plan, PlannedUnit
from sweep.store import Record
from sweep.tracking.client import Client, client_settings, prepare_environment
from sweep.tracking.content import MAX_NAME, config_of, tags_of
from sweep.tracking.runs import Arrived, Recording
from sweep.tracking.settings import TrackingConfig

FOLDER = "wandb"  # in a run's folder
_WHOLE = "usweep.json"
_PREFIX = "offline-run-"  # wandb's own


class OfflineRuns:
    """Writes runs into a run's folder; see `runs.Runs`."""

    url: str | None = None

    def __init__(self, plan: Plan, config: TrackingConfig, run_folder: Path) -> None:
        prepare_environment("offline")
        self._client = Client()
        self._plan, self._config = plan, config
        self._target = run_folder / FOLDER
        self._folder: Path | None = None

    def open(self, unit: PlannedUnit, known: Arrived | None) -> "OfflineRun":
        """Begin a unit's run from its first row; what is there of it is replaced."""
        import wandb

        if self._folder is None:
            self._folder = temporary_folder()
            for half in self._target.glob(f".{_PREFIX}*"):  # of a process that was killed
                shutil.rmtree(half, ignore_errors=True)
        tags = tags_of(self._plan, unit)
        run = wandb.init(
            id=unit.key,
            entity=self._config.entity,
            project=self._config.project,
            group=self._plan.name[:MAX_NAME],
            job_type=unit.kind,
            name=unit.label[:MAX_NAME],
            tags=tags,
            config=config_of(self._plan, unit),
            mode="offline",
            reinit="create_new",
            settings=client_settings(self._folder),
        )
        return OfflineRun(run, unit, self._target, tuple(tags))

    def arrived(self, keys: Collection[str]) -> Mapping[str, Arrived]:
        """What whole folders say of themselves."""
        found = {}
        for key in keys:
            for path in self._target.glob(f"{_PREFIX}*-{key}/{_WHOLE}"):
                with suppress(OSError, ValueError, TypeError, KeyError):
                    said = json.loads(path.read_bytes())
                    found[key] = Arrived(said["num_rows"], said["outcome"], tuple(said["tags"]))
        return found

    def is_dead(self) -> bool:
        """Whether wandb's process was there and has ended."""
        return self._client.is_dead()

    def close(self) -> None:
        """End wandb's process, and remove its folder."""
        self._client.end()
        if self._folder is not None:
            remove(self._folder)


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
