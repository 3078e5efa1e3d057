"""What follows from how each attempt at a unit ended, without a Ray."""

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher
from rich.console import Console

from sweep import searcher as searcher_module
from sweep.callback import what_ray_says
from sweep.failures import Failure, read_failures, write_failure
from sweep.frontier import Frontier
from sweep.lanes import DEPTH, LanePool
from sweep.lease import Lease
from sweep.plan import Plan
from sweep.progress import Progress
from sweep.searcher import MAX_LOST_NODES, Share, UnitSearcher, is_lost_node
from sweep.store import Store

DIED = "The actor is dead because its worker process has died."
NODE_DIED = "The actor died because its node has died."


NODES = [{"CPU": 8.0, "GPU": 1.0}]


@dataclass
class Sweep:
    """A searcher with all that it works on; `answer` says how the next trial ended."""

    searcher: UnitSearcher
    plan: Plan
    store: Store
    progress: Progress
    output: io.StringIO
    folder: Path
    pool: LanePool
    stopped: list[str] = field(default_factory=list)
    trials: int = 0

    def suggest(self) -> Any:
        self.trials += 1
        return self.searcher.suggest(f"t{self.trials}")

    def next(self) -> dict[str, Any]:
        config = self.suggest()
        assert isinstance(config, dict)
        return config

    def answer(self, state: str, **more: Any) -> None:
        self.searcher.on_trial_complete(f"t{self.trials}", {"state": state, **more})

    def lose(self, cause: str) -> None:
        self.searcher.on_trial_complete(f"t{self.trials}", error=True)
        self.searcher.lost(f"t{self.trials}", cause)

    def publish(self, key: str) -> None:
        kind = self.plan.units[key].kind
        with self.store.building(kind, key) as work:
            self.store.write_record(work.folder, {"key": key, "kind": kind, "files": {}})

    def publish_as_holder(self, key: str, held: list[Lease | None]) -> None:
        """Another process that holds the lease finishes its unit."""
        for lease in held:
            if lease is not None and lease.key == key:
                lease.release()
        self.publish(key)

    def finish(self) -> str:
        """Compute the next unit; its key."""
        key = str(self.next()["unit"])
        self.publish(key)
        self.answer("done", outcome="done")
        return key

    @property
    def original(self) -> str:
        return next(iter(self.plan.units))


@pytest.fixture
def sweep(tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(searcher_module, "LOOK_EVERY_S", 0.0)
    store = Store(tmp_path / "store")
    store.open_for_writing()
    output, stopped = io.StringIO(), []
    pool = LanePool(NODES)
    progress = Progress(tiny_plan, [], tmp_path / "run", Console(file=output, width=300))
    searcher = UnitSearcher(
        tiny_plan,
        store,
        Frontier(tiny_plan, []),
        {"digits": Share(1, 0.25)},
        pool,
        progress,
        retries=2,
        takeover_s=1000.0,
        stop=stopped.append,
    )
    return Sweep(searcher, tiny_plan, store, progress, output, tmp_path / "run", pool, stopped)


def test_a_sweep_without_accidents_computes_each_unit_once(sweep: Sweep) -> None:
    computed = [sweep.finish() for _ in sweep.plan.units]
    assert sorted(computed) == sorted(sweep.plan.units)
    assert sweep.suggest() == Searcher.FINISHED
    assert sweep.progress.num_computed == len(sweep.plan.units)


def test_a_lost_worker_costs_a_unit_one_of_its_retries(sweep: Sweep) -> None:
    for _ in range(3):
        assert sweep.next()["unit"] == sweep.original
        sweep.lose(DIED)
    assert sweep.next()["unit"] != sweep.original
    (failure,) = read_failures(sweep.folder).values()
    assert "its worker was lost 3 times" in failure.cause and DIED in failure.cause
    assert sweep.progress.count("blocked") == 4


def test_lost_nodes_are_forgiven_for_a_whole_night(sweep: Sweep) -> None:
    for _ in range(MAX_LOST_NODES):
        assert sweep.next()["unit"] == sweep.original
        sweep.lose(NODE_DIED)
        sweep.pool.resize(NODES)  # another node came in its place
    assert sweep.finish() == sweep.original
    assert read_failures(sweep.folder) == {}


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (NODE_DIED, True),
        ("The actor 9fde is unavailable: The actor is temporarily unavailable: RpcError", True),
        (DIED, False),
        ("Worker exit detail: Worker unexpectedly exits with a connection error code 2.", False),
    ],
)
def test_a_lost_node_is_told_from_a_lost_worker(cause: str, expected: bool) -> None:
    assert is_lost_node(cause) == expected


