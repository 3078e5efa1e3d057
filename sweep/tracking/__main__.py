"""The stream beside a sweep's driver: `python -m sweep.tracking RUN`.

Whoever starts it holds its standard input: a number of seconds in it, or its end, says that the
sweep has ended, also where the driver was killed.
"""

import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from sweep.files import keep_others_from_writing
from sweep.overview import open_run
from sweep.secrets import redact_console
from sweep.tracking.settings import mode_now, read_tracking
from sweep.tracking.stream import make_sink, only_stream, stream

_LATE_S = 5.0  # after which wandb's client is not waited for any more
# Ctrl-C is for the driver. SLURM and submitit send the others to all processes of a job.
_IGNORED = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Parent:
    """What the driver says through the pipe."""

    def __init__(self, finish_s: float) -> None:
        self._finish_s = finish_s

    def time_to_end(self) -> float | None:
        """None while the driver goes on; then the seconds that are left."""
        readable, _, _ = select.select([sys.stdin], [], [], 0)
        if not readable:
            return None
        try:
            seconds = float(sys.stdin.readline())
        except ValueError:  # it closed the pipe without a word
            seconds = self._finish_s
        _end_in_any_case(seconds + _LATE_S)
        return seconds


def _end_in_any_case(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()


def main() -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    keep_others_from_writing()
    redact_console()
    run_folder = Path(sys.argv[1])
    config = read_tracking(run_folder)
    mode = mode_now(config)
    parent = Parent(config.finish_s)

    def wait_for_another() -> bool:
        time.sleep(1.0)
        return parent.time_to_end() is None

    lease = only_stream(run_folder, mode, wait_for_another)
    if lease is None:
        return
    with lease:
        plan, store = open_run(run_folder)
        stream(make_sink(plan, store, run_folder, config, mode), run_folder, parent.time_to_end)


if __name__ == "__main__":
    main()
    # Threads may still wait for a server that does not answer; what they know is on the disk.
    sys.stdout.flush()
    os._exit(0)
