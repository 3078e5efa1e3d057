import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.report.accuracy_tables import report_tables, table2, table4
from sweep.report.claims import answer_claims
from sweep.report.epoch_tables import table3, table5
from sweep.report.forgetting_table import forgetting_table
from sweep.report.render import claims_csv, table_csv, table_markdown
from unlearning.config import Seeds


def cell(table, row, column="MNIST", section=0):
    """The cell under a column's head in the row whose label starts so."""
    part = table.sections[section]
    found = [entry for entry in part.rows if entry.label.startswith(row)]
    assert len(found) == 1, [entry.label for entry in part.rows]
    return found[0].cells[part.columns.index(column)]


def accuracies(by_place, state, split="test"):
    """Numbers for `finish_all`: accuracy in per cent by (ratio in per cent, training seed)."""

    def numbers(unit):
        place = (round(100 * (unit.forget_ratio or 0), 6), unit.seeds.training)
        if place not in by_place:
            return {}
        return {"metrics": {f"{state}/{split}/accuracy": by_place[place] / 100}}

    return numbers


@pytest.fixture
def grid(made_up_sweep):
    """Two seeds by three ratios with the numbers of the hand-made example of the statistics."""
    sweep = made_up_sweep(ratios=(0.01, 0.02, 0.03))
    values = {(1, 0): 90, (2, 0): 92, (3, 0): 94, (1, 1): 80, (2, 1): 81, (3, 1): 82}
    sweep.finish_all(accuracies(values, "retrained"))
    return sweep


def test_table2_shows_mean_both_variances_and_their_n(grid):
    found = cell(table2(grid.results()), "retrained, minimum")
    assert found.lines == (
        "86.50 (2.50 over ratios, 60.83 over seeds)",
        "n = 6",
        "variance n: over ratios 6 in 2 seeds, over seeds 6 in 3 ratios",
        "paper 99.20 (0.03)",
    )
    assert found.values["value"] == pytest.approx(86.5)
    assert found.values["variance_over_ratios"] == pytest.approx(2.5)
    assert found.values["variance_over_seeds"] == pytest.approx(60.8333333)
    assert (found.values["paper"], found.values["paper_variance"]) == (99.20, 0.03)


def test_seeds_are_told_apart_by_all_three_numbers(made_up_sweep):
    seeds = (Seeds(0, 0, 0), Seeds(0, 0, 1))
    sweep = made_up_sweep(ratios=(0.01, 0.02), seeds=seeds, strategies=("minimum",))
    values = {(0.01, 0): 0.90, (0.02, 0): 0.92, (0.01, 1): 0.70, (0.02, 1): 0.74}
    for unit in sweep.find(kind="two_stage"):
        value = values[unit.forget_ratio, unit.seeds.unlearning]
        sweep.finish(unit, {"retrained/test/accuracy": value})
    found = cell(table2(sweep.results()), "retrained").values
    # By hand: over ratios (2 + 8) / 2 = 5, over seeds (200 + 162) / 2 = 181.
    assert found["variance_over_ratios"] == pytest.approx(5)
    assert found["variance_over_seeds"] == pytest.approx(181)


def test_strategies_are_never_pooled(grid):
    for unit in grid.find(kind="two_stage", strategy="maximum"):
        grid.finish(unit, {"retrained/test/accuracy": 0.1})
    table = table2(grid.results())
    assert cell(table, "retrained, minimum").values["value"] == pytest.approx(86.5)
    assert cell(table, "retrained, maximum").values["value"] == pytest.approx(10.0)
    assert cell(table, "retrained, maximum").values["paper"] is None


def test_both_of_the_papers_values_are_shown_where_its_text_contradicts_its_table(made_up_sweep):
    sweep = made_up_sweep({"street": ("svhn", 10), "mnist": ("mnist", 10)})
    table = table2(sweep.results())
    lines = cell(table, "retrained, minimum", "SVHN").lines
    assert "paper 92.64 (0.32), its text 87.51" in lines
    assert cell(table, "retrained, minimum", "SVHN").values["paper_text"] == 87.51
    assert "paper 99.20 (0.03)" in cell(table, "retrained, minimum", "MNIST").lines


