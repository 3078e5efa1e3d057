"""Streams a sweep: looks at the ledger again and again, and sends what W&B does not have yet.

Each unit goes through these steps, of which a few at a time are in threads:

    follow   it is being computed, and its run is open and gets its rows
    ask      it is finished: the server is asked what it has of it
    send     something is missing, or it failed: its run gets the rest and is closed; then ask again
    done     everything is there, which the book remembers

What did not arrive is sent again, ever more seldom, up to `MAX_SENDS` times. A unit that another
sweep has just computed is left to that one's stream for a while: two would send rows twice.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import DamagedError
from sweep.store import Record
from sweep.tracking.book import Book
from sweep.tracking.budget import Budget
from sweep.tracking.content import tags_of
from sweep.tracking.errors import ClientDied, Refused, RunRefused, TrackingError, told_apart
from sweep.tracking.ledger import Ledger, Look
from sweep.tracking.online import REQUESTS_A_RUN, TRANSMIT_EVERY_S
from sweep.tracking.runs import Arrived, OpenRun, Runs
from sweep.tracking.status import TrackingStatus

AT_END = 8  # runs that are closed at the same time
AT_ONCE = 4  # threads; wandb's client waits for the server in most of its calls
ASK_AT_ONCE = 100  # units in one question
ASK_EVERY_S = 20.0
LEAVE_TO_OTHERS_S = 120.0
MAX_SENDS = 8  # in vain, with ever longer pauses: a quarter of an hour
PAUSE_FIRST_S, PAUSE_MAX_S = 5.0, 300.0


@dataclass
class Tracked:
    """A unit on its way."""

    step: str = "new"
    run: OpenRun | None = None
    num_sends: int = 0
    known: Arrived | None = None  # what the server said it has
    first_asked: float | None = None
    ask_after: float = 0.0
    seen: object = None  # of the history's file, when its rows were sent


class Sink:
    """One sweep's stream; `turn` is called again and again by one thread."""

    def __init__(
        self,
        ledger: Ledger,
        runs: Runs,
        book: Book,
        budget: Budget,
        open_runs: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._runs, self._book, self._budget = ledger, runs, book, budget
        self._open_runs, self._clock = open_runs, clock
        self._units = {key: Tracked() for key in ledger.plan.units}
        for key in self._units.keys() & book.confirmed:
            self._units[key].step = "done"
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tracking")
        self._jobs: dict[Future[bool], tuple[str, ...]] = {}  # and the units that each is about
        self._asked_at = self._looked_at = clock()
        self.paused_until = 0.0
        self.num_failures = 0  # in a row, of the connection
        self.status = TrackingStatus()
        self.is_ending = False

    def turn(self) -> bool:
        """Do what can be done now; whether anything is left that could still be sent.

        Raises:
            ClientDied: nothing more can be done in this process; a new one goes on where the
                server is. Threads may still wait for wandb's process.
        """
        self._collect()
        if self._runs.is_dead():
            raise ClientDied("wandb's process has ended")
        try:
            look = self._ledger.look()
        except OSError as error:  # a file system that is away for a moment
            self.status.problem = str(error)
            return True
        self._note(look)
        if self._clock() >= self.paused_until:
            for step in (self._ask, self._send, self._follow):
                step(look)
        self._report(look)
        return bool(self._jobs) or any(u.step in ("send", "ask") for u in self._units.values())

    def _note(self, look: Look) -> None:
        """Move units on by what the ledger says."""
        for key in look.finished:
            unit = self._units[key]
            if unit.step in ("new", "follow", "failed"):
                # Without a run of its own here it may have been sent before, or by somebody else.
                unit.step = "ask" if unit.run is None else "send"
        for key in look.failures:
            if self._units[key].step in ("new", "follow"):
                self._units[key].step = "send"
        for key in look.building:
            if self._units[key].step in ("new", "failed", "given up"):
                self._units[key].step = "follow"  # "given up": damaged, and now computed again
        now = self._clock()
        num_open = sum(unit.run is not None for unit in self._units.values())
        self._budget.spend(num_open * (now - self._looked_at) / TRANSMIT_EVERY_S)
        self._looked_at = now

    def _idle(self, step: str) -> list[str]:
        busy = {key for keys in self._jobs.values() for key in keys}
        return [
            key
            for key, unit in self._units.items()
            if unit.step == step and key not in busy and unit.ask_after <= self._clock()
        ]

    def _submit(self, job: Callable[..., bool], keys: Iterable[str], *arguments: object) -> None:
        names = tuple(keys)
        self._jobs[self._pool.submit(job, names, *arguments)] = names

    def _ask(self, look: Look) -> None:
        waiting = self._idle("ask")
        is_due = len(waiting) >= ASK_AT_ONCE or self._clock() - self._asked_at >= ASK_EVERY_S
        is_quiet = not self._idle("send") and not self._jobs
        if waiting and (is_due or is_quiet) and len(self._jobs) < AT_ONCE:
            self._asked_at = self._clock()
            self._submit(self._ask_server, waiting[:ASK_AT_ONCE])

    def _send(self, look: Look) -> None:
        for key in self._idle("send"):
            if len(self._jobs) >= AT_ONCE:
                return
            if key in look.finished or key in look.failures:
                self._submit(self._send_unit, [key], look)
            else:  # being computed again, or set aside
                self._units[key].step = "new"

    def _follow(self, look: Look) -> None:
        if self.is_ending:
            return
        idle = [key for key in self._idle("follow") if key in look.building]
        is_open = {key: self._units[key].run is not None for key in idle}
        if any(is_open.values()):  # all in one job: it asks nothing of the server
            feed = {key: look.building[key] for key in idle if is_open[key]}
            self._submit(self._feed, feed, feed)
        num_open = sum(unit.run is not None for unit in self._units.values())
        for key in idle:
            if len(self._jobs) >= AT_ONCE or num_open >= self._open_runs:
                return
            if not is_open[key]:
                num_open += 1
                self._submit(self._begin, [key], look.building[key])

    # In threads, each with units of its own; whether the server has answered:

    def _ask_server(self, keys: tuple[str, ...]) -> bool:
        self._budget.take(1)
        found = self._runs.arrived(keys)
        for key in keys:
            with self._giving_up_damaged(key):
                self._judge(key, found.get(key))
        return True

    def _judge(self, key: str, known: Arrived | None) -> None:
        unit, now = self._units[key], self._clock()
        unit.known = known
        unit.first_asked = now if unit.first_asked is None else unit.first_asked
        record = self._ledger.record(key)
        is_anothers = record.get("labels", {}).get("sweep") not in (None, self._ledger.plan.name)
        if known is not None and known.covers(self._expected(key, record)):
            self._book.confirm(key)
            unit.step = "done"
        elif unit.num_sends >= MAX_SENDS:
            unit.step = "given up"
        elif unit.num_sends:  # to a server that takes no rows just now, or is slow to count them
            unit.step = "send"
            unit.ask_after = now + min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** (unit.num_sends - 1))
        elif is_anothers and not self.is_ending and now - unit.first_asked < LEAVE_TO_OTHERS_S:
            unit.ask_after = now + ASK_EVERY_S
        else:
            unit.step = "send"

    def _expected(self, key: str, record: Record) -> Arrived:
        plan = self._ledger.plan
        num_rows = len(self._ledger.rows(self._ledger.folder(key)))
        return Arrived(num_rows, record["outcome"], tuple(tags_of(plan, plan.units[key])))

    def _send_unit(self, keys: tuple[str, ...], look: Look) -> bool:
        (key,) = keys
        unit = self._units[key]
        if key in look.failures:
            self._opened(key).fail(look.failures[key])
            unit.run, unit.step = None, "failed"
            return True
        with self._giving_up_damaged(key):
            record, folder = self._ledger.record(key), self._ledger.folder(key)
            run = self._opened(key)
            run.send(self._ledger.rows(folder, run.next_row))
            unit.num_sends += 1
            run.finish(record)
            unit.run, unit.step = None, "ask"
        return True

    def _begin(self, keys: tuple[str, ...], folder: Path) -> bool:
        (key,) = keys
        self._opened(key)
        self._feed(keys, {key: folder})
        return True

    def _feed(self, keys: tuple[str, ...], folders: Mapping[str, Path]) -> bool:
        for key in keys:
            unit = self._units[key]
            with self._skipping_unreadable(), self._giving_up_damaged(key):
                seen = self._ledger.sign(folders[key])
                if unit.run is not None and seen != unit.seen:
                    unit.run.send(self._ledger.rows(folders[key], unit.run.next_row))
                    unit.seen = seen
        return False

    @contextmanager
    def _skipping_unreadable(self) -> Iterator[None]:
        """A unit was just published or taken over, or the file system is away for a moment."""
        try:
            yield
        except ConnectionError:  # to wandb's process
            raise
        except OSError:
            pass

    @contextmanager
    def _giving_up_damaged(self, key: str) -> Iterator[None]:
        """A unit whose files are not what was written is for the next `usweep run` to mend."""
        try:
            yield
        except (DamagedError, KeyError, TypeError, AttributeError) as error:
            label = self._ledger.plan.units[key].label
            what = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
            self._close(key)
            self._units[key].step = "given up"
            self.status.problem = f"{label}: {what}"

    def _opened(self, key: str) -> OpenRun:
        unit = self._units[key]
        if unit.run is None:
            self._budget.take(REQUESTS_A_RUN)
            if unit.first_asked is None:  # another sweep may have begun it: its group and tags stay
                unit.known = self._runs.arrived([key]).get(key)
            unit.run = self._runs.open(self._ledger.plan.units[key], unit.known)
            unit.seen = None
        return unit.run

    # Back in the one thread:

    def _collect(self) -> None:
        for job in [job for job in self._jobs if job.done()]:
            keys = self._jobs.pop(job)
            error = job.exception()
            if error is not None:
                self._went_wrong(keys, error)
            elif job.result():
                self.num_failures = 0

    def _went_wrong(self, keys: tuple[str, ...], error: BaseException) -> None:
        what = told_apart(error)
        is_final = isinstance(what, RunRefused) and len(keys) == 1
        for key in keys:
            self._units[key].run = None
            if is_final:
                self._units[key].step = "given up"
        self.status.problem = str(what)
        if isinstance(what, ClientDied):
            raise what
        if not is_final:
            self._pause(what)

    def _pause(self, what: TrackingError) -> None:
        self.num_failures += 1
        pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** (self.num_failures - 1))
        is_refused = isinstance(what, Refused)
        self.paused_until = self._clock() + (PAUSE_MAX_S if is_refused else pause_s)
        self.status.state = "refused" if is_refused else "waiting"

    def _report(self, look: Look) -> None:
        steps = [unit.step for unit in self._units.values()]
        if not self.num_failures:
            self.status.state = "sending"
            if not steps.count("given up"):
                self.status.problem = ""
        self.status.url = self._runs.url or self.status.url
        self.status.finished = len(look.finished)
        self.status.confirmed = sum(self._units[key].step == "done" for key in look.finished)
        self.status.live = sum(unit.run is not None for unit in self._units.values())
        self.status.given_up = steps.count("given up")

    def end(self) -> None:
        """Close what is still open; units under way are marked as going on later."""
        self.status.state, self.status.live = "ended", 0
        busy = {key for keys in self._jobs.values() for key in keys}
        if not self.num_failures:
            with ThreadPoolExecutor(AT_END) as pool:
                list(pool.map(self._close, self._units.keys() - busy))
        self.abandon()

    def abandon(self) -> None:
        """Leave everything as it is: what has not arrived is sent again by the next."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._runs.close()

    def _close(self, key: str) -> None:
        run, self._units[key].run = self._units[key].run, None
        if run is not None:
            with suppress(Exception):
                run.interrupt()
