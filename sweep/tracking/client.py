"""How wandb's client is to behave here: it says nothing of this process, which trains nothing."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from cluster.temporary import remove, temporary_folder
from sweep.plan import Plan, PlannedUnit
from sweep.tracking.content import MAX_NAME, config_of
from sweep.tracking.settings import TrackingConfig

_PROCESS, _KILL_S = "wandb-core", 5.0
# A user's variables that are meant for a script of one run, and would be every unit's.
_FOREIGN_VARIABLES = (
    *("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_NOTES", "WANDB_TAGS", "WANDB_RESUME"),
    *("WANDB_SWEEP_ID", "WANDB_JOB_TYPE", "WANDB_DIR", "WANDB_SERVICE"),
    *("WANDB_CONSOLE", "WANDB_PROJECT"),
)


def prepare_environment(mode: str) -> None:
    """Take out of this process's environment what is not meant for all units of a sweep.

    Args:
        mode: as decided; a process that begins anew is to decide the same.
    """
    os.environ["WANDB_MODE"] = mode
    for name in _FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ["WANDB_SILENT"] = "true"


def client_settings(folder: Path, **others: Any) -> Any:
    """Settings for a run whose files, if any, go below `folder`."""
    import wandb

    return wandb.Settings(
        root_dir=str(folder),
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        symlink=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_viewer=True,
        x_save_requirements=False,
        **others,
    )


class ClientRuns:
    """What runs of both modes share: wandb's own process, which serves them all, and its folder."""

    def __init__(
        self, plan: Plan, config: TrackingConfig, mode: Literal["online", "offline"]
    ) -> None:
        prepare_environment(mode)
        self._plan, self._config = plan, config
        self._mode: Literal["online", "offline"] = mode
        self._folder: Path | None = None
        self._was_seen = False

    def _init(self, unit: PlannedUnit, settings: dict[str, Any], **others: Any) -> Any:
        """wandb's run of a unit; `others` are what the modes do differently."""
        import wandb

        self._folder = self._folder or temporary_folder()
        return wandb.init(
            id=unit.key,
            project=self._config.project,
            job_type=unit.kind,
            name=unit.label[:MAX_NAME],
            config=config_of(self._plan, unit),
            mode=self._mode,
            reinit="create_new",
            settings=client_settings(self._folder, **settings),
            **others,
        )

    def is_dead(self) -> bool:
        """Whether it was there and has ended; wandb's own calls may not notice."""
        is_there = any(True for _ in _processes())
        self._was_seen |= is_there
        return self._was_seen and not is_there

    def close(self) -> None:
        """End it without a word, and remove its folder.

        Asked politely, it would wait for a server that does not answer. What it has not sent is
        sent again, from where the server is.
        """
        for process in _processes():
            with suppress(psutil.Error):
                process.kill()
                process.wait(_KILL_S)
        if self._folder is not None:
            remove(self._folder)


def _processes() -> Iterator[psutil.Process]:
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name() == _PROCESS and child.status() != psutil.STATUS_ZOMBIE:
                yield child
