"""A saved view of a sweep's runs in Weights & Biases, with a section for each stage."""

from typing import Any

from sweep.tracking import panels
from sweep.tracking.content import accuracy_key, sweep_tag
from sweep.tracking.library import library, title, to_text
from sweep.tracking.settings import TrackingConfig

_SECTIONS = {
    "Original": "original",
    "Stage 1: neutralized": "neutralized",
    "Stage 2: retrained": "retrained",
    "Scratch": "scratch",
}
_MAX_RUNS = 100  # in a chart


def workspace_spec(sweep: str, tracking: TrackingConfig) -> str:
    """The view as JSON; made without a network."""
    return to_text(_workspace(sweep, tracking)._to_model())


def _workspace(sweep: str, tracking: TrackingConfig) -> Any:
    ws = library().workspaces
    from wandb_workspaces import expr

    by_stage = [ws.Section(name, _of_stage(state), True) for name, state in _SECTIONS.items()]
    return ws.Workspace(
        entity=tracking.entity or "",
        project=tracking.project,
        name=title(sweep),
        sections=[
            ws.Section("All trials", [panels.all_trials()], True),
            *by_stage,
            ws.Section("Forgetting by stage", panels.forgetting(), True),
            ws.Section("Cost", panels.cost()),
            ws.Section("Nodes", panels.nodes()),
        ],
        settings=ws.WorkspaceSettings(max_runs=_MAX_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=panels.tagged(sweep_tag(sweep)),
            groupby=[expr.Config("dataset"), expr.Config("strategy")],
            pinned_columns=list(panels.COLUMNS),
        ),
    )


def _of_stage(state: str) -> list[Any]:
    """The charts of one model state."""
    charts = [panels.learning_curve(state), panels.loss_curve(state)]
    if state in ("retrained", "scratch"):
        charts.append(panels.accuracy_by_ratio(state))
    elif state == "original":
        charts.append(
            panels.bars("original: test accuracy", accuracy_key(state, "test"), "dataset")
        )
    return charts
