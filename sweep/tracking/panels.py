"""The charts of a sweep's runs, for its report and its view alike.

Every name in them is one that `sweep.tracking.content` gives to a run.
"""

from collections.abc import Sequence
from typing import Any

from sweep.plan import ALL_STATES
from sweep.tracking.content import NODE, OUTCOME, REBOUND, accuracy_key, epoch_key
from sweep.tracking.library import library, literal

# What is measured after each epoch of a state's training.
CURVE_SETS = {
    "original": "validation",
    "neutralized": "forget",
    "retrained": "validation",
    "scratch": "validation",
}
TRIAL_AXES = {
    "dataset": "data set",
    "forget_ratio": "forget ratio",
    "strategy": "strategy",
    "training_seed": "seed",
}
TRIAL_RESULTS = {
    "neutralized/epochs": "epochs of stage 1",
    accuracy_key("neutralized", "forget"): "forget set after stage 1",
    accuracy_key("retrained", "forget"): "forget set after stage 2",
    REBOUND: "rebound",
    accuracy_key("retrained", "test"): "test set",
}
COLUMNS = (
    f"summary:{OUTCOME}",
    *(f"config:{name}.value" for name in ("kind", *TRIAL_AXES)),
    *(f"summary:{name}" for name in TRIAL_RESULTS),
    f"summary:{accuracy_key('scratch', 'test')}",
)
_NODE_UNITS = {"_percent": "%", "_w": "W", "_c": "°C"}  # by how the names end
_HALF, _THIRD, _WHOLE = (12, 8), (8, 6), (24, 12)  # width and height; a report is 24 wide
_MAX_LINES = 100

Range = tuple[float | None, float | None]
UNKNOWN: Range = (None, None)


def tagged(*tags: str, kind: str | None = None) -> str:
    """A filter for runs that have all of these tags, and are of this kind of unit."""
    terms = [f"Tags() in [{literal(tag)}]" for tag in tags]
    terms += [] if kind is None else [f'Metric("JobType") == {literal(kind)}']
    return " and ".join(terms)


def accuracy_by_ratio(state: str, y_range: Range = UNKNOWN) -> Any:
    """A panel of Figure 2: a point a run, test accuracy over the forget ratio."""
    wr = library().reports
    return wr.ScatterPlot(
        title=f"{state}: test accuracy against the forget ratio",
        x=wr.Config("forget_ratio"),
        y=wr.SummaryMetric(accuracy_key(state, "test")),
        range_y=y_range,
        layout=_layout(*_HALF),
    )


def learning_curve(state: str) -> Any:
    """Accuracy by epoch; a line is a group's mean, its shade reaches from lowest to highest."""
    split = CURVE_SETS[state]
    return _curve(f"{state}: accuracy on the {split} set", state, accuracy_key(state, split))


def loss_curve(state: str) -> Any:
    """Training loss by epoch."""
    return _curve(f"{state}: training loss", state, f"{state}/loss")


def _curve(title: str, state: str, name: str) -> Any:
    return library().reports.LinePlot(
        title=title,
        x=epoch_key(state),
        y=[name],
        title_x="epoch",
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        smoothing_type="none",
        max_runs_to_show=_MAX_LINES,
        layout=_layout(*_HALF),
    )


def forgetting() -> list[Any]:
    """Accuracy on the forget set before stage 1, after it, after stage 2, and of scratch."""
    by_state = [
        bars(f"{state}: accuracy on the forget set", accuracy_key(state, "forget"), "strategy")
        for state in ALL_STATES
    ]
    return [*by_state, bars("rebound: retrained − neutralized", REBOUND, "strategy")]


def cost() -> list[Any]:
    """Samples and seconds of whole units, and the epochs of stage 1."""
    return [
        bars("samples of a unit", "total/samples", "kind"),
        bars("seconds of a unit", "total/seconds", "kind"),
        bars("epochs of stage 1", "neutralized/epochs", "forget_ratio"),
        bars("retrained: best epoch", "retrained/best_epoch", "strategy"),
        bars("scratch: best epoch", "scratch/best_epoch", "forget_ratio"),
    ]


def bars(title: str, name: str, groupby: str) -> Any:
    """Means of a number of the summary with their standard deviation, a bar a group."""
    wr = library().reports
    return wr.BarPlot(
        title=title,
        metrics=[name],
        groupby=wr.Config(groupby),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        orientation="v",
        max_runs_to_show=1000,
        layout=_layout(*_THIRD),
    )


def nodes() -> list[Any]:
    """What the machines of the runs were doing, by unit of measure, whatever was measured."""
    return [
        library().reports.LinePlot(
            title=f"nodes, {unit}",
            x="Step",
            metric_regex=f"^{NODE}/.*{suffix}$",
            smoothing_type="none",
            max_runs_to_show=_MAX_LINES,
            layout=_layout(*_THIRD),
        )
        for suffix, unit in _NODE_UNITS.items()
    ]


def all_trials() -> Any:
    """Parallel coordinates: a line a trial, from where it is in the grid to what came out."""
    wr = library().reports
    axes = [(wr.Config(name), words) for name, words in TRIAL_AXES.items()]
    axes += [(wr.SummaryMetric(name), words) for name, words in TRIAL_RESULTS.items()]
    columns = [wr.ParallelCoordinatesPlotColumn(name, display_name=words) for name, words in axes]
    return wr.ParallelCoordinatesPlot(title="all trials", columns=columns, layout=_layout(*_WHOLE))


def grid(runsets: Sequence[Any], panels: Sequence[Any]) -> Any:
    """Charts in the report, over these runs."""
    return library().reports.PanelGrid(runsets=list(runsets), panels=list(panels))


def runset(name: str, filters: str, groupby: Sequence[str] = ()) -> Any:
    """Runs of the report's own project.

    Args:
        groupby: keys of the configuration.
    """
    # Without entity and project, which would be looked up in the network, it is the report's own.
    return library().reports.Runset(
        name=name, filters=filters, groupby=[f"config.{key}" for key in groupby]
    )


def _layout(width: int, height: int) -> Any:
    return library().reports.Layout(w=width, h=height)
