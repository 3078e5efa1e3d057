"""How far the tracking of a run is, as a file that `usweep status` and the live display read."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sweep.errors import one_line
from sweep.files import write_atomically
from sweep.typed import require_types

FOLDER = "tracking"  # in a run's folder
_FILE = "status.json"


@dataclass
class TrackingStatus:
    """What the sink last said."""

    mode: str = "online"  # or offline
    state: str = ""  # sending, waiting, refused, ended
    url: str | None = None  # of the project
    finished: int = 0  # units in the store
    confirmed: int = 0  # of those, units of which W&B, or the disk, has everything
    live: int = 0  # units that are shown while they run
    given_up: int = 0  # units that were tried in vain; `usweep track` tries them again
    problem: str = ""  # the last one, while there is one
    updated: float = 0.0  # seconds since 1970

    def write(self, run_folder: Path) -> None:
        """Replace the file."""
        self.updated = time.time()
        write_atomically(run_folder / FOLDER / _FILE, json.dumps(asdict(self)))


def read_status(run_folder: Path) -> TrackingStatus | None:
    """What the sink last said, or None if it never did, or the file is damaged."""
    try:
        status = TrackingStatus(**json.loads((run_folder / FOLDER / _FILE).read_bytes()))
        require_types(status)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return status


def describe(status: TrackingStatus, run_folder: Path) -> str:
    """One line for people."""
    done = "written for `wandb sync`" if status.mode == "offline" else "sent"
    parts = [f"{status.confirmed} of {status.finished} finished units {done}"]
    if status.live:
        parts.append(f"{status.live} live")
    if status.given_up:
        parts.append(f"{status.given_up} given up")
    if status.problem:
        parts.append(f"{status.state}: {one_line(status.problem)}")
    if status.state == "ended" and status.confirmed < status.finished:
        parts.append(f"`usweep track {run_folder}` sends the rest")
    if status.url is not None:
        parts.append(one_line(status.url))
    return f"W&B {status.mode}: {', '.join(parts)}"
