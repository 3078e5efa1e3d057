"""What a node that is to leave a cluster and the work on it have to tell each other.

Whoever starts a node's Ray gives it a folder of the node's own, by an environment variable that
every process on it inherits. A file in it asks the work to leave; one for each process at work
says when it has left. Without that folder, as on a cluster that others have started, a node says
nothing.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "CLUSTER_NODE_FOLDER"
_LEAVE, _BUSY = "leave", "busy"


def leave_file() -> Path | None:
    """Where it exists, work on this node is to stop at its next checkpoint."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) / _LEAVE if folder else None


def is_leaving() -> bool:
    """Whether this node is about to leave the cluster."""
    path = leave_file()
    return path is not None and path.exists()


@contextmanager
def at_work() -> Iterator[None]:
    """In this block the node waits, for as long as it can, before it leaves."""
    path = leave_file()
    mark = None if path is None else path.parent / _BUSY / str(os.getpid())
    if mark is not None:
        with suppress(OSError):
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
    try:
        yield
    finally:
        if mark is not None:
            mark.unlink(missing_ok=True)


def ask_to_leave(folder: Path, patience_s: float) -> bool:
    """Ask the work on a node to stop, and whether it had within this time."""
    (folder / _LEAVE).touch()
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if not any(_is_alive(mark.name) for mark in (folder / _BUSY).glob("*")):
            return True
        time.sleep(0.2)
    return False


def _is_alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()
