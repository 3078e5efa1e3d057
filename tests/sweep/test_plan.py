"""The graph of units: each once, parents first, keyed by content."""

import copy
import dataclasses
from pathlib import Path

import pytest

from sweep.config import GridConfig, ResolvedConfig, load_config
from sweep.plan import KINDS, Plan, make_plan, read_plan, seed_axes, sharing
from sweep.report.aggregate import results_frame
from sweep.store import Store
from unlearning.config import Seeds
from unlearning.datasets import prepare
from unlearning.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def count(plan: Plan) -> dict[str, int]:
    return {kind: sum(u.kind == kind for u in plan.units.values()) for kind in KINDS}


def test_originals_and_scratch_models_are_shared(tiny_plan: Plan) -> None:
    assert count(tiny_plan) == {"original": 1, "scratch": 2, "two_stage": 4}


def test_paper_plan_has_the_units_that_its_grid_implies() -> None:
    plan = make_plan(load_config([ROOT / "configs" / "paper.yaml"], ["data.root=/nowhere"]))
    assert count(plan) == {
        "original": 6 * 3,
        "scratch": 6 * 100 * 3,
        "two_stage": 6 * 100 * 2 * 3,
    }
    assert plan.is_provisional


def test_parents_come_before_children_and_are_the_right_original(tiny: ResolvedConfig) -> None:
    tiny.sweep.grid.seeds = [0, 1]
    plan, seen = make_plan(tiny), set()
    for unit in plan.units.values():
        assert seen.issuperset(unit.parents)
        seen.add(unit.key)
        if unit.kind == "two_stage":
            (parent,) = (plan.units[key] for key in unit.parents)
            assert parent.kind == "original"
            assert parent.seeds.training == unit.seeds.training
        else:
            assert unit.parents == ()


def test_a_units_key_is_that_of_its_specification(tiny_plan: Plan) -> None:
    for unit in tiny_plan.units.values():
        assert tiny_plan.spec(unit).key == unit.key


def test_a_new_strategy_adds_only_its_own_cells(tiny: ResolvedConfig) -> None:
    before = make_plan(tiny).units
    tiny.sweep.grid.strategies = ["minimum", "maximum", "random"]
    after = make_plan(tiny).units
    assert before.keys() < after.keys()
    added = [after[key] for key in after.keys() - before.keys()]
    assert [(unit.kind, unit.strategy) for unit in added] == [("two_stage", "random")] * 2


def test_names_paths_and_resources_are_not_in_the_key(tiny: ResolvedConfig, tmp_path: Path) -> None:
    prepare(tiny.trials["digits"].source, Path(tiny.sweep.data.root), tiny.sweep.data.prepared_root)
    before = list(make_plan(tiny).units)
    tiny.sweep.name = "another"
    tiny.sweep.output.store = str(tmp_path / "elsewhere")
    tiny.sweep.resources.cpus = 2
    renamed = dataclasses.replace(tiny, trials={"renamed": tiny.trials["digits"]})
    assert list(make_plan(renamed).units) == before


def test_preparing_a_data_set_settles_the_keys(tiny: ResolvedConfig) -> None:
    provisional = make_plan(tiny)
    data = tiny.sweep.data
    prepare(tiny.trials["digits"].source, Path(data.root), data.prepared_root)
    settled = make_plan(tiny)
    assert provisional.is_provisional and not settled.is_provisional
    assert not provisional.units.keys() & settled.units.keys()
    assert count(provisional) == count(settled)


@pytest.mark.parametrize("ratio", [0.0001, 1.0])
def test_a_ratio_that_leaves_no_image_is_refused_by_data_set(
    tiny: ResolvedConfig, ratio: float
) -> None:
    tiny.sweep.grid.forget_ratios = [ratio]
    with pytest.raises(ConfigError, match=f"data set digits: forget_ratio {ratio:g}"):
        make_plan(tiny)


def test_one_seed_sets_all_three_and_each_can_be_an_axis() -> None:
    assert seed_axes(GridConfig(seeds=[3, 4])) == [Seeds(3, 3, 3), Seeds(4, 4, 4)]
    axes = seed_axes(GridConfig(seeds=[0], forget_seeds=[5, 6]))
    assert axes == [Seeds(0, 5, 0), Seeds(0, 6, 0)]
    both = seed_axes(GridConfig(seeds=[0, 1], training_seeds=[7]))
    assert both == [Seeds(7, 0, 0), Seeds(7, 1, 1)]


def test_an_unlearning_seed_axis_trains_nothing_more_than_the_two_stages(
    tiny: ResolvedConfig,
) -> None:
    tiny.sweep.grid.unlearning_seeds = [0, 1, 2]
    assert count(make_plan(tiny)) == {"original": 1, "scratch": 2, "two_stage": 12}


def test_two_entries_of_one_data_set_share_what_does_not_differ(tiny: ResolvedConfig) -> None:
    prepare(tiny.trials["digits"].source, Path(tiny.sweep.data.root), tiny.sweep.data.prepared_root)
    half = copy.deepcopy(tiny.trials["digits"])
    half.retraining.data_fraction = 0.5
    both = dataclasses.replace(tiny, trials={**tiny.trials, "half": half})
    plan = make_plan(both)
    assert count(plan) == {"original": 1, "scratch": 2, "two_stage": 8}
    for unit in plan.units.values():
        assert unit.also_in == (() if unit.kind == "two_stage" else ("half",))
    frame = results_frame(plan, Store(Path(tiny.sweep.output.store)), {})
    assert set(frame[frame["kind"] == "scratch"]["dataset"]) == {"digits", "half"}
    assert len(frame) == 1 * 2 + 2 * 2 + 8


def test_epochs_saved_by_sharing_are_counted_by_hand(tiny_plan: Plan) -> None:
    saved = sharing(tiny_plan)
    assert saved.num_trials == 4
    assert saved.epochs_shared == 1 * 2 + 2 * 2 + 4 * 1
    assert saved.epochs_apart == 4 * (2 + 2 + 1)


def test_a_written_plan_is_read_back_equal(tiny_plan: Plan, tmp_path: Path) -> None:
    tiny_plan.write(tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again == tiny_plan
    assert dataclasses.asdict(again) == dataclasses.asdict(tiny_plan)


def test_a_missing_or_damaged_plan_says_what_to_do(tiny_plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(ConfigError, match="no run's folder"):
        read_plan(path)
    tiny_plan.write(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="writes it again"):
        read_plan(path)
