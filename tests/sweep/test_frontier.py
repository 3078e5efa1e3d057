"""Order of units: never before a parent, every one once, none lost behind a failure."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.frontier import Frontier
from sweep.lanes import DEPTH, Lanes, num_lanes
from sweep.plan import Plan, PlannedUnit
from unlearning.config import Seeds


def unit(key: str, parents: tuple[str, ...] = (), kind: str = "scratch") -> PlannedUnit:
    return PlannedUnit(key, kind, "digits", 0.1, None, Seeds(), parents)


def plan_of(units: list[PlannedUnit]) -> Plan:
    return Plan("test", {}, {u.key: u for u in units})


@st.composite
def graphs(draw: st.DrawFn) -> Plan:
    """Random graphs in which a unit's parents come before it."""
    units: list[PlannedUnit] = []
    for number in range(draw(st.integers(1, 25))):
        earlier = [u.key for u in units]
        parents = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if units else []
        units.append(unit(f"u{number}", tuple(parents), "two_stage" if parents else "original"))
    return plan_of(units)


@given(graphs(), st.integers(0, 10**6), st.integers(1, 4))
def test_every_unit_runs_once_and_after_its_parents(plan: Plan, seed: int, slots: int) -> None:
    rng, frontier = random.Random(seed), Frontier(plan, [])
    running: list[str] = []
    finished: list[str] = []
    while not frontier.is_exhausted:
        while len(running) < slots and (key := frontier.next_ready()) is not None:
            assert set(plan.units[key].parents) <= set(finished)
            running.append(key)
        assert running, "units are left, none runs and none is ready"
        done = running.pop(rng.randrange(len(running)))
        finished.append(done)
        frontier.finish(done)
    assert sorted(finished) == sorted(plan.units)
    assert frontier.next_ready() is None


@given(graphs(), st.integers(0, 10**6))
def test_a_failure_blocks_exactly_its_descendants(plan: Plan, seed: int) -> None:
    rng, frontier = random.Random(seed), Frontier(plan, [])
    failed: set[str] = set()
    finished: set[str] = set()
    while not frontier.is_exhausted:
        key = frontier.next_ready()
        assert key is not None
        if rng.random() < 0.3:
            failed.add(key)
            frontier.fail(key)
        else:
            finished.add(key)
            frontier.finish(key)
    lost = set(failed)
    for planned in plan.units.values():
        if lost & set(planned.parents):
            lost.add(planned.key)
    assert frontier.blocked == lost - failed
    assert finished | failed | frontier.blocked == set(plan.units)


class Disturbed:
    """Computes a plan while units are put back and finished ones turn out to be damaged."""

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        self.plan, self.rng = plan, rng
        self.frontier = Frontier(plan, [])
        self.out: list[str] = []
        self.stored: set[str] = set()
        self.damages = 0

    def step(self) -> None:
        while len(self.out) < 3 and (key := self.frontier.next_ready()) is not None:
            assert key not in self.out and key not in self.stored
            assert set(self.plan.units[key].parents) <= self.stored
            self.out.append(key)
        assert self.out, "units are left, none runs and none is ready"
        key = self.out.pop(self.rng.randrange(len(self.out)))
        parents = [p for p in self.plan.units[key].parents if p in self.stored]
        if parents and self.damages < 10 and self.rng.random() < 0.3:
            self.damages += 1
            damaged = self.rng.choice(parents)
            self.stored.remove(damaged)
            assert self.frontier.reopen(damaged)
            assert not self.frontier.reopen(damaged)  # another child found it too
            self.frontier.put_back(key)
        elif self.rng.random() < 0.2:
            self.frontier.put_back(key)
        else:
            self.stored.add(key)
            self.frontier.finish(key)


