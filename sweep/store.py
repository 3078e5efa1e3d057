"""The store: one folder a finished unit, named by the unit's key. It is the ledger of what is done.

    <store>/<kind>/<key>/
        record.json          settings, result, cost, provenance, digests of the other files
        metrics.jsonl        one line an epoch
        node.jsonl           what the machine was doing meanwhile, if the unit took a second or more
        outputs.safetensors  logits by `state/set`, row numbers by set under `rows/set`, and which
                             images a state was trained on under `trained_on/state`
        <state>.safetensors  weights of a model state
    <store>/building/<key>/<holder>/   a unit under way, with its checkpoint
    <store>/leases/                    who computes what (see sweep/lease.py)
    <store>/damaged/                   what was set aside, for people to look at

A unit is built under building/ and published by one rename: it is there whole or not at all.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import DamagedError, LeaseLost, StoreError, UnitHeld, UnitPaused
from sweep.files import file_digest, flush, read_bounded, seal, unseal
from sweep.lease import Lease, Leases, Sign

RECORD, METRICS, OUTPUTS = "record.json", "metrics.jsonl", "outputs.safetensors"
CHECKPOINT_PREFIX = "checkpoint"  # files that only a unit under way has
SCHEMA = 2
# On these a sweep stops: every unit would fail alike, and none of them is at fault.
_UNUSABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)

Record = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A unit that this process computes: nobody else does as long as the lease is current."""

    folder: Path
    lease: Lease


