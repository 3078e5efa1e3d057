"""A check: a name, and a look at one thing that can be wrong before anything starts."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How something looks; only a problem keeps a sweep from running."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Result:
    """What a look saw, and what to do about it."""

    status: Status
    seen: str
    advice: str = ""  # empty where there is nothing to do


@dataclass(frozen=True)
class Check:
    """One thing to look at; the look may raise, and `Skip` where it cannot be looked at here."""

    name: str
    look: Callable[[], Result]


@dataclass(frozen=True)
class Finding:
    """A check that was made."""

    name: str
    status: Status
    seen: str
    advice: str

    def to_json(self) -> dict[str, str]:
        """For programs."""
        return asdict(self)


class Skip(Exception):
    """Raised by a look at what is not there to be looked at; the message says why."""


def ok(seen: str) -> Result:
    """All is well."""
    return Result(Status.OK, seen)


def warning(seen: str, advice: str) -> Result:
    """A sweep runs, but not as well as it could."""
    return Result(Status.WARNING, seen, advice)


def problem(seen: str, advice: str) -> Result:
    """A sweep would not run, or not survive."""
    return Result(Status.PROBLEM, seen, advice)


def run_checks(lanes: Sequence[Sequence[Check]]) -> list[Finding]:
    """Make all checks: lanes side by side, the checks of a lane one after the other.

    Returns:
        One finding a check, in the order given. A check that crashes is a problem of its own.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(lanes))) as pool:
        found = pool.map(lambda lane: [_make(check) for check in lane], lanes)
        return [finding for lane in found for finding in lane]


def _make(check: Check) -> Finding:
    try:
        result = check.look()
    except Skip as reason:
        result = Result(Status.SKIPPED, str(reason))
    except Exception as error:
        # Catches everything: the checks after this one are still worth making.
        seen = f"the check failed ({type(error).__name__}: {error})"
        result = problem(seen, "see whether the message names something to mend; else report it")
    return Finding(check.name, result.status, _line(result.seen), _line(result.advice))


def _line(text: str) -> str:
    """Output of other programs can hold anything; this is one printable line."""
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in joined)
