"""What can go wrong outside the core.

    SweepError
    └── StoreError  a store that cannot be written, or a damaged file in it

`cluster.local.ClusterError`, for no Ray to run on, stands apart: that package knows no sweep.
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
