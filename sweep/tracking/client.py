"""How wandb's client is to behave here: it says nothing of this process, which trains nothing."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

# A user's variables that are meant for a script of one run, and would be every unit's.
_FOREIGN_VARIABLES = (
    *("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_NOTES", "WANDB_TAGS", "WANDB_RESUME"),
    *("WANDB_SWEEP_ID", "WANDB_JOB_TYPE", "WANDB_MODE", "WANDB_DIR", "WANDB_SERVICE"),
    *("WANDB_CONSOLE", "WANDB_RESUME", "WANDB_PROJECT"),
)


def prepare_environment() -> None:
    """Take out of this process's environment what is not meant for all units of a sweep."""
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


def end_client() -> None:
    """End wandb's own process, if there is one; the next run starts another."""
    import wandb

    # It cannot say goodbye to a process that is gone, and leaves this one if that one failed.
    with suppress(Exception, SystemExit):
        wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)  # where the next run would look for the old one
