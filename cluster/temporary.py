"""Short private folders on a machine's own disk, which also go when their owner was killed."""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

# Ray's sockets live under its temporary folder, and a socket's path is limited to 107 bytes.
MAX_PATH = 40
_PREFIX = "usweep-"
_LOCK = ".owner"
_NEW_S = 60.0  # a folder that was just made may not be locked yet
_locks: list[int] = []  # held until this process ends


def temporary_folder(parent: Path | None = None) -> Path:
    """A new private folder with a short path; those of processes that are gone are removed.

    Args:
        parent: a local folder; None: that of the system.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    if len(str(parent)) > MAX_PATH - 18:
        parent = Path("/tmp")
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or just removed by another process
            if _is_left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _locks.append(lock)
    return folder


def remove(folder: Path, patience_s: float = 2.0) -> None:
    """Remove a folder in which processes that are just ending may still write."""
    deadline = time.monotonic() + patience_s
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _is_left_over(folder: Path) -> bool:
    """Whether a folder of this user's has no owner; a pid says nothing across containers."""
    facts = folder.stat()
    if facts.st_uid != os.getuid() or time.time() - facts.st_ctime < _NEW_S:
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
