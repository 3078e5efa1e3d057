"""Where the nodes of a Ray find its head: one file in a folder that all of them see."""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "head.json"
UP, AWAY, ENDED = "up", "away", "ended"  # away: it will be back, such as after a requeue


@dataclass(frozen=True)
class Head:
    """The head of a Ray as it was last heard of."""

    state: str
    attempt: str  # of which job: "<job id>.<how often it was restarted>"
    address: str = ""  # HOST:PORT
    token_file: str = ""
    generation: int = 0  # how many heads this attempt has started


def publish(folder: Path, head: Head) -> None:
    """Tell all nodes; a reader sees this or what was there before, never a part."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{FILE}.")
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(head), file)
    os.chmod(name, 0o644)
    os.replace(name, folder / FILE)


def find(folder: Path) -> Head | None:
    """What was published last; None where nothing was, or nothing that can be read."""
    with suppress(OSError, ValueError, TypeError):
        # Listed first: a network file system then asks its server, not its cache.
        os.listdir(folder)
        return Head(**json.loads((folder / FILE).read_bytes()))
    return None
