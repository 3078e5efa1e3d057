"""Temporary folders are short and private, and go when their owner was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import temporary
from cluster.temporary import MAX_PATH, remove, temporary_folder

OWNER = (
    "import sys, time; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path; from cluster.temporary import temporary_folder\n"
    "print(temporary_folder(Path(sys.argv[2])), flush=True); time.sleep(100)"
)


@pytest.fixture(autouse=True)
def _no_folder_counts_as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_NEW_S", -1.0)


@pytest.fixture
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(f"/tmp/utest-{os.getpid()}")
    folder.mkdir(exist_ok=True)
    return folder


def test_a_folder_lives_as_long_as_its_owner(parent: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, os.getcwd(), str(parent)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        temporary_folder(parent)
        assert folder.is_dir()
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    other = temporary_folder(parent)
    assert not folder.exists()
    assert other.is_dir()


def test_a_folder_without_an_owner_is_removed(parent: Path) -> None:
    left = parent / "usweep-left"
    left.mkdir()
    (left / "socket").touch()
    temporary_folder(parent)
    assert not left.exists()


def test_a_folder_that_was_just_made_is_left_alone(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "_NEW_S", 60.0)
    new = parent / "usweep-new"
    new.mkdir()
    temporary_folder(parent)
    assert new.is_dir()


def test_a_long_path_is_not_used(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    folder = temporary_folder(long)
    assert len(str(folder)) < MAX_PATH
    (folder / ".owner").unlink()
    folder.rmdir()


def test_a_folder_is_removed_although_somebody_still_writes_in_it(parent: Path) -> None:
    folder = parent / "busy"
    folder.mkdir()
    code = (
        "import itertools, os, sys, time\n"
        "end = time.monotonic() + 0.5\n"
        "for number in itertools.count():\n"
        "    os.mkdir(f'{sys.argv[1]}/{number}')\n"
        "    if time.monotonic() > end: break\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.DEVNULL)
    try:
        while not any(folder.iterdir()):
            pass
        remove(folder, patience_s=20)
        assert not folder.exists()
        writer.wait(20)
    finally:
        writer.kill()
        writer.wait()
