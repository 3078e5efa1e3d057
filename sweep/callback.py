"""Tells the searcher and the progress display what Tune does."""

from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from sweep.progress import Progress
from sweep.searcher import UnitSearcher


class SweepCallback(Callback):
    """Reports started units and lost workers, and gives the display time to draw."""

    def __init__(
        self, searcher: UnitSearcher, progress: Progress, on_turn: Callable[[], None]
    ) -> None:
        """`on_turn` is called in every turn of Tune's loop, about ten times a second."""
        self._searcher, self._progress, self._on_turn = searcher, progress, on_turn

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # Tune pickles it into a snapshot that nothing reads

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial got its resources."""
        self._progress.started(trial.config["unit"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker is gone, or raised because it is of no use any more."""
        self._searcher.lost(trial.trial_id, what_ray_says(trial))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Once in every turn of Tune's loop."""
        self._on_turn()
        self._progress.tick()


def what_ray_says(trial: Any) -> str:
    """One line on why a trial's worker is gone."""
    error = trial.get_pickled_error() or trial.get_error()
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    # Ray gives class names and ids first, then the reason, then common causes.
    for word in ("because", "unavailable", "Error", "died"):
        for line in lines:
            if word in line:
                return line[:300]
    return lines[0][:300] if lines else "the worker process was lost"
