"""The stream as a process of its own beside a sweep's driver, which it can never hold up."""

import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from sweep.tracking.child import command, environment
from sweep.tracking.settings import TrackingConfig, mode_now
from sweep.tracking.status import FOLDER, describe, read_status

_MAX_STARTS, _AGAIN_S = 5, 10.0  # of a stream that is killed, for its memory perhaps
_LATE_S = 8.0  # that the process may need beyond the time it was given
# Where the sweep itself was told to end, by a job's grace time perhaps.
_HASTE_S, _LATE_IN_HASTE_S = 2.0, 1.0


def start_stream(run_folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start the process of `sweep.tracking.__main__`.

    Raises:
        OSError: the run's folder cannot be written.
    """
    log_of(run_folder).parent.mkdir(parents=True, exist_ok=True)
    with log_of(run_folder).open("ab") as log:
        return subprocess.Popen(
            command("sweep.tracking", str(run_folder.resolve()), *arguments),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for its parent
            env=environment() | {"OMP_NUM_THREADS": "1"},
        )


def end_stream(process: "subprocess.Popen[bytes]", seconds: float, late_s: float = _LATE_S) -> None:
    """Give a stream so long for what it has not sent yet; `late_s` later it is gone."""
    assert process.stdin is not None
    with suppress(OSError), process.stdin:  # it may have ended before
        process.stdin.write(f"{seconds}\n".encode())
    try:
        process.wait(seconds + late_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def log_of(run_folder: Path) -> Path:
    """Where a stream says what went wrong."""
    return run_folder / FOLDER / "log.txt"


class Beside:
    """Tracks a run while the `with` block runs; nothing that goes wrong in it reaches the block."""

    def __init__(self, config: TrackingConfig, run_folder: Path, console: Console) -> None:
        self._config, self._run_folder, self._console = config, run_folder, console
        self._process: subprocess.Popen[bytes] | None = None
        self._before = read_status(run_folder)  # of an earlier stream
        self._ends, self._starting = threading.Event(), threading.Lock()
        self.is_in_haste = False

    def __enter__(self) -> "Beside":
        if mode_now(self._config) != "disabled":
            try:
                self._process = start_stream(self._run_folder)
            except OSError as error:
                self._console.print(f"not tracked: {error.strerror}", style="yellow")
            else:
                threading.Thread(target=self._keep, daemon=True).start()
        return self

    def _keep(self) -> None:
        """Start a stream again that a signal has ended; it goes on where that one was."""
        assert self._process is not None
        for _ in range(1, _MAX_STARTS):
            if self._process.wait() >= 0 or self._ends.wait(_AGAIN_S):
                return
            with self._starting:
                if self._ends.is_set():
                    return
                self._start_again()

    def _start_again(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        before = self._process.stdin
        with suppress(OSError):
            self._process = start_stream(self._run_folder)
            before.close()

    def line(self) -> str | None:
        """How far it is, for the display."""
        status = read_status(self._run_folder)
        is_running = self._process is not None and self._process.poll() is None
        if not is_running or status is None or status == self._before:
            return None
        return describe(status, self._run_folder)

    def __exit__(self, *error: object) -> None:
        with self._starting:
            self._ends.set()
        if self._process is None:
            return
        with self._console.status("sending the last results to Weights & Biases"):
            if self.is_in_haste or error[0]:
                end_stream(self._process, _HASTE_S, _LATE_IN_HASTE_S)
            else:
                if (self._process.poll() or 0) < 0:  # killed just now, or too often
                    self._start_again()
                end_stream(self._process, self._config.finish_s)
        status = read_status(self._run_folder)
        if status is None or status == self._before:
            where = log_of(self._run_folder)
            self._console.print(f"W&B: nothing was tracked; see {where}", style="yellow")
        else:
            self._console.print(describe(status, self._run_folder), soft_wrap=True)
            if self._process.returncode == 1:
                where = log_of(self._run_folder)
                self._console.print(f"W&B: the stream ended early; see {where}", style="yellow")
