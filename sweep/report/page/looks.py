"""How the strategies and scratch look in every figure, and what a cell of a table says to one."""

import math

from sweep.report.aggregate import Results
from sweep.report.cells import Cell, number, strategy_label
from sweep.report.page.panels import MARKERS, LegendEntry, Look, Shape, marker, path_through

NUM_COLORS = 6  # in the stylesheet, s0 to s5
SCRATCH = Look("scratch", "cross")


def look_of(index: int | None) -> Look:
    """Of the strategy with this place among the sweep's strategies; None is scratch."""
    if index is None:
        return SCRATCH
    rounds, color = divmod(index, NUM_COLORS)
    # In every further round of colours the markers move on by one.
    return Look(f"s{color}", MARKERS[(color + rounds) % len(MARKERS)])


def legend_of(results: Results, *more: str, state: str = "") -> tuple[LegendEntry, ...]:
    """Entries for the strategies, then for "scratch", "original" or "chance".

    Args:
        state: of the models, where the lines are of one state only.
    """
    looks = {
        ", ".join(filter(None, [state, strategy_label(name)])): look_of(index)
        for index, name in enumerate(results.strategies)
    }
    looks |= {label: SCRATCH if label == "scratch" else Look(label, "") for label in more}
    return tuple(LegendEntry(label, _swatch(look)) for label, look in looks.items())


def _swatch(look: Look) -> tuple[Shape, ...]:
    line = Shape(path_through([(1, 6), (35, 6)]), f"line {look.style}")
    return (
        (line, Shape(marker(look.marker, 18, 6), f"mark {look.style}")) if look.marker else (line,)
    )


def percent(value: float) -> str:
    """A value in per cent as the tables write it, with its sign."""
    return f"{number(value)} %"


def mean_and_spread(cell: Cell) -> tuple[float, float] | None:
    """What a cell shows, with a spread of 0 where there is none; None without a value."""
    if not cell.values["n"]:
        return None
    mean, spread = (float(cell.values[name]) for name in ("value", "spread"))  # type: ignore[arg-type]
    return mean, 0.0 if math.isnan(spread) else spread