def test_the_reason_is_picked_from_rays_many_lines(tmp_path: Path) -> None:
    class Trial:
        error_file = str(tmp_path / "error.txt")

    assert what_ray_says(Trial()) == "the worker process was lost"
    Path(Trial.error_file).write_text(
        "Failure # 1 (occurred at 2026-01-01)\n"
        "The actor died unexpectedly before finishing this task.\n\tclass_name: X\n"
        f"\tactor_id: 1\n{DIED} Worker exit type: SYSTEM_ERROR\n"
    )
    assert what_ray_says(Trial()).startswith(DIED)


def test_a_failed_unit_is_not_tried_again(sweep: Sweep) -> None:
    assert sweep.next()["unit"] == sweep.original
    sweep.answer("failed", cause="StrategyError: no", traceback="...")
    rest = Counter(sweep.plan.units[sweep.next()["unit"]].kind for _ in range(2))
    assert rest == {"scratch": 2}
    assert sweep.suggest() is None


def test_a_unit_that_another_sweep_computes_is_waited_for_without_a_worker(sweep: Sweep) -> None:
    key = sweep.next()["unit"]
    lease = sweep.store.leases.acquire(key)
    assert lease is not None
    sweep.answer("held")
    others = [sweep.next()["unit"] for _ in range(2)]
    assert key not in others
    assert sweep.suggest() is None  # the rest descends from it
    lease.release()
    sweep.publish(key)
    assert sweep.plan.units[sweep.next()["unit"]].kind == "two_stage"
    assert sweep.progress.num_computed == 0 and sweep.progress.count("done") == 1


def test_a_unit_that_another_sweep_gave_up_is_taken(sweep: Sweep) -> None:
    key = sweep.next()["unit"]
    lease = sweep.store.leases.acquire(key)
    assert lease is not None
    sweep.answer("held")
    lease.release()
    config = sweep.next()
    assert config["unit"] == key and config["stale"] is None


def _kill_holder(store: Store, lease: Lease) -> None:
    lease.path.write_text(json.dumps(json.loads(lease.path.read_text()) | {"born": "1"}))


def test_a_unit_whose_holder_is_dead_is_taken_over_with_its_sign(sweep: Sweep) -> None:
    key = sweep.next()["unit"]
    lease = sweep.store.leases.acquire(key)
    assert lease is not None
    sweep.answer("held")
    _kill_holder(sweep.store, lease)
    config = sweep.next()
    assert config["unit"] == key and config["stale"] == sweep.store.leases.newest(key)
    assert sweep.store.leases.acquire(key, config["stale"]) is not None


def _damage(sweep: Sweep, key: str) -> str:
    path = sweep.store.folder(sweep.plan.units[key].kind, key) / "record.json"
    path.write_text(path.read_text()[:-9])
    return f"{path}: cut short; details"


def test_a_damaged_parent_is_computed_again_before_its_children(sweep: Sweep) -> None:
    original = sweep.finish()
    scratch = [sweep.finish() for _ in range(1)]
    child = sweep.next()["unit"]
    assert sweep.plan.units[child].parents == (original,)
    cause = _damage(sweep, original)
    sweep.answer("damaged", damaged=original, cause=cause)
    assert len(list((sweep.store.root / "damaged").iterdir())) == 1
    assert "set aside in" in sweep.output.getvalue()
    assert sweep.finish() == original  # originals first
    rest = [sweep.finish() for _ in range(5)]
    assert child in rest and not set(scratch) & set(rest)
    assert sweep.suggest() == Searcher.FINISHED


def test_a_late_word_of_damage_does_not_set_the_mended_unit_aside(sweep: Sweep) -> None:
    original = sweep.finish()
    sweep.finish()
    first, second = sweep.next(), sweep.next()
    cause = _damage(sweep, original)
    searcher = sweep.searcher
    report = {"state": "damaged", "damaged": original, "cause": cause}
    searcher.on_trial_complete(f"t{sweep.trials - 1}", report)
    assert sweep.finish() == original
    searcher.on_trial_complete("t4", report)  # the other child had read the damaged file too
    assert sweep.store.has("original", original)
    assert {first["unit"], second["unit"]} <= {sweep.finish() for _ in range(5)}


def test_a_unit_damaged_again_and_again_is_given_up(sweep: Sweep) -> None:
    original = sweep.finish()
    sweep.finish()
    for _ in range(3):
        child = sweep.next()["unit"]
        sweep.answer("damaged", damaged=original, cause=_damage(sweep, original))
        if not sweep.store.has("original", original) and child not in read_failures(sweep.folder):
            assert sweep.finish() == original
    assert "again and again" in read_failures(sweep.folder)[child].cause


