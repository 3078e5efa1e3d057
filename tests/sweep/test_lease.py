"""Leases: one holder at a time, the dead are replaced, the slow fenced off, clocks left aside."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from sweep import lease as lease_module
from sweep.errors import LeaseLost, StoreError
from sweep.lease import Holding, Lease, Leases, Sign, Watch, born

KEY = "k"


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "leases")


def taken(lease: Lease | None) -> Lease:
    assert lease is not None
    return lease


def elsewhere(leases: Leases, key: str = KEY) -> None:
    """Make the newest lease that of another machine, whose processes cannot be looked up."""
    sign = leases.newest(key)
    assert sign is not None
    path = leases.root / key / str(sign.generation)
    content = json.loads(path.read_text())
    times = path.stat()
    path.write_text(json.dumps(content | {"boot": "another", "host": "another"}))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_lease_is_held_until_it_is_released(leases: Leases) -> None:
    first = taken(leases.acquire(KEY))
    assert leases.acquire(KEY) is None
    assert leases.acquire("other") is not None
    first.release()
    assert taken(leases.acquire(KEY)).is_current()


def test_a_dead_process_of_this_machine_is_replaced_at_once(leases: Leases) -> None:
    code = (
        "import os, sys; from pathlib import Path; from sweep.lease import Leases\n"
        "assert Leases(Path(sys.argv[1])).acquire('k'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(leases.root)], check=True)
    assert leases.is_dead(KEY)
    second = taken(leases.acquire(KEY))
    assert second.is_current() and not leases.is_dead(KEY)


def test_a_zombie_and_a_reused_pid_are_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    while born(child.pid):
        time.sleep(0.01)
    assert Path(f"/proc/{child.pid}").exists()  # not waited for: a zombie
    child.wait()
    assert born(os.getpid()) not in ("", born(1))


def test_another_machines_lease_is_taken_over_only_by_its_sign(leases: Leases) -> None:
    first = taken(leases.acquire(KEY))
    elsewhere(leases)
    sign = leases.newest(KEY)
    assert leases.acquire(KEY) is None
    assert leases.acquire(KEY, Sign(1, "somebody", 0)) is None
    second = taken(leases.acquire(KEY, sign))
    assert second.is_current() and not first.is_current()
    assert leases.acquire(KEY, sign) is None  # the sign was the first one's
    with pytest.raises(LeaseLost):
        first.require()
    first.release()  # takes nothing from the second
    assert second.is_current()


def test_a_sign_of_life_makes_an_observed_sign_worthless(leases: Leases) -> None:
    first = taken(leases.acquire(KEY))
    elsewhere(leases)
    sign = leases.newest(KEY)
    first.beat()
    assert leases.newest(KEY) != sign
    assert leases.acquire(KEY, sign) is None


@pytest.mark.parametrize("shift_s", [-3600.0, 3600.0])
def test_the_watch_compares_times_with_each_other_never_with_a_clock(
    leases: Leases, shift_s: float
) -> None:
    """The holder's clock is an hour off; only whether its time moves matters."""
    taken(leases.acquire(KEY))
    elsewhere(leases)
    path = leases.root / KEY / "1"
    clock = 1000.0
    watch = Watch(leases, takeover_s=60, clock=lambda: clock)
    for _ in range(20):
        moved = path.stat().st_mtime + 5 + shift_s / 100
        os.utime(path, (moved, moved))
        assert watch.look(KEY)[0] is Holding.HELD
        clock += 50
    assert watch.look(KEY)[0] is Holding.HELD  # 50 s without a sign of life
    clock += 10
    holding, sign = watch.look(KEY)
    assert holding is Holding.STALE
    assert taken(leases.acquire(KEY, sign)).is_current()


def test_the_watch_sees_free_and_dead_leases_at_once(leases: Leases) -> None:
    watch = Watch(leases, takeover_s=10**6)
    assert watch.look(KEY) == (Holding.FREE, None)
    held = taken(leases.acquire(KEY))
    assert watch.look(KEY)[0] is Holding.HELD
    path = leases.root / KEY / "1"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"born": "1"}))
    assert watch.look(KEY)[0] is Holding.STALE
    held.release()


def test_a_held_lease_beats_by_itself(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.01)
    with taken(leases.acquire(KEY)):
        sign = leases.newest(KEY)
        for _ in range(1000):
            if leases.newest(KEY) != sign:
                break
            time.sleep(0.01)
        assert leases.newest(KEY) != sign
    assert leases.newest(KEY) is None


def test_a_damaged_lease_counts_as_another_machines(leases: Leases) -> None:
    taken(leases.acquire(KEY))
    (leases.root / KEY / "1").write_text("{")
    assert leases.acquire(KEY) is None and not leases.is_dead(KEY)
    assert taken(leases.acquire(KEY, leases.newest(KEY))).is_current()


def test_a_link_whose_answer_was_lost_counts_as_made(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def lose_answer(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(17, "a network file system made it and asked again")

    monkeypatch.setattr(os, "link", lose_answer)
    assert taken(leases.acquire(KEY)).is_current()


def test_a_file_system_without_hard_links_is_named(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"no hard links.*output\.store"):
        leases.acquire(KEY)
    assert leases.keys() == [KEY] and leases.newest(KEY) is None


class Holders(RuleBasedStateMachine):
    """Holders come, die unnoticed, are taken over, wake up again and release, in any order."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.leases = Leases(Path(self.folder.name))
        self.all: list[Lease] = []

    @rule(target=held, takes_over=st.booleans())
    def acquire(self, takes_over: bool) -> Lease | None:
        before = self.leases.newest(KEY)
        lease = self.leases.acquire(KEY, before if takes_over else None)
        assert (lease is None) == (before is not None and not takes_over)
        if lease is not None:
            self.all.append(lease)
        return lease

    @rule(lease=held)
    def beat(self, lease: Lease | None) -> None:
        if lease is not None:
            lease.beat()

    @rule(lease=consumes(held))
    def release(self, lease: Lease | None) -> None:
        if lease is not None:
            was_current = lease.is_current()
            lease.release()
            assert not lease.is_current()
            assert (self.leases.newest(KEY) is None) or not was_current

    @invariant()
    def at_most_one_holds(self) -> None:
        assert sum(lease.is_current() for lease in self.all) <= 1

    @invariant()
    def the_newest_lease_is_the_one_that_holds(self) -> None:
        sign = self.leases.newest(KEY)
        current = [lease.identity for lease in self.all if lease.is_current()]
        assert current == ([] if sign is None else [sign.holder])

    def teardown(self) -> None:
        self.folder.cleanup()


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