class Store:
    """Finished units on a disk, local or shared."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.leases = Leases(root / "leases")

    def folder(self, kind: str, key: str) -> Path:
        """Where a unit is, once it is finished."""
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        """Whether a unit is finished."""
        return self.folder(kind, key).is_dir()

    def keys(self, kind: str) -> set[str]:
        """Keys of all finished units of a kind, in one look at the disk."""
        try:
            return {entry.name for entry in os.scandir(self.root / kind) if entry.is_dir()}
        except FileNotFoundError:
            return set()

    def open_for_writing(self) -> None:
        """Make the store's folders, and try that they can be written.

        Raises:
            StoreError: they cannot.
        """
        building = self.root / "building"
        try:
            building.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=building) as probe:
                probe.write(b"probe")
        except OSError as error:
            problem = f"the store cannot be written ({error.strerror}); set output.store"
            raise StoreError(self.root, problem) from error

    def remove_leftovers(self, finished: dict[str, set[str]]) -> None:
        """Remove what a kill in the middle of publishing leaves behind of finished units.

        Args:
            finished: keys by kind.
        """
        keys = set().union(*finished.values())
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.root / "building"):
                if entry.name in keys:
                    shutil.rmtree(entry.path, ignore_errors=True)
        for key in set(self.leases.keys()) & keys:
            self.leases.remove(key)

    @contextmanager
    def building(self, kind: str, key: str, stale: Sign | None = None) -> Iterator[Work]:
        """A folder to build a unit in; leaving the `with` block without an error publishes it.

        What an earlier holder has left there is still in it. It was moved, so that a holder that
        was only slow can neither write into it nor publish it. An error of the unit removes the
        folder; an interruption or a disk that fails keeps it, to continue from.

        Args:
            stale: a lease with this sign may be taken over; an observer saw no life in it.

        Raises:
            UnitHeld: somebody else computes the unit, or has just finished it.
            LeaseLost: somebody else has taken the unit over; nothing was published.
        """
        lease = self.leases.acquire(key, stale)
        if lease is None:
            raise UnitHeld(f"{kind} {key[:12]}: computed by another process")
        with lease:
            if self.has(kind, key):
                raise UnitHeld(f"{kind} {key[:12]}: finished by another process")
            work = Work(self._take_folder(lease), lease)
            try:
                yield work
                self._publish(work, self.folder(kind, key))
            except Exception as error:
                if isinstance(error, OSError) and not lease.is_current():
                    raise LeaseLost(f"{kind} {key[:12]}: its folder was taken over") from error
                if not _keeps_folder(error):
                    shutil.rmtree(work.folder, ignore_errors=True)
                raise
            finally:
                with suppress(OSError):
                    work.folder.parent.rmdir()  # if nothing is left in it

    def _take_folder(self, lease: Lease) -> Path:
        parent = self.root / "building" / lease.key
        mine = parent / lease.identity
        parent.mkdir(parents=True, exist_ok=True)
        # More than one is left only by holders that were killed while taking over.
        for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
            if mine.exists():
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(FileNotFoundError):
                    Path(entry.path).rename(mine)
        mine.mkdir(parents=True, exist_ok=True)
        lease.require()  # after the folder is there: who takes over later finds it, and moves it
        return mine

    def _publish(self, work: Work, target: Path) -> None:
        work.lease.require()
        for path in work.folder.glob(f"{CHECKPOINT_PREFIX}*"):
            path.unlink()
        target.parent.mkdir(exist_ok=True)
        try:
            for path in (*work.folder.iterdir(), work.folder):
                flush(path)  # a power cut after the rename must not leave empty files
            work.folder.rename(target)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not work.folder.exists():
                raise LeaseLost(f"{target.name}: taken over while being published") from error
            if not target.is_dir():
                raise
            shutil.rmtree(work.folder)  # published by another: a key stands for one content
        flush(target.parent)

    def set_aside(self, kind: str, key: str) -> Path:
        """Move a finished unit out of the way, since it is damaged; where it is now."""
        (self.root / "damaged").mkdir(exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{kind}-{key[:16]}-", dir=self.root / "damaged"))
        aside.chmod(0o755)  # mkdtemp gives 0700, which a colleague could not read
        with suppress(FileNotFoundError):  # another process was first
            self.folder(kind, key).rename(aside / key)
        return aside

    def write_record(self, folder: Path, record: Record) -> None:
        """Write a unit's record, sealed with a digest of its own, into the folder it is built in.

        Args:
            record: with at least `key`, `kind`, `outcome` and the digests in `files`.
        """
        (folder / RECORD).write_text(seal({"schema": SCHEMA} | record))

    def read_record(self, kind: str, key: str) -> Record:
        """The record of a finished unit.

        Raises:
            DamagedError: it is missing, cut short, changed, or not this unit's.
        """
        path = self.folder(kind, key) / RECORD
        try:
            record = unseal(read_bounded(path))
        except (OSError, ValueError) as error:
            raise DamagedError(path, f"damaged or unreadable ({error}); {_MEND}") from error
        if record.get("schema") != SCHEMA:
            raise DamagedError(path, f"not a record of schema {SCHEMA}; {_MEND}")
        if not isinstance(record.get("files"), dict):
            raise DamagedError(path, f"it names no files; {_MEND}")
        if record.get("key") != key or record.get("kind") != kind:
            raise DamagedError(path, f"the record of another unit; {_MEND}")
        return record

    def checked_file(self, kind: str, key: str, name: str) -> Path:
        """Path of a unit's file after its content was compared with the recorded digest.

        Raises:
            DamagedError: the file or the record is missing or damaged.
        """
        expected = self.read_record(kind, key)["files"].get(name)
        path = self.folder(kind, key) / name
        if expected is None or not path.is_file():
            raise DamagedError(path, f"missing; {_MEND}")
        if file_digest(path) != expected:
            raise DamagedError(path, f"its content is not what was recorded; {_MEND}")
        return path

    def damage(self, kind: str, key: str) -> DamagedError | None:
        """What is wrong with a finished unit; None if every file is what was written.

        A unit that is not there, because another process has set it aside, is not damaged.
        """
        try:
            for name in self.read_record(kind, key)["files"]:
                self.checked_file(kind, key, name)
        except DamagedError as error:
            return error if self.has(kind, key) else None
        return None

    def refusal(self, error: OSError) -> str | None:
        """Why the store can take nothing more after this error; None if it is not the store."""
        below = str(error.filename or "").startswith(str(self.root))
        if error.errno in _UNUSABLE or (below and error.errno in (errno.EACCES, errno.EPERM)):
            return (
                f"{self.root} cannot be written ({error.strerror}); free space or mend it, then "
                "run the same command again: nothing that is finished is lost"
            )
        return None


_MEND = "the same `usweep run` sets the unit aside and computes it anew"


def _keeps_folder(error: Exception) -> bool:
    return isinstance(error, UnitPaused | LeaseLost | OSError)
