"""Lanes: one for each unit that the cluster can run at a time, each with a worker of its own."""

import heapq
from collections.abc import Iterable

from sweep.errors import SweepError

DEPTH = 2  # one unit that runs and one that waits, so that Tune keeps the worker between them


def num_lanes(nodes: Iterable[dict[str, float]], cpus: float, gpus: float) -> int:
    """How many units with this share fit on the nodes at a time.

    Args:
        nodes: resources of each live node, under "CPU" and "GPU".
        cpus: processors of one unit.
        gpus: GPUs of one unit; a fraction never spans two GPUs.
    """
    count = 0
    for node in nodes:
        fits = [node.get("CPU", 0.0) / cpus]
        if gpus:
            fits.append(node.get("GPU", 0.0) * int(1 / gpus + 1e-9))
        count += int(min(fits) + 1e-9)
    return count


class Lanes:
    """Gives each trial the emptiest lane, the lowest of equals.

    A lane's number is never given to another lane, so a closed lane's worker gets nothing new.
    """

    def __init__(self, count: int) -> None:
        self._load: dict[int, int] = {}  # of open lanes
        self._heap: list[tuple[int, int]] = []
        self._next = 0
        self.resize(count)

    @property
    def count(self) -> int:
        """How many lanes are open."""
        return len(self._load)

    def resize(self, count: int) -> None:
        """Open lanes, or close the emptiest ones; what runs in a closed lane runs to its end."""
        while len(self._load) < count:
            self._set(self._next, 0)
            self._next += 1
        for lane in sorted(self._load, key=lambda lane: (self._load[lane], -lane)):
            if len(self._load) > count:
                self.close(lane)

    def close(self, lane: int) -> None:
        """Give this lane nothing any more."""
        self._load.pop(lane, None)

    def take(self) -> int | None:
        """A lane with room for one more trial, or None while all are full."""
        while self._heap:
            load, lane = heapq.heappop(self._heap)
            if load == self._load.get(lane):  # else an entry that was overtaken
                if load >= DEPTH:
                    heapq.heappush(self._heap, (load, lane))
                    return None
                self._set(lane, load + 1)
                return lane
        return None

    @property
    def has_room(self) -> bool:
        """Whether `take` would give a lane."""
        return any(load < DEPTH for load in self._load.values())

    def leave(self, lane: int) -> None:
        """A trial in this lane has ended."""
        if lane in self._load:
            self._set(lane, self._load[lane] - 1)

    def _set(self, lane: int, load: int) -> None:
        self._load[lane] = load
        heapq.heappush(self._heap, (load, lane))


class LanePool:
    """The lanes of every share of a node that units ask for; equal shares have theirs in common."""

    def __init__(self, nodes: list[dict[str, float]]) -> None:
        """`nodes`: resources of each live node, under "CPU" and "GPU"."""
        self._nodes = nodes
        self._lanes: dict[tuple[float, float], Lanes] = {}

    def of(self, cpus: float, gpus: float) -> Lanes:
        """The lanes for units with this share; none if it fits on no node."""
        if (cpus, gpus) not in self._lanes:
            self._lanes[cpus, gpus] = Lanes(num_lanes(self._nodes, cpus, gpus))
        return self._lanes[cpus, gpus]

    def resize(self, nodes: list[dict[str, float]]) -> None:
        """Nodes have come or gone."""
        self._nodes = nodes
        for (cpus, gpus), lanes in self._lanes.items():
            lanes.resize(num_lanes(nodes, cpus, gpus))

    def require(self, cpus: float, gpus: float) -> None:
        """Refuse a share that fits on no node.

        Raises:
            SweepError: Ray would wait for ever.
        """
        if self.of(cpus, gpus).count == 0:
            largest = {
                f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in self._nodes
            }
            raise SweepError(
                f"a unit asks for {cpus:g} CPUs and {gpus:g} GPUs (resources.cpus and .gpus), "
                f"more than any node has: {'; '.join(sorted(largest))}"
            )
