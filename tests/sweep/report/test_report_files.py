import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from sweep.report.aggregate import COLUMNS
from sweep.report.write import write_report

TABLES = ("table2", "table3", "table4", "table5", "forgetting")
FILES = {
    *(f"{name}.{kind}" for name in TABLES for kind in ("csv", "md", "tex")),
    *("claims.md", "claims.json", "claims.csv", "figure2.png", "figure2.svg"),
    *("results.parquet", "report.md", "index.html"),
}


DOCUMENTATION = Path(__file__).resolve().parents[3] / "docs" / "report.md"


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_report_has_all_its_files_and_nothing_else(accident, tmp_path):
    summary = write_report(*accident.write(tmp_path))
    assert summary.folder == tmp_path / "run" / "report"
    assert names(summary.folder) == FILES
    assert summary.units["done"] == 38 and sum(summary.units.values()) == len(accident.units)
    assert list(summary.verdicts) == [1, 2, 3, 4, 5, 6, 7]


def test_the_page_names_failures_with_their_causes(accident, tmp_path):
    plan, store, run_folder = accident.write(tmp_path)
    text = (write_report(plan, store, run_folder).folder / "report.md").read_text()
    assert "| all | 38 | 1 | 2 | 9 | 1 | 1 | 52 |" in text
    assert "| failed | images are gone | original digits seed 1" in text
    assert "| failed | out of memory: 3 \\| 4 GiB | two_stage mnist 5 % minimum seed 1" in text
    assert "is 1.7, not an accuracy in [0, 1] | two_stage mnist 20 % maximum seed 0" in text
    assert "<br>and 4 more |" in text
    assert "![test accuracy against the forget ratio](figure2.png)" in text
    for name in ("## Table 2", "## Table 5", "## Accuracy on the forget set by stage"):
        assert name in text


def test_the_parquet_file_has_every_planned_unit(accident, tmp_path):
    folder = write_report(*accident.write(tmp_path)).folder
    frame = pd.read_parquet(folder / "results.parquet")
    assert tuple(frame.columns) == COLUMNS
    assert set(frame["unit"]) == set(accident.units)
    damaged = frame[frame["outcome"] == "damaged"]
    assert len(damaged) == 1 and damaged["test_accuracy"].isna().all()


def test_the_same_store_gives_the_same_bytes_again(accident, tmp_path):
    arguments = accident.write(tmp_path)
    folder = write_report(*arguments).folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(*arguments)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_sweep_with_no_finished_unit_has_a_whole_report(made_up_sweep, tmp_path):
    sweep = made_up_sweep({"mnist": ("mnist", 10), "mine": ("arrays", None)})
    summary = write_report(*sweep.write(tmp_path))
    assert names(summary.folder) == FILES
    assert summary.units["missing"] == len(sweep.units)
    assert set(summary.verdicts.values()) == {"not enough data"}
    text = (summary.folder / "report.md").read_text()
    assert "No unit failed." in text and "No finished unit yet." in text


@pytest.mark.parametrize(
    "grid",
    [
        {"seeds": (0,)},
        {"ratios": (0.05,)},
        {"strategies": ("minimum",)},
        {"strategies": ("mine",)},
        {"strategies": ()},
        {"ratios": (0.05,), "seeds": (0,), "strategies": ("minimum",)},
        {"ratios": (0.5, 1.0)},
        {"datasets": {"50%_of|my {set}": ("arrays", 3)}},
        {"target": "random"},
    ],
)
def test_any_part_of_any_grid_has_a_whole_report(made_up_sweep, varied, tmp_path, grid):
    sweep = made_up_sweep(**grid)
    sweep.finish_all(varied)
    for unit in list(sweep.units.values())[::3]:
        sweep.forget(unit)
    summary = write_report(*sweep.write(tmp_path))
    assert names(summary.folder) == FILES
    assert summary.units["done"] == len(sweep.records)


def test_a_plan_without_units_has_a_whole_report(made_up_sweep, tmp_path):
    sweep = made_up_sweep(seeds=())
    assert names(write_report(*sweep.write(tmp_path)).folder) == FILES


def test_a_record_cut_short_on_disk_is_damaged_and_the_rest_counts(made_up_sweep, varied, tmp_path):
    sweep = made_up_sweep()
    sweep.finish_all(varied)
    plan, store, run_folder = sweep.write(tmp_path)
    cut = sweep.find(kind="scratch")[0]
    path = store.folder("scratch", cut.key) / "record.json"
    path.write_text(path.read_text()[:100])
    gone = sweep.find(kind="original")[0]
    (store.folder("original", gone.key) / "record.json").unlink()
    summary = write_report(plan, store, run_folder)
    assert summary.units["damaged"] == 2
    assert summary.units["done"] == len(sweep.units) - 2
    text = (summary.folder / "report.md").read_text()
    assert str(path) in text and cut.key[:12] in text and gone.key[:12] in text


def test_a_renewed_report_replaces_the_old_one_file_by_file(made_up_sweep, varied, tmp_path):
    sweep = made_up_sweep()
    folder = write_report(*sweep.write(tmp_path / "first")).folder
    opened = (folder / "claims.json").open()
    sweep.finish_all(varied)
    plan, store, _ = sweep.write(tmp_path / "second")
    write_report(plan, store, folder.parent)
    # A reader that had the old file open still reads all of it.
    with opened:
        old = json.load(opened)
    new = json.loads((folder / "claims.json").read_text())
    assert old["claims"][0]["findings"][0]["interval"]["n"] == 0
    assert new["claims"][0]["findings"][0]["interval"]["n"] == 4
    assert names(folder) == FILES


def test_a_folder_that_cannot_be_written_leaves_no_half_file(made_up_sweep, tmp_path):
    plan, store, run_folder = made_up_sweep().write(tmp_path)
    run_folder.mkdir()
    (run_folder / "report").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="report"):
        write_report(plan, store, run_folder)
    assert names(run_folder) == {"report"}


def test_every_file_and_column_is_documented(accident, tmp_path):
    folder = write_report(*accident.write(tmp_path)).folder
    text = DOCUMENTATION.read_text()
    columns = set(COLUMNS)
    for path in folder.glob("*.csv"):
        with path.open() as file:
            columns |= set(next(csv.reader(file)))
    for name in columns:
        base = name.removesuffix("_n").removesuffix("_groups").removesuffix("_spread")
        assert f"`{name}`" in text or f"`{base}`" in text, name
