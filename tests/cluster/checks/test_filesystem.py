"""Each check of a file system can fail."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.checks import filesystem
from cluster.checks.check import Finding, run_checks
from cluster.checks.filesystem import (
    Place,
    by_file_system,
    check_socket_path,
    check_temporary,
    file_system,
    judge_skew,
    skew,
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place("store", tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def by_name(place: Place) -> dict[str, Finding]:
    return {f.name.removeprefix("store: "): f for f in run_checks([place.checks()])}


def refusing(number: int) -> Any:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_good_file_system(place: Place) -> None:
    found = by_name(place)
    assert {finding.status for finding in found.values()} <= {"ok", "warning"}
    assert found["hard links"].status == found["rename"].status == found["clock"].status == "ok"
    assert place.check_token().status == "ok"


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    found = by_name(Place("store", tmp_path / "store" / "deeper"))
    assert found["folder"].status == "problem" and "Not a directory" in found["folder"].seen
    assert found["hard links"].status == found["clock"].status == "skipped"


@pytest.mark.parametrize(("gb", "status"), [(0.5, "problem"), (5, "warning")])
def test_little_space(
    place: Place, monkeypatch: pytest.MonkeyPatch, gb: float, status: str
) -> None:
    blocks = int(gb * 1024**3 / 4096)
    numbers = (4096, 4096, blocks, blocks, blocks, 10**6, 10**6, 10**6, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(numbers))
    assert place.check_folder().status == status


def test_few_files_and_memory_in_the_place_of_a_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = (4096, 4096, 10**9, 10**9, 10**9, 10**6, 5000, 5000, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(numbers))
    monkeypatch.setattr(filesystem, "file_system", lambda path: "ext4")
    assert "5,000 files" in place.check_folder().seen
    monkeypatch.setattr(filesystem, "file_system", lambda path: "tmpfs")
    assert place.check_folder().status == "warning"


def test_no_hard_links(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    result = place.check_links()
    assert result.status == "problem" and "not permitted" in result.seen


def test_hard_links_that_two_can_make(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda source, target: Path(target).touch())
    assert "two processes" in place.check_links().seen


def test_a_rename_that_fails(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", refusing(errno.EXDEV))
    assert place.check_rename().status == "problem"


def test_a_rename_that_copies(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = lambda source, target: Path(target).write_bytes(Path(source).read_bytes())  # noqa: E731
    monkeypatch.setattr(os, "replace", copy)
    assert "old name" in place.check_rename().seen


def test_no_flush(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    assert place.check_flush().status == "problem"


def test_a_slow_flush(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "_SLOW_FLUSH_S", -1)
    assert place.check_flush().status == "warning"


def test_a_file_server_with_another_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    now = filesystem.time.time
    monkeypatch.setattr(filesystem.time, "time", lambda: now() + 100)
    result = place.check_clock()
    assert result.status == "warning" and " s behind this" in result.seen
    assert judge_skew(60, "it").seen == "it's clock is 60 s ahead of this machine's"
    assert (skew(5, 4, 6), skew(9, 4, 6), skew(1, 4, 6)) == (0, 3, -3)


def test_times_that_cannot_be_set(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.utime
    first_only = lambda path, times=None: real(path, times) if times else None  # noqa: E731
    monkeypatch.setattr(os, "utime", first_only)
    assert place.check_clock().status == "problem"


def test_a_file_system_that_ignores_modes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def ignore_mode(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        handle = real(path, flags, mode, **options)
        if Path(path).name == "token":
            os.chmod(path, 0o755)
        return handle

    monkeypatch.setattr(os, "open", ignore_mode)
    result = place.check_token()
    assert result.status == "problem" and "mode 0755" in result.seen


def test_the_deepest_mount_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    folder = str(tmp_path).replace(" ", "\\040")
    mounts.write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n"
        f"23 22 0:5 / {folder} rw - nfs4 server:/x rw\n24 22 0:6 / {folder}x rw - tmpfs t rw\n"
    )
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)
    assert file_system(tmp_path) == "nfs4"
    assert file_system(Path("/")) == "ext4"


def test_places_on_one_file_system_are_one_group(tmp_path: Path) -> None:
    places = [Place("store", tmp_path / "a"), Place("proc", Path("/proc")), Place("runs", tmp_path)]
    assert [[p.name for p in group] for group in by_file_system(places)] == [
        ["store", "runs"],
        ["proc"],
    ]


def test_a_temporary_folder_on_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert check_temporary().status in ("ok", "warning")
    monkeypatch.setattr(filesystem, "file_system", lambda path: "nfs4")
    assert "across a network" in check_temporary().seen
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "gone"))
    assert check_temporary().status == "problem"


def test_paths_of_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert check_socket_path().status == "ok"
    long = Path(tempfile.mkdtemp(prefix="x" * 30, dir="/tmp"))
    made = long / f"usweep-{os.getpid()}-x"
    monkeypatch.setattr(filesystem, "temporary_folder", lambda: made.mkdir() or made)
    try:
        result = check_socket_path()
    finally:
        long.rmdir()
    assert result.status == "problem" and "TMPDIR" in result.advice
