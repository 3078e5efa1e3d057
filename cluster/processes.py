"""Child processes that are ended by pid, whatever they start and however they end."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends.

    So they are still found, by `stop_all` and by a SLURM that follows parents only.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(command: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command that appends what it prints to `log`.

    SLURM's warning, SIGUSR2, may reach the whole process tree, and by default ends whoever does
    not expect it: for the command and all that it starts it is ignored.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            ["env", "--ignore-signal=USR2", *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )


def wait(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """The process's exit code, or None if it still runs after this time.

    Polls, since a signal handler that waits too may have interrupted this very function.
    """
    deadline = time.monotonic() + timeout_s
    while (code := process.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return code


def stop(*children: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """End children and all that they have started: first asked to, all at once, then killed.

    Returns within three times `patience_s`.
    """
    alive = [child for child in children if child.poll() is None]
    families = [one for child in alive for one in _descendants(child.pid)]
    for child in alive:
        child.terminate()
    deadline = time.monotonic() + patience_s
    late = [child for child in alive if wait(child, deadline - time.monotonic()) is None]
    for child in late:
        child.kill()
    deadline = time.monotonic() + patience_s
    for child in late:
        wait(child, deadline - time.monotonic())
    _kill(families, patience_s)


def stop_all(patience_s: float = 5.0) -> None:
    """Kill every descendant of this process, adopted ones included, within about this time."""
    deadline = time.monotonic() + patience_s
    while family := _descendants(os.getpid()):  # one that forks while it is killed leaves another
        _kill(family, deadline - time.monotonic())
        if time.monotonic() > deadline:
            return


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [one for one in psutil.Process(pid).children(recursive=True) if _lives(one)]
    return []


def _kill(processes: Iterable[psutil.Process], patience_s: float) -> None:
    killed = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)  # refuses a pid that is another process by now
            killed.append(process)
    deadline = time.monotonic() + patience_s
    while any(_lives(process) for process in killed) and time.monotonic() < deadline:
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    """Whether it can still do anything; one that has ended may wait long for its parent to ask."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
