"""A sweep's report in Weights & Biases: the paper's tables and claims, and charts of the runs."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sweep.errors import one_line
from sweep.report.aggregate import Column, Results
from sweep.report.render import claims_markdown, markdown_grid, table_markdown
from sweep.tracking import panels
from sweep.tracking.content import dataset_tag, sweep_tag
from sweep.tracking.library import library, title, to_text
from sweep.tracking.settings import TrackingConfig

if TYPE_CHECKING:
    from sweep.report import ReportSummary

_DESCRIPTION = "Two-stage unlearning after Kim & Woo (CVPR Workshops 2022)"
_INTRODUCTION = (
    "Tables and verdicts are those of the report in the run's folder. The charts are made of the "
    "runs that are in this project."
)
_FIGURE_2_STATES = ("retrained", "scratch")


def report_spec(sweep: str, summary: "ReportSummary", tracking: TrackingConfig) -> str:
    """The report as JSON; made without a network.

    Args:
        sweep: its name.
        summary: what its report in the run's folder says.
    """
    return to_text(_report(sweep, summary, tracking)._to_model())


def _report(sweep: str, summary: "ReportSummary", tracking: TrackingConfig) -> Any:
    wr = library().reports
    state = [[name.replace("_", " "), str(count)] for name, count in summary.units.items()]
    blocks = [
        wr.MarkdownBlock(f"{_INTRODUCTION}\n\n{markdown_grid(['units', 'number'], state)}"),
        wr.TableOfContents(),
        wr.H1("Claims"),
        wr.MarkdownBlock(claims_markdown(summary.claims)),
        wr.H1("Tables"),
        *(wr.MarkdownBlock(table_markdown(table)) for table in summary.tables),
        *_by_dataset("Figure 2: test accuracy", summary.results, sweep, _figure_2),
        *_by_dataset("Learning curves", summary.results, sweep, _learning_curves),
        *_by_dataset("Forgetting by stage", summary.results, sweep, _forgetting),
        *_by_dataset("Cost", summary.results, sweep, _cost),
        wr.H1("All trials"),
        panels.grid([_runs(sweep, "two_stage")], [panels.all_trials()]),
        wr.H1("Nodes"),
        panels.grid([_runs(sweep, None)], panels.nodes()),
    ]
    return wr.Report(
        project=tracking.project,
        entity=tracking.entity or "",  # without one, the library would ask the server
        title=title(sweep),
        description=_DESCRIPTION,
        blocks=blocks,
        width="fluid",
    )


def _by_dataset(
    heading: str, results: Results, sweep: str, charts: Callable[[Results, Column, str], Any]
) -> list[Any]:
    wr = library().reports
    blocks = [wr.H1(heading)]
    for column in results.columns:
        blocks += [wr.H2(one_line(column.label)), charts(results, column, sweep)]
    return blocks


def _runs(sweep: str, kind: str | None, column: Column | None = None, *groupby: str) -> Any:
    tags = [sweep_tag(sweep), *([] if column is None else [dataset_tag(column.dataset)])]
    name = "all units" if kind is None else kind.replace("_", "-")
    return panels.runset(name, panels.tagged(*tags, kind=kind), groupby)


def _figure_2(results: Results, column: Column, sweep: str) -> Any:
    runsets = [_runs(sweep, kind, column) for kind in ("two_stage", "scratch")]
    y_range = _range_of_test_accuracy(results, column)
    charts = [panels.accuracy_by_ratio(state, y_range) for state in _FIGURE_2_STATES]
    return panels.grid(runsets, charts)


def _range_of_test_accuracy(results: Results, column: Column) -> panels.Range:
    """From the lowest to the highest of both models, so that two charts can be compared."""
    frame = results.frame
    rows = frame[(frame["dataset"] == column.dataset) & frame["state"].isin(_FIGURE_2_STATES)]
    low, high = float(rows["test_accuracy"].min()), float(rows["test_accuracy"].max())
    if math.isnan(low):
        return panels.UNKNOWN
    margin = max(0.005, 0.05 * (high - low))
    return max(0.0, round(low - margin, 4)), min(1.0, round(high + margin, 4))


def _learning_curves(results: Results, column: Column, sweep: str) -> Any:
    # Grouped by all that is not a seed, so that a line's shade is the spread over seeds.
    runsets = [
        _runs(sweep, "two_stage", column, "strategy", "forget_ratio"),
        _runs(sweep, "scratch", column, "forget_ratio"),
        _runs(sweep, "original", column, "dataset"),
    ]
    return panels.grid(runsets, [panels.learning_curve(state) for state in panels.CURVE_SETS])


def _forgetting(results: Results, column: Column, sweep: str) -> Any:
    runsets = [_runs(sweep, kind, column) for kind in ("two_stage", "scratch")]
    return panels.grid(runsets, panels.forgetting())


def _cost(results: Results, column: Column, sweep: str) -> Any:
    return panels.grid([_runs(sweep, None, column)], panels.cost())
