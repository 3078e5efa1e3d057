"""Lanes follow the nodes of a cluster that grows and shrinks."""

import pytest

from sweep import nodes as nodes_module
from sweep.errors import SweepError
from sweep.lanes import DEPTH, LanePool, Lanes
from sweep.nodes import LOOK_EVERY_S, SETTLED_S, Nodes, NodeWatch, wait_for_nodes

NODE = {"CPU": 2.0, "GPU": 1.0}


class Cluster:
    """A cluster and a clock that a test can turn."""

    def __init__(self, *names: str) -> None:
        self.nodes: Nodes = {name: NODE for name in names}
        self.now = 0.0
        self.said: list[str] = []
        self.pool = LanePool(list(self.nodes.values()))
        self.lanes = self.pool.of(1, 0.5)
        self.watch = NodeWatch(
            self.pool,
            dict(self.nodes),
            self.said.append,
            lambda: dict(self.nodes),
            lambda: self.now,
        )

    def after(self, seconds: float) -> int:
        """Number of lanes after this time, looked at as often as Tune's loop turns."""
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            self.watch.tick()
        return self.lanes.count


def test_nodes_that_join_get_lanes_at_once() -> None:
    cluster = Cluster("a")
    assert cluster.lanes.count == 2
    cluster.nodes |= {"b": NODE, "c": NODE}
    assert cluster.after(LOOK_EVERY_S + 0.5) == 6
    assert cluster.said == ["nodes: 2 joined; 3 now"]


def test_lanes_of_a_lost_node_are_closed_after_its_units_had_time_to_say_so() -> None:
    cluster = Cluster("a", "b")
    del cluster.nodes["b"]
    assert cluster.after(SETTLED_S - 1) == 4
    cluster.lanes.close(0)
    cluster.lanes.close(1)
    assert cluster.after(5) == 2
    assert cluster.said == ["nodes: 1 left; 1 now"]


def test_a_lane_that_was_closed_by_mistake_comes_back() -> None:
    cluster = Cluster("a")
    cluster.lanes.close(0)
    assert cluster.lanes.count == 1
    assert cluster.after(SETTLED_S + LOOK_EVERY_S) == 2


def test_no_number_of_a_lane_is_used_twice() -> None:
    lanes = Lanes(2)
    first = [lanes.take(), lanes.take()]
    lanes.close(0)
    lanes.resize(3)
    rest = [lanes.take() for _ in range(2 * DEPTH + 1)]
    assert 0 not in rest and set(first) == {0, 1}
    assert {lane for lane in rest if lane is not None} == {1, 2, 3}


def test_the_emptiest_lanes_close_first_and_a_closed_one_may_still_be_left() -> None:
    lanes = Lanes(3)
    for _ in range(4):
        lanes.take()  # lane 0 has two, the others one
    lanes.resize(1)
    lanes.leave(2)
    lanes.leave(0)
    assert [lanes.take(), lanes.take()] == [0, None]


def test_a_share_that_fits_nowhere_is_refused_where_no_node_can_come() -> None:
    pool = LanePool([{"CPU": 1.0}])
    pool.require(1, 0)
    with pytest.raises(SweepError, match="more than any node has: 1 CPUs and 0 GPUs"):
        pool.require(1, 0.5)


def test_a_sweep_waits_for_nodes_that_can_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{"head": {}}, {"head": {}, "a": NODE}, {"head": {}, "a": NODE, "b": NODE}])
    monkeypatch.setattr(nodes_module, "live_nodes", lambda: next(looks))
    monkeypatch.setattr(nodes_module.time, "sleep", lambda seconds: None)
    said: list[str] = []
    assert len(wait_for_nodes(2, said.append)) == 3
    assert said == ["waiting for nodes: 0 of 2", "waiting for nodes: 1 of 2"]


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "live_nodes", dict)
    monkeypatch.setattr(nodes_module, "NODES_PATIENCE_S", -1.0)
    with pytest.raises(SweepError, match="only 0 of 1 nodes"):
        wait_for_nodes(1, print)
