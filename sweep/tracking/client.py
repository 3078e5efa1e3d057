"""How wandb's client is to behave here: it says nothing of this process, which trains nothing."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

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


class Client:
    """wandb's own process, which serves all runs of this one."""

    def __init__(self) -> None:
        self._was_seen = False

    def is_dead(self) -> bool:
        """Whether it was there and has ended; wandb's own calls may not notice."""
        is_there = any(True for _ in _processes())
        self._was_seen |= is_there
        return self._was_seen and not is_there

    def end(self) -> None:
        """End it without a word.

        Asked politely, it would wait for a server that does not answer. What it has not sent is
        sent again, from where the server is.
        """
        for process in _processes():
            with suppress(psutil.Error):
                process.kill()
                process.wait(_KILL_S)


def _processes() -> Iterator[psutil.Process]:
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name() == _PROCESS and child.status() != psutil.STATUS_ZOMBIE:
                yield child
