"""Which units can run now: those not done whose parents are in the store."""

import heapq
from collections import defaultdict
from collections.abc import Collection

from sweep.plan import KINDS, Plan


class Frontier:
    """Hands out units as they become ready, in an order that keeps workers busy.

    Originals come first, since most other units wait for one; the others follow the plan's order,
    so that a scratch model and its two-stage units are computed close together and a partial
    report has both. Each operation takes logarithmic time in the number of units.
    """

    def __init__(self, plan: Plan, done: Collection[str]) -> None:
        self._rank: dict[str, tuple[int, int]] = {}
        self._children: dict[str, list[str]] = defaultdict(list)
        self._missing_parents: dict[str, int] = {}
        self._ready: dict[str, list[tuple[tuple[int, int], str]]] = defaultdict(list)
        self._dataset = {unit.key: unit.dataset for unit in plan.units.values()}
        self.blocked: set[str] = set()  # a parent of theirs failed
        finished = set(done)
        for position, unit in enumerate(plan.units.values()):
            if unit.key in finished:
                continue
            self._rank[unit.key] = (min(1, KINDS.index(unit.kind)), position)
            parents = [parent for parent in unit.parents if parent not in finished]
            self._missing_parents[unit.key] = len(parents)
            for parent in parents:
                self._children[parent].append(unit.key)
            if not parents:
                self._push(unit.key)
        self._open = len(self._rank)  # neither finished, failed nor blocked

    @property
    def is_exhausted(self) -> bool:
        """Whether every unit is finished, failed or blocked."""
        return self._open == 0

    @property
    def num_units(self) -> int:
        """How many units were not done at the start."""
        return len(self._rank)

    def _push(self, key: str) -> None:
        heapq.heappush(self._ready[self._dataset[key]], (self._rank[key], key))

    def next_ready(self, datasets: Collection[str] | None = None) -> str | None:
        """A unit to start now; None if every open unit runs already or waits for a parent.

        `datasets` are those that there is room for, so that one need not wait for another.
        """
        heaps = [
            heap
            for dataset, heap in self._ready.items()
            if heap and (datasets is None or dataset in datasets)
        ]
        return heapq.heappop(min(heaps))[1] if heaps else None

    def finish(self, key: str) -> None:
        """A unit is in the store: its children may have become ready."""
        self._open -= 1
        for child in self._children[key]:
            self._missing_parents[child] -= 1
            if self._missing_parents[child] == 0 and child not in self.blocked:
                self._push(child)

    def fail(self, key: str) -> None:
        """A unit failed for good: all that descends from it is blocked."""
        self._open -= 1
        for child in self._children[key]:
            if child not in self.blocked:
                self.blocked.add(child)
                self.fail(child)
