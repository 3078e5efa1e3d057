"""`usweep track`: send what is not sent yet, from wherever there is a way out."""

import math
import time
from pathlib import Path

from rich.console import Console

from sweep.errors import SweepError
from sweep.lease import Leases
from sweep.overview import is_running, open_run
from sweep.secrets import netrc_path, source_of_key
from sweep.tracking.settings import read_tracking
from sweep.tracking.status import FOLDER, TrackingStatus, describe
from sweep.tracking.stream import make_sink, only_stream, stream

_MAX_FAILURES = 3
_LINE_EVERY_S = 10.0  # in a log without a terminal


def track_run(run_folder: Path, follow: bool, console: Console) -> TrackingStatus:
    """Send all finished units of a run, and with `follow` those under way until the sweep ends.

    Reads the store alone, so it works for a sweep that was tracked offline or not at all, and
    beside a sweep whose own machines have no way out.

    Raises:
        SweepError: no key, or another process does it already.
    """
    plan, store = open_run(run_folder)
    config = read_tracking(run_folder)
    if source_of_key() is None:
        raise SweepError(
            "no key for Weights & Biases: run `wandb login`, or set WANDB_API_KEY; "
            f"looked there and in {netrc_path()}"
        )
    lease = only_stream(run_folder, "online", lambda: False)
    if lease is None:
        holder = Leases(run_folder / FOLDER / "leases").holder("online")
        raise SweepError(
            f"process {holder.get('pid')} on {holder.get('host')} sends {run_folder.name} already"
        )

    def time_to_end() -> float | None:
        if not follow:
            return math.inf
        return None if is_running(run_folder) else config.finish_s

    with lease, console.status("asking the server") as display:
        printed = time.monotonic()

        def show(status: TrackingStatus) -> None:
            nonlocal printed
            line = describe(status, run_folder)
            display.update(line)
            if not console.is_terminal and time.monotonic() - printed >= _LINE_EVERY_S:
                printed = time.monotonic()
                console.print(line)

        sink = make_sink(plan, store, run_folder, config, "online")
        stream(sink, run_folder, time_to_end, show, None if follow else _MAX_FAILURES)
    return sink.status