@given(graphs(), st.integers(0, 10**6))
def test_units_put_back_and_damaged_parents_are_computed_before_what_needs_them(
    plan: Plan, seed: int
) -> None:
    sweep = Disturbed(plan, random.Random(seed))
    while not sweep.frontier.is_exhausted:
        sweep.step()
    assert sweep.stored == set(plan.units) and not sweep.out
    assert sweep.frontier.next_ready() is None


def test_a_unit_put_back_after_its_parent_failed_is_blocked() -> None:
    plan = plan_of([unit("a", kind="original"), unit("b", ("a",), "two_stage")])
    frontier = Frontier(plan, ["a"])
    assert frontier.next_ready() == "b"
    assert frontier.reopen("a") and frontier.next_ready() == "a"
    frontier.fail("a")
    assert not frontier.is_exhausted  # b still runs, with the parent as it read it
    frontier.put_back("b")
    assert frontier.blocked == {"b"} and frontier.is_exhausted


def test_finished_units_are_not_handed_out_and_free_their_children() -> None:
    plan = plan_of([unit("a", kind="original"), unit("b", ("a",), "two_stage"), unit("c")])
    frontier = Frontier(plan, ["a"])
    assert [frontier.next_ready() for _ in range(3)] == ["b", "c", None]


def test_originals_come_first_then_the_plans_order() -> None:
    plan = plan_of([unit("s1"), unit("s2"), unit("o", kind="original")])
    frontier = Frontier(plan, [])
    assert [frontier.next_ready() for _ in range(3)] == ["o", "s1", "s2"]


def test_a_data_set_without_room_does_not_hold_up_another() -> None:
    other = PlannedUnit("b", "original", "mnist", None, None, Seeds())
    frontier = Frontier(plan_of([unit("a", kind="original"), other]), [])
    assert frontier.next_ready(["mnist"]) == "b"
    assert frontier.next_ready(["mnist"]) is None
    assert frontier.next_ready(["mnist", "digits"]) == "a"


def test_lanes_fill_evenly_up_to_their_depth() -> None:
    lanes = Lanes(3)
    assert [lanes.take() for _ in range(3 * DEPTH + 1)] == [0, 1, 2, 0, 1, 2, None]
    lanes.leave(1)
    assert lanes.take() == 1
    assert not lanes.has_room and lanes.take() is None


@given(st.integers(1, 6), st.lists(st.booleans(), max_size=60), st.integers(0, 99))
def test_lanes_never_overfill_and_always_serve_the_emptiest(
    count: int, moves: list[bool], seed: int
) -> None:
    rng, lanes, load = random.Random(seed), Lanes(count), [0] * count
    for take in moves:
        if take:
            lane = lanes.take()
            assert (lane is None) == (min(load) >= DEPTH)
            if lane is not None:
                assert load[lane] == min(load)
                load[lane] += 1
        elif any(load):
            lane = rng.choice([i for i, n in enumerate(load) if n])
            lanes.leave(lane)
            load[lane] -= 1


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "expected"),
    [
        ([{"CPU": 2.0}], 1, 0, 2),
        ([{"CPU": 2.0}, {"CPU": 3.0}], 2, 0, 2),  # a unit does not span nodes
        ([{"CPU": 16.0, "GPU": 2.0}], 1, 0.25, 8),
        ([{"CPU": 16.0, "GPU": 1.0}], 1, 0.3, 3),
        ([{"CPU": 16.0, "GPU": 2.0}], 1, 0.6, 2),  # nor GPUs
        ([{"CPU": 2.0, "GPU": 4.0}], 1, 0.5, 2),
        ([{"CPU": 1.0}], 4, 0, 0),
        ([{"GPU": 1.0}], 1, 0, 0),
        ([{"CPU": 10.0, "GPU": 1.0}], 1, 0.1, 10),
    ],
)
def test_lanes_are_counted_by_node_and_by_gpu(
    nodes: list[dict[str, float]], cpus: float, gpus: float, expected: int
) -> None:
    assert num_lanes(nodes, cpus, gpus) == expected
