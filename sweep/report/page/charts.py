"""The figures of the page. Those of tables are drawn from the tables' own cells."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from sweep.report.aggregate import Column, Results
from sweep.report.cells import Cell, Table
from sweep.report.figures import accuracy_lines, original_accuracy
from sweep.report.page.histories import Curves, drawn_epochs, quartiles, read_curves
from sweep.report.page.looks import legend_of, look_of, mean_and_spread, percent
from sweep.report.page.panels import (
    Axis,
    Figure,
    Look,
    Panel,
    Plot,
    axis_from_zero,
    decades_axis,
    empty_panel,
    fitted_axis,
)
from sweep.report.page.row_charts import best_epoch_figure, cost_figure

if TYPE_CHECKING:
    from sweep.store import Store

_MAX_MARKED = 20  # with more points than this the markers would hide the line
_MAX_EPOCHS_DRAWN = 120
_LINEAR_EPOCHS = 200  # beyond it an axis of epochs is logarithmic
_NOTHING = "no finished unit"


def page_figures(results: Results, tables: Sequence[Table], store: "Store") -> list[Figure]:
    """All figures in the order of the page."""
    by_name = {table.name: table for table in tables}
    return [
        accuracy_figure(results),
        forgetting_figure(results, by_name["forgetting"]),
        neutralization_figure(results, store),
        best_epoch_figure(results, by_name["table3"]),
        cost_figure(results, by_name["table3"]),
    ]


# Figure 2


def accuracy_figure(results: Results) -> Figure:
    """Figure 2 of the paper, from the same lines as figure2.svg."""
    return Figure(
        "figure2",
        "Figure 2: test accuracy against the forget ratio",
        "Lines are means over seeds; bands reach from the lowest seed to the highest.",
        legend_of(results, "scratch", "original", state="retrained"),
        tuple(_accuracy_panel(results, column) for column in results.columns),
    )


def _accuracy_panel(results: Results, column: Column) -> Panel:
    lines = accuracy_lines(results, column)
    original = original_accuracy(results, column)
    drawn = [points for points in lines.values() if len(points)]
    values = [*original, *(value for points in drawn for value in points.to_numpy().flat)]
    if not values:
        return empty_panel(column.label, _NOTHING)
    ratios = {x for points in drawn for x in points.index}
    plot = Plot(
        fitted_axis("forget ratio (%)", sorted(ratios) or [0.0, 10.0], limits=(0.0, 100.0)),
        fitted_axis("test accuracy (%)", values, limits=(0.0, 100.0)),
    )
    words = []
    if len(original):
        plot.level(original.mean(), "original", original.min(), original.max())
        words.append(f"original {percent(original.mean())}")
    for index, (label, points) in enumerate(lines.items()):
        if len(points):
            look = look_of(None if index == len(results.strategies) else index)
            _accuracy_line(plot, points, look, label)
            means = points["mean"]
            words.append(f"{label} {percent(means.min())} to {percent(means.max())}")
    described = f"Test accuracy on {column.label} at {len(ratios)} forget ratios: "
    return plot.panel(column.label, described + "; ".join(words) + ".")


def _accuracy_line(plot: Plot, points: pd.DataFrame, look: Look, label: str) -> None:
    lower, upper, means = (
        list(zip(points.index, points[name], strict=True)) for name in ("min", "max", "mean")
    )
    if len(points) == 1:  # a band of no width is invisible: draw it as a bar
        plot.line([*lower, *upper], f"line {look.style} whisker")
    else:
        if lower != upper:
            plot.band(lower, upper, f"band {look.style}")
        plot.line(means, f"line {look.style}")
    if len(points) <= _MAX_MARKED:
        for x, y in means:
            plot.mark(look, x, y, f"{label}, {x:g} %: {percent(y)}")


# Forgetting by stage

_STAGES = ("original", "neutralized", "retrained")


def forgetting_figure(results: Results, table: Table) -> Figure:
    """Accuracy on the forget set through the stages, with scratch and chance as references."""
    panels = []
    for index, column in enumerate(results.columns):
        sections = [
            {row.label: row.cells[index] for row in section.rows} for section in table.sections
        ]
        panels.append(_stages_panel(column, sections))
    return Figure(
        "forgetting-figure",
        "Accuracy on the forget set by stage",
        "Means ± sample standard deviation, as in the table. The field's reference is scratch, "
        "which never saw the forget set; the paper's is chance.",
        legend_of(results, "scratch", "chance"),
        tuple(panels),
    )


def _stages_panel(column: Column, sections: Sequence[Mapping[str, Cell]]) -> Panel:
    ticks = tuple((float(at), state) for at, state in enumerate(_STAGES))
    plot = Plot(Axis("", -0.45, len(_STAGES) - 0.55, ticks), _forget_axis())
    if not math.isnan(column.chance):
        plot.level(100 * column.chance, "chance")
    words = []
    scratch = mean_and_spread(sections[0]["scratch"]) if sections else None
    if scratch is not None:
        mean, spread = scratch
        plot.level(mean, "scratch", max(mean - spread, 0.0), min(mean + spread, 100.0))
        words.append(f"scratch {percent(mean)}")
    for index, cells in enumerate(sections):
        found = {state: mean_and_spread(cells[state]) for state in _STAGES}
        shift = 0.08 * (index - (len(sections) - 1) / 2)
        points = [
            (at + shift, *value) for at, value in enumerate(found.values()) if value is not None
        ]
        if not points:
            continue
        strategy = str(cells["original"].values["strategy"])
        _stages_line(plot, points, index)
        told = (f"{state} {percent(value[0])}" for state, value in found.items() if value)
        words.append(f"{strategy}: {', '.join(told)}")
    if not words:
        return empty_panel(column.label, _NOTHING)
    described = f"Accuracy on the forget set of {column.label}: {'; '.join(words)}."
    return plot.panel(column.label, described)


def _forget_axis() -> Axis:
    """All per cents, with room for the markers at both ends."""
    ticks = tuple((float(value), str(value)) for value in range(0, 101, 20))
    return Axis("accuracy on the forget set (%)", -3.0, 103.0, ticks)


def _stages_line(plot: Plot, points: Sequence[tuple[float, float, float]], index: int) -> None:
    look = look_of(index)
    plot.line([(x, mean) for x, mean, _ in points], f"line {look.style}")
    for x, mean, spread in points:
        ends = max(mean - spread, 0.0), min(mean + spread, 100.0)
        plot.line([(x, end) for end in ends], f"line {look.style} whisker")
        plot.mark(look, x, mean, percent(mean))


# Neutralization


def neutralization_figure(results: Results, store: "Store") -> Figure:
    """Accuracy on the forget set by epoch of stage 1, from the units' histories."""
    return Figure(
        "neutralization",
        "Stage 1: accuracy on the forget set by epoch",
        "Medians over trials of all seeds and forget ratios; bands hold the middle half. A trial "
        "that has ended counts with its last value. With many trials, some that are spread evenly "
        "over the plan are read.",
        legend_of(results, "chance"),
        tuple(_neutralization_panel(results, column, store) for column in results.columns),
    )


