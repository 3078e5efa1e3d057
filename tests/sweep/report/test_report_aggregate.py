import math
from dataclasses import replace

import pandas as pd
import pytest

from sweep.report.aggregate import (
    COLUMNS,
    OUTCOMES,
    outcome_counts,
    paired,
    select,
    tidy_frame,
    two_stage_cost,
)
from unlearning.config import Seeds


def rows_of(results, unit):
    return results.frame[results.frame["unit"] == unit.key].set_index("state")


def test_a_finished_two_stage_unit_has_one_row_a_state(made_up_sweep):
    sweep = made_up_sweep()
    unit = sweep.find(kind="two_stage", strategy="minimum", forget_ratio=0.05, seed=1)[0]
    metrics = {
        "original/forget/accuracy": 1.0,
        "neutralized/forget/accuracy": 0.0,
        "neutralized/forget_center_crop/accuracy": 0.25,
        "retrained/test/accuracy": 0.75,
    }
    sweep.finish(unit, metrics, at_random=3, at_zero=7, best_epoch=9, samples=(64, 512))
    rows = rows_of(sweep.results(), unit)
    assert list(rows.index) == ["original", "neutralized", "retrained"]
    assert rows.loc["original", "forget_accuracy"] == 1.0
    assert rows.loc["neutralized", "forget_accuracy"] == 0.0
    assert rows.loc["neutralized", "forget_center_crop_accuracy"] == 0.25
    assert rows.loc["neutralized", ["first_epoch_at_random", "first_epoch_at_zero"]].tolist() == [
        3,
        7,
    ]
    assert rows.loc["retrained", "test_accuracy"] == 0.75
    assert rows.loc["retrained", ["best_epoch", "samples"]].tolist() == [9, 512]
    assert rows.loc["neutralized", "samples"] == 64
    # Stage 1 belongs to one row, so that nothing sums it twice; the original was trained elsewhere.
    assert rows.loc[["original", "retrained"], "first_epoch_at_zero"].isna().all()
    assert pd.isna(rows.loc["original", "samples"])
    assert rows["forget_ratio"].tolist() == [0.05] * 3
    assert rows["record"].unique().tolist() == [f"two_stage/{unit.key}/record.json"]


def test_a_unit_that_did_not_converge_has_no_retrained_row(made_up_sweep):
    sweep = made_up_sweep()
    unit = sweep.find(kind="two_stage")[0]
    sweep.finish(unit, outcome="not_converged")
    rows = rows_of(sweep.results(), unit)
    assert list(rows.index) == ["original", "neutralized"]
    assert set(rows["outcome"]) == {"not_converged"}


@pytest.mark.parametrize(
    ("kind", "state"),
    [("original", "original"), ("scratch", "scratch"), ("two_stage", "retrained")],
)
def test_a_unit_without_a_record_has_one_row_with_nothing_measured(made_up_sweep, kind, state):
    sweep = made_up_sweep()
    results = sweep.results()
    unit = sweep.find(kind=kind)[0]
    rows = rows_of(results, unit)
    assert list(rows.index) == [state]
    assert rows.loc[state, "outcome"] == "missing"
    measured = [name for name in COLUMNS if name.endswith("_accuracy")]
    assert rows[[*measured, "samples", "seconds", "best_epoch", "commit"]].isna().all(axis=None)


def test_every_planned_unit_is_counted_once(accident):
    counts = outcome_counts(accident.results().frame)
    assert sum(counts.values()) == len(accident.units)
    assert counts == {
        "done": 38,
        "not_converged": 1,
        "failed": 2,
        "blocked": 9,
        "missing": 1,
        "damaged": 1,
    }
    assert tuple(counts) == OUTCOMES


