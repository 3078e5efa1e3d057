"""File systems: what publishing by rename, leases by hard links and tokens rest upon."""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.checks.check import Check, Result, Skip, ok, problem, warning
from cluster.temporary import temporary_folder

GB = 1024**3
MAX_SKEW_S = 10.0
_NETWORK = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "afs"}
_NETWORK |= {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "wekafs", "panfs", "pvfs2", "orangefs"}
_FLEETING = {"tmpfs": "a restart", "ramfs": "a restart", "overlay": "the container's end"}
_SOCKET_BYTES = 107
# The longest path below Ray's temporary folder.
_SOCKET = "/session_2000-01-01_00-00-00_000000_{pid}/sockets/plasma_store.1"
_SLOW_FLUSH_S = 1.0
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Place:
    """A folder that a sweep writes to; it need not exist yet."""

    name: str
    path: Path

    @property
    def existing(self) -> Path:
        """The folder, or the nearest one above it that exists."""
        path = self.path.absolute()
        return next(part for part in (path, *path.parents) if os.path.lexists(part))

    @contextmanager
    def probe(self) -> Iterator[Path]:
        """A folder to try things in, removed afterwards.

        Raises:
            Skip: it cannot be made; `folder` is the check that says why.
        """
        try:
            folder = Path(tempfile.mkdtemp(prefix=".usweep-doctor-", dir=self.existing))
        except OSError:
            raise Skip(f"{self.existing} cannot be written") from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def checks(self) -> list[Check]:
        """Everything that the store asks of a file system."""
        looks = {
            "folder": self.check_folder,
            "hard links": self.check_links,
            "rename": self.check_rename,
            "flush": self.check_flush,
            "clock": self.check_clock,
        }
        return [Check(f"{self.name}: {what}", look) for what, look in looks.items()]

    def check_folder(self) -> Result:
        """It can be made or written, and there is space."""
        try:
            with tempfile.TemporaryDirectory(prefix=".usweep-doctor-", dir=self.existing):
                pass
        except OSError as error:
            seen = f"{self.path} cannot be written ({self.existing}: {error.strerror})"
            return problem(seen, "name another folder, or have this one's owner let you write")
        kind, space = file_system(self.existing), os.statvfs(self.existing)
        free = space.f_bavail * space.f_frsize
        seen = f"{self.path}: {kind}, {free / GB:.1f} GB free"
        if free < GB:
            return problem(seen, "make room, or name a folder elsewhere")
        if free < 10 * GB:
            return warning(seen, "make room: models and outputs of a large sweep take more")
        if kind in _FLEETING:
            seen += f"; it is gone after {_FLEETING[kind]}"
            return warning(seen, "name a folder on a disk or a network file system to keep it")
        if space.f_files and space.f_favail < 100_000:
            seen += f", {space.f_favail:,} files may be made"
            return warning(seen, "remove small files: each unit makes about five")
        return ok(seen)

    def check_links(self) -> Result:
        """Of two that make the same hard link, one is refused: what a lease is."""
        advice = "name a folder on a local disk, NFS, Lustre or GPFS: leases are hard links"
        with self.probe() as folder:
            first, second, lease = (folder / name for name in ("first", "second", "lease"))
            first.touch()
            second.touch()
            try:
                os.link(first, lease)
            except OSError as error:
                return problem(f"no hard links ({error.strerror})", advice)
            try:
                os.link(second, lease)
            except FileExistsError:
                is_first = os.path.samefile(first, lease) and first.stat().st_nlink == 2
                if is_first:
                    return ok("made, and the second of two refused")
                return problem("a hard link is not the file that it was made of", advice)
            return problem("two processes can make the same hard link", advice)

    def check_rename(self) -> Result:
        """A file takes another's place, and a folder appears whole or not at all."""
        advice = "name a folder on another file system: what is finished is published by a rename"
        with self.probe() as folder:
            old, new = folder / "old", folder / "new"
            old.write_text("old")
            new.write_text("new")
            building, unit = folder / "building", folder / "unit"
            building.mkdir()
            (building / "record").write_text("whole")
            try:
                os.replace(new, old)
                building.rename(unit)
            except OSError as error:
                return problem(f"a rename fails ({error.strerror})", advice)
            if new.exists() or old.read_text() != "new" or building.exists():
                return problem("a rename leaves the old name or the old content", advice)
            if (unit / "record").read_text() != "whole":
                return problem("a renamed folder has lost its files", advice)
            return ok("files and folders")

    def check_flush(self) -> Result:
        """What was written can be waited for until the disk has it."""
        with self.probe() as folder:
            began = time.monotonic()
            try:
                with (folder / "file").open("wb") as file:
                    file.write(bytes(2**20))
                    file.flush()
                    os.fsync(file.fileno())
                handle = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            except OSError as error:
                advice = "name a folder on another file system: a power cut could lose results"
                return problem(f"fsync fails ({error.strerror})", advice)
            took = time.monotonic() - began
        seen = f"1 MB and its folder in {took * 1000:.0f} ms"
        if took > _SLOW_FLUSH_S:
            return warning(seen, "each finished unit waits for this: name a faster folder")
        return ok(seen)

    def check_clock(self) -> Result:
        """The file server's clock is this machine's, and the times of files can be set anew."""
        with self.probe() as folder:
            before = time.time()
            file = folder / "file"
            file.write_text("now")
            after = time.time()
            made = file.stat().st_mtime
            os.utime(file, (0, 0))
            os.utime(file)
            if file.stat().st_mtime < min(made, before) - MAX_SKEW_S:
                advice = "name a folder on another file system: leases are kept alive by it"
                return problem("the time of a file stays when it is touched", advice)
        return judge_skew(skew(made, before, after), "the file server")

    def check_token(self) -> Result:
        """A file that only its owner can read."""
        advice = "name a folder that keeps modes: Ray's token would be open to others"
        with self.probe() as folder:
            token = folder / "token"
            handle = os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            os.close(handle)
            found = token.stat()
        mode = found.st_mode & 0o777
        if mode != 0o600:
            return problem(f"a file made with mode 0600 has mode {mode:04o}", advice)
        if found.st_uid != os.geteuid():
            seen = f"a file of yours belongs to user {found.st_uid}"
            return problem(seen, advice)
        return ok("a token file has mode 0600")