def test_missing_and_unfinished_trials_are_named_in_the_cell(accident):
    table = table2(accident.results())
    assert cell(table, "retrained, minimum").lines[-1] == "1 not converged, 1 failed"
    assert cell(table, "retrained, maximum").lines[-1] == "1 damaged"
    assert cell(table, "scratch").lines[-1] == "1 missing"
    assert cell(table, "retrained, minimum", "digits").lines[-1] == "3 blocked"
    assert cell(table, "retrained, minimum").values["planned"] == 6


def test_an_unfinished_sweep_shows_dashes_and_counts(made_up_sweep):
    found = cell(table2(made_up_sweep().results()), "scratch")
    assert found.lines == ("–", "paper 98.89 (0.15)", "4 missing")
    assert math.isnan(found.values["value"]) and found.values["n"] == 0


def test_table3_takes_ratios_of_1_to_10_percent_only(made_up_sweep):
    sweep = made_up_sweep(ratios=(0.009, 0.01, 0.1, 0.11), seeds=(0,), strategies=("minimum",))
    epochs = {0.009: 50, 0.01: 4, 0.1: 6, 0.11: 50}
    sweep.finish_all(lambda unit: {"best_epoch": epochs.get(unit.forget_ratio, 1)})
    found = cell(table3(sweep.results()), "retrained")
    assert (found.values["value"], found.values["n"]) == (5.0, 2)


def test_table3_says_so_where_the_sweep_has_no_such_ratio(made_up_sweep):
    sweep = made_up_sweep(ratios=(0.2, 0.5))
    sweep.finish_all()
    found = cell(table3(sweep.results()), "retrained, minimum")
    assert found.lines[0] == "–" and found.lines[-1] == "no ratio of 1 to 10 % in this sweep"


def test_the_gap_of_table3_is_over_pairs_only(made_up_sweep):
    sweep = made_up_sweep(ratios=(0.01, 0.02, 0.03), seeds=(0,), strategies=("minimum",))
    best = {("two_stage", 0.01): 3, ("two_stage", 0.02): 5, ("scratch", 0.01): 10}
    best |= {("scratch", 0.02): 20, ("scratch", 0.03): 90}
    for (kind, ratio), epoch in best.items():
        sweep.finish(sweep.find(kind=kind, forget_ratio=ratio)[0], best_epoch=epoch)
    found = cell(table3(sweep.results()), "retrained")
    # By hand: 10 - 3 = 7 and 20 - 5 = 15; the scratch model of 3 % has no partner.
    assert (found.values["gap"], found.values["gap_n"]) == (11.0, 2)
    assert "gap +11.00, n = 2" in found.lines
    assert found.lines[-2:] == ("paper 11.50 (gap +24.00)", "1 missing")


def test_table3_gives_what_stage_1_adds(made_up_sweep):
    sweep = made_up_sweep(seeds=(0,), strategies=("minimum",))
    sweep.finish_all(lambda unit: {"at_zero": 7, "samples": (70, 930), "seconds": (0.25, 1.5)})
    table = table3(sweep.results())
    assert cell(table, "epochs", section=1).values["value"] == 7
    assert cell(table, "samples", section=1).values["value"] == 70
    assert cell(table, "samples, stage 1 + stage 2", section=2).values["value"] == 1000
    assert cell(table, "seconds, stage 1 + stage 2", section=2).values["value"] == 1.75
    assert cell(table, "samples, scratch", section=2).values["value"] == 930
    assert any("Stage 1 is not in the best epoch" in note for note in table.notes)


