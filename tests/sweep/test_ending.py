"""A sweep is ended by a signal or by a file, once politely and twice at once."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from sweep.ending import Ending

WAIT = (
    "import sys, time; sys.path.insert(0, sys.argv[2])\n"
    "from pathlib import Path; from rich.console import Console\n"
    "from sweep.ending import Ending\n"
    "folder = Path(sys.argv[1])\n"
    "ending = Ending(folder / 'drain', 30, Console(), {'usweep cancel': folder / 'cancel'})\n"
    "try:\n"
    "    with ending:\n"
    "        print('ready', flush=True); time.sleep(60)\n"
    "except KeyboardInterrupt:\n"
    "    print('ended by', ending.asked_by, flush=True)\n"
)


def waiting(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WAIT, str(folder), os.getcwd()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "usweep cancel"])
def test_whoever_asks_is_named(tmp_path: Path, how: str) -> None:
    process = waiting(tmp_path)
    if how == "usweep cancel":
        (tmp_path / "cancel").touch()
    else:
        process.send_signal(signal.Signals[how])
    printed, _ = process.communicate(timeout=20)
    assert f"{how}: ending" in printed
    assert f"ended by {how}" in printed
    assert not (tmp_path / "drain").exists()


def test_a_signal_and_a_file_together_are_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both come from SLURM's warning; two signals would end the sweep at once.
    output = io.StringIO()
    request = tmp_path / "request"
    ending = Ending(tmp_path / "drain", 30, Console(file=output), {"the cluster": request})
    with pytest.raises(KeyboardInterrupt), ending:
        request.touch()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert ending.asked_by == "SIGTERM"
    assert output.getvalue().count("ending") == 1
