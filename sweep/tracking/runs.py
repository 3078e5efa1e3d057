"""W&B runs as the sink needs them: open one for a unit, add rows, end it, ask what arrived.

Two kinds with the same face: `online.OnlineRuns` and `offline.OfflineRuns`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sweep.failures import Failure
from sweep.plan import TRAINED_STATES, PlannedUnit
from sweep.store import Record
from sweep.tracking.content import (
    CAUSE,
    NODE,
    OUTCOME,
    Row,
    config_of_record,
    epoch_key,
    summary_of,
)


@dataclass(frozen=True)
class Arrived:
    """What W&B has of a unit."""

    num_rows: int
    outcome: str | None = None  # in the summary; the last thing that is sent
    tags: tuple[str, ...] = ()

    def covers(self, other: "Arrived") -> bool:
        """Whether nothing of `other` is missing here."""
        same_end = self.num_rows >= other.num_rows and self.outcome == other.outcome
        return same_end and set(other.tags) <= set(self.tags)


class OpenRun(Protocol):
    """One unit's run, open for writing."""

    next_row: int  # number of the first row that has not been sent

    def send(self, rows: Collection[Row]) -> None:
        """Add rows, the first of which is number `next_row`."""

    def finish(self, record: Record) -> None:
        """The unit is finished; returns once everything was sent or given up."""

    def fail(self, failure: Failure) -> None:
        """The unit failed."""

    def interrupt(self) -> None:
        """The unit is not finished, and will go on later."""


class Runs(Protocol):
    """All runs of a project."""

    url: str | None

    def open(self, unit: PlannedUnit, known: Arrived | None) -> OpenRun:
        """The run of a unit, at the row where it was left.

        Raises:
            Exception: see `sweep.tracking.errors.told_apart`.
        """

    def arrived(self, keys: Collection[str]) -> Mapping[str, Arrived]:
        """What is there of at most 100 units; those of which nothing is there are absent."""

    def is_dead(self) -> bool:
        """Whether wandb's process was there and has ended; who waits for it may wait for ever."""

    def close(self) -> None:
        """Leave nothing behind."""


class Recording:
    """Writes a unit into one run of wandb's, whichever mode that is in."""

    def __init__(self, run: Any, unit: PlannedUnit) -> None:
        self._run = run
        self.next_row: int = run.starting_step
        for state in TRAINED_STATES[unit.kind]:
            run.define_metric(epoch_key(state))
            run.define_metric(f"{state}/*", step_metric=epoch_key(state))
        run.define_metric(f"{NODE}/seconds", hidden=True)
        run.define_metric(f"{NODE}/*", step_metric=f"{NODE}/seconds")

    def send(self, rows: Collection[Row]) -> None:
        """Add rows to the history; the step of each is its number."""
        for row in rows:
            # Else the last row waits for the next, and overwrites the summary when the run ends.
            self._run.log(row, step=self.next_row, commit=True)
            self.next_row += 1

    def finish(self, record: Record) -> None:
        """Add what the record says, and close the run."""
        self._run.config.update(config_of_record(record), allow_val_change=True)
        self._run.summary.update({CAUSE: ""} | summary_of(record))
        self._run.finish(exit_code=0)

    def fail(self, failure: Failure) -> None:
        """Add the cause, and close the run as failed."""
        self._run.summary.update({OUTCOME: "failed", CAUSE: failure.cause})
        self._run.finish(exit_code=1)

    def interrupt(self) -> None:
        """Close the run as one that will go on."""
        self._run.mark_preempting()
        self._run.finish(exit_code=1)
