"""Figure 2 of the paper: test accuracy against the forget ratio, one panel a data set.

The same results give the same bytes: no dates, no random identifiers, no global plotting state.
"""

import io
import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from sweep.report.aggregate import Column, Results, select
from sweep.report.cells import strategy_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with colour-blindness can tell apart.
_ORIGINAL, _SCRATCH = "#000000", "#E69F00"
_RETRAINED = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
_MARKERS = "osD^vP"
_MAX_MARKED = 20  # with more ratios than this the markers would hide the lines
_SALT = "figure2"
_PANEL_INCHES = (4.2, 3.4)


def figure2(results: Results) -> dict[str, bytes]:
    """The figure as the content of its files: "png" and "svg".

    Lines are means over the seeds of a ratio, bands reach from the lowest seed to the highest.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the reader's own style must not change the figure
        matplotlib.rcParams["svg.hashsalt"] = _SALT
        matplotlib.rcParams["font.size"] = 11
        figure = _draw(results)
        FigureCanvasAgg(figure)
        files = {}
        no_dates: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
        for kind, metadata in no_dates.items():
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=150, metadata=metadata)
            files[kind] = content.getvalue()
    return files


def _draw(results: Results) -> "Figure":
    from matplotlib.figure import Figure

    across = max(1, min(3, len(results.columns)))
    down = max(1, math.ceil(len(results.columns) / across))
    size = (max(_PANEL_INCHES[0] * across, 6.5), _PANEL_INCHES[1] * down + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flat
    handles: dict[str, Any] = {}
    for axes, column in zip(panels, results.columns, strict=False):
        handles |= _panel(axes, results, column)
    for axes in list(panels)[len(results.columns) :]:
        axes.set_axis_off()
    caption = "mean over seeds; bands from the lowest seed to the highest"
    figure.suptitle(f"Test accuracy against the forget ratio\n{caption}", fontsize=11)
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(3, len(handles)),
        )
    return figure


def accuracy_lines(results: Results, column: Column) -> dict[str, pd.DataFrame]:
    """The figure's lines on one data set by label: a strategy each, then scratch.

    Each is a frame as of `_over_seeds`, empty where nothing is finished.
    """
    what: dict[str, tuple[str, str, str | None]] = {
        f"retrained, {strategy_label(name)}": ("two_stage", "retrained", name)
        for name in results.strategies
    }
    what["scratch"] = ("scratch", "scratch", None)
    return {
        label: _over_seeds(select(results.frame, column.dataset, *place).rows)
        for label, place in what.items()
    }


def original_accuracy(results: Results, column: Column) -> "pd.Series[float]":
    """Test accuracy in per cent of the original models of one data set, sorted."""
    rows = select(results.frame, column.dataset, "original", "original").rows
    return 100 * rows["test_accuracy"].sort_values()


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean, lowest and highest test accuracy in per cent by forget ratio in per cent."""
    percent = rows.assign(x=100 * rows["forget_ratio"], y=100 * rows["test_accuracy"])
    percent = percent.sort_values(["x", "y"]).dropna(subset=["x", "y"])
    return percent.groupby("x")["y"].agg(["mean", "min", "max"])


def _panel(axes: "Axes", results: Results, column: Column) -> dict[str, Any]:
    """Draw one data set; returns the handles for the legend by label."""
    handles: dict[str, Any] = {}
    for index, (label, points) in enumerate(accuracy_lines(results, column).items()):
        last = label == "scratch"
        color = _SCRATCH if last else _RETRAINED[index % len(_RETRAINED)]
        marker = "X" if last else _MARKERS[index % len(_MARKERS)]
        if points.empty:
            continue
        style = marker if len(points) <= _MAX_MARKED else ""
        (line,) = axes.plot(points.index, points["mean"], color=color, marker=style, ms=5, lw=1.6)
        axes.fill_between(points.index, points["min"], points["max"], color=color, alpha=0.2, lw=0)
        if len(points) == 1:  # a band of no width is invisible: draw it as a bar
            axes.vlines(points.index, points["min"], points["max"], color=color, lw=1.6)
        handles[label] = line
    original = original_accuracy(results, column)
    if len(original):
        handles["original"] = axes.axhline(original.mean(), color=_ORIGINAL, ls="--", lw=1.4)
        axes.axhspan(original.min(), original.max(), color=_ORIGINAL, alpha=0.1, lw=0)
    if not handles:
        axes.text(0.5, 0.5, "no finished unit", ha="center", transform=axes.transAxes)
    axes.set(title=column.label, xlabel="forget ratio (%)", ylabel="test accuracy (%)")
    axes.grid(alpha=0.3)
    return handles
