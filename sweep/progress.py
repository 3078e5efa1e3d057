"""How far a sweep is: counted by the driver, shown live, and left in a file for `status`."""

import json
import os
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from sweep.display import Picture, draw, running_on
from sweep.errors import one_line
from sweep.failures import Failure, write_failure
from sweep.files import write_atomically
from sweep.glance import finished_last, under_way
from sweep.plan import KINDS, Plan, PlannedUnit
from sweep.snapshot import FILE, MAX_FINISHED, STATES, Snapshot, summary
from sweep.store import Store

WRITE_EVERY_S = 2.0
LINE_EVERY_S = 30.0  # in a log without a terminal
_LATELY = 100  # finished units by which the throughput is measured


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
        store: Store | None = None,
    ) -> None:
        """`folder` is the run's, or a worker's, whose failures go to the run's: `failures_in`.

        With the `store`, single units are shown with their epochs and results.
        """
        self._plan, self._folder, self._console = plan, folder, console
        self._store = store or Store(folder / "none")
        self._failures_in = failures_in or folder
        self._state = {key: "waiting" for key in plan.units} | {key: "done" for key in done}
        self._counts = Counter((plan.units[key].kind, s) for key, s in self._state.items())
        self._num_before = len(done)
        self._time_left = TimeLeft(plan, [k for k, s in self._state.items() if s == "waiting"])
        self._running: dict[str, float] = {}
        self._finished: dict[str, float] = {}  # the last ones: key -> when, since 1970
        self._failures: dict[str, str] = {}  # key -> cause
        self.phase = ""  # what is done besides computing
        self.tracking: Callable[[], str | None] = lambda: None  # a line about Weights & Biases
        self.not_converged = 0
        self.num_computed = 0  # by this driver
        self._began = time.monotonic()
        self._lately = deque[float](maxlen=_LATELY + 1)  # when units finished; at first, started
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
            if not self._lately:
                self._lately.append(time.monotonic())

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
        self._note_finished(key)

    def say(self, line: str) -> None:
        """Something that whoever reads the log tomorrow should know."""
        self._console.print(Text(one_line(line), style="yellow"), soft_wrap=True)

    def say_plainly(self, line: str) -> None:
        """Something that is as it should be."""
        self._console.print(Text(one_line(line)))

    def finished(self, key: str, outcome: str, seconds: float) -> None:
        """A unit was computed here and is in the store."""
        self._move(key, "done")
        self.num_computed += 1
        self._time_left.finished(key, seconds)
        self.not_converged += outcome == "not_converged"
        self._lately.append(time.monotonic())
        self._note_finished(key)

    def failed(self, failure: Failure, blocked: Collection[str]) -> None:
        """A unit failed for good; `blocked` are all units that have lost a parent so far."""
        with suppress(OSError):  # said on the console all the same
            write_failure(self._failures_in, failure)
        self._count_failure(failure.key, failure.cause, blocked)
        line = one_line(f"FAILED {self._plan.units[failure.key].label}: {failure.cause}")
        self._console.print(Text(line, style="red"))

    def failed_elsewhere(self, key: str, blocked: Collection[str]) -> None:
        """A unit failed with another worker, which has said so."""
        self._count_failure(key, "with another worker", blocked)

    def _count_failure(self, key: str, cause: str, blocked: Collection[str]) -> None:
        self._failures[key] = cause
        self._move(key, "failed")
        self._time_left.dropped(key)
        for descendant in blocked:
            if self._state[descendant] == "waiting":
                self._move(descendant, "blocked")
                self._time_left.dropped(descendant)

    def _note_finished(self, key: str) -> None:
        self._finished.pop(key, None)  # it may have been computed before, and be damaged
        self._finished[key] = time.time()
        for oldest in list(self._finished)[:-MAX_FINISHED]:
            del self._finished[oldest]

    def count(self, state: str) -> int:
        """Units in a state, of all kinds."""
        return sum(self._counts[kind, state] for kind in KINDS)

    def snapshot(self, ended: bool = False) -> Snapshot:
        """The state at this moment."""
        now = time.monotonic()
        elapsed_s, lately_s = now - self._began, now - self._lately[0] if self._lately else 0.0
        num_lately = len(self._lately) - 1
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
            phase=self.phase,
            units_per_h=3600 * num_lately / lately_s if num_lately > 0 and lately_s else None,
            running_s={key: now - began for key, began in self._running.items()},
            finished=dict(self._finished),
        )

    def _drawn(self, snapshot: Snapshot) -> RenderableType:
        failures = [(self._plan.units[key].label, why) for key, why in self._failures.items()]
        picture = Picture(
            self._plan.name,
            running_on(snapshot),
            snapshot,
            is_alive=True,
            running=under_way(self._plan, self._store, snapshot),
            finished=finished_last(self._plan, self._store, snapshot),
            failures=failures,
        )
        return draw(picture, self.tracking(), fits=True)

    def tick(self, ended: bool = False) -> None:
        """Write the file and draw, each not more often than it should be."""
        now = time.monotonic()
        if ended or now - self._written >= WRITE_EVERY_S:
            self._written = now
            snapshot = self.snapshot(ended)
            with suppress(OSError):  # a full disk: the sweep itself may still find room
                write_atomically(self._folder / FILE, json.dumps(asdict(snapshot)))
            if self._live is not None:
                self._live.update(self._drawn(snapshot), refresh=True)
        if self._live is None and now - self._printed >= LINE_EVERY_S:
            self._printed = now
            self._console.print(Text(summary(self.snapshot())))

    def __enter__(self) -> "Progress":
        if self._console.is_interactive:
            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
        try:
            if self._live is not None:
                self._live.start()
            self.tick()
        except BaseException:  # Ctrl-C while it begins must not leave the terminal to it
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.tick(ended=True)
        if self._live is not None:
            self._live.stop()
            self._live = None
