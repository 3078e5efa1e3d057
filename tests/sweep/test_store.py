"""The store: a unit is there whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.errors import DamagedError, LeaseLost, StoreError, UnitHeld, UnitPaused
from sweep.failures import Failure, clear_failures, read_failures, write_failure
from sweep.files import file_digest, seal, write_atomically
from sweep.store import RECORD, SCHEMA, Store, Work

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    return store


def record(key: str = KEY, kind: str = "scratch", **more: object) -> str:
    return seal({"schema": SCHEMA, "key": key, "kind": kind, "files": {}} | more)


def publish(store: Store, content: str) -> None:
    with store.building("scratch", KEY) as work:
        fill(store, work, content)


def fill(store: Store, work: Work, content: str) -> None:
    (work.folder / "data").write_text(content)
    files = {"data": file_digest(work.folder / "data")}
    store.write_record(work.folder, {"key": KEY, "kind": "scratch", "files": files})


def leftovers(store: Store) -> list[str]:
    return os.listdir(store.root / "building")


def test_a_unit_is_published_whole(store: Store) -> None:
    assert not store.has("scratch", KEY) and store.keys("scratch") == set()
    publish(store, "x")
    assert store.has("scratch", KEY) and store.keys("scratch") == {KEY}
    assert store.read_record("scratch", KEY)["key"] == KEY
    assert store.checked_file("scratch", KEY, "data").read_text() == "x"
    assert leftovers(store) == []


def test_an_error_of_the_unit_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.building("scratch", KEY) as work:
        (work.folder / "data").write_text("half")
        raise ZeroDivisionError
    assert not store.has("scratch", KEY)
    assert leftovers(store) == [] and store.leases.keys() == []


@pytest.mark.parametrize("interruption", [UnitPaused("x"), OSError(28, "x"), KeyboardInterrupt()])
def test_what_an_interrupted_holder_did_is_there_for_the_next(
    store: Store, interruption: BaseException
) -> None:
    with pytest.raises(type(interruption)), store.building("scratch", KEY) as work:
        (work.folder / "checkpoint.json").write_text("half")
        raise interruption
    assert not store.has("scratch", KEY) and store.leases.keys() == []
    with store.building("scratch", KEY) as work:
        assert (work.folder / "checkpoint.json").read_text() == "half"
        fill(store, work, "whole")
    assert sorted(os.listdir(store.folder("scratch", KEY))) == ["data", RECORD]  # no checkpoint
    assert leftovers(store) == []


def test_a_unit_that_another_computes_is_held(store: Store) -> None:
    with store.building("scratch", KEY) as work:
        with pytest.raises(UnitHeld), store.building("scratch", KEY):
            raise AssertionError
        fill(store, work, "first")
    assert store.checked_file("scratch", KEY, "data").read_text() == "first"


def test_a_unit_that_another_has_just_finished_is_not_built_again(store: Store) -> None:
    publish(store, "first")
    with pytest.raises(UnitHeld), store.building("scratch", KEY):
        raise AssertionError
    assert store.leases.keys() == []


def test_a_holder_that_was_slow_neither_writes_nor_publishes(store: Store) -> None:
    slow = store.building("scratch", KEY)
    work = slow.__enter__()
    (work.folder / "checkpoint.json").write_text("by the slow one")
    with store.building("scratch", KEY, stale=store.leases.newest(KEY)) as taken:
        assert (taken.folder / "checkpoint.json").read_text() == "by the slow one"
        assert not work.folder.exists()
        with pytest.raises(OSError):
            (work.folder / "data").write_text("too late")
        fill(store, taken, "by the new one")
        with pytest.raises(LeaseLost):
            slow.__exit__(None, None, None)
        assert store.leases.newest(KEY) is not None  # the slow one did not release what is not his
    assert store.checked_file("scratch", KEY, "data").read_text() == "by the new one"
    assert leftovers(store) == [] and store.leases.keys() == []


def test_a_slow_holder_that_fails_with_its_folder_gone_has_lost_its_lease(store: Store) -> None:
    slow = store.building("scratch", KEY)
    work = slow.__enter__()
    with store.building("scratch", KEY, stale=store.leases.newest(KEY)) as taken:
        error = FileNotFoundError(2, "gone", str(work.folder))
        with pytest.raises(LeaseLost):
            slow.__exit__(type(error), error, None)
        fill(store, taken, "x")
    assert store.has("scratch", KEY)


RACER = """
import os, signal, sys, time
from pathlib import Path
from sweep.errors import UnitHeld
from sweep.store import Store
store, key, dies = Store(Path(sys.argv[1])), sys.argv[2], sys.argv[3] == "dies"
if not dies:
    sys.stdin.readline()
