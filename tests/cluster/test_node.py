"""A node that is to leave waits for the work on it, which is told."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from cluster import meeting, node
from cluster.meeting import AWAY, UP, Head


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(node.VARIABLE, str(tmp_path))
    return tmp_path


def test_a_node_without_a_folder_never_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(node.VARIABLE, raising=False)
    with node.at_work():
        assert node.leave_file() is None
        assert not node.is_leaving()


def test_leaving_waits_for_the_work_to_end(folder: Path) -> None:
    order = []

    def work() -> None:
        with node.at_work():
            while not node.is_leaving():
                time.sleep(0.01)
            time.sleep(0.2)
            order.append("work ended")

    worker = threading.Thread(target=work)
    worker.start()
    while not list((folder / "busy").glob("*")):
        time.sleep(0.01)
    assert node.ask_to_leave(folder, patience_s=10)
    order.append("left")
    worker.join()
    assert order == ["work ended", "left"]


def test_leaving_does_not_wait_for_ever_nor_for_the_dead(folder: Path) -> None:
    (folder / "busy").mkdir()
    (folder / "busy" / str(os.getpid())).touch()
    assert not node.ask_to_leave(folder, patience_s=0.3)
    dead = subprocess.Popen(["true"])
    dead.wait()
    (folder / "busy" / str(os.getpid())).rename(folder / "busy" / str(dead.pid))
    assert node.ask_to_leave(folder, patience_s=0.3)


def test_work_that_raises_is_over(folder: Path) -> None:
    with pytest.raises(ValueError, match="on purpose"), node.at_work():
        raise ValueError("on purpose")
    assert list((folder / "busy").iterdir()) == []


def test_a_head_is_found_as_it_was_published_last(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    assert meeting.find(folder) is None
    head = Head(UP, "12.0", "10.0.0.1:1234", "/token", 1)
    meeting.publish(folder, head)
    assert meeting.find(folder) == head
    meeting.publish(folder, Head(AWAY, "12.0"))
    assert meeting.find(folder) == Head(AWAY, "12.0")
    (folder / meeting.FILE).write_text("{")
    assert meeting.find(folder) is None
    assert [path.name for path in folder.iterdir()] == [meeting.FILE]
