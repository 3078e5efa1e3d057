"""Children are found and ended by pid, whatever they do to get away."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import processes


def eventually(path: Path) -> str:
    for _ in range(200):
        if path.exists() and path.read_text().strip():
            return path.read_text().strip()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def python(code: str, tmp_path: Path) -> subprocess.Popen[bytes]:
    return processes.start([sys.executable, "-c", code], tmp_path / "log", {})


def test_slurms_warning_does_not_reach_a_child_nor_its_children(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess\n"
        "os.kill(os.getpid(), signal.SIGUSR2)\n"
        "subprocess.run(['sh', '-c', 'kill -USR2 $$; echo still here'])"
    )
    child = python(code, tmp_path)
    assert processes.wait(child, 20) == 0
    assert (tmp_path / "log").read_text() == "still here\n"


def test_stop_ends_a_child_that_ignores_the_request_and_what_it_has_started(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen(['sleep', '100'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(grandchild.pid))\n"
        "time.sleep(100)"
    )
    child = python(code, tmp_path)
    grandchild = int(eventually(tmp_path / "pid"))
    processes.stop(child, patience_s=0.3)
    assert child.returncode == -signal.SIGKILL
    assert not is_running(grandchild)


def test_orphans_of_a_child_that_was_killed_are_ended_too(tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.path[:0] = sys.argv[1:]\n"
        "from pathlib import Path\n"
        "from cluster import processes\n"
        "processes.adopt_orphans()\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "daemon = f'setsid sleep 100 & echo $! > {folder}/daemon; exit 0'\n"
        "child = processes.start(['sh', '-c', daemon], folder / 'log', {})\n"
        "assert processes.wait(child, 10) == 0\n"
        "processes.stop_all()\n"
    )
    subprocess.run([sys.executable, "-c", code, os.getcwd()], check=True, timeout=60)
    assert not is_running(int(eventually(tmp_path / "daemon")))


def test_a_child_sees_the_environment_and_appends_to_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTER_TEST_A", "kept")
    (tmp_path / "log").write_text("before\n")
    command = ["sh", "-c", "echo $CLUSTER_TEST_A $CLUSTER_TEST_B"]
    child = processes.start(command, tmp_path / "log", {"CLUSTER_TEST_B": "added"})
    assert processes.wait(child, 10) == 0
    assert (tmp_path / "log").read_text() == "before\nkept added\n"