while not store.has("scratch", key):
    try:
        with store.building("scratch", key) as work:
            (work.folder / f"attempt-{os.getpid()}").touch()
            time.sleep(0.01)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            store.write_record(work.folder, {"key": key, "kind": "scratch", "files": {}})
        print("published", flush=True)
    except UnitHeld:
        time.sleep(0.002)
"""


def test_of_racers_of_which_some_are_killed_one_publishes(store: Store) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(store.root), KEY, fate],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for fate in ("dies", "dies", "dies", "lives", "lives", "lives")
    ]
    racers[0].wait(timeout=60)
    outputs = [racer.communicate("go\n", timeout=60)[0] for racer in racers[3:]]
    killed = [racer.wait(timeout=60) for racer in racers[:3]].count(-signal.SIGKILL)
    for racer in racers[:3]:
        racer.communicate()
    assert killed >= 1
    assert "".join(outputs) == "published\n"
    # Each dead holder's folder was handed on, and nobody built in it beside another.
    assert len(list(store.folder("scratch", KEY).glob("attempt-*"))) == killed + 1
    assert leftovers(store) == [] and store.leases.keys() == []


def test_what_a_kill_while_publishing_leaves_is_removed_and_work_under_way_is_not(
    store: Store,
) -> None:
    publish(store, "x")
    (store.root / "building" / KEY / "somebody").mkdir(parents=True)
    (store.root / "leases" / KEY).mkdir()
    other = "cd" * 32
    with store.building("scratch", other) as work:
        store.remove_leftovers({"scratch": store.keys("scratch")})
        assert leftovers(store) == [other] and work.folder.is_dir()
        assert store.leases.keys() == [other]
        store.write_record(work.folder, {"key": other, "kind": "scratch", "files": {}})


@pytest.mark.parametrize(
    "content",
    [
        "",
        record()[:-5],
        "[]",
        record(key="cd" * 32),
        record(kind="original"),
        seal({"schema": SCHEMA + 1, "key": KEY, "kind": "scratch"}),
        seal({"schema": SCHEMA, "key": KEY, "kind": "scratch"}),
        record().replace(KEY[:4], "abac"),
        json.dumps({"schema": SCHEMA, "key": KEY, "kind": "scratch", "files": {}}),
    ],
)
def test_a_damaged_record_is_named_never_used(store: Store, content: str) -> None:
    publish(store, "x")
    path = store.folder("scratch", KEY) / RECORD
    path.write_text(content)
    with pytest.raises(DamagedError) as caught:
        store.read_record("scratch", KEY)
    assert caught.value.path == path
    assert "the same `usweep run` sets the unit aside" in str(caught.value)
    assert store.damage("scratch", KEY) is not None


def test_every_flipped_bit_of_a_record_is_noticed(store: Store) -> None:
    publish(store, "x")
    path = store.folder("scratch", KEY) / RECORD
    content = path.read_bytes()
    whole = store.read_record("scratch", KEY)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            assert store.read_record("scratch", KEY) == whole  # white space between the entries
        except DamagedError:
            continue


def test_a_damaged_unit_is_set_aside_for_people_to_look_at(store: Store) -> None:
    publish(store, "x")
    (store.folder("scratch", KEY) / "data").write_text("y")
    assert store.damage("scratch", KEY) is not None
    aside = store.set_aside("scratch", KEY)
    assert (aside / KEY / "data").read_text() == "y"
    assert not store.has("scratch", KEY) and store.damage("scratch", KEY) is None
    publish(store, "x")
    assert store.damage("scratch", KEY) is None


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
