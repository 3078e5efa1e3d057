"""How far a sweep is: counted by the driver, shown live, and left in a file for `status`."""

import json
import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.failures import Failure, write_failure
from sweep.files import write_atomically
from sweep.plan import KINDS, Plan, PlannedUnit

FILE = "progress.json"
WRITE_EVERY_S = 2.0
LINE_EVERY_S = 30.0  # in a log without a terminal
STATES = ("done", "running", "waiting", "failed", "blocked")


@dataclass
class Snapshot:
    """A sweep's state at one moment, as `progress.json` holds it."""

    host: str = ""
    pid: int = 0
    updated: float = 0.0  # seconds since 1970
    elapsed_s: float = 0.0
    time_left_s: float | None = None  # None: no unit has finished yet
    units: dict[str, dict[str, int]] = field(default_factory=dict)  # kind -> state -> count
    not_converged: int = 0
    running: list[str] = field(default_factory=list)
    ended: bool = False


class TimeLeft:
    """Estimates the time left from the work of the units that this run has finished.

    A unit's work is the images its training will see, stage 1 aside. Seconds for one image are
    measured for each data set, since networks differ; units running side by side are accounted
    for by dividing the estimate by the parallelism seen so far.
    """

    def __init__(self, plan: Plan, todo: Collection[str]) -> None:
        self._plan = plan
        self._left: dict[str, float] = defaultdict(float)
        self._finished: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)
        for key in todo:
            self._left[plan.units[key].dataset] += self._work(plan.units[key])

    def _work(self, unit: PlannedUnit) -> float:
        return self._plan.epochs(unit) * (self._plan.datasets[unit.dataset].num_train or 1)

    def finished(self, key: str, seconds: float) -> None:
        """A unit took this long."""
        unit = self._plan.units[key]
        self._finished[unit.dataset] += self._work(unit)
        self._seconds[unit.dataset] += seconds
        self.dropped(key)

    def dropped(self, key: str) -> None:
        """A unit will not run any more."""
        unit = self._plan.units[key]
        self._left[unit.dataset] -= self._work(unit)

    def returned(self, key: str) -> None:
        """A finished unit has to be computed again."""
        unit = self._plan.units[key]
        self._left[unit.dataset] += self._work(unit)

    def estimate_s(self, elapsed_s: float) -> float | None:
        """Seconds left, or None before the first unit has finished."""
        total_work, total_seconds = sum(self._finished.values()), sum(self._seconds.values())
        if total_work == 0 or total_seconds == 0 or elapsed_s <= 0:
            return None
        seconds = 0.0
        for dataset, work in self._left.items():
            done = self._finished[dataset]
            rate = self._seconds[dataset] / done if done else total_seconds / total_work
            seconds += max(0.0, work) * rate
        return seconds / max(total_seconds / elapsed_s, 0.01)