def _neutralization_panel(results: Results, column: Column, store: "Store") -> Panel:
    rows = results.frame
    rows = rows[(rows["dataset"] == column.dataset) & (rows["state"] == "neutralized")]
    found = {
        name: read_curves(store, rows[rows["strategy"] == name]) for name in results.strategies
    }
    last = max((len(curve) - 1 for own in found.values() for curve in own.curves), default=0)
    if not any(own.curves for own in found.values()):
        return empty_panel(column.label, "no history of a finished unit")
    logarithmic = last > _LINEAR_EPOCHS
    axis = decades_axis if logarithmic else axis_from_zero
    words = "epoch of stage 1" + (" (logarithmic)" if logarithmic else "")
    plot = Plot(axis(words, float(max(last, 1))), _forget_axis())
    if not math.isnan(column.chance):
        plot.level(100 * column.chance, "chance")
    epochs = drawn_epochs(last, _MAX_EPOCHS_DRAWN, logarithmic=logarithmic)
    told = [
        _neutralization_line(plot, own, epochs, index, name)
        for index, (name, own) in enumerate(found.items())
        if own.curves
    ]
    described = f"Accuracy on the forget set of {column.label} in stage 1: {'; '.join(told)}."
    return plot.panel(column.label, described)


def _neutralization_line(
    plot: Plot, own: Curves, epochs: Sequence[int], index: int, name: str
) -> str:
    lower, median, upper = (
        [(float(epoch), 100 * value) for epoch, value in zip(epochs, values, strict=True)]
        for values in quartiles(own.curves, epochs)
    )
    look = look_of(index)
    plot.band(lower, upper, f"band {look.style}")
    plot.line(median, f"line {look.style}")
    every = max(1, len(median) // 6)
    # Each line has its markers elsewhere, so that none hides another's.
    for x, y in median[index * every // 3 % every :: every]:
        plot.mark(look, x, y)
    half = next((x for x, y in median if y <= 50), None)
    when = "never" if half is None else f"by epoch {half:g}"
    counted = f"{len(own.curves)} of {own.planned} trials"
    return f"{name} ({counted}), median at or below 50 % {when}"
