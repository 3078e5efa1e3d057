"""Which units W&B is known to have whole, so that nobody is asked twice."""

import hashlib
import json
import threading
from contextlib import suppress
from pathlib import Path

from sweep.tracking.status import FOLDER


class Book:
    """A file a target, with one line a unit."""

    def __init__(self, run_folder: Path, *target: str | None) -> None:
        """`target`: all that says where the units are, such as server, entity and project."""
        name = hashlib.sha256(json.dumps(target).encode()).hexdigest()[:12]
        self._path = run_folder / FOLDER / f"confirmed-{name}.txt"
        self._lock = threading.Lock()
        self.confirmed: set[str] = set()
        with suppress(OSError):
            # A last line that was cut short is no key of a plan, and its unit is asked for again.
            self.confirmed = set(self._path.read_text(errors="replace").split())

    def confirm(self, key: str) -> None:
        """Write down that nothing of a unit is missing."""
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(f"{key}\n")
            self.confirmed.add(key)
