"""The stream as a process of its own beside a sweep's driver, which it can never hold up."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from sweep.tracking.settings import TrackingConfig, mode_now
from sweep.tracking.status import FOLDER, describe, read_status

_LATE_S = 8.0  # that the process may need beyond the time it was given
_HASTE_S = 3.0  # for what is not sent yet where the sweep itself was told to end
_LOG = "log.txt"


class Beside:
    """Tracks a run while the `with` block runs; nothing that goes wrong in it reaches the block."""

    def __init__(self, config: TrackingConfig, run_folder: Path, console: Console) -> None:
        self._config, self._run_folder, self._console = config, run_folder, console
        self._process: subprocess.Popen[bytes] | None = None
        self.is_in_haste = False

    def __enter__(self) -> "Beside":
        if mode_now(self._config) == "disabled":
            return self
        folder = self._run_folder / FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / _LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "sweep.tracking", str(self._run_folder.resolve())],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the driver
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
        except OSError as error:
            self._console.print(f"not tracked: {error.strerror}", style="yellow")
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is None:
            return
        seconds = _HASTE_S if self.is_in_haste or error[0] else self._config.finish_s
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended before
            self._process.stdin.write(f"{seconds}\n".encode())
            self._process.stdin.close()
        with self._console.status("sending the last results to Weights & Biases"):
            try:
                self._process.wait(seconds + _LATE_S)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                self._process.kill()
                self._process.wait()
        status = read_status(self._run_folder)
        if status is None:
            log = self._run_folder / FOLDER / _LOG
            self._console.print(f"W&B: nothing was tracked; see {log}", style="yellow")
        else:
            self._console.print(describe(status, self._run_folder), soft_wrap=True)
