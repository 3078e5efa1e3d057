"""The library that makes reports and views, imported late; nothing here touches the network."""

import hashlib
import json
import string
import unicodedata
import warnings
from types import ModuleType
from typing import Any, NamedTuple

from sweep.errors import one_line
from sweep.tracking.content import MAX_NAME

_SAFE = frozenset(string.ascii_letters + string.digits + " -_.:/%")
_NO_TITLE = ("C", "S")  # control characters and symbols, which the library refuses in a view's name


class Library(NamedTuple):
    """Modules of wandb-workspaces."""

    reports: ModuleType
    workspaces: ModuleType
    internal: ModuleType  # models of a specification; the only way to one without a network


def library() -> Library:
    """Import the library, which takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is written for an older pydantic
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
        from wandb_workspaces.workspaces import internal
    return Library(reports, workspaces, internal)


def literal(text: str) -> str:
    """The text as a string of the library's filter language.

    The library rewrites `=`, `<` and `>` also inside strings and does not quote quotes, so
    everything but plain characters is written as an escape, which it reads as Python does.
    """
    return '"' + "".join(c if c in _SAFE else f"\\U{ord(c):08x}" for c in text) + '"'


def title(sweep: str) -> str:
    """Name of a sweep's report and of its view, without what a title cannot hold."""
    plain = (c for c in one_line(sweep) if unicodedata.category(c)[0] not in _NO_TITLE)
    return f"usweep: {''.join(plain)}"[:MAX_NAME]


def to_text(model: Any) -> str:
    """A specification as JSON; the same content always gives the same bytes."""
    content = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
    _name_parts(content, "")
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _name_parts(part: Any, place: str) -> None:
    """Give panels and run sets names of their places instead of the library's random ones."""
    if isinstance(part, list):
        for index, entry in enumerate(part):
            _name_parts(entry, f"{place}/{index}")
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "__id__" or (key == "id" and "/runSets/" in place and "filters" in part):
                part[key] = hashlib.sha256(place.encode()).hexdigest()[:12]
            else:
                _name_parts(value, f"{place}/{key}")
