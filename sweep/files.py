"""Files that a reader never sees half-written and no stranger can write, and sealed JSON."""

import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

# A plan of 10,000 units has 3 MB, a history of 4,208 epochs half of one.
MAX_BYTES = 2**28


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


def read_bounded(path: Path, at_most: int = MAX_BYTES) -> bytes:
    """The content of a regular file that anyone may have written.

    Raises:
        OSError, ValueError: it cannot be read, is something else, or has more bytes than `at_most`.
    """
    # Without O_NONBLOCK, a pipe without a writer would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is not a file")
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise ValueError(f"{path} is too long: more than {at_most:,} bytes")
    return content


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
