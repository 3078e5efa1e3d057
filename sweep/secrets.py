"""Keys of services, which must not be written down or shown, whatever a configuration asks for."""

import netrc
import os
import sys
from functools import cache
from typing import Any, TextIO, cast

VARIABLES = ("WANDB_API_KEY",)
_HOSTS = ("wandb", "coreweave")  # parts of the names of the service's own machines
MIN_LENGTH = 8  # anything shorter is no key, and hiding it would blot out ordinary words
HIDDEN = "[redacted]"


def redact(text: str) -> str:
    """The text with every known secret of this process's environment hidden."""
    found = {os.environ.get(name, "").strip() for name in VARIABLES} | _keys_of_netrc()
    for secret in sorted(found, key=len, reverse=True):
        if len(secret) >= MIN_LENGTH:
            text = text.replace(secret, HIDDEN)
    return text


def source_of_key() -> str | None:
    """Where the key for Weights & Biases comes from, None if there is none."""
    if os.environ.get(VARIABLES[0], "").strip():
        return VARIABLES[0]
    return netrc_path() if _keys_of_netrc() else None


def netrc_path() -> str:
    """The file where `wandb login` leaves keys."""
    return os.environ.get("NETRC") or os.path.expanduser("~/.netrc")


def _keys_of_netrc() -> frozenset[str]:
    """Passwords for Weights & Biases, where `wandb login` leaves them."""
    own_server = os.environ.get("WANDB_BASE_URL", "").partition("://")[2].partition("/")[0]
    return _read_netrc(netrc_path(), own_server)


@cache
def _read_netrc(path: str, own_server: str) -> frozenset[str]:
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, ValueError, netrc.NetrcParseError):
        return frozenset()
    return frozenset(
        key
        for host, (_, _, key) in hosts.items()
        if host == own_server or any(part in host for part in _HOSTS)
    )


class Redacted:
    """A stream that hides secrets in what is written to it, and is otherwise the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without its secrets."""
        return self._stream.write(redact(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_console() -> None:
    """Hide secrets in everything that this process prints from now on, tracebacks included."""
    if not isinstance(sys.stdout, Redacted):
        sys.stdout = cast(TextIO, Redacted(sys.stdout))
        sys.stderr = cast(TextIO, Redacted(sys.stderr))
