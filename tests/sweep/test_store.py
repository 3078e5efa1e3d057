"""The store: a unit is there whole or not at all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.errors import StoreError
from sweep.failures import Failure, clear_failures, read_failures, write_failure
from sweep.files import write_atomically
from sweep.store import RECORD, SCHEMA, Store, file_digest

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    return store


def record(key: str = KEY, kind: str = "scratch", **more: object) -> str:
    return json.dumps({"schema": SCHEMA, "key": key, "kind": kind, "files": {}} | more)


def publish(store: Store, content: str) -> None:
    with store.building("scratch", KEY) as folder:
        (folder / "data").write_text(content)
        digest = {"data": file_digest(folder / "data")}
        (folder / RECORD).write_text(record(files=digest))


def leftovers(store: Store) -> list[str]:
    return os.listdir(store.root / "building")


def test_a_unit_is_published_whole(store: Store) -> None:
    assert not store.has("scratch", KEY) and store.keys("scratch") == set()
    publish(store, "x")
    assert store.has("scratch", KEY) and store.keys("scratch") == {KEY}
    assert store.read_record("scratch", KEY)["key"] == KEY
    assert store.checked_file("scratch", KEY, "data").read_text() == "x"
    assert leftovers(store) == []


def test_an_error_while_building_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.building("scratch", KEY) as folder:
        (folder / "data").write_text("half")
        raise ZeroDivisionError
    assert not store.has("scratch", KEY)
    assert leftovers(store) == []


def test_who_publishes_first_wins_and_the_other_notices_nothing(store: Store) -> None:
    with store.building("scratch", KEY) as folder:
        (folder / RECORD).write_text(record())
        (folder / "data").write_text("late")
        publish(store, "first")
    assert store.checked_file("scratch", KEY, "data").read_text() == "first"
    assert leftovers(store) == []


RACER = """
import sys
from pathlib import Path
from sweep.store import RECORD, Store
with Store(Path(sys.argv[1])).building("scratch", sys.argv[2]) as folder:
    print("building", flush=True)
    sys.stdin.readline()
    (folder / "data").write_text(sys.argv[3])
    (folder / RECORD).write_text("{}")
"""


def test_racing_processes_publish_one_whole_unit(store: Store) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(store.root), KEY, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for racer in racers:  # all of them build before the first one publishes
        assert racer.stdout is not None and racer.stdout.readline() == "building\n"
    for racer in racers:
        racer.communicate("go\n")
        assert racer.returncode == 0
    folder = store.folder("scratch", KEY)
    assert (folder / "data").read_text() in ("0", "1", "2")
    assert sorted(os.listdir(folder)) == ["data", RECORD]
    assert leftovers(store) == []


def test_what_dead_builders_left_is_removed_and_the_living_are_left_alone(store: Store) -> None:
    building = store.root / "building"
    dead = building / f"{KEY[:16]}~{socket.gethostname()}~999999999~1.00~x"
    elsewhere = building / f"{KEY[:16]}~another-host~1~1.00~x"
    dead.mkdir()
    elsewhere.mkdir()
    with store.building("scratch", KEY) as folder:
        store.open_for_writing()
        assert sorted(leftovers(store)) == sorted([folder.name, elsewhere.name])
        (folder / RECORD).write_text(record())


@pytest.mark.parametrize(
    "content",
    [
        "",
        record()[:-5],
        "[]",
        record(key="cd" * 32),
        record(kind="original"),
        json.dumps({"schema": SCHEMA + 1, "key": KEY, "kind": "scratch"}),
    ],
)
def test_a_damaged_record_is_named_never_used(store: Store, content: str) -> None:
    publish(store, "x")
    path = store.folder("scratch", KEY) / RECORD
    path.write_text(content)
    with pytest.raises(StoreError) as caught:
        store.read_record("scratch", KEY)
    assert caught.value.path == path
    assert "run the same sweep again" in str(caught.value)


def test_a_file_that_changed_after_publication_is_refused(store: Store) -> None:
    publish(store, "x")
    path = store.folder("scratch", KEY) / "data"
    path.write_text("y")
    with pytest.raises(StoreError, match="not what was recorded"):
        store.checked_file("scratch", KEY, "data")
    path.unlink()
    with pytest.raises(StoreError, match="missing"):
        store.checked_file("scratch", KEY, "data")


def test_a_store_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written.*output\.store"):
        Store(tmp_path / "file" / "store").open_for_writing()


def test_failures_are_kept_until_they_are_cleared(tmp_path: Path) -> None:
    write_failure(tmp_path, Failure.now("k1", "first line\nsecond", "trace"))
    write_failure(tmp_path, Failure.now("k2", ""))
    (tmp_path / "failures" / "k3.json").write_text("{")
    found = read_failures(tmp_path)
    assert found["k1"].cause == "first line"
    assert found["k2"].cause == "no message"
    assert "damaged" in found["k3"].cause
    clear_failures(tmp_path)
    assert read_failures(tmp_path) == {}


def test_an_atomic_write_replaces_whole_files_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["folder", "new"]
