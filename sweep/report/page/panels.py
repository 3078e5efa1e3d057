"""Figures as geometry: paths and texts in the coordinates of an SVG, which a stylesheet colours.

Nothing here knows what is drawn. A style is the name of a CSS class, so that one figure is right in
light, in dark and on paper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 340.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 12.0, 24.0, 38.0
_ROOM = 0.06  # of the axis, left free at both ends of the data
_MARKER = 4.0  # radius

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Look:
    """A style for colour and dashes, and a marker: no line is told from others by colour alone."""

    style: str
    marker: str


@dataclass(frozen=True)
class Shape:
    """One path; `title` is what a pointer on it is told."""

    path: str
    style: str
    title: str = ""


@dataclass(frozen=True)
class Label:
    """One text; `anchor` is "start", "middle" or "end"."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    style: str = ""


@dataclass(frozen=True)
class Panel:
    """One drawing with its title and, for whoever cannot see it, what it shows."""

    title: str
    description: str
    width: float
    height: float
    shapes: tuple[Shape, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class LegendEntry:
    """A name and the shapes that stand for it, in a box of 36 by 12."""

    label: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Figure:
    """Panels that share a legend."""

    name: str  # anchor on the page
    title: str
    caption: str
    legend: tuple[LegendEntry, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Axis:
    """The range of one axis and where its ticks are."""

    words: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False  # of 1 + value, so that 0 has a place

    def place(self, value: float) -> float:
        """Where a value is, from 0 at the low end to 1 at the high one."""
        low, high = self.scaled(self.low), self.scaled(self.high)
        share = (self.scaled(value) - low) / (high - low)
        return min(max(share, -0.02), 1.02)

    def scaled(self, value: float) -> float:
        """The value on the axis's own scale."""
        return math.log1p(max(value, 0.0)) if self.logarithmic else value


def _step(span: float, most: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides the span into `most` parts or fewer."""
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))


def fitted_axis(
    words: str,
    values: Sequence[float],
    *,
    most_ticks: int = 5,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Axis:
    """An axis around the values, with some room, never beyond the limits."""
    low, high = min(values), max(values)
    room = _ROOM * (high - low) or max(abs(high) * _ROOM, 1.0)
    low, high = max(low - room, limits[0]), min(high + room, limits[1])
    return _ticked(words, low, high, most_ticks)


def axis_from_zero(words: str, high: float, most_ticks: int = 5) -> Axis:
    """An axis from 0 to a little beyond `high`."""
    return _ticked(words, 0.0, high * (1 + _ROOM) or 1.0, most_ticks)


def _ticked(words: str, low: float, high: float, most_ticks: int) -> Axis:
    step = _step(high - low, most_ticks)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = ((n * step, f"{n * step:,.{decimals}f}") for n in range(first, last + 1))
    return Axis(words, low, high, tuple(ticks))


def decades_axis(words: str, high: float) -> Axis:
    """A logarithmic axis from 0 to `high`, with a tick at 0 and at each power of ten."""
    powers = (10**n for n in range(math.floor(math.log10(high)) + 1))
    ticks = ((0.0, "0"), *((float(power), f"{power:,}") for power in powers))
    return Axis(words, 0.0, high, ticks, logarithmic=True)


def _n(value: float) -> str:
    """A coordinate to a tenth of a pixel; adding 0.0 turns -0.0 into 0.0."""
    return f"{round(value, 1) + 0.0:g}"


def path_through(points: Points, *, closed: bool = False) -> str:
    """The path through points in pixels."""
    steps = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
    return f"M{steps}{'Z' if closed else ''}"


def _polygon(x: float, y: float, corners: Points) -> str:
    return path_through([(x + a * _MARKER, y + b * _MARKER) for a, b in corners], closed=True)


_CORNERS: dict[str, Points] = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
    "wedge": ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
    "cross": (
        *((-1.2, -0.6), (-0.6, -1.2), (0, -0.6), (0.6, -1.2), (1.2, -0.6), (0.6, 0)),
        *((1.2, 0.6), (0.6, 1.2), (0, 0.6), (-0.6, 1.2), (-1.2, 0.6), (-0.6, 0)),
    ),
    "plus": (
        *((-0.45, -1.2), (0.45, -1.2), (0.45, -0.45), (1.2, -0.45), (1.2, 0.45), (0.45, 0.45)),
        *((0.45, 1.2), (-0.45, 1.2), (-0.45, 0.45), (-1.2, 0.45), (-1.2, -0.45), (-0.45, -0.45)),
    ),
}
MARKERS = ("circle", "square", "triangle", "diamond", "wedge", "plus")


def marker(kind: str, x: float, y: float) -> str:
    """The path of a marker around a point in pixels."""
    if kind != "circle":
        return _polygon(x, y, _CORNERS[kind])
    r = _n(_MARKER)
    return f"M{_n(x - _MARKER)} {_n(y)}a{r} {r} 0 1 0 8 0a{r} {r} 0 1 0 -8 0Z"


def rectangle(x: float, y: float, width: float, height: float) -> str:
    """The path of an upright rectangle, in pixels."""
    return path_through(
        [(x, y), (x + width, y), (x + width, y + height), (x, y + height)], closed=True
    )


@dataclass
class Plot:
    """A drawing that grows; coordinates of data go in, and a `Panel` comes out."""

    x: Axis
    y: Axis
    height: float = HEIGHT
    left: float = LEFT
    shapes: list[Shape] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the data in pixels; what is beyond an axis is moved to just beyond its end."""
        across, up = WIDTH - self.left - RIGHT, self.height - TOP - BOTTOM
        return self.left + across * self.x.place(x), TOP + up * (1 - self.y.place(y))

    def line(self, points: Points, style: str) -> None:
        """Straight lines from point to point."""
        self.shapes.append(Shape(path_through([self.at(*point) for point in points]), style))

    def band(self, lower: Points, upper: Points, style: str) -> None:
        """The area between two lines."""
        around = [self.at(*point) for point in (*lower, *reversed(upper))]
        self.shapes.append(Shape(path_through(around, closed=True), style))

    def mark(self, look: Look, x: float, y: float, title: str = "") -> None:
        """A marker at a point."""
        path = marker(look.marker, *self.at(x, y))
        self.shapes.append(Shape(path, f"mark {look.style}", title))

    def level(
        self, y: float, style: str, low: float | None = None, high: float | None = None
    ) -> None:
        """A horizontal line over the whole width, with a band around it if its ends are given."""
        ends = self.x.low, self.x.high
        if low is not None and high is not None:
            below, above = ([(x, value) for x in ends] for value in (low, high))
            self.band(below, above, f"band {style}")
        self.line([(x, y) for x in ends], f"line {style}")

    def text(self, x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> None:
        """A text in pixels."""
        self.labels.append(Label(round(x, 1), round(y, 1), text, anchor, style))

    def panel(self, title: str, description: str) -> Panel:
        """The drawing on its axes."""
        grid, labels = self._axes()
        shapes = (*grid, *self.shapes)
        return Panel(title, description, WIDTH, self.height, shapes, (*labels, *self.labels))

    def _axes(self) -> tuple[list[Shape], list[Label]]:
        right, bottom = WIDTH - RIGHT, self.height - BOTTOM
        shapes, labels = [], []
        for value, text in self.y.ticks:
            _, y = self.at(self.x.low, value)
            shapes.append(Shape(path_through([(self.left, y), (right, y)]), "grid"))
            labels.append(Label(self.left - 6, round(y + 3.5, 1), text, "end"))
        for value, text in self.x.ticks:
            x, _ = self.at(value, self.y.low)
            shapes.append(Shape(path_through([(x, bottom), (x, bottom + 4)]), "axis"))
            labels.append(Label(round(x, 1), bottom + 16, text))
        shapes.append(Shape(path_through([(self.left, bottom), (right, bottom)]), "axis"))
        # Both names are horizontal: a name that is turned is hard to read.
        labels.append(Label(4, 12, self.y.words, "start"))
        labels.append(Label((self.left + right) / 2, self.height - 5, self.x.words))
        return shapes, labels


def empty_panel(title: str, words: str) -> Panel:
    """A panel with nothing to draw, which says why."""
    label = Label(WIDTH / 2, 60, words, style="none")
    return Panel(title, f"{title}: {words}", WIDTH, 110.0, (), (label,))
