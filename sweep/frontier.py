"""Which units can run now: those not done whose parents are in the store."""

import heapq
from collections import defaultdict
from collections.abc import Collection
from enum import Enum

from sweep.plan import KINDS, Plan


class State(Enum):
    """Where a unit is on its way."""

    WAITING = "waiting"  # for a parent
    READY = "ready"
    OUT = "out"  # handed to somebody
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"  # a parent of it failed


_CLOSED = (State.DONE, State.FAILED, State.BLOCKED)


class Frontier:
    """Hands out units as they become ready, in an order that keeps workers busy.

    Originals come first, since most other units wait for one; the others follow the plan's order,
    so that a scratch model and its two-stage units are computed close together and a partial
    report has both. Each operation takes logarithmic time in the number of units, `reopen` aside.
    """

    def __init__(self, plan: Plan, done: Collection[str]) -> None:
        finished = set(done)
        self._plan = plan
        self._rank: dict[str, tuple[int, int]] = {}
        self._children: dict[str, list[str]] = defaultdict(list)
        self._missing_parents: dict[str, int] = {}
        self._queues: dict[str, list[tuple[tuple[int, int], str]]] = defaultdict(list)
        self._state: dict[str, State] = {}
        for position, unit in enumerate(plan.units.values()):
            self._rank[unit.key] = (min(1, KINDS.index(unit.kind)), position)
            for parent in unit.parents:
                self._children[parent].append(unit.key)
            self._missing_parents[unit.key] = sum(p not in finished for p in unit.parents)
            self._state[unit.key] = State.DONE if unit.key in finished else State.WAITING
            if unit.key not in finished and not self._missing_parents[unit.key]:
                self._queue(unit.key)
        self._open = sum(state not in _CLOSED for state in self._state.values())

    @property
    def is_exhausted(self) -> bool:
        """Whether every unit is finished, failed or blocked."""
        return self._open == 0

    @property
    def has_unstarted(self) -> bool:
        """Whether a unit is ready, or waits for a parent; looks at every unit."""
        return any(state in (State.WAITING, State.READY) for state in self._state.values())

    @property
    def blocked(self) -> set[str]:
        """Units that cannot be computed, since one that they descend from failed."""
        return {key for key, state in self._state.items() if state is State.BLOCKED}

    def _queue(self, key: str) -> None:
        self._state[key] = State.READY
        heapq.heappush(self._queues[self._plan.units[key].dataset], (self._rank[key], key))

    def next_ready(self, datasets: Collection[str] | None = None) -> str | None:
        """A unit to start now; None if every open unit runs already or waits for a parent.

        `datasets` are those that there is room for, so that one need not wait for another.
        """
        queues = []
        for dataset, queue in self._queues.items():
            # A unit whose parent had to be computed again left its place in the queue.
            while queue and self._state[queue[0][1]] is not State.READY:
                heapq.heappop(queue)
            if queue and (datasets is None or dataset in datasets):
                queues.append(queue)
        if not queues:
            return None
        _, key = heapq.heappop(min(queues))
        self._state[key] = State.OUT
        return key

    def put_back(self, key: str) -> None:
        """A unit that was handed out was not computed: it is ready again, or waits again."""
        if self._state[key] is not State.OUT:
            return
        parents = {self._state[parent] for parent in self._plan.units[key].parents}
        if parents & {State.FAILED, State.BLOCKED}:
            self._close(key, State.BLOCKED)
        elif self._missing_parents[key]:
            self._state[key] = State.WAITING
        else:
            self._queue(key)

    def finish(self, key: str) -> None:
        """A unit is in the store: its children may have become ready."""
        self._close(key, State.DONE)
        for child in self._children[key]:
            self._missing_parents[child] -= 1
            if self._missing_parents[child] == 0 and self._state[child] is State.WAITING:
                self._queue(child)

    def fail(self, key: str) -> None:
        """A unit failed for good: all that descends from it is blocked."""
        self._close(key, State.FAILED)
        self._block_below(key)

    def _block_below(self, key: str) -> None:
        for child in self._children[key]:
            if self._state[child] in (State.WAITING, State.READY):  # one that is out has begun
                self._close(child, State.BLOCKED)
                self._block_below(child)

    def _close(self, key: str, state: State) -> None:
        if self._state[key] not in _CLOSED:
            self._open -= 1
        self._state[key] = state

    def reopen(self, key: str) -> bool:
        """A finished unit turned out to be damaged and is ready again; its children wait for it.

        Children that are finished stay so: a unit computed again is the same in every bit. False
        if the unit was not finished any more, because another child of it was first.
        """
        if self._state[key] is not State.DONE:
            return False
        self._open += 1
        for child in self._children[key]:
            self._missing_parents[child] += 1
            if self._state[child] is State.READY:
                self._state[child] = State.WAITING
        self._state[key] = State.OUT
        self.put_back(key)
        return True
