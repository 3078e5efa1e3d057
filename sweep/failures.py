"""Units that failed, one file each in the run's folder, until a later attempt succeeds."""

import dataclasses
import json
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sweep.files import read_bounded, write_atomically
from sweep.secrets import redact
from sweep.typed import require_types

FOLDER = "failures"


@dataclass(frozen=True)
class Failure:
    """Why a unit has no result."""

    key: str
    cause: str  # one line
    traceback: str
    when: str  # ISO 8601, UTC
    host: str

    @classmethod
    def now(cls, key: str, cause: str, traceback: str = "") -> "Failure":
        """A failure that happened just now on this host; it holds no secret."""
        first_line = redact(cause.strip().splitlines()[0]) if cause.strip() else "no message"
        when, host = datetime.now(UTC).isoformat(), socket.gethostname()
        return cls(key, first_line, redact(traceback), when, host)


def write_failure(run_folder: Path, failure: Failure) -> None:
    """Record a failure; it replaces an earlier one of the same unit."""
    path = run_folder / FOLDER / f"{failure.key}.json"
    write_atomically(path, json.dumps(dataclasses.asdict(failure), indent=1))


def has_failed(run_folder: Path, key: str) -> bool:
    """Whether a failure of this unit was recorded."""
    return (run_folder / FOLDER / f"{key}.json").exists()


def clear_failures(run_folder: Path) -> None:
    """Forget all failures: the units are about to be tried again."""
    for path in (run_folder / FOLDER).glob("*.json"):
        path.unlink()


def read_failures(run_folder: Path) -> dict[str, Failure]:
    """Failures by unit key; a file that cannot be read still counts as a failure of its unit."""
    failures = {}
    for path in sorted((run_folder / FOLDER).glob("*.json")):
        try:
            failure = Failure(**json.loads(read_bounded(path)))
            require_types(failure)
            if failure.key != path.stem:
                raise ValueError("it is another unit's")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            failure = Failure(path.stem, f"{path} is damaged: {error}", "", "", "")
        failures[failure.key] = failure
    return failures
