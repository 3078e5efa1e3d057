"""The store: one folder a finished unit, named by the unit's key. It is the ledger of what is done.

    <store>/<kind>/<key>/
        record.json          settings, result, cost, provenance, digests of the other files
        metrics.jsonl        one line an epoch
        outputs.safetensors  logits by `state/set`, and row numbers by set under `rows/set`
        <state>.safetensors  weights of a model state

A unit is built in a folder under <store>/building/ and published by one rename: it is there whole
or not at all.
"""

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweep.errors import StoreError

RECORD, METRICS, OUTPUTS = "record.json", "metrics.jsonl", "outputs.safetensors"
SCHEMA = 1

Record = dict[str, Any]


class Store:
    """Finished units on a disk, local or shared."""

    def __init__(self, root: Path) -> None:
        self.root = root

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
        self.remove_abandoned()

    def remove_abandoned(self) -> None:
        """Remove unfinished folders of processes of this host that are no more."""
        for folder in (self.root / "building").iterdir():
            _, host, pid, created = (*folder.name.split("~"), "", "", "", "")[:4]
            if host == socket.gethostname() and pid.isdigit() and created != _born(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def building(self, kind: str, key: str) -> Iterator[Path]:
        """A folder to build a unit in; leaving the `with` block without an error publishes it.

        Where somebody else has published the same unit meanwhile, theirs stays: a key stands for
        one content. On an error the folder is removed.
        """
        # The process is named with its birth, since process numbers come round again.
        name = f"{key[:16]}~{socket.gethostname()}~{os.getpid()}~{_born(os.getpid())}~"
        folder = Path(tempfile.mkdtemp(prefix=name, dir=self.root / "building"))
        folder.chmod(0o755)  # mkdtemp gives 0700, which a colleague could not read
        try:
            yield folder
            target = self.folder(kind, key)
            target.parent.mkdir(exist_ok=True)
            for path in (*folder.iterdir(), folder):
                _flush(path)  # a power cut after the rename must not leave empty files
            try:
                folder.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
            _flush(target.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def read_record(self, kind: str, key: str) -> Record:
        """The record of a finished unit.

        Raises:
            StoreError: it is missing, cut short, or not this unit's.
        """
        path = self.folder(kind, key) / RECORD
        try:
            record: Record = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(path, f"damaged or unreadable ({error}); {_MEND}") from error
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise StoreError(path, f"not a record of schema {SCHEMA}; {_MEND}")
        if record.get("key") != key or record.get("kind") != kind:
            raise StoreError(path, f"the record of another unit; {_MEND}")
        return record

    def checked_file(self, kind: str, key: str, name: str) -> Path:
        """Path of a unit's file after its content was compared with the recorded digest.

        Raises:
            StoreError: the file or the record is missing or damaged.
        """
        expected = self.read_record(kind, key)["files"].get(name)
        path = self.folder(kind, key) / name
        if expected is None or not path.is_file():
            raise StoreError(path, f"missing; {_MEND}")
        if file_digest(path) != expected:
            raise StoreError(path, f"its content is not what was recorded; {_MEND}")
        return path


_MEND = "remove the unit's folder and run the same sweep again to compute it anew"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _born(pid: int) -> str:
    """When a process began, in clock ticks since the machine's start; empty if there is none.

    Unlike a time of day it stays the same when the clock is set.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return ""
    return after_name.split()[19]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
