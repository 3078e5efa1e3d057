"""Follows the nodes of a Ray, so that a sweep uses those that come and forgets those that go."""

import time
from collections.abc import Callable
from typing import Any

from sweep.errors import SweepError
from sweep.lanes import LanePool

LOOK_EVERY_S = 2.0
SETTLED_S = 10.0  # after which the units of a node that is gone have said so
NODES_PATIENCE_S = 600.0

Nodes = dict[str, dict[str, float]]  # resources of each live node, by its id


def live_nodes() -> Nodes:
    """The nodes of the Ray that this process is connected to."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def wait_for_nodes(
    count: int, say: Callable[[str], None], on_turn: Callable[[], None] = lambda: None
) -> Nodes:
    """The live nodes, once as many can compute; `on_turn` is called about once a second.

    Raises:
        SweepError: they did not come in time.
    """
    deadline = time.monotonic() + NODES_PATIENCE_S
    said = -1
    while True:
        nodes = live_nodes()
        able = sum(node.get("CPU", 0) > 0 for node in nodes.values())
        if able >= count:
            return nodes
        if time.monotonic() > deadline:
            raise SweepError(f"only {able} of {count} nodes came within {NODES_PATIENCE_S:g} s")
        if able != said:
            said = able
            say(f"waiting for nodes: {able} of {count}")
        on_turn()
        time.sleep(1)


class NodeWatch:
    """Keeps the lanes in line with the nodes."""

    def __init__(
        self,
        pool: LanePool,
        nodes: Nodes,
        say: Callable[[str], None],
        look: Callable[[], Nodes] = live_nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool, self._seen, self._say, self._look, self._clock = pool, nodes, say, look, clock
        self._looked = self._changed = clock()

    def tick(self) -> None:
        """Look, but not more often than it should be.

        New nodes are used at once. Lanes of lost ones close as their units say that they are
        lost, which takes a moment; after that the number of lanes is set right.
        """
        now = self._clock()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        nodes = self._look()
        come, gone = len(nodes.keys() - self._seen.keys()), len(self._seen.keys() - nodes.keys())
        if come or gone:
            self._seen, self._changed = nodes, now
            words = [f"{come} joined"] * bool(come) + [f"{gone} left"] * bool(gone)
            self._say(f"nodes: {', '.join(words)}; {len(nodes)} now")
        if (come and not gone) or now - self._changed > SETTLED_S:
            self._changed = now
            self._pool.resize(list(nodes.values()))
