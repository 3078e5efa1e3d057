"""Figures with a row a model, drawn from the cells of Table 3."""

from collections.abc import Mapping, Sequence

from sweep.report.aggregate import Column, Results
from sweep.report.cells import EPOCHS, SAMPLES, SECONDS, Cell, Section, Style, Table, number
from sweep.report.page.looks import legend_of, look_of, mean_and_spread
from sweep.report.page.panels import (
    BOTTOM,
    WIDTH,
    Axis,
    Figure,
    LegendEntry,
    Panel,
    Plot,
    Shape,
    axis_from_zero,
    empty_panel,
    marker,
    path_through,
    rectangle,
)

_TOP = 6.0  # pixels above the first row
_LONGEST_NAME = 19  # letters that a row has room for
_NOTHING = "no finished unit at 1 to 10 %"
_QUANTITIES = {"samples": SAMPLES, "seconds": SECONDS}

Model = str | None  # a strategy, or None for scratch


def _name(model: Model) -> str:
    return "scratch" if model is None else model


def _cells_of(section: Section, column: int) -> list[tuple[Model, Cell]]:
    """A section's cells of one data set, each with its model."""
    cells = [row.cells[column] for row in section.rows]
    return [
        (None if cell.values["strategy"] is None else str(cell.values["strategy"]), cell)
        for cell in cells
    ]


class _Rows(Plot):
    """A plot with one row a model, their names on the left."""

    def __init__(self, models: Sequence[Model], axis: Axis, pitch: float) -> None:
        names = [_name(model) for model in models]
        left = 24.0 + 6.2 * min(max(map(len, names)), _LONGEST_NAME)
        height = _TOP + pitch * len(names) + BOTTOM
        super().__init__(axis, Axis("", 0.0, 1.0, ()), height, left)
        self.pitch = pitch
        for value, _ in axis.ticks:
            x = self.across(value)
            self.shapes.append(Shape(path_through([(x, _TOP), (x, height - BOTTOM)]), "grid"))
        for row, name in enumerate(names):
            long = len(name) > _LONGEST_NAME
            shown = f"{name[: _LONGEST_NAME - 1]}…" if long else name
            self.text(left - 8, self.middle(row) + 4, shown, "end", "name")

    def middle(self, row: int) -> float:
        """The middle of a row, in pixels."""
        return _TOP + self.pitch * (row + 0.5)

    def across(self, value: float) -> float:
        """Where a value is, in pixels from the left."""
        return self.at(value, 0)[0]


def best_epoch_figure(results: Results, table: Table) -> Figure:
    """Table 3's best epochs, and the paper's."""
    panels = tuple(
        _best_epoch_panel(column, _cells_of(table.sections[0], index))
        for index, column in enumerate(results.columns)
    )
    paper = LegendEntry("the paper's value", (Shape(marker("diamond", 18, 6), "paper-mark"),))
    return Figure(
        "best-epoch",
        "Best epoch: retrained against scratch",
        "Means ± sample standard deviation at forget ratios of 1 to 10 %, as in Table 3. The best "
        "epoch of retrained is one of stage 2; the epochs of stage 1 come before it.",
        (*legend_of(results, "scratch"), paper),
        panels,
    )


def _best_epoch_panel(column: Column, cells: Sequence[tuple[Model, Cell]]) -> Panel:
    found = [mean_and_spread(cell) for _, cell in cells]
    papers = [cell.values["paper"] for _, cell in cells]
    ends = [sum(value) for value in found if value is not None]
    if not ends:
        return empty_panel(column.label, _NOTHING)
    ends += [float(value) for value in papers if value is not None]
    plot = _Rows([model for model, _ in cells], axis_from_zero("best epoch", max(ends)), 26.0)
    words = []
    for row, ((model, _), value, paper) in enumerate(zip(cells, found, papers, strict=True)):
        look, y = look_of(None if model is None else row), plot.middle(row)
        told = f"paper {paper}" if paper is not None else ""
        if paper is not None:
            x = plot.across(float(paper))
            plot.shapes.append(Shape(marker("diamond", x, y), "paper-mark", told))
        if value is not None:
            mean, spread = value
            low, high = plot.across(max(mean - spread, 0.0)), plot.across(mean + spread)
            title = f"{_name(model)} {number(mean, EPOCHS)} ± {number(spread, EPOCHS)}"
            whisker = path_through([(low, y), (high, y)])
            plot.shapes.append(Shape(whisker, f"line {look.style} whisker"))
            mark = marker(look.marker, plot.across(mean), y)
            plot.shapes.append(Shape(mark, f"mark {look.style}", title))
            words.append(f"{title}, {told}" if told else title)
    return plot.panel(column.label, f"Best epoch on {column.label}: {'; '.join(words)}.")


def cost_figure(results: Results, table: Table) -> Figure:
    """Table 3's cost of both stages against scratch, stage 1 apart."""
    _, stage_1, totals = table.sections
    panels = []
    for quantity, style in _QUANTITIES.items():
        for index, column in enumerate(results.columns):
            first, both = (_means(section, index, quantity) for section in (stage_1, totals))
            panels.append(_cost_panel(column, quantity, style, first, both))
    box = rectangle(4, 1, 28, 10)
    words = {"stage 1": "bar stage-1", "stage 2": "bar stage-2", "scratch": "bar scratch"}
    return Figure(
        "cost",
        "Cost against scratch, stage 1 included",
        "Means at forget ratios of 1 to 10 %, as in Table 3. Samples are images passed through "
        "training and do not depend on the machine; seconds do. Training the original model is "
        "in neither.",
        tuple(LegendEntry(label, (Shape(box, style),)) for label, style in words.items()),
        tuple(panels),
    )


def _means(section: Section, column: int, quantity: str) -> dict[Model, float]:
    """The section's means of one quantity on one data set, where there are any."""
    found = {
        model: mean_and_spread(cell)
        for model, cell in _cells_of(section, column)
        if cell.values["quantity"] == quantity
    }
    return {model: value[0] for model, value in found.items() if value is not None}


def _cost_panel(
    column: Column,
    quantity: str,
    style: Style,
    stage_1: Mapping[Model, float],
    totals: Mapping[Model, float],
) -> Panel:
    title = f"{column.label}: {quantity}"
    if not totals:
        return empty_panel(title, _NOTHING)
    # A bar's number stands behind it, so the axis is longer than the longest bar.
    axis = axis_from_zero(quantity, 1.25 * max(totals.values()), 4)
    plot = _Rows(list(totals), axis, 24.0)
    words = []
    for row, (model, total) in enumerate(totals.items()):
        start, y = plot.left, plot.middle(row) - 7
        parts = {"scratch": total}
        if model in stage_1:
            parts = {"stage-1": stage_1[model], "stage-2": total}
        for part, end in parts.items():
            x = plot.across(end)
            plot.shapes.append(Shape(rectangle(start, y, max(x - start, 0.5), 14), f"bar {part}"))
            start = x
        shown = number(total, style)
        plot.text(min(start + 5, WIDTH - 50), y + 11, shown, "start", "value")
        words.append(f"{_name(model)} {shown}")
        if model in stage_1:
            words[-1] += f", of which stage 1 {number(stage_1[model], style)}"
    return plot.panel(title, f"{title}: {'; '.join(words)}.")
