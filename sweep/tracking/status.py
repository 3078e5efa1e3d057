"""How far the tracking of a run is, as a file that `usweep status` and the live display read."""

import json
import shlex
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sweep.errors import one_line
from sweep.files import read_bounded, write_atomically
from sweep.typed import require_types

FOLDER = "tracking"  # in a run's folder
STALE_AFTER_S = 30.0  # a stream writes its status every 2 s
MODES = ("online", "offline")
STATES = ("sending", "waiting", "refused", "ended")


@dataclass
class TrackingStatus:
    """What a stream last said."""

    mode: str = "online"  # or offline
    state: str = "sending"  # one of STATES
    url: str | None = None  # of the project
    finished: int = 0  # units in the store
    confirmed: int = 0  # of those, units of which W&B, or the disk, has everything
    live: int = 0  # units that are shown while they run
    given_up: int = 0  # units that were tried in vain; `usweep track` tries them again
    problem: str = ""  # the last one, while there is one
    updated: float = 0.0  # seconds since 1970

    def write(self, run_folder: Path) -> None:
        """Replace the file; a disk that takes nothing more is no reason to stop sending."""
        self.updated = time.time()
        with suppress(OSError):
            write_atomically(_file(run_folder, self.mode), json.dumps(asdict(self)))

    @property
    def is_over(self) -> bool:
        """Whether nobody sends any more: it said so, or has said nothing for long."""
        return self.state == "ended" or time.time() - self.updated > STALE_AFTER_S


def read_status(run_folder: Path, *modes: str) -> TrackingStatus | None:
    """What a stream last said, the newer one of two; None if there was none, or a file is damaged.

    Args:
        modes: online or offline; without any, both.
    """
    found = [_read(_file(run_folder, mode), mode) for mode in modes or MODES]
    known = [status for status in found if status is not None]
    return max(known, key=lambda status: status.updated, default=None)


def _file(run_folder: Path, mode: str) -> Path:
    return run_folder / FOLDER / f"status-{mode}.json"


def _read(path: Path, mode: str) -> TrackingStatus | None:
    try:
        status = TrackingStatus(**json.loads(read_bounded(path)))
        require_types(status)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return status if status.mode == mode and status.state in STATES else None


def describe(status: TrackingStatus, run: Path | str) -> str:
    """One line for people; `run` is how they name the run."""
    done = "written for `wandb sync`" if status.mode == "offline" else "sent"
    parts = [f"{status.confirmed} of {status.finished} finished units {done}"]
    if status.live and not status.is_over:
        parts.append(f"{status.live} live")
    if status.given_up:
        parts.append(f"{status.given_up} given up")
    if status.problem:
        parts.append(f"{'ended' if status.is_over else status.state}: {status.problem}")
    if status.is_over and status.confirmed < status.finished:
        parts.append(f"`usweep track {shlex.quote(str(run))}` sends the rest")
    if status.url is not None:
        parts.append(status.url)
    return one_line(f"W&B {status.mode}: {', '.join(parts)}")
