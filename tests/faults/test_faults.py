"""Whatever happens, no unit is lost, none is repeated, and no table differs by a byte.

Each test starts whole sweeps, which takes half a minute and more: most run with `make test-all`.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fault_harness import (
    PATIENCE_S,
    UNITS,
    Counts,
    Disturbed,
    compare,
    disturb_until_done,
    seeded_faults,
    tables,
)

# More than the harness waits for any one thing: its own error shows the log of what hangs.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Tables, claims and records of a sweep that nothing happened to."""
    sweep = Disturbed(tmp_path_factory.mktemp("undisturbed"))
    assert sweep.finish(sweep.start()) == 0, sweep.log
    found = tables(sweep)
    assert len(found) == 3 * 5 + 1 + UNITS
    return found


def check(sweep: Disturbed, undisturbed: dict[str, bytes]) -> None:
    assert compare(sweep, undisturbed, Counts()) == []
    assert list((sweep.store.root / "building").iterdir()) == []
    assert sweep.store.leases.keys() == []


def test_kills_cost_time_and_nothing_else(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    sweep, counts = Disturbed(tmp_path), Counts()
    faults = [
        "SIGKILL of the driver",
        "SIGKILL of a trial that holds a lease",  # the last: the sweep goes on by itself
    ]
    disturb_until_done(sweep, faults, random.Random(3), counts)
    assert counts.injected.total() == 2
    assert (counts.units_lost, counts.units_repeated) == (0, 0)
    check(sweep, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8))
def test_every_kind_of_fault_costs_time_and_nothing_else(
    undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    sweep, counts, rng = Disturbed(tmp_path), Counts(), random.Random(seed)
    disturb_until_done(sweep, seeded_faults(rng), rng, counts)
    assert (counts.units_lost, counts.units_repeated) == (0, 0)
    check(sweep, undisturbed)


@pytest.mark.slow
def test_a_signal_ends_a_sweep_in_time_and_units_continue_where_they_were(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    sweep = Disturbed(tmp_path)
    driver = sweep.start()
    assert sweep.wait_for_epochs(8, driver)
    driver.send_signal(signal.SIGTERM)
    assert sweep.finish(driver) == 130
    assert "SIGTERM: ending" in sweep.log
    assert re.search(
        r"\d of 7 units done .*ended by SIGTERM; the same command continues", sweep.log
    )
    assert "Traceback" not in sweep.log
    epochs = sweep.epochs_logged()
    assert epochs >= 8
    checkpoints = list(sweep.store.root.glob("building/*/*/checkpoint.json"))
    assert checkpoints and not sweep.holders()
    driver = sweep.start()
    assert sweep.wait_for_epochs(epochs, driver)
    assert sweep.finish(driver) == 0, sweep.log
    check(sweep, undisturbed)


def test_two_drivers_racing_on_one_store_compute_each_unit_once(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    sweeps = [Disturbed(tmp_path, name=name) for name in ("a", "b")]
    drivers = [sweep.start("--cpus", "1") for sweep in sweeps]
    assert [s.finish(d) for s, d in zip(sweeps, drivers, strict=True)] == [0, 0]
    computed = 0
    for sweep in sweeps:
        done = re.search(r"7 of 7 units done \((\d) before(?:, (\d) by another)?", sweep.log)
        assert done is not None, sweep.log
        computed += UNITS - int(done[1]) - int(done[2] or 0)
        check(sweep, undisturbed)
    assert computed == UNITS


HOLDER = """
import sys, time
from pathlib import Path
from sweep import lease
lease._machine = lambda: {"boot": "another machine", "namespace": "another"}
with lease.Leases(Path(sys.argv[1])).acquire(sys.argv[2]) as held:
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_holder_on_another_machine_that_dies_is_replaced_within_the_stated_time(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    sweep = Disturbed(tmp_path)
    key = next(name.partition("/")[2] for name in undisturbed if name.startswith("original/"))
    command = [sys.executable, "-c", HOLDER, str(sweep.store.leases.root), key]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    driver = sweep.start()
    ends = time.monotonic() + PATIENCE_S
    while len(sweep.store.keys("scratch")) < 2:  # all that does not need the original
        assert time.monotonic() < ends and driver.poll() is None, sweep.log
        time.sleep(0.05)
    time.sleep(1)
    assert not sweep.store.has("original", key) and driver.poll() is None
    holder.kill()
    holder.communicate()
    assert sweep.finish(driver) == 0, sweep.log
    check(sweep, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few units."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip(f"no right to mount a small file system: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_clearly_and_harms_nothing(
    undisturbed: dict[str, bytes], tmp_path: Path, small_disk: Path
) -> None:
    sweep = Disturbed(tmp_path, store_root=small_disk / "store")
    assert sweep.finish(sweep.start()) == 1
    assert "stopping:" in sweep.log and "No space left on device" in sweep.log
    assert "free space or mend it, then run the same command again" in sweep.log
    assert "Traceback" not in sweep.log and "FAILED" not in sweep.log
    before = sweep.finished()
    assert 0 < len(before) < UNITS
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert sweep.finish(sweep.start()) == 0, sweep.log
    after = sweep.finished()
    assert all(after[key] == status for key, status in before.items())
    check(sweep, undisturbed)


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
second = cluster.add_node(num_cpus=1, num_gpus=0)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(second, allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.mark.slow
def test_units_of_a_node_that_is_lost_continue_on_another(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    sweep = Disturbed(tmp_path)
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert cluster.stdin is not None and cluster.stdout is not None
    try:
        address = cluster.stdout.readline().strip()
        driver = sweep.start("--address", address, RAY_AUTH_MODE="disabled")
        assert sweep.wait_for_epochs(20, driver)
        cluster.stdin.write("remove\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline() == "removed\n"
        assert sweep.finish(driver) == 0, sweep.log
        assert "FAILED" not in sweep.log
        from sweep.searcher import is_lost_node  # imports Ray, which other tests want unimported

        # Ray's reason, by which a lost node is told from a lost worker.
        lost = re.search(r"seed 0: (.*); it continues on another worker", sweep.log)
        assert lost is not None and is_lost_node(lost[1]), sweep.log
        check(sweep, undisturbed)
    finally:
        with suppress(BrokenPipeError):
            cluster.communicate("end\n", timeout=60)