class Progress:
    """Counts units as they start and end; draws itself where there is a terminal."""

    def __init__(
        self,
        plan: Plan,
        done: Collection[str],
        folder: Path,
        console: Console,
        failures_in: Path | None = None,
    ) -> None:
        """`folder` is the run's, or a worker's, whose failures go to the run's: `failures_in`."""
        self._plan, self._folder, self._console = plan, folder, console
        self._failures_in = failures_in or folder
        self._state = {key: "waiting" for key in plan.units} | {key: "done" for key in done}
        self._counts = Counter((plan.units[key].kind, s) for key, s in self._state.items())
        self._num_before = len(done)
        self._time_left = TimeLeft(plan, [k for k, s in self._state.items() if s == "waiting"])
        self._running: dict[str, float] = {}
        self._last_ended: list[str] = []
        self.not_converged = 0
        self.num_computed = 0  # by this driver
        self._began = time.monotonic()
        self._written = self._printed = 0.0
        self._live: Live | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles searchers and callbacks into a snapshot that is never read here; the
        # display's locks cannot be pickled, so nothing stands in for it.
        return type(None), ()

    def _move(self, key: str, state: str) -> None:
        kind = self._plan.units[key].kind
        self._counts[kind, self._state[key]] -= 1
        self._counts[kind, state] += 1
        self._state[key] = state
        if state == "running":
            self._running[key] = time.monotonic()
        else:
            self._running.pop(key, None)

    def started(self, key: str) -> None:
        """A unit is on a worker now."""
        if self._state[key] == "waiting":
            self._move(key, "running")

    def put_back(self, key: str) -> None:
        """A unit left its worker without a result and waits again."""
        if self._state[key] == "running":
            self._move(key, "waiting")

    def reopened(self, key: str, why: str) -> None:
        """A finished unit is damaged and is to be computed again."""
        self._move(key, "waiting")
        self._time_left.returned(key)
        self.say(why)

    def found(self, key: str) -> None:
        """A unit was computed by another sweep."""
        self._move(key, "done")
        self._time_left.dropped(key)
        self._ended(f"{self._plan.units[key].label}: computed by another sweep")

    def say(self, line: str) -> None:
        """Something that whoever reads the log tomorrow should know."""
        self._console.print(Text(line, style="yellow"), soft_wrap=True)

    def say_plainly(self, line: str) -> None:
        """Something that is as it should be."""
        self._console.print(line, highlight=False)

    def finished(self, key: str, outcome: str, seconds: float) -> None:
        """A unit was computed here and is in the store."""
        self._move(key, "done")
        self.num_computed += 1
        self._time_left.finished(key, seconds)
        self.not_converged += outcome == "not_converged"
        mark = "not converged" if outcome == "not_converged" else f"{seconds:.1f} s"
        self._ended(f"{self._plan.units[key].label}: {mark}")

    def failed(self, failure: Failure, blocked: Collection[str]) -> None:
        """A unit failed for good; `blocked` are all units that have lost a parent so far."""
        with suppress(OSError):  # said on the console all the same
            write_failure(self._failures_in, failure)
        self.failed_elsewhere(failure.key, blocked)
        line = f"FAILED {self._plan.units[failure.key].label}: {failure.cause}"
        self._ended(line)
        self._console.print(Text(line, style="red"))

    def failed_elsewhere(self, key: str, blocked: Collection[str]) -> None:
        """A unit failed with another worker, which has said so."""
        self._move(key, "failed")
        self._time_left.dropped(key)
        for descendant in blocked:
            if self._state[descendant] == "waiting":
                self._move(descendant, "blocked")
                self._time_left.dropped(descendant)

    def _ended(self, line: str) -> None:
        self._last_ended = [*self._last_ended[-3:], line]

    def count(self, state: str) -> int:
        """Units in a state, of all kinds."""
        return sum(self._counts[kind, state] for kind in KINDS)

    def snapshot(self, ended: bool = False) -> Snapshot:
        """The state at this moment."""
        elapsed_s = time.monotonic() - self._began
        return Snapshot(
            host=socket.gethostname(),
            pid=os.getpid(),
            updated=time.time(),
            elapsed_s=elapsed_s,
            time_left_s=self._time_left.estimate_s(elapsed_s),
            units={kind: {state: self._counts[kind, state] for state in STATES} for kind in KINDS},
            not_converged=self.not_converged,
            running=[self._plan.units[key].label for key in self._running],
            ended=ended,
        )

    def tick(self, ended: bool = False) -> None:
        """Write the file and draw, each not more often than it should be."""
        now = time.monotonic()
        if ended or now - self._written >= WRITE_EVERY_S:
            self._written = now
            snapshot = self.snapshot(ended)
            with suppress(OSError):  # a full disk: the sweep itself may still find room
                write_atomically(self._folder / FILE, json.dumps(asdict(snapshot)))
            if self._live is not None:
                self._live.update(draw(snapshot, self._last_ended))
        if self._live is None and now - self._printed >= LINE_EVERY_S:
            self._printed = now
            self._console.print(one_line(self.snapshot()), highlight=False)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        self.tick()
        return self

    def __exit__(self, *error: Any) -> None:
        self.tick(ended=True)
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None


def totals(snapshot: Snapshot) -> dict[str, int]:
    """Units by state over all kinds, and their sum under `all`."""
    counts = {
        state: sum(kind.get(state, 0) for kind in snapshot.units.values()) for state in STATES
    }
    return counts | {"all": sum(counts.values())}


def one_line(snapshot: Snapshot) -> str:
    """The state as one plain line for a log."""
    count = totals(snapshot)
    parts = [f"{count['done']}/{count['all']} units done", f"{count['running']} running"]
    parts += [f"{count[state]} {state}" for state in ("failed", "blocked") if count[state]]
    if snapshot.not_converged:
        parts.append(f"{snapshot.not_converged} not converged")
    parts.append(f"elapsed {duration(snapshot.elapsed_s)}")
    parts.append(f"left {duration(snapshot.time_left_s)}")
    return ", ".join(parts)


def draw(snapshot: Snapshot, last_ended: Collection[str] = ()) -> Group:
    """The state as a table of kinds and states with a bar and the time left."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("units")
    for state in STATES:
        table.add_column(state, justify="right")
    for kind, states in snapshot.units.items():
        cells = []
        for state in STATES:
            style = "red" if state in ("failed", "blocked") and states[state] else ""
            cells.append(Text(str(states[state]), style=style))
        table.add_row(kind, *cells)
    count = totals(snapshot)
    line = Table.grid(padding=(0, 1))
    filled = round(30 * count["done"] / max(1, count["all"]))
    line.add_row(
        "━" * filled + "─" * (30 - filled),
        f"{count['done']}/{count['all']}",
        f"elapsed {duration(snapshot.elapsed_s)}",
        f"left {duration(snapshot.time_left_s)}",
    )
    recent = [Text(text, style="dim", overflow="ellipsis", no_wrap=True) for text in last_ended]
    return Group(line, table, *recent)


def duration(seconds: float | None) -> str:
    """A length of time for people: 45 s, 12 min, 3 h 05 min; a dash if unknown."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
