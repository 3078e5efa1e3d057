"""Files that a reader never sees half-written, and that no stranger can write."""

import os
import tempfile
from pathlib import Path


def keep_others_from_writing() -> None:
    """What this process and its children make from now on is never world-writable.

    Everything else of the umask stays, so that a group can share what it makes.
    """
    # Nothing is open to anyone between the two calls, whatever other threads make meanwhile.
    os.umask(os.umask(0o077) | 0o002)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside `path`, then rename over it; folders above it are made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)  # mkstemp gives 0600, which a colleague could not read
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
