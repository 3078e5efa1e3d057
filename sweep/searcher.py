"""The bridge between the units that are ready and Ray Tune, which asks for one trial at a time."""

from typing import Any

from ray.tune.search import Searcher

from sweep.failures import Failure
from sweep.frontier import Frontier
from sweep.lanes import Lanes
from sweep.plan import Plan
from sweep.progress import Progress
from sweep.trainable import TrialConfig

LOST = "the worker process was lost, also when tried again (out of memory? a dead node?)"


class UnitSearcher(Searcher):
    """Suggests units as their parents are finished, and takes note of how each ends.

    Tune asks again later when `suggest` returns None, and ends the run at `Searcher.FINISHED`.
    """

    def __init__(
        self, plan: Plan, frontier: Frontier, lanes: dict[str, Lanes], progress: Progress
    ) -> None:
        """`lanes` by data set; data sets with equal shares have the same lanes."""
        super().__init__()
        self._plan, self._frontier, self._lanes = plan, frontier, lanes
        self._progress = progress
        self._trials: dict[str, TrialConfig] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next ready unit as a TrialConfig; None while there is no lane for it."""
        if self._frontier.is_exhausted:
            return str(Searcher.FINISHED)
        key = self._frontier.next_ready([d for d, lanes in self._lanes.items() if lanes.has_room])
        if key is None:
            return None
        dataset = self._plan.units[key].dataset
        config = {"unit": key, "dataset": dataset, "lane": self._lanes[dataset].take()}
        self._trials[trial_id] = config
        return config

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Book a unit as finished or failed, which may make others ready or block them."""
        config = self._trials.pop(trial_id, None)
        if config is None:
            return
        self._lanes[config["dataset"]].leave(config["lane"])
        key, result = config["unit"], result or {}
        if not error and result.get("state") == "done":
            self._frontier.finish(key)
            self._progress.finished(key, result["outcome"], result.get("time_total_s", 0.0))
            return
        failure = Failure.now(key, result.get("cause") or LOST, result.get("traceback", ""))
        self._frontier.fail(key)
        self._progress.failed(failure, blocked=self._frontier.blocked)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store is the ledger."""