def skew(told: float, before: float, after: float) -> float:
    """Seconds by which a clock that told a time between two others is ahead of theirs."""
    return told - after if told > after else min(0.0, told - before)


def judge_skew(seconds: float, whose: str) -> Result:
    """A result for a clock that is so many seconds ahead of this machine's."""
    if abs(seconds) <= MAX_SKEW_S:
        return ok(f"{whose}'s clock is within {max(1, round(abs(seconds)))} s of this machine's")
    ahead = "ahead of" if seconds > 0 else "behind"
    seen = f"{whose}'s clock is {abs(seconds):.0f} s {ahead} this machine's"
    advice = "have the clocks set (chrony); units are safe, but `usweep status` is misled"
    return warning(seen, advice)


def file_system(path: Path) -> str:
    """The kind of file system that an existing path lies on, such as ext4 or nfs4."""
    target, best, kind = os.path.realpath(path), "", "unknown file system"
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:
        return kind
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")  # a space is \\040
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the last of equals covers those before it
            best, kind = point, right.split()[0]
    return kind


def by_file_system(places: list[Place]) -> list[list[Place]]:
    """Places on the same file system together, in the order of their first."""
    groups: dict[int, list[Place]] = {}
    for place in places:
        groups.setdefault(os.lstat(place.existing).st_dev, []).append(place)
    return list(groups.values())


def temporary_checks() -> list[Check]:
    """The folder for Ray's sockets and logs on this machine."""
    return [
        Check("temporary folder", check_temporary),
        Check("socket paths", check_socket_path),
    ]


def check_temporary() -> Result:
    """It can be written, is this machine's own, and has space."""
    advice = "set TMPDIR to a folder on this machine's own disk"
    try:
        parent = Path(tempfile.gettempdir())
        with tempfile.NamedTemporaryFile(dir=parent):
            pass
    except OSError as error:
        return problem(f"no temporary folder can be written ({error.strerror})", advice)
    kind, free = file_system(parent), shutil.disk_usage(parent).free
    seen = f"{parent}: {kind}, {free / GB:.1f} GB free"
    if kind in _NETWORK:
        return problem(f"{seen}; sockets do not work across a network", advice)
    if free < GB:
        return problem(seen, f"make room, or {advice}")
    return warning(seen, f"make room, or {advice}") if free < 5 * GB else ok(seen)


def check_socket_path() -> Result:
    """Ray's sockets fit the kernel's limit, also for the longest process number."""
    folder = temporary_folder()
    shutil.rmtree(folder)
    longest = Path("/proc/sys/kernel/pid_max").read_text().strip()
    length = len(os.fsencode(str(folder) + _SOCKET.format(pid=longest)))
    seen = f"up to {length} bytes below {folder.parent}, {_SOCKET_BYTES} are allowed"
    if length > _SOCKET_BYTES:
        return problem(seen, "set TMPDIR to a shorter path, such as /tmp")
    try:
        parent = tempfile.TemporaryDirectory(dir=folder.parent)
        with parent as probe, socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.join(probe, "s"))
    except OSError as error:
        seen = f"no socket can be made in {folder.parent} ({error.strerror})"
        return problem(seen, "set TMPDIR to a folder on this machine's own disk")
    return ok(seen)