def test_what_needs_a_failed_original_is_blocked_and_names_it(made_up_sweep):
    sweep = made_up_sweep()
    original = sweep.find(kind="original", seed=0)[0]
    sweep.fail(original, "disk is gone")
    frame = sweep.results().frame.set_index("unit")
    assert frame.loc[original.key, ["outcome", "cause"]].tolist() == ["failed", "disk is gone"]
    for unit in sweep.find(kind="two_stage", seed=0):
        assert frame.loc[unit.key, "outcome"] == "blocked"
        assert original.key[:12] in frame.loc[unit.key, "cause"]
    for unit in [*sweep.find(kind="two_stage", seed=1), *sweep.find(kind="scratch", seed=0)]:
        assert frame.loc[unit.key, "outcome"] == "missing"


def test_what_needs_a_blocked_unit_is_blocked_too(made_up_sweep):
    sweep = made_up_sweep()
    sweep.fail(sweep.find(kind="original", seed=0)[0], "disk is gone")
    parent = sweep.find(kind="two_stage", seed=0)[0]
    grandchild = replace(parent, key="9" * 64, parents=(parent.key,))
    sweep.units[grandchild.key] = grandchild
    row = rows_of(sweep.results(), grandchild)
    assert row["outcome"].tolist() == ["blocked"]
    assert row["cause"].tolist() == [f"needs {parent.key[:12]}, which is blocked"]


def test_a_record_outweighs_an_older_failure(made_up_sweep):
    sweep = made_up_sweep()
    unit = sweep.find(kind="scratch")[0]
    sweep.fail(unit, "first attempt")
    sweep.finish(unit)
    assert rows_of(sweep.results(), unit).loc["scratch", "outcome"] == "done"


def break_metric(value):
    def change(record):
        record["metrics"]["retrained/test/accuracy"] = value

    return change


def delete(*path):
    def change(record):
        for name in path[:-1]:
            record = record[name]
        del record[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (break_metric(1.7), "1.7"),
        (break_metric("0.5"), "'0.5'"),
        (break_metric(None), "None"),
        (break_metric(math.nan), "nan"),
        (break_metric(True), "True"),
        (delete("metrics", "retrained/test/accuracy"), "retrained/test/accuracy"),
        (delete("metrics"), "metrics is absent"),
        (delete("training", "neutralized"), "neutralized is absent"),
        (delete("training", "retrained", "samples"), "samples is absent"),
        (delete("neutralization"), "neutralization is absent"),
        (delete("num_classes"), "num_classes is absent"),
        (delete("provenance"), "provenance is absent"),
        (lambda record: record.update(outcome="finished"), "'finished'"),
        (lambda record: record.update(key="0" * 64), "key"),
        (lambda record: record.update(metrics={}), "retrained/test/accuracy"),
        (lambda record: record.update(metrics=[1, 2]), "not a table"),
        (lambda record: record.update(training=3), "int"),
        (lambda record: record["training"]["retrained"].update(seconds=-1), "-1"),
    ],
)
def test_a_damaged_record_is_named_and_gives_no_number(made_up_sweep, change, words):
    sweep = made_up_sweep()
    sweep.finish_all()
    unit = sweep.find(kind="two_stage")[0]
    change(sweep.records[unit.key])
    results = sweep.results()
    row = rows_of(results, unit)
    assert row["outcome"].tolist() == ["damaged"]
    cause = row["cause"].iloc[0]
    assert words in cause and f"two_stage/{unit.key}/record.json" in cause and "\n" not in cause
    assert row[[name for name in COLUMNS if name.endswith("_accuracy")]].isna().all(axis=None)
    assert outcome_counts(results.frame)["done"] == len(sweep.units) - 1


def test_a_record_that_the_store_refuses_is_damaged(made_up_sweep):
    sweep = made_up_sweep()
    unit = sweep.find(kind="original")[0]
    sweep.records[unit.key] = "cut\nshort"
    row = rows_of(sweep.results(), unit)
    assert row["outcome"].tolist() == ["damaged"] and "cut short" in row["cause"].iloc[0]


def test_uncommitted_changes_show_in_the_commit(made_up_sweep):
    sweep = made_up_sweep()
    sweep.finish_all()
    unit = sweep.find(kind="scratch")[0]
    sweep.records[unit.key]["provenance"] = {"commit": "abc", "dirty": True, "device": "cuda:0"}
    row = rows_of(sweep.results(), unit)
    assert row["commit"].tolist() == ["abc+dirty"] and row["device"].tolist() == ["cuda:0"]


