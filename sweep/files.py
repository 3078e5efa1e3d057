"""Files that a reader never sees half-written and no stranger can write, and sealed JSON."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def keep_others_from_writing() -> None:
    """What this process and its children make from now on is never world-writable.

    Everything else of the umask stays, so that a group can share what it makes.
    """
    # Nothing is open to anyone between the two calls, whatever other threads make meanwhile.
    os.umask(os.umask(0o077) | 0o002)


def write_atomically(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write beside `path`, then rename over it; folders above it are made where missing.

    Args:
        durable: also wait until the disk has it, so that a power cut cannot leave it empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp gives 0600, which a colleague could not read
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(content: dict[str, Any]) -> str:
    """A JSON text of `content` and a digest of it, which `unseal` checks."""
    return json.dumps(content | {"digest": _digest(content)}, indent=1, allow_nan=False)


def unseal(text: str | bytes) -> dict[str, Any]:
    """What was sealed.

    Raises:
        ValueError: the text was cut short or changed; a single flipped bit is enough.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict) or "digest" not in content:
        raise ValueError("it has no digest")
    digest = content.pop("digest")
    if digest != _digest(content):
        raise ValueError("its content does not have the digest that it was written with")
    return content


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
