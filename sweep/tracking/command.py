"""`usweep track`: send what is not sent yet, from wherever there is a way out."""

import time
from pathlib import Path

from rich.console import Console

from sweep.errors import SweepError
from sweep.lease import Leases
from sweep.overview import open_run
from sweep.run import CONFIG_FILE, PLAN_FILE
from sweep.secrets import netrc_path, source_of_key
from sweep.tracking.__main__ import EXIT_HELD, FOLLOW, ONCE
from sweep.tracking.beside import end_stream, log_of, start_stream
from sweep.tracking.status import FOLDER, TrackingStatus, describe, read_status

_LOOK_EVERY_S = 0.5
_LINE_EVERY_S = 10.0  # in a log without a terminal
_HASTE_S = 3.0  # after Ctrl-C


def track_run(run_folder: Path, follow: bool, console: Console) -> TrackingStatus:
    """Send all finished units of a run, and with `follow` those under way until the sweep ends.

    Reads the store alone, so it works for a sweep that was tracked offline or not at all, and
    beside a sweep whose own machines have no way out.

    Raises:
        SweepError: no key, or another process does it already.
    """
    if follow:
        _wait_for_plan(run_folder, console)
    open_run(run_folder)
    if source_of_key() is None:
        raise SweepError(
            "no key for Weights & Biases: run `wandb login`, or set WANDB_API_KEY; "
            f"looked there and in {netrc_path()}"
        )
    before = read_status(run_folder, "online")
    process = start_stream(run_folder, FOLLOW if follow else ONCE)
    try:
        with console.status("asking the server") as display:
            printed = time.monotonic()
            while process.poll() is None:
                time.sleep(_LOOK_EVERY_S)
                status = read_status(run_folder, "online")
                if status is None or status == before:
                    continue
                line = describe(status, run_folder)
                display.update(line)
                if not console.is_terminal and time.monotonic() - printed >= _LINE_EVERY_S:
                    printed = time.monotonic()
                    console.print(line)
    finally:
        end_stream(process, _HASTE_S)
    if process.returncode == EXIT_HELD:
        holder = Leases(run_folder / FOLDER / "leases").holder("online")
        raise SweepError(
            f"process {holder.get('pid')} on {holder.get('host')} sends {run_folder.name} already"
        )
    status = read_status(run_folder, "online")
    if status is None or status == before or process.returncode == 1:
        raise SweepError(f"nothing could be sent; see {log_of(run_folder)}")
    return status


def _wait_for_plan(run_folder: Path, console: Console) -> None:
    """A sweep that was submitted has a configuration, and a plan once its job has begun."""
    if (run_folder / CONFIG_FILE).exists() and not (run_folder / PLAN_FILE).exists():
        with console.status(f"waiting for {run_folder.name} to begin"):
            while not (run_folder / PLAN_FILE).exists():
                time.sleep(_LOOK_EVERY_S)
