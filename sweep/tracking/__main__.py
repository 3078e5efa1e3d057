"""The process of a stream: `python -m sweep.tracking RUN [once | follow]`.

Whoever starts it holds its standard input: a number of seconds in it, or its end, says how long
there is left for what is not sent yet, also where the driver was killed. `once` is to send what is
finished; `follow` is to go on until the sweep ends, wherever that runs.
"""

import json
import math
import os
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from sweep.errors import LeaseLost
from sweep.files import keep_others_from_writing
from sweep.overview import open_run, run_status
from sweep.secrets import redact_console
from sweep.tracking.child import command
from sweep.tracking.errors import ClientDied
from sweep.tracking.settings import mode_now, read_tracking
from sweep.tracking.stream import make_sink, only_stream, stream

EXIT_HELD = 3  # another process streams this run
EXIT_LATE = 4  # not everything was done in time
ONCE, FOLLOW = "once", "follow"  # of `usweep track`, always online
_BESIDE = "beside"  # a driver
_MAX_FAILURES = 3  # of a connection that somebody waits for
_LATE_S = 5.0  # after which wandb's process is not waited for any more
# Variables of a process that begins anew, by the monotonic clock: when it is to end, and the pause
# that it is in.
_ENDS, _PAUSE = "USWEEP_TRACKING_ENDS", "USWEEP_TRACKING_PAUSE"
_LOOK_EVERY_S = 5.0  # at a sweep that is followed
# Ctrl-C is for the driver. SLURM and submitit send the others to all processes of a job.
_IGNORED = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Parent:
    """What whoever started this process wants of it."""

    def __init__(self, how: str, run_folder: Path, finish_s: float) -> None:
        self._how, self._run_folder, self._finish_s = how, run_folder, finish_s
        self._looked, self._was_over = -math.inf, False
        if _ENDS in os.environ:
            _end_in_any_case(self._left() + _LATE_S)

    def time_to_end(self) -> float | None:
        """None while the sweep goes on; then the seconds that are left."""
        if _ENDS not in os.environ:
            seconds = self._seconds()
            if seconds is None or math.isinf(seconds):
                return seconds
            os.environ[_ENDS] = str(time.monotonic() + seconds)
            _end_in_any_case(seconds + _LATE_S)
        return self._left()

    def _left(self) -> float:
        return max(0.0, float(os.environ[_ENDS]) - time.monotonic())

    def _seconds(self) -> float | None:
        readable, _, _ = select.select([sys.stdin], [], [], 0)
        if readable:
            try:
                return float(sys.stdin.readline())
            except ValueError:  # it closed the pipe without a word
                return self._finish_s
        if self._how == ONCE:
            return math.inf
        if self._how == FOLLOW and self._is_over():
            return self._finish_s
        return None

    def _is_over(self) -> bool:
        """Whether nobody computes the run, nor will; seen twice, since a job may be requeued."""
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return False
        self._looked = time.monotonic()
        was_over, self._was_over = self._was_over, run_status(self._run_folder).is_over
        return was_over and self._was_over


def _end_in_any_case(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, [EXIT_LATE])
    timer.daemon = True
    timer.start()


def main() -> int:
    """The exit code. Where wandb's process has ended, this one begins anew instead."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    keep_others_from_writing()
    redact_console()
    run_folder, how = Path(sys.argv[1]), (*sys.argv[2:], _BESIDE)[0]
    config = read_tracking(run_folder)
    mode = mode_now(config) if how == _BESIDE else "online"
    parent = Parent(how, run_folder, config.finish_s)

    def wait_for_another() -> bool:
        time.sleep(1.0)
        return how == _BESIDE and parent.time_to_end() is None

    lease = only_stream(run_folder, mode, wait_for_another)
    if lease is None:
        return EXIT_HELD
    max_failures = _MAX_FAILURES if how == ONCE else None
    plan, store = open_run(run_folder)
    sink = make_sink(plan, store, run_folder, config, mode)
    sink.num_failures, sink.paused_until = json.loads(os.environ.pop(_PAUSE, "[0, 0.0]"))
    try:
        with lease:
            stream(sink, run_folder, parent.time_to_end, lease.is_current, max_failures)
    except LeaseLost:
        return EXIT_HELD
    except ClientDied as error:
        print(f"begun anew: {error}", flush=True)
        os.environ[_PAUSE] = json.dumps([sink.num_failures, sink.paused_until])
        # Threads that wait for the old one would never end.
        os.execv(sys.executable, command("sweep.tracking", *sys.argv[1:]))
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except BaseException:
        traceback.print_exc()
        code = 1
    # Threads may still wait for a server that does not answer; what they know is on the disk.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
