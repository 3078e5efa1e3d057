"""Whether and where a sweep is tracked in Weights & Biases."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from sweep.errors import SweepError
from sweep.secrets import source_of_key
from unlearning.config import require

MODES = ("auto", "online", "offline", "disabled")
OFFLINE_MODES = ("offline", "dryrun")  # values of WANDB_MODE


@dataclass
class TrackingConfig:
    """The section `tracking` of a sweep; nothing in it decides a number."""

    mode: str = "auto"  # online where there is a key, otherwise offline
    project: str = "usweep"
    entity: str | None = None  # a team or user; None: where the key's runs go by default
    open_runs: int = 32  # units shown while they run; others appear once they are finished
    requests_per_minute: int = 600  # to the server, at most
    finish_s: float = 60.0  # that the end of a sweep waits for what is not sent yet

    def __post_init__(self) -> None:
        require(self.mode in MODES, "tracking.mode", self.mode, ", ".join(MODES))
        plain = bool(self.project) and not set(self.project) & set("/\\#?%:")
        require(plain, "tracking.project", self.project, "a name without / \\ # ? % :")
        require(self.open_runs >= 0, "tracking.open_runs", self.open_runs, "0 or more")
        per_minute = self.requests_per_minute
        enough = per_minute >= 10
        require(enough, "tracking.requests_per_minute", per_minute, "10 or more")
        require(self.finish_s >= 0, "tracking.finish_s", self.finish_s, "0 or more seconds")


def mode_now(config: TrackingConfig) -> str:
    """What the mode comes to on this machine: online, offline or disabled.

    `auto` follows WANDB_MODE where wandb's own variable says something.
    """
    if config.mode != "auto":
        return config.mode
    wished = wandb_mode()
    if wished == "disabled":
        return wished
    return "online" if source_of_key() and wished not in OFFLINE_MODES else "offline"


def wandb_mode() -> str:
    """What wandb's own variable says; empty if nothing."""
    return os.environ.get("WANDB_MODE", "").strip().lower()


def read_tracking(run_folder: Path) -> TrackingConfig:
    """The section `tracking` of a run's resolved configuration; the defaults if it has none.

    Raises:
        SweepError: the file is damaged.
    """
    path = run_folder / "config.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")).get("tracking") or {}
        return TrackingConfig(**found)
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        problem = f"{path} is damaged; the same `usweep run` writes it again"
        raise SweepError(problem) from error
