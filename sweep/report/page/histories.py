"""Stage 1 epoch by epoch, from the histories that finished units keep in the store.

A history is read only as far as its record vouches for it, and never further than the limits here:
a file that is missing, changed, too long or not a file counts as absent.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from sweep.errors import StoreError
from sweep.files import read_bounded
from sweep.store import METRICS

if TYPE_CHECKING:
    from sweep.store import Store

MAX_UNITS = 60  # of one data set and strategy, spread evenly over the plan
MAX_BYTES = 8 * 2**20  # about 80,000 epochs
MAX_LINE = 4096  # bytes
_STATE = "neutralized"

Curve = list[float]  # accuracy on the forget set at the end of epoch 0, 1, 2, …


@dataclass(frozen=True)
class Curves:
    """Curves of trials of one data set and strategy; `wanted` of them were looked for."""

    curves: tuple[Curve, ...]
    wanted: int
    planned: int


def read_curves(store: "Store", rows: pd.DataFrame) -> Curves:
    """The curves of some of the two-stage units in `rows`, which have a record."""
    keys = list(dict.fromkeys(rows["unit"]))
    count = min(len(keys), MAX_UNITS)
    chosen = [keys[index * len(keys) // count] for index in range(count)]
    curves = (read_curve(store, "two_stage", key) for key in chosen)
    return Curves(tuple(curve for curve in curves if curve), count, len(keys))


def read_curve(store: "Store", kind: str, key: str) -> Curve | None:
    """One unit's curve; None where its history cannot be trusted."""
    try:
        content = read_bounded(store.folder(kind, key) / METRICS, MAX_BYTES)
        expected = store.read_record(kind, key)["files"].get(METRICS)
        if hashlib.sha256(content).hexdigest() != expected:
            return None
        return _parse(content)
    except (OSError, StoreError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _parse(content: bytes) -> Curve | None:
    """Stage 1 of a history; the epochs after it are not looked at.

    Raises:
        ValueError, LookupError, TypeError, RecursionError: it is no history.
    """
    curve: Curve = []
    for line in content.splitlines():
        if len(line) > MAX_LINE:
            raise ValueError("a line is too long")
        event = json.loads(line)
        if event["state"] != _STATE:
            break
        accuracy = event["forget_accuracy"]
        if type(accuracy) not in (int, float) or not 0 <= accuracy <= 1:
            raise ValueError(f"an accuracy of {accuracy!r}")
        if event["epoch"] != len(curve):
            raise ValueError(f"epoch {event['epoch']!r} where {len(curve)} belongs")
        curve.append(float(accuracy))
    return curve or None


def quartiles(curves: Sequence[Curve], epochs: Sequence[int]) -> npt.NDArray[np.float64]:
    """Lower quartile, median and upper quartile over trials at each epoch: [3, epochs].

    A trial that has ended counts with its last value: its stage 1 is over, and its model is as it
    is. Leaving it out would make the others seem to rise.
    """
    grid = np.array([[curve[min(epoch, len(curve) - 1)] for epoch in epochs] for curve in curves])
    return np.asarray(np.quantile(grid, [0.25, 0.5, 0.75], axis=0), np.float64)


def drawn_epochs(last: int, most: int, *, logarithmic: bool) -> list[int]:
    """Epochs from 0 to `last`, all of them or `most` that are even on the axis."""
    if last < most:
        return list(range(last + 1))
    steps = np.linspace(0, math.log1p(last) if logarithmic else last, most)
    values = np.expm1(steps) if logarithmic else steps
    return sorted({round(float(value)) for value in values})
