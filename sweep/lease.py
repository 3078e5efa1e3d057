"""Leases: who computes a unit, so that all who share a store compute it once.

    <store>/leases/<key>/<generation>   the newest generation is the lease that counts

Taking a lease is making the hard link of one's token that has the next free number; on a local and
on a network file system exactly one of several racers succeeds. The holder touches its lease every
few seconds. Whoever sees the same time on it for `takeover_s`, by a clock of his own, may take the
next number: times are compared with each other, never with a clock, so clocks may differ. Where the
holder was a process of this very machine that is gone, there is nothing to wait for.

A holder that was merely slow finds a higher number than its own, and stops. What keeps it from
publishing in any case is the store, which moves its working folder away (see `Store.building`).
"""

import errno
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from sweep.errors import LeaseLost, StoreError

HEARTBEAT_S = 5.0
MIN_TAKEOVER_S = 3 * HEARTBEAT_S  # less would take a unit from a holder that lives
_ATTEMPTS = 100  # lost races before a lease counts as held


@dataclass(frozen=True)
class Sign:
    """What an observer sees of a lease; seeing the same twice is to see no sign of life."""

    generation: int
    holder: str
    mtime_ns: int


@dataclass(frozen=True)
class _Seen:
    sign: Sign
    is_dead: bool  # its holder was a process of this machine, and is gone


