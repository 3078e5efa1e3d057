"""A job's process only supervises: it starts, asks to end, starts again, and leaves nothing.

Without Ray and without SLURM, whose signals the tests send; with both: tests/slurm.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import allocation, meeting
from cluster.allocation import Allocation, Node
from cluster.meeting import AWAY, ENDED, UP, Head

# What submitit does, in a few lines: SIGUSR2 calls `checkpoint` and puts the job into the queue.
JOB = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from cluster.allocation import Allocation
job = Allocation(
    sys.argv[2], ["sh", "-c", sys.argv[3]], has_ray=False, resume_codes=(130,), signal_s=20,
    kill_wait_s=10, temporary=sys.argv[2],
)
def warned(number, frame):
    job.checkpoint()
    print("requeued", flush=True)
    sys.exit(255)
signal.signal(signal.SIGUSR2, warned)
print("ready", flush=True)
job()
"""
UNTIL_ASKED = 'while ! [ -e "$CLUSTER_DRAIN_FILE" ]; do sleep 0.1; done; '


class Job:
    """A job on one node, in a process of its own."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder = folder
        environment = os.environ | {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, os.getcwd(), str(folder), command],
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("7/command-*.log"))

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in self.log():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        time.sleep(0.3)  # a signal in the very moment of the start ends the command at once

    def end(self) -> tuple[int, str]:
        printed, _ = self.process.communicate(timeout=40)
        return self.process.returncode, printed


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(f"/tmp/ualloc-{os.getpid()}")
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_jobs_exit_code_is_the_commands(folder: Path, code: int) -> None:
    assert Job(folder, f"exit {code}").end()[0] == code
    assert list(folder.glob("usweep-*")) == []


def test_ahead_of_the_end_the_command_is_asked_and_the_job_requeued(folder: Path) -> None:
    job = Job(folder, f"echo begun; {UNTIL_ASKED} echo asked; exit 130")
    job.wait_for_log("begun")
    job.process.send_signal(signal.SIGUSR2)
    code, printed = job.end()
    assert (code, "requeued" in printed) == (255, True)
    assert job.log() == "begun\nasked\n"
    assert list(folder.glob("usweep-*")) == []


def test_a_command_that_came_to_its_end_is_not_requeued(folder: Path) -> None:
    job = Job(folder, f"echo begun; {UNTIL_ASKED} exit 1")
    job.wait_for_log("begun")
    job.process.send_signal(signal.SIGUSR2)
    code, printed = job.end()
    assert (code, "requeued" in printed) == (1, False)


def test_a_command_that_does_not_listen_is_killed_in_time_and_requeued(folder: Path) -> None:
    job = Job(folder, "echo begun; sleep 1000")
    job.wait_for_log("begun")
    began = time.monotonic()
    job.process.send_signal(signal.SIGUSR2)
    code, printed = job.end()
    assert (code, "requeued" in printed) == (255, True)
    assert time.monotonic() - began < 20


def test_the_end_itself_asks_too_and_requeues_nothing(folder: Path) -> None:
    job = Job(folder, f"echo begun; {UNTIL_ASKED} echo asked; exit 130")
    job.wait_for_log("begun")
    job.process.send_signal(signal.SIGTERM)
    code, printed = job.end()
    assert (code, "requeued" in printed) == (130, False)
    assert job.log() == "begun\nasked\n"


def test_a_command_that_was_killed_is_started_again(folder: Path) -> None:
    mark = folder / "once"
    job = Job(folder, f"[ -e {mark} ] && exit 0; touch {mark}; kill -KILL $$")
    code, printed = job.end()
    assert code == 0
    assert "killed by signal 9" in printed


def test_but_not_for_ever(folder: Path) -> None:
    code, printed = Job(folder, "echo begun; kill -KILL $$").end()
    assert code == 128 + signal.SIGKILL
    assert printed.count("killed by signal 9") == allocation.RESTARTS + 1


# ---- nodes that join ----


@pytest.fixture
def node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setattr(allocation, "HEAD_RETURNS_S", 0.3)
    monkeypatch.setattr(allocation, "HEAD_LOST_S", 0.3)
    monkeypatch.setattr(allocation, "_LOOK_EVERY_S", 0.05)
    return Node(Allocation(str(folder), ["command"], temporary=str(folder)))


def published(folder: Path, state: str, attempt: str, generation: int = 0) -> Head:
    head = Head(state, attempt, "10.0.0.1:6379", "/token", generation)
    meeting.publish(folder, head)
    return head


def test_a_node_joins_the_head_of_its_own_attempt_alone(node: Node, folder: Path) -> None:
    published(folder, UP, "7.1")
    assert node._await_head(None) is None
    head = published(folder, UP, "7.2")
    assert node._await_head(None) == head
    published(folder, AWAY, "7.2")
    assert node._await_head(None) is None


def test_a_node_that_was_added_follows_any_head_until_the_end(node: Node, folder: Path) -> None:
    node.job.command = []
    head = published(folder, UP, "3.0")
    assert node._await_head(None) == head
    assert node._await_head(head) is None  # it does not answer, and no other comes
    newer = published(folder, UP, "3.1")
    assert node._await_head(head) == newer
    published(folder, ENDED, "3.1")
    assert node._await_head(head) is None


def test_a_node_leaves_when_asked_but_not_before_its_own_head(node: Node) -> None:
    node.files.mkdir(parents=True)
    node.drain_file.touch()
    assert not node._is_to_leave()  # the command is asked first
    node.job.command = []
    assert node._is_to_leave()
    node.drain_file.unlink()
    (node.logs / "leave").touch()
    assert node._is_to_leave()