def test_columns_stand_in_the_papers_order_and_others_last(made_up_sweep):
    names = {
        "digits": ("digits", 10),
        "skin": ("ham10000", 7),
        "small": ("mnist", 10),
        "large": ("mnist", 10),
        "cifar10": ("cifar10", 10),
    }
    columns = made_up_sweep(names).results().columns
    labels = ["CIFAR-10", "MNIST (small)", "MNIST (large)", "HAM10000", "digits"]
    assert [column.label for column in columns] == labels
    assert columns[3].chance == pytest.approx(1 / 7)


def test_chance_comes_from_the_records_where_the_plan_does_not_know_it(made_up_sweep):
    sweep = made_up_sweep({"mine": ("arrays", None)})
    assert math.isnan(sweep.results().columns[0].chance)
    record = sweep.finish(sweep.find(kind="original")[0])
    record["num_classes"] = 4
    assert sweep.results().columns[0].chance == 0.25


def test_the_papers_strategies_come_first(made_up_sweep):
    strategies = ("random", "maximum", "another", "minimum")
    results = made_up_sweep(strategies=strategies).results()
    assert results.strategies == ("minimum", "maximum", "another", "random")


def test_selection_keeps_strategies_apart(made_up_sweep):
    sweep = made_up_sweep()
    sweep.finish_all(lambda unit: {"metrics": {"retrained/test/accuracy": 0.9}})
    for unit in sweep.find(kind="two_stage", strategy="maximum"):
        sweep.forget(unit)
    frame = sweep.results().frame
    ours = select(frame, "mnist", "two_stage", "retrained", "minimum")
    rival = select(frame, "mnist", "two_stage", "retrained", "maximum")
    assert (len(ours.rows), ours.counts["missing"]) == (4, 0)
    assert (len(rival.rows), rival.counts["missing"], rival.planned) == (0, 4, 4)


def test_cost_of_a_trial_is_that_of_both_stages(made_up_sweep):
    sweep = made_up_sweep(strategies=("minimum",), ratios=(0.01,), seeds=(0, 1))
    done, capped = sweep.find(kind="two_stage")
    sweep.finish(done, samples=(64, 512), seconds=(0.25, 2.0))
    sweep.finish(capped, samples=(3200, 512), seconds=(12.5, 2.0), outcome="not_converged")
    cost = two_stage_cost(sweep.results().frame).set_index("unit")
    assert cost.loc[done.key, ["samples", "seconds"]].tolist() == [576, 2.25]
    assert cost.loc[capped.key, ["samples", "seconds"]].tolist() == [3200, 12.5]


def test_pairs_share_ratio_and_seeds(made_up_sweep):
    seeds = (Seeds(0, 1, 2), Seeds(0, 1, 3), Seeds(0, 2, 2), Seeds(1, 1, 2))
    sweep = made_up_sweep(strategies=("minimum",), seeds=seeds)

    def numbers(unit):
        value = (1 + unit.seeds.training + 10 * unit.seeds.forget + 100 * unit.forget_ratio) / 100
        states = ("scratch", "retrained")
        return {"metrics": {f"{state}/test/accuracy": value for state in states}}

    for kind in ("scratch", "two_stage"):
        for unit in sweep.find(kind=kind):
            sweep.finish(unit, **numbers(unit))
    frame = sweep.results().frame
    retrained, scratch = (frame[frame["state"] == state] for state in ("retrained", "scratch"))
    assert (len(retrained), len(scratch)) == (8, 6)
    pairs = paired(retrained, scratch, "test_accuracy", ("training_seed", "forget_seed"))
    assert len(pairs) == 8
    assert (pairs["first"] == pairs["second"]).all()


def test_a_plan_without_units_gives_an_empty_frame_with_all_columns():
    frame = tidy_frame([])
    assert tuple(frame.columns) == COLUMNS and frame.empty
    assert str(frame["samples"].dtype) == "Int64"
