"""Runs a sink until there is nothing left to send, or no time."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from sweep.errors import LeaseLost, SweepError
from sweep.lease import HEARTBEAT_S, Holding, Lease, Leases, Watch
from sweep.plan import Plan
from sweep.store import Store
from sweep.tracking.book import Book
from sweep.tracking.budget import Budget
from sweep.tracking.errors import ClientDied
from sweep.tracking.ledger import Ledger
from sweep.tracking.offline import OfflineRuns
from sweep.tracking.online import TRANSMIT_EVERY_S, OnlineRuns
from sweep.tracking.runs import Runs
from sweep.tracking.settings import TrackingConfig
from sweep.tracking.sink import Sink
from sweep.tracking.status import FOLDER, read_status

TURN_S = 1.0
_WRITE_EVERY_S = 2.0
_TAKEOVER_S = 30.0  # of a stream whose machine shows no life any more
_UNLIMITED = float("inf")


def make_sink(
    plan: Plan, store: Store, run_folder: Path, config: TrackingConfig, mode: str
) -> Sink:
    """A sink for a run, online or offline."""
    runs: Runs
    target: tuple[str, ...]
    if mode == "offline":
        runs, target = OfflineRuns(plan, config, run_folder), ("offline", config.project)
        per_minute, open_runs = _UNLIMITED, 0  # nobody watches files grow
    else:
        server = os.environ.get("WANDB_BASE_URL", "")
        # Where a key's runs go by default differs between users of one run's folder.
        entity = config.entity or os.environ.get("WANDB_ENTITY") or f"of user {os.getuid()}"
        runs, target = OnlineRuns(plan, config), (server, entity, config.project, plan.name)
        per_minute = config.requests_per_minute
        # Each sends something every so often; at most half of the budget is for them.
        open_runs = min(config.open_runs, int(per_minute / 2 * TRANSMIT_EVERY_S / 60))
    sink = Sink(
        Ledger(plan, store, run_folder),
        runs,
        Book(run_folder, *target),
        Budget(per_minute),
        open_runs,
    )
    sink.status.mode = mode
    earlier = read_status(run_folder, mode)
    if earlier is not None:
        sink.status.url = earlier.url  # known again only once a run is opened
    return sink


def stream(
    sink: Sink,
    run_folder: Path,
    time_to_end: Callable[[], float | None],
    is_mine: Callable[[], bool] = lambda: True,
    max_failures: int | None = None,
) -> None:
    """Turn the sink until it is to end and nothing is left, or the time is over.

    Args:
        time_to_end: None while the sweep goes on; then the seconds that are left for what is not
            sent yet.
        is_mine: whether nobody else has taken this run's stream over; asked every few seconds.
        max_failures: of the connection, in a row, after which to end; None is to go on for ever,
            and a refusal is one too many.

    Raises:
        ClientDied: start this process anew to go on where the server is.
        LeaseLost: another stream has taken over.
    """
    try:
        _turn(sink, run_folder, time_to_end, is_mine, max_failures)
    except (ClientDied, LeaseLost):
        sink.abandon()
        raise
    except BaseException:
        sink.end()
        raise
    sink.status.state = "ended"
    sink.status.write(run_folder)  # closing what is open may take longer than there is time
    sink.end()
    sink.status.write(run_folder)


def _turn(
    sink: Sink,
    run_folder: Path,
    time_to_end: Callable[[], float | None],
    is_mine: Callable[[], bool],
    max_failures: int | None,
) -> None:
    deadline: float | None = None
    written = checked = 0.0
    while True:
        now = time.monotonic()
        if deadline is None or math.isinf(deadline):  # one without an end may yet get one
            seconds = time_to_end()
            if seconds is not None:
                sink.is_ending, deadline = True, now + seconds
        if now - checked >= HEARTBEAT_S:
            checked = now
            if not is_mine():
                raise LeaseLost("another process streams this run now")
        is_something_left = sink.turn()
        if now - written >= _WRITE_EVERY_S:
            written = now
            sink.status.write(run_folder)
        refusals = sink.num_failures if sink.status.state != "refused" else max_failures
        if max_failures is not None and (refusals or 0) >= max_failures:
            return
        if deadline is not None and (
            not is_something_left or now >= deadline or sink.paused_until > deadline
        ):
            return
        is_busy = is_something_left and sink.paused_until <= time.monotonic()
        time.sleep(TURN_S / 5 if is_busy else TURN_S)


def only_stream(run_folder: Path, mode: str, wait: Callable[[], bool]) -> Lease | None:
    """The lease of a run's stream; several would send the same rows at the same time.

    Args:
        wait: asked about once a second while another has it; False is to give up.

    Returns:
        The lease, or None if `wait` gave up.

    Raises:
        SweepError: the folder cannot be written.
    """
    leases = Leases(run_folder / FOLDER / "leases")
    watch, stale = Watch(leases, _TAKEOVER_S), None
    try:
        while (lease := leases.acquire(mode, stale)) is None:
            holding, sign = watch.look(mode)
            stale = sign if holding is Holding.STALE else None
            if not wait():
                return None
    except OSError as error:
        raise SweepError(f"{run_folder}: cannot be written ({error.strerror})") from error
    return lease
