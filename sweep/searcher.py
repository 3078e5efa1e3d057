"""The bridge between the units that are ready and Ray Tune, which asks for one trial at a time."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from sweep.failures import Failure, has_failed
from sweep.frontier import Frontier
from sweep.lanes import LanePool
from sweep.lease import Holding, Sign, Watch
from sweep.plan import Plan
from sweep.progress import Progress
from sweep.store import Store
from sweep.trainable import TrialConfig

LOOK_EVERY_S = 1.0  # at units that other sweeps hold
MAX_LOST_NODES = 20  # under one unit, which then is no accident any more


@dataclass
class Share:
    """What each unit of a data set asks of Ray."""

    cpus: float
    gpus: float


class UnitSearcher(Searcher):
    """Suggests units as their parents are finished, and decides what follows from how each ended.

    Tune asks again later when `suggest` returns None, and ends the run at `Searcher.FINISHED`. It
    is told to try nothing again by itself: what may be tried again, where and how often is
    decided here alone.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        frontier: Frontier,
        shares: dict[str, Share],
        pool: LanePool,
        progress: Progress,
        *,
        retries: int,
        takeover_s: float,
        stop: Callable[[str], None],
        failures_in: Path | None = None,
    ) -> None:
        """`shares` by data set; `retries` after a lost worker; `stop` ends the sweep, with why.

        Where others work on the same run, `failures_in` is where they leave their failures; this
        one ends, too, when all that is left is with them.
        """
        super().__init__()
        self._plan, self._store, self._frontier = plan, store, frontier
        self._shares, self._pool, self._progress = shares, pool, progress
        self._retries, self._stop, self._failures_in = retries, stop, failures_in
        self._watch = Watch(store.leases, takeover_s)
        self._held: dict[str, Sign | None] = {}  # units that another sweep computes
        self._stale: dict[str, Sign] = {}  # leases that may be taken over
        self._looked = 0.0
        self._trials: dict[str, TrialConfig] = {}
        self._errored: dict[str, TrialConfig] = {}
        self._losses = Counter[str]()  # of its worker process, by unit
        self._lost_nodes = Counter[str]()
        self._damages = Counter[str]()
        self.is_ending = False
        self._is_left_to_others = False

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles searchers into a snapshot, and a callback with it; nothing reads them.
        return type(None), ()

    def suggest(self, trial_id: str) -> Any:
        """The next ready unit as a TrialConfig; None while there is none, or no lane for it."""
        if self.is_ending or self._frontier.is_exhausted or self._is_left_to_others:
            return str(Searcher.FINISHED)
        self._look_at_held()
        lanes = {name: self._pool.of(s.cpus, s.gpus) for name, s in self._shares.items()}
        with_room = [name for name, lane in lanes.items() if lane.has_room]
        key = self._frontier.next_ready(with_room)
        while key is not None and self._is_with_others(key):
            key = self._frontier.next_ready(with_room)
        if key is None:
            return str(Searcher.FINISHED) if self._frontier.is_exhausted else None
        dataset = self._plan.units[key].dataset
        share = self._shares[dataset]
        config = {
            "unit": key,
            "cpus": share.cpus,
            "gpus": share.gpus,
            "lane": lanes[dataset].take(),
            "stale": self._stale.pop(key, None),
        }
        self._trials[trial_id] = config
        return config

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take note of how a trial ended; of an error Tune says more in `lost`."""
        config = self._trials.pop(trial_id, None)
        if config is None:
            return
        lanes = self._pool.of(config["cpus"], config["gpus"])
        lanes.leave(config["lane"])
        key = config["unit"]
        if error:
            self._errored[trial_id] = config
            return
        report = result or {"state": "paused"}  # a trial that never ran
        if report.get("state") == "paused" and result and not self.is_ending:
            lanes.close(config["lane"])  # its node is leaving
        follow = {
            "done": self._done,
            "failed": self._failed,
            "held": self._other_sweep,
            "paused": self._paused,
            "lost": self._unit_lost,
            "damaged": self._damaged,
            "out_of_memory": self._out_of_memory,
            "unwritable": self._unwritable,
        }
        follow[report.get("state", "paused")](key, report | {"gpus": config["gpus"]})

    def lost(self, trial_id: str, cause: str) -> None:
        """A trial's worker process or node is no more."""
        config = self._errored.pop(trial_id, None)
        if config is None:
            return
        if is_lost_node(cause):
            self._pool.of(config["cpus"], config["gpus"]).close(config["lane"])
        self._unit_lost(config["unit"], {"cause": cause})

    def _done(self, key: str, report: dict[str, Any]) -> None:
        self._frontier.finish(key)
        if report.get("found"):
            self._progress.found(key)
        else:
            self._progress.finished(key, report["outcome"], report.get("time_total_s", 0.0))

    def _failed(self, key: str, report: dict[str, Any]) -> None:
        self._frontier.fail(key)
        failure = Failure.now(key, report["cause"], report.get("traceback", ""))
        self._progress.failed(failure, blocked=self._frontier.blocked)

    def _paused(self, key: str, report: dict[str, Any]) -> None:
        self._frontier.put_back(key)
        self._progress.put_back(key)

    def _other_sweep(self, key: str, report: dict[str, Any]) -> None:
        self._held[key] = None
        self._progress.put_back(key)

    def _is_with_others(self, key: str) -> bool:
        """Whether a unit needs no trial, since another process has finished, failed or holds it."""
        unit = self._plan.units[key]
        if self._store.has(unit.kind, key):
            self._frontier.finish(key)
            self._progress.found(key)
        elif self._failures_in is not None and has_failed(self._failures_in, key):
            self._frontier.fail(key)
            self._progress.failed_elsewhere(key, self._frontier.blocked)
        elif key not in self._stale and self._store.leases.is_held(key):
            self._held[key] = None
        else:
            return False
        return True

    def _look_at_held(self) -> None:
        """Take back units that others have finished, failed, given up, or left behind dead."""
        if not self._held or time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        if self._failures_in is not None and not self._trials:
            self._is_left_to_others = not self._frontier.has_unstarted
        for key in list(self._held):
            holding, sign = self._watch.look(key)
            if self._store.has(self._plan.units[key].kind, key):
                self._frontier.finish(key)
                self._progress.found(key)
            elif holding is Holding.HELD:
                continue
            else:
                if holding is Holding.STALE and sign is not None:
                    self._stale[key] = sign
                self._frontier.put_back(key)
            self._watch.forget(key)
            del self._held[key]

    def _unit_lost(self, key: str, report: dict[str, Any]) -> None:
        """Try again elsewhere, unless the unit loses its workers again and again.

        A lost node is hardly held against the unit: preemptions may be many in a night.
        """
        cause, label = report["cause"], self._plan.units[key].label
        is_node = is_lost_node(cause)
        losses, limit = (
            (self._lost_nodes, MAX_LOST_NODES) if is_node else (self._losses, self._retries)
        )
        losses[key] += 1
        if losses[key] > limit:
            what = "node" if is_node else "worker"
            cause = f"its {what} was lost {losses[key]} times, the last time: {cause}"
            self._failed(key, {"cause": cause})
            return
        self._progress.say(f"{label}: {cause}; it continues on another worker")
        self._paused(key, report)

    def _damaged(self, key: str, report: dict[str, Any]) -> None:
        """Set a damaged unit aside, mostly the parent of `key`, and have it computed again."""
        damaged = self._plan.units[report["damaged"]]
        if self._store.damage(damaged.kind, damaged.key) is not None:
            self._damages[damaged.key] += 1
            aside = self._store.set_aside(damaged.kind, damaged.key)
            why = f"{report['cause'].partition(';')[0]}; set aside in {aside}, computed again"
            if self._frontier.reopen(damaged.key):
                self._progress.reopened(damaged.key, why)
        if self._damages[damaged.key] > self._retries:
            self._failed(key, {"cause": f"again and again: {report['cause']}"})
        else:
            self._paused(key, report)

    def _out_of_memory(self, key: str, report: dict[str, Any]) -> None:
        """Give this unit, and all later ones of its data set, twice the share of a GPU."""
        unit, gpus = self._plan.units[key], report["gpus"]
        if gpus >= 1:
            cause = f"out of memory with a whole GPU: {report['cause']}"
            self._failed(key, {"cause": cause})
            return
        share = self._shares[unit.dataset]
        share.gpus = max(share.gpus, min(1.0, 2 * gpus))
        self._progress.say(
            f"{unit.label}: out of memory with {gpus:g} of a GPU; units of {unit.dataset} get "
            f"{share.gpus:g} from here on (set resources.datasets.{unit.dataset}.gpus)"
        )
        self._paused(key, report)

    def _unwritable(self, key: str, report: dict[str, Any]) -> None:
        self._paused(key, report)
        self._stop(report["cause"])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store is the ledger."""


def is_lost_node(cause: str) -> bool:
    """Whether Ray's words for a lost worker say that its whole node is gone, or out of reach."""
    return "node has died" in cause or "node was" in cause or "unavailable" in cause
