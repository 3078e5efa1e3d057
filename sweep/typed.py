"""Whether a dataclass that was made from a file holds what its annotations say."""

import reprlib
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

LARGEST = 2**63 - 1  # what tables and clocks can take


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def require_types(instance: object) -> None:
    """Refuse a dataclass with a field of another type, or with a number beyond measure.

    Raises:
        ValueError: names the field.
    """
    for name, hint in _hints(type(instance)).items():  # type: ignore[arg-type]
        value = getattr(instance, name)
        if not _fits(value, hint):
            raise ValueError(f"{name} is {reprlib.repr(value)}")


def _fits(value: Any, hint: Any) -> bool:
    """Knows the kinds of annotations that are used in what is written as JSON."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(_fits(key, parts[0]) and _fits(item, parts[1]) for key, item in pairs)
    if origin in (list, tuple):
        return isinstance(value, origin) and all(_fits(item, parts[0]) for item in value)
    if is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            require_types(value)
            return True
        return False
    if hint in (int, float):
        number = type(value) is int or (hint is float and type(value) is float)
        return number and abs(value) <= LARGEST
    return type(value) is hint
