"""A unit's checkpoint as files in the folder it is built in.

The tensors go to a file named by their digest, then `checkpoint.json`, sealed, is renamed over the
one before and names it: at every moment a whole checkpoint is there, or none.
"""

import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from sweep.errors import UnitPaused
from sweep.files import read_bounded, seal, unseal, write_atomically
from sweep.store import CHECKPOINT_PREFIX, Work
from unlearning.checkpoint import Checkpoint

FILE = f"{CHECKPOINT_PREFIX}.json"
_CHECK_EVERY_S = 1.0  # how often a unit of short epochs looks at its lease and for the sweep's end


def write_checkpoint(folder: Path, key: str, checkpoint: Checkpoint, facts: dict[str, Any]) -> None:
    """Write a checkpoint; it replaces the one before.

    Args:
        facts: JSON-ready, what the next attempt should know besides.

    Raises:
        OSError: the disk is full or gone; the checkpoint before is still there.
    """
    content = save({name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    name = f"{CHECKPOINT_PREFIX}-{digest[:16]}.safetensors"
    write_atomically(folder / name, content, durable=True)
    described = {"key": key, "tensors": name, "sha256": digest, "unit": checkpoint.facts, **facts}
    write_atomically(folder / FILE, seal(described), durable=True)
    for path in folder.glob(f"{CHECKPOINT_PREFIX}-*.safetensors"):
        if path.name != name:
            path.unlink()


def read_checkpoint(folder: Path, key: str) -> tuple[Checkpoint, dict[str, Any]] | None:
    """The checkpoint in a folder and the facts written with it; None if there is no whole one.

    A damaged one is no reason to fail: the unit starts over.
    """
    try:
        described = unseal(read_bounded(folder / FILE))
        content = (folder / described["tensors"]).read_bytes()
        if described["key"] != key or hashlib.sha256(content).hexdigest() != described["sha256"]:
            return None
        return Checkpoint(load(content), described["unit"]), described
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


@dataclass
class Pace:
    """Decides after each epoch of a unit whether to write a checkpoint, and whether to stop."""

    work: Work
    drain_files: Collection[Path]  # where one exists, the sweep is ending, or its node is leaving
    every_s: float
    facts: dict[str, Any]
    clock: Callable[[], float] = time.monotonic
    _written: float = field(init=False)
    _checked: float = field(init=False)

    def __post_init__(self) -> None:
        self._written = self._checked = self.clock()

    def after_epoch(self, make_checkpoint: Callable[[], Checkpoint]) -> None:
        """What the core calls after each epoch.

        Raises:
            LeaseLost: another process has taken the unit over.
            UnitPaused: the sweep is ending; a checkpoint was written.
        """
        now = self.clock()
        is_due = now - self._written >= self.every_s
        if not is_due and now - self._checked < _CHECK_EVERY_S:
            return
        self._checked = now
        self.work.lease.require()
        is_ending = any(path.exists() for path in self.drain_files)
        if is_due or is_ending:
            key = self.work.lease.key
            write_checkpoint(self.work.folder, key, make_checkpoint(), self.facts)
            self._written = self.clock()  # a slow disk must not take all the time
        if is_ending:
            raise UnitPaused(f"{self.work.lease.key}: stopped at a checkpoint")