class Leases:
    """All leases in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def acquire(self, key: str, stale: Sign | None = None) -> "Lease | None":
        """The lease for `key`, or None while somebody else holds it.

        Args:
            stale: a lease with this sign may be taken over; an observer saw no life in it.

        Raises:
            StoreError: the file system knows no hard links.
            OSError: the folder cannot be written.
        """
        identity = secrets.token_hex(6)
        token = self.root / f".token-{identity}"
        self.root.mkdir(parents=True, exist_ok=True)
        token.write_text(json.dumps(_this_process() | {"holder": identity}))
        try:
            for _ in range(_ATTEMPTS):
                newest = self._newest(key)
                if newest is not None and not newest.is_dead and newest.sign != stale:
                    return None
                path = self._path(key, 1 if newest is None else newest.sign.generation + 1)
                if self._link(token, path):
                    return Lease(path, identity)
            return None
        finally:
            token.unlink(missing_ok=True)

    def newest(self, key: str) -> Sign | None:
        """The sign of the lease that counts, or None if there is none."""
        seen = self._newest(key)
        return None if seen is None else seen.sign

    def is_dead(self, key: str) -> bool:
        """Whether the holder was a process of this machine that is gone; needs no watching."""
        seen = self._newest(key)
        return seen is not None and seen.is_dead

    def is_held(self, key: str) -> bool:
        """Whether somebody has the lease who is not known to be gone."""
        seen = self._newest(key)
        return seen is not None and not seen.is_dead

    def holder(self, key: str) -> dict[str, Any]:
        """What is known of the holder: host and pid; empty where nobody holds the lease."""
        seen = self._newest(key)
        return {} if seen is None else _read(self._path(key, seen.sign.generation))[0]

    def is_alive_here(self, key: str) -> bool:
        """Whether the holder is a living process of this machine; needs no watching either."""
        content = self.holder(key)
        return _is_of_this_machine(content) and not _is_gone(content)

    def remove(self, key: str) -> None:
        """Remove all leases for `key`, of which nobody will need one any more."""
        _remove_folder(self.root / key)

    def keys(self) -> list[str]:
        """Keys that have a lease, also those of dead holders."""
        with suppress(FileNotFoundError):
            return [e.name for e in os.scandir(self.root) if not e.name.startswith(".")]
        return []

    def _path(self, key: str, generation: int) -> Path:
        return self.root / key / str(generation)

    def _newest(self, key: str) -> _Seen | None:
        newest, generation = None, 1
        while True:
            try:
                content, mtime_ns = _read(self._path(key, generation))
            except FileNotFoundError:
                return newest
            sign = Sign(generation, str(content.get("holder")), mtime_ns)
            newest = _Seen(sign, _is_gone(content))
            generation += 1

    def _link(self, token: Path, path: Path) -> bool:
        path.parent.mkdir(exist_ok=True)
        try:
            os.link(token, path)
        except FileNotFoundError:
            return False  # its holder has just released it
        except FileExistsError:
            # On a network the link may have been made and only the answer been lost.
            return os.stat(token).st_nlink > 1
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                problem = f"no hard links on this file system ({error.strerror}): set output.store"
                raise StoreError(self.root, problem) from error
            raise
        return True


class Lease:
    """A lease that is held; in a `with` block it is kept alive, and released at its end."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self._next = path.with_name(str(int(path.name) + 1))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_ended, daemon=True)

    @property
    def key(self) -> str:
        """Whose lease it is."""
        return self.path.parent.name

    def is_current(self) -> bool:
        """Whether nobody has taken it over."""
        try:
            content, _ = _read(self.path)
        except FileNotFoundError:
            return False
        return content.get("holder") == self.identity and not self._next.exists()

    def require(self) -> None:
        """Go on only as the holder.

        Raises:
            LeaseLost: somebody has taken the lease over.
        """
        if not self.is_current():
            raise LeaseLost(f"{self.key}: taken over by another process")

    def beat(self) -> None:
        """Show that the holder lives."""
        with suppress(OSError):  # a network that is away for a moment
            if self.is_current():
                os.utime(self.path)

    def _beat_until_ended(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            self.beat()

    def release(self) -> None:
        """Give the lease back, unless it was lost."""
        with suppress(OSError):
            if self.is_current():
                _remove_folder(self.path.parent)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.release()


class Holding(Enum):
    """How a lease looks to somebody who waits for it."""

    FREE = "free"
    HELD = "held"
    STALE = "stale"  # its holder has shown no life for long enough


class Watch:
    """Waits for leases that others hold, and notices holders that are gone."""

    def __init__(
        self, leases: Leases, takeover_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._leases, self._takeover_s, self._clock = leases, takeover_s, clock
        self._first_seen: dict[str, tuple[Sign, float]] = {}

    def look(self, key: str) -> tuple[Holding, Sign | None]:
        """How the lease looks now, and the sign with which a stale one is taken over."""
        sign = self._leases.newest(key)
        if sign is None:
            self.forget(key)
            return Holding.FREE, None
        now = self._clock()
        before, since = self._first_seen.get(key, (None, now))
        if before != sign:
            since = now
            self._first_seen[key] = sign, now
        is_stale = self._leases.is_dead(key) or now - since >= self._takeover_s
        return (Holding.STALE if is_stale else Holding.HELD), sign

    def forget(self, key: str) -> None:
        """Begin anew when this lease is looked at again."""
        self._first_seen.pop(key, None)


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """Content and time of a lease. Opened, since a network file system then asks its server."""
    with path.open("rb") as file:
        mtime_ns = os.fstat(file.fileno()).st_mtime_ns
        try:
            content = json.loads(file.read())
        except (ValueError, RecursionError):
            content = {}  # damaged: it is judged by its time alone
    return (content if isinstance(content, dict) else {}), mtime_ns


def _remove_folder(folder: Path) -> None:
    # All generations at once: with some of them gone, a newcomer would count from the start.
    aside = folder.with_name(f".released-{secrets.token_hex(6)}")
    with suppress(FileNotFoundError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), **_machine(), "pid": pid, "born": born(pid)}


@cache
def _machine() -> dict[str, str]:
    """Within one start of one kernel and one process namespace, a pid and its birth are unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {}


def _is_of_this_machine(content: dict[str, Any]) -> bool:
    machine = _machine()
    return bool(machine) and {name: content.get(name) for name in machine} == machine


def _is_gone(content: dict[str, Any]) -> bool:
    if not _is_of_this_machine(content):
        return False  # another machine's: its pids mean nothing here
    pid = content.get("pid")
    return isinstance(pid, int) and born(pid) != content.get("born")


def born(pid: int) -> str:
    """When a process began, in clock ticks since the machine's start; empty if it is no more.

    Unlike a time of day it stays the same when the clock is set.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, start_time = fields[0], fields[19]
    return "" if state in "ZX" else start_time  # a zombie has ended, only nobody has asked yet
