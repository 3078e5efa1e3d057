"""Tells the progress display what Tune does."""

from typing import Any

from ray.tune import Callback

from sweep.progress import Progress


class ProgressCallback(Callback):
    """Reports started units, and gives the display time to draw."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial got its resources."""
        self._progress.started(trial.config["unit"])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Once in every turn of Tune's loop."""
        self._progress.tick()