def test_table4_shows_every_strategy_after_both_stages(made_up_sweep):
    sweep = made_up_sweep({"mnist": ("mnist", 10), "digits": ("digits", 8)}, seeds=(0,))
    flips = {("mnist", "neutralized"): 0.04, ("digits", "neutralized"): 0.06}
    flips |= {("mnist", "retrained"): 0.8, ("digits", "retrained"): 0.9}

    def numbers(unit):
        states = ("neutralized", "retrained") if unit.strategy == "minimum" else ()
        key = "forget_horizontal_flip/accuracy"
        return {"metrics": {f"{state}/{key}": flips[unit.dataset, state] for state in states}}

    sweep.finish_all(numbers)
    table = table4(sweep.results())
    assert [part.title.split(":")[0] for part in table.sections] == [
        "after stage 1 (neutralized)",
        "after stage 2 (retrained)",
    ]
    head = "minimum: horizontal flip"
    for section, mnist, digits, average in ((0, 4, 6, 5), (1, 80, 90, 85)):
        assert cell(table, "MNIST (10.0 %)", head, section).values["value"] == pytest.approx(mnist)
        assert cell(table, "digits (12.5 %)", head, section).values["value"] == pytest.approx(
            digits
        )
        overall = cell(table, "average", head, section)
        assert overall.values["value"] == pytest.approx(average)
        assert (overall.values["n"], overall.values["paper"]) == (2, 4.23)
    assert cell(table, "MNIST", "maximum: center crop").values["value"] == 50
    assert cell(table, "MNIST", "maximum: center crop").values["paper"] == 5.68


def test_the_papers_average_stands_only_beside_a_data_set_of_the_paper(made_up_sweep):
    for reader, shown in (("digits", None), ("mnist", 4.23)):
        table = table4(made_up_sweep({"one": (reader, 10)}).results())
        assert cell(table, "average", "minimum: horizontal flip").values["paper"] == shown


def test_strategies_beyond_two_have_sections_of_their_own_in_table4(made_up_sweep):
    sweep = made_up_sweep(strategies=("random", "minimum", "maximum"))
    titles = [part.title for part in table4(sweep.results()).sections]
    assert titles == [
        "after stage 1 (neutralized): minimum, maximum",
        "after stage 1 (neutralized): random",
        "after stage 2 (retrained): minimum, maximum",
        "after stage 2 (retrained): random",
    ]


def test_table5_counts_trials_above_the_cap_apart(made_up_sweep):
    sweep = made_up_sweep(ratios=(0.02,), seeds=(0, 1, 2), strategies=("minimum",), max_epochs=5000)
    first, second, third = sweep.find(kind="two_stage")
    sweep.finish(first, at_random=2, at_zero=4)
    sweep.finish(second, at_random=4, at_zero=8)
    sweep.finish(third, outcome="not_converged")
    found = cell(table5(sweep.results()), "2")
    assert found.lines == (
        "6.0 ± 2.8",
        "n = 2",
        "at chance 3.0 ± 1.4",
        "> 5,000 (1 not converged)",
        "paper 15",
    )
    assert found.values["epochs_when_not_converged"] == 5000
    assert found.values["not_converged"] == 1


def test_table5_does_not_take_stopping_at_chance_for_zero(made_up_sweep):
    sweep = made_up_sweep(ratios=(0.02,), seeds=(0,), strategies=("minimum",), target="random")
    sweep.finish_all(lambda unit: {"at_random": 3, "at_zero": None})
    found = cell(table5(sweep.results()), "2")
    assert found.lines[0] == "–" and "1 stopped at chance, before zero" in found.lines
    assert "at chance 3.0" in found.lines


def test_a_long_table5_shows_whole_percents_and_keeps_the_rest_in_the_csv(made_up_sweep):
    ratios = [step / 1000 for step in range(1, 31)]
    sweep = made_up_sweep(ratios=ratios, seeds=(0,), strategies=("minimum",))
    sweep.finish_all()
    table = table5(sweep.results())
    shown = [row.label for row in table.sections[0].rows if not row.csv_only]
    assert shown == ["1", "2", "3"]
    assert len(table_csv(table).splitlines()) == 31
    assert "| 2.5 |" not in table_markdown(table)
    few = replace_ratios(made_up_sweep, [0.001, 0.002, 0.0035])
    assert [row.label for row in few if not row.csv_only] == ["0.1", "0.2", "0.35"]
    odd = replace_ratios(made_up_sweep, [step / 1000 + 0.0001 for step in range(1, 31)])
    assert not any(row.csv_only for row in odd)


def replace_ratios(made_up_sweep, ratios):
    sweep = made_up_sweep(ratios=ratios, seeds=(0,), strategies=("minimum",))
    return table5(sweep.results()).sections[0].rows


