"""What can go wrong outside the core.

    SweepError
    ├── StoreError          a store that cannot be used
    │   └── DamagedError    a file of a finished unit that is not what was written
    ├── UnitHeld            another sweep computes the unit, or has just finished it
    ├── DataChanged         a unit's images changed on the disk while it was computed
    ├── LeaseLost           a unit was taken over, because its holder seemed to be gone
    └── UnitPaused          a unit stopped at a checkpoint, because its sweep ends

`cluster.errors.ClusterError`, for no Ray to run on, stands apart: that package knows no sweep.
"""

from pathlib import Path


def one_line(text: str) -> str:
    """Text from anywhere as one line that leaves a terminal as it is."""
    joined = " ".join(line.strip() for line in text.splitlines())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in joined)


class SweepError(Exception):
    """Base of all errors raised on purpose by this package."""


class StoreError(SweepError):
    """A file or folder of the store is unusable; the message says which and what to do."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[type["StoreError"], tuple[Path, str]]:
        return type(self), (self.path, self.problem)


class DamagedError(StoreError):
    """A file of a finished unit is missing, cut short or changed."""


class UnitHeld(SweepError):
    """Another sweep computes the unit, or has finished it since it was last looked for."""


class LeaseLost(SweepError):
    """The unit was taken over by another sweep, to which this holder seemed to be gone."""


class DataChanged(SweepError):
    """The prepared images changed while a unit was trained on them; its result is of no use."""


class UnitPaused(SweepError):
    """The unit has stopped after an epoch and left a checkpoint, because its sweep ends."""
