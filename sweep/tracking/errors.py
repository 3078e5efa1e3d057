"""What can go wrong with Weights & Biases, told apart by what helps.

TrackingError
├── Unreachable    the network, or a server that is busy: time helps
├── Refused        the key, the project or the team: a person helps
├── RunRefused     one run, such as one that was deleted there: nothing helps that run
└── ClientDied     wandb's own process is gone: a new one helps
"""

import re

from sweep.errors import SweepError, one_line
from sweep.secrets import redact

_REFUSED = (401, 403, 404)
_RUN_REFUSED = (409, 410, 413, 422)
_MAX_TEXT = 300


class TrackingError(SweepError):
    """Base of the errors of tracking; none of them reaches a unit's training."""


class Unreachable(TrackingError):
    """No answer, or one that says to come back later."""


class Refused(TrackingError):
    """The server knows the request and will not have it."""


class RunRefused(TrackingError):
    """The server will not have this one run."""


class ClientDied(TrackingError):
    """wandb's process beside this one has ended; all runs that it served are closed."""


def told_apart(error: BaseException) -> TrackingError:
    """What an exception of wandb's client means; its text holds no secret."""
    if isinstance(error, TrackingError):
        return error
    name = type(error).__name__
    text = one_line(redact(str(error)))[:_MAX_TEXT]
    # wandb leaves with SystemExit where its own process failed.
    if isinstance(error, ConnectionError | SystemExit) or name.startswith("Mailbox"):
        return ClientDied(f"wandb's process has ended ({name})")
    if name == "UsageError" or "api_key" in text.lower() or "api key" in text.lower():
        return Refused(text)  # such as a key that is none
    found = re.search(r"(?:error|HTTP|status(?: code)?:?) (\d{3})\b", text)
    status = int(found.group(1)) if found else None
    if status in _REFUSED:
        return Refused(text)
    if status in _RUN_REFUSED:
        return RunRefused(text)
    return Unreachable(text or name)