def finish_on_forget_set(sweep, values):
    """Accuracies of neutralized, retrained and scratch on the forget set by (ratio, seed)."""
    for (ratio, seed), (neutralized, retrained, scratch) in values.items():
        place = {"forget_ratio": ratio, "seed": seed}
        metrics = {
            "neutralized/forget/accuracy": neutralized,
            "retrained/forget/accuracy": retrained,
        }
        sweep.finish(sweep.find(kind="two_stage", **place)[0], metrics)
        reference = sweep.find(kind="scratch", **place)[0]
        sweep.finish(reference, {"scratch/forget/accuracy": scratch})


def test_rebound_and_gap_are_paired_by_trial(made_up_sweep):
    sweep = made_up_sweep(strategies=("minimum",))
    values = {(0.01, 0): (0.0, 0.95, 0.90), (0.05, 0): (0.10, 0.85, 0.83)}
    finish_on_forget_set(sweep, values | {(0.01, 1): (0.05, 0.6, 0.4)})
    table = forgetting_table(sweep.results())
    # By hand: rebounds 95, 75 and 55, gaps 5, 2 and 20.
    rebound, gap = cell(table, "rebound").values, cell(table, "gap to scratch").values
    assert (rebound["value"], rebound["n"]) == (pytest.approx(75), 3)
    assert rebound["spread"] == pytest.approx(20)
    assert (gap["value"], gap["n"]) == (pytest.approx(9), 3)
    assert gap["spread"] == pytest.approx(math.sqrt((16 + 49 + 121) / 2))
    assert cell(table, "rebound").lines[0] == "+75.00 ± 20.00"


def test_trials_that_did_not_converge_are_in_no_mean(made_up_sweep):
    sweep = made_up_sweep(ratios=(0.01,), strategies=("minimum",))
    finish_on_forget_set(sweep, {(0.01, 0): (0.0, 0.9, 0.9)})
    capped = sweep.find(kind="two_stage", seed=1)[0]
    sweep.finish(capped, {"neutralized/forget/accuracy": 0.4}, outcome="not_converged")
    results = sweep.results()
    for found in (
        cell(forgetting_table(results), "neutralized"),
        cell(forgetting_table(results), "original"),
        cell(table4(results), "MNIST", "minimum: center crop"),
        cell(table3(results), "samples", section=1),
    ):
        assert found.values["n"] == 1 and found.lines[-1] == "1 not converged"
    assert cell(forgetting_table(results), "neutralized").values["value"] == 0.0


def test_both_criteria_stand_side_by_side(made_up_sweep):
    sweep = made_up_sweep(ratios=(0.01, 0.02), seeds=(0,), strategies=("minimum",))
    # Exactly at chance, and exactly at the margin: both are met.
    values = {(0.01, 0): (0.1, 0.95, 0.90), (0.02, 0): (0.0, 0.99, 0.93)}
    finish_on_forget_set(sweep, values)
    table = forgetting_table(sweep.results())
    shown = {
        label: cell(table, label).lines[0]
        for label in (
            "at or below chance: neutralized",
            "at or below chance: retrained",
            "at or below chance: scratch",
            "like scratch: neutralized",
            "like scratch: retrained",
        )
    }
    assert list(shown.values()) == ["2 of 2", "0 of 2", "0 of 2", "0 of 2", "1 of 2"]


def test_a_gap_names_the_scratch_models_that_it_lacks(accident):
    found = cell(forgetting_table(accident.results()), "gap to scratch")
    assert found.lines[-2:] == ("scratch: 1 missing", "1 not converged, 1 failed")
    assert found.values["n"] == 3


@pytest.fixture(scope="module")
def rendered(accident):
    """The sweep, and its tables and claims in the order of the plan."""
    results = accident.results()
    return results, everything(results)


def everything(results):
    return [table_csv(table) for table in report_tables(results)] + [
        claims_csv(answer_claims(results))
    ]


@settings(max_examples=4, deadline=None)
@given(order=st.randoms(use_true_random=False))
def test_the_order_of_the_records_changes_nothing(rendered, order: random.Random):
    results, before = rendered
    positions = list(range(len(results.frame)))
    order.shuffle(positions)
    assert everything(replace(results, frame=results.frame.iloc[positions])) == before