def test_out_of_memory_doubles_the_share_of_the_data_set_and_says_so(sweep: Sweep) -> None:
    assert sweep.next()["gpus"] == 0.25
    sweep.answer("out_of_memory", cause="CUDA out of memory")
    assert "out of memory with 0.25 of a GPU; units of digits get 0.5" in sweep.output.getvalue()
    assert sweep.next()["gpus"] == 0.5
    sweep.answer("out_of_memory", cause="CUDA out of memory")
    config = sweep.next()
    assert config["gpus"] == 1.0 and config["unit"] == sweep.original
    sweep.answer("out_of_memory", cause="CUDA out of memory")
    (failure,) = read_failures(sweep.folder).values()
    assert failure.cause == "out of memory with a whole GPU: CUDA out of memory"


def test_units_that_ran_side_by_side_do_not_double_the_share_twice(sweep: Sweep) -> None:
    for _ in range(2):
        sweep.next()
    for trial in ("t1", "t2"):
        report = {"state": "out_of_memory", "cause": "CUDA out of memory"}
        sweep.searcher.on_trial_complete(trial, report)
    assert sweep.next()["gpus"] == 0.5


def test_a_store_that_takes_no_more_stops_the_sweep_and_fails_no_unit(sweep: Sweep) -> None:
    sweep.next()
    sweep.answer("unwritable", cause="the store is full")
    assert sweep.stopped == ["the store is full"]
    assert read_failures(sweep.folder) == {}
    assert sweep.progress.count("waiting") == len(sweep.plan.units)


def test_a_sweep_that_is_ending_starts_nothing_more(sweep: Sweep) -> None:
    sweep.next()
    sweep.searcher.is_ending = True
    assert sweep.suggest() == Searcher.FINISHED


def test_no_more_units_are_out_than_lanes_hold(sweep: Sweep) -> None:
    sweep.finish()
    assert all(sweep.suggest() is not None for _ in range(6))
    pool: Callable[..., Any] = sweep.searcher._pool.of
    assert pool(1, 0.25).count == 4 and DEPTH * 4 > 6


def test_a_trial_that_never_ran_leaves_its_unit_waiting(sweep: Sweep) -> None:
    key = sweep.next()["unit"]
    sweep.searcher.on_trial_complete(f"t{sweep.trials}")
    assert sweep.next()["unit"] == key


def test_what_another_sweep_has_finished_needs_no_trial(sweep: Sweep) -> None:
    sweep.publish(sweep.original)
    assert sweep.next()["unit"] != sweep.original
    assert sweep.progress.count("done") == 1
    assert sweep.original in sweep.progress.snapshot().finished


def test_what_another_sweep_holds_needs_no_trial_until_it_is_given_up(sweep: Sweep) -> None:
    lease = sweep.store.leases.acquire(sweep.original)
    assert lease is not None
    assert sweep.next()["unit"] != sweep.original
    lease.release()
    assert sweep.next()["unit"] == sweep.original


def test_what_failed_with_another_worker_is_not_tried_here(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_failure(sweep.folder, Failure.now(sweep.original, "on purpose"))
    assert sweep.next()["unit"] == sweep.original  # a sweep of its own tries everything
    sweep.answer("paused")
    sweep.pool.resize(NODES)
    monkeypatch.setattr(sweep.searcher, "_failures_in", sweep.folder)
    assert sweep.next()["unit"] != sweep.original
    assert sweep.progress.count("failed") == 1
    assert sweep.progress.count("blocked") == 4


def test_a_worker_leaves_the_rest_to_others_but_not_what_waits_for_it(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.searcher, "_failures_in", sweep.folder)
    held = [sweep.store.leases.acquire(key) for key in sweep.plan.units]
    assert sweep.suggest() is None  # its children may still become ready for this one
    sweep.publish_as_holder(sweep.original, held)
    for key in sweep.plan.units:
        if key != sweep.original and sweep.plan.units[key].kind == "two_stage":
            assert sweep.store.leases.is_held(key)
    suggestions = [sweep.suggest() for _ in range(3)]
    assert suggestions[-1] == Searcher.FINISHED


def test_a_unit_that_stops_while_the_sweep_goes_on_closes_the_lane_of_its_leaving_node(
    sweep: Sweep,
) -> None:
    lanes = sweep.pool.of(1, 0.25)
    before = lanes.count
    assert sweep.next()["unit"] == sweep.original
    sweep.answer("paused")
    assert lanes.count == before - 1
    assert sweep.next()["unit"] == sweep.original  # elsewhere
