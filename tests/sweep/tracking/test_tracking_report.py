"""What the report and the view in Weights & Biases show, without any server."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tracked_sweep import made_up, reported, small_sweep

from sweep.node_usage import measure
from sweep.plan import Plan
from sweep.report import ReportSummary
from sweep.tracking import content, panels
from sweep.tracking.library import library, literal, title
from sweep.tracking.publisher import report_of
from sweep.tracking.report_spec import report_spec
from sweep.tracking.settings import TrackingConfig
from sweep.tracking.workspace_spec import workspace_spec
from unlearning.config import (
    ModelConfig,
    NeutralizationConfig,
    RetrainingConfig,
    TrainingConfig,
    TrialSettings,
)
from unlearning.trial import load_dataset, run_trial

TRACKING = TrackingConfig(project="unlearn", entity="lab")
HOSTILE = 'a\' or 1<=2 = "x" | <b>bold</b> [l](http://e.x) \\ é'
Json = dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, ReportSummary, Path]:
    datasets = {"mnist": ("mnist", 10), HOSTILE: ("digits", 10)}
    return reported(tmp_path_factory.mktemp("finished"), small_sweep(datasets))


@pytest.fixture(scope="module")
def report(finished: tuple[Plan, ReportSummary, Path]) -> Json:
    plan, summary, _ = finished
    return dict(json.loads(report_spec(plan.name, summary, TRACKING)))


@pytest.fixture(scope="module")
def view() -> Json:
    return dict(json.loads(workspace_spec("made-up", TRACKING)))


@pytest.fixture(scope="module")
def names(
    finished: tuple[Plan, ReportSummary, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, set[str]]:
    """Every name that a real trial leaves in Weights & Biases, by where it stands."""
    settings = TrialSettings(
        model=ModelConfig(widths=[4, 8]),
        training=TrainingConfig(epochs=1, batch_size=128),
        neutralization=NeutralizationConfig(target="random", learning_rate=0.01),
        retraining=RetrainingConfig(epochs=1, batch_size=128),
    )
    trial = run_trial(load_dataset("digits", tmp_path_factory.mktemp("data")), settings=settings)
    units = [trial.original, trial.scratch, trial.two_stage]
    assert trial.two_stage.outcome == "done"
    plan = finished[0]
    found: dict[str, set[str]] = {"history": {"_step"}, "summary": set(), "config": set()}
    for unit in units:
        found["history"].update(*map(content.history_row, unit.history))
        training = {state: asdict(cost) for state, cost in unit.training.items()}
        record = {"outcome": unit.outcome, "metrics": unit.metrics, "training": training}
        record["neutralization"] = unit.neutralization
        found["summary"].update(content.summary_of(record))
    for planned in plan.units.values():
        found["config"].update(content.config_of(plan, planned))
    return found


def parts(tree: Any, key: str) -> Iterator[Any]:
    """Every value under this key, at any depth."""
    if isinstance(tree, list):
        for entry in tree:
            yield from parts(entry, key)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from parts(value, key)


def charts(spec: Json) -> list[Json]:
    lists = [found for found in parts(spec["spec"], "panels") if isinstance(found, list)]
    return [panel for found in lists for panel in found]


def addresses(chart: Json) -> Iterator[tuple[str, str]]:
    """Where a chart takes its numbers from: (history | summary | config, name)."""
    config = chart["config"]
    if chart["viewType"] == "Run History Line Plot":
        yield "history", config["xAxis"]
        yield from (("history", name) for name in config["metrics"])
    else:
        yield from (("summary", name) for name in config.get("metrics", []))
    if chart["viewType"] == "Scatter Plot":
        yield from (split_accessor(config[axis]) for axis in ("xAxis", "yAxis"))
    yield from (split_accessor(column["accessor"]) for column in config.get("columns", []))
    if "groupBy" in config:
        yield "config", config["groupBy"].removesuffix(".value")


def split_accessor(accessor: str) -> tuple[str, str]:
    section, _, name = accessor.partition(":")
    return section, name.removesuffix(".value") if section == "config" else name


def test_every_chart_shows_what_runs_have(
    report: Json, view: Json, names: dict[str, set[str]]
) -> None:
    used = {address for spec in (report, view) for c in charts(spec) for address in addresses(c)}
    assert len(used) > 25
    assert {(where, name) for where, name in used if name not in names[where]} == set()


def test_groups_and_columns_are_what_runs_have(
    report: Json, view: Json, names: dict[str, set[str]]
) -> None:
    keys = [key for spec in (report, view) for found in parts(spec, "grouping") for key in found]
    assert {key["section"] for key in keys} == {"config"}
    assert {key["name"].removesuffix(".value") for key in keys} <= names["config"]
    pinned = next(column for column in parts(view, "columnPinned") if column)
    found = [split_accessor(name) for name in pinned if name != "run:displayName"]
    assert len(found) == len(panels.COLUMNS)
    assert all(name in names[where] for where, name in found)


def test_each_measure_of_a_node_is_in_one_chart(report: Json, view: Json) -> None:
    gpu = ("gpu_percent", "gpu_memory_percent", "gpu_power_w", "gpu_temperature_c")
    usage = measure() | dict.fromkeys(gpu, 1.0)
    names = content.history_row({"state": "scratch", "epoch": 1, "loss": 1.0}, usage)
    for spec in (report, view):
        found = [n for chart in parts(spec, "metricRegex") for n in names if re.search(chart, n)]
        assert sorted(found) == sorted(f"node/{name}" for name in usage)


def test_run_sets_are_the_sweeps_units_of_one_kind_and_data_set(
    finished: tuple[Plan, ReportSummary, Path], report: Json, view: Json
) -> None:
    plan = finished[0]
    tags = {tag for unit in plan.units.values() for tag in content.tags_of(plan, unit)}
    sets = [one for found in parts(report, "runSets") for one in found]
    kinds, datasets = set(), set()
    for one in sets:
        terms = one["filters"]["filters"]
        assert [term.get("connector", "AND") for term in terms] == ["AND"] * len(terms)
        asked = {(t["key"]["section"], t["key"]["name"], t["op"], str(t["value"])) for t in terms}
        assert ("run", "tags", "IN", "['sweep:made-up']") in asked
        used = [t["value"] for t in terms if t["key"]["name"] == "tags"]
        assert all(len(value) == 1 and value[0] in tags for value in used)
        datasets |= {value[0] for value in used} - {"sweep:made-up"}
        kinds |= {t["value"] for t in terms if t["key"]["name"] == "jobType"}
        assert "project" not in one  # the report's own
    assert kinds == {unit.kind for unit in plan.units.values()}
    assert datasets == {content.dataset_tag("mnist"), content.dataset_tag(HOSTILE)}
    (own,) = next(parts(view, "runSets"))
    assert [term["value"] for term in own["filters"]["filters"]] == [["sweep:made-up"]]
    assert own["selections"]["tree"] == []  # nothing hidden


def test_tables_and_claims_are_those_of_the_reports_folder(
    finished: tuple[Plan, ReportSummary, Path], report: Json
) -> None:
    folder = finished[1].folder
    texts = [b["content"] for b in report["spec"]["blocks"] if b["type"] == "markdown-block"]
    names = ("claims", "table2", "table3", "table4", "table5", "forgetting")
    assert texts[1:] == [(folder / f"{name}.md").read_text() for name in names]
    assert "paper 99.20" in texts[2]


def test_the_reports_parts_in_order(report: Json) -> None:
    blocks = report["spec"]["blocks"]
    heads = [b["children"][0]["text"] for b in blocks if b["type"] == "heading" and b["level"] == 1]
    assert heads == [
        *("Claims", "Tables", "Figure 2: test accuracy", "Learning curves"),
        *("Forgetting by stage", "Cost", "All trials", "Nodes"),
    ]
    grids = [b for b in blocks if b["type"] == "panel-grid"]
    assert [len(list(charts({"spec": g}))) for g in grids] == [2, 2, 4, 4, 5, 5, 5, 5, 1, 3]


def test_figure_2_has_one_scale_for_both_models(report: Json) -> None:
    figure = [c["config"] for c in charts(report) if c["viewType"] == "Scatter Plot"]
    ranges = [(c["yAxisMin"], c["yAxisMax"]) for c in figure]
    assert ranges[0] == ranges[1] and ranges[2] == ranges[3]
    assert all(0 <= low < high <= 1 for low, high in ranges)


def test_a_line_is_a_mean_over_seeds_with_its_range(report: Json) -> None:
    lines = [c["config"] for c in charts(report) if c["viewType"] == "Run History Line Plot"]
    curves = [c for c in lines if c["metrics"]]
    assert {(c["groupAgg"], c["groupArea"]) for c in curves} == {("mean", "minmax")}
    sets = [one for found in parts(report, "runSets") for one in found if one["grouping"]]
    assert not [one for one in sets if "seed" in json.dumps(one["grouping"])]


def test_the_views_sections(view: Json) -> None:
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [
        *("All trials", "Original", "Stage 1: neutralized", "Stage 2: retrained", "Scratch"),
        *("Forgetting by stage", "Cost", "Nodes"),
    ]
    assert view["displayName"] == "usweep: made-up"


def test_the_library_reads_back_what_it_wrote(report: Json, view: Json) -> None:
    internal = library().internal
    model = internal.ReportViewspec.model_validate(report)
    again = report_of(model)._to_model()
    assert json.loads(again.model_dump_json(by_alias=True, exclude_none=True)) == report
    found = library().workspaces.Workspace._from_model(internal.View.model_validate(view))
    dumped = json.loads(found._to_model().model_dump_json(by_alias=True, exclude_none=True))
    assert dumped == view


def test_the_same_results_give_the_same_bytes(
    finished: tuple[Plan, ReportSummary, Path], report: Json
) -> None:
    plan, summary, _ = finished
    assert json.loads(report_spec(plan.name, summary, TRACKING)) == report
    assert workspace_spec("s", TRACKING) == workspace_spec("s", TRACKING)
    ids = [*parts(report, "__id__"), *(s["id"] for f in parts(report, "runSets") for s in f)]
    assert len(ids) == len(set(ids)) > 40


@pytest.mark.parametrize("text", [HOSTILE, "a=b", "x within_last 5 days", "日本 \N{PILE OF POO}"])
def test_a_filter_finds_the_tag_and_nothing_else(text: str) -> None:
    filters = panels.runset("runs", panels.tagged(text, kind="scratch"))._to_model().filters
    assert [term["value"] for term in filters["filters"]] == [[text], "scratch"]
    assert literal(text).isascii()


def test_markup_in_names_stays_text(report: Json) -> None:
    texts = [b["content"] for b in report["spec"]["blocks"] if b["type"] == "markdown-block"]
    assert any("bold" in text for text in texts)
    assert not any("<b>" in text for text in texts)


@pytest.mark.parametrize("name", ["a\nb\x1b[31m<c>+~", "\N{PILE OF POO}x", "n" * 300])
def test_a_title_is_short_and_plain(name: str) -> None:
    assert len(title(name)) <= 128 and title(name).isprintable()
    assert library().workspaces.Workspace(entity="", project="p", name=title(name))
    workspace_spec(name, TRACKING)


def test_a_sweep_of_which_nothing_is_finished_has_a_report(tmp_path: Path) -> None:
    plan, summary, _ = reported(tmp_path, made_up.MadeUpSweep({"new": ("arrays", None)}))
    report = json.loads(report_spec(plan.name, summary, TrackingConfig()))
    assert report["project"] == {"name": "usweep", "entityName": ""}
    figure = [c["config"] for c in charts(report) if c["viewType"] == "Scatter Plot"]
    assert figure and not any("yAxisMin" in c for c in figure)
