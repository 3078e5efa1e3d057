"""Sweeps on a real SLURM: whatever it does to their jobs, their tables are the same."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed import NODES, Bed
from fault_harness import UNITS, Counts, Disturbed, compare, tables
from slurm_sweep import SlurmSweep, wait_for, wait_until_empty

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(700)]
LONG = 40  # epochs: some seconds a unit, so that something can happen in the middle


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Tables, claims and records of the same sweep on a Ray of this machine, undisturbed."""
    sweep = Disturbed(tmp_path_factory.mktemp("undisturbed"), epochs=LONG)
    assert sweep.finish(sweep.start()) == 0, sweep.log
    return tables(sweep)


@pytest.fixture
def sweep(bed: Bed, tmp_path: Path) -> Iterator[SlurmSweep]:
    sweep = SlurmSweep(tmp_path, epochs=LONG, bed=bed)
    yield sweep
    bed.run("scancel", "--user=root")
    for node in NODES:
        wait_until_empty(bed, node, 60)


def check(sweep: SlurmSweep, undisturbed: dict[str, bytes]) -> None:
    assert compare(sweep, undisturbed, Counts()) == []
    assert sweep.store.leases.keys() == []


def repeated(before: dict[str, tuple[int, int]], sweep: SlurmSweep) -> list[str]:
    after = sweep.finished()
    return [key for key, sign in before.items() if after.get(key) != sign]


def power_up(bed: Bed, node: str) -> None:
    assert bed.script("boot", node).returncode == 0
    # What was in /tmp when the power went; the next job removes it once it is a minute old.
    bed.inside(node, "rm -rf /tmp/usweep-*")


def test_a_sweep_runs_on_all_nodes_with_fractions_of_their_gpus(
    sweep: SlurmSweep, undisturbed: dict[str, bytes]
) -> None:
    facts = sweep.ended(sweep.submit())
    assert (facts["JobState"], facts["ExitCode"]) == ("COMPLETED", "0:0"), sweep.logs()
    check(sweep, undisturbed)
    assert set(sweep.units_by_host()) == set(NODES)
    print(f"first unit {sweep.seconds_to_first_unit(facts):.0f} s after the start of the job")
    assert {record["provenance"]["gpus"] for record in sweep.records()} == {"0"}
    status = sweep.usweep("status", str(sweep.run_folder))
    assert "complete" in status.stdout
    logs = sweep.usweep("logs", str(sweep.run_folder))
    assert f"{UNITS} of {UNITS} units done" in logs.stdout


def test_sixty_equal_units_spread_over_the_nodes(sweep: SlurmSweep) -> None:
    facts = sweep.ended(
        sweep.submit(
            "grid.forget_ratios=[0.1]",
            "grid.strategies=[minimum]",
            f"grid.seeds={list(range(20))}",
            "datasets.digits.training.epochs=60",
            "datasets.digits.retraining.epochs=60",
        )
    )
    assert facts["ExitCode"] == "0:0", sweep.logs()
    counts = sweep.units_by_host()
    assert counts.total() == 60
    print(f"units by node: {dict(counts)}")
    assert min(counts[node] for node in NODES) >= 15, counts


def test_a_preemption_costs_time_and_nothing_else(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    job = sweep.submit()
    sweep.wait_for_units(2)
    before, began = sweep.finished(), time.monotonic()
    bed.run("srun", "--partition=high", "--nodes=3", "--exclusive", "true")
    print(f"nodes were free {time.monotonic() - began:.1f} s after the preemption began")
    facts = sweep.ended(job)
    assert (facts["Restarts"], facts["ExitCode"]) == ("1", "0:0"), sweep.logs()
    assert repeated(before, sweep) == []
    check(sweep, undisturbed)


def test_the_time_limit_costs_time_and_nothing_else(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    key = next(name.partition("/")[2] for name in undisturbed if name.startswith("two_stage/"))
    with sweep.store.leases.acquire(key):  # else a fast machine is done before the limit
        job = sweep.submit("cluster.minutes=2", "grid.seeds=[0,1]")
        wait_for(lambda: int(bed.facts(job)["Restarts"]) >= 1, "a restart", 300)
    facts = sweep.ended(job, timeout_s=540)
    assert facts["ExitCode"] == "0:0", sweep.logs()
    verified = sweep.usweep("verify", str(sweep.run_folder))  # every epoch once, and a sample again
    assert verified.stdout.endswith("verified\n"), verified.stdout


def test_a_lost_node_costs_its_own_units_only(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    job = sweep.submit()
    sweep.wait_for_units(1)
    bed.script("crash", "n3")
    try:
        facts = sweep.ended(job)
        assert (facts["Restarts"], facts["ExitCode"]) == ("0", "0:0"), sweep.logs()
        check(sweep, undisturbed)
    finally:
        power_up(bed, "n3")


def test_a_lost_head_is_made_good_by_the_queue(
    bed: Bed, sweep: SlurmSweep, undisturbed: dict[str, bytes]
) -> None:
    job = sweep.submit("cluster.nodes=2")
    sweep.wait_for_units(1)
    before = sweep.finished()
    head = bed.facts(job)["BatchHost"]
    bed.script("crash", head)
    try:
        facts = sweep.ended(job)
        assert (facts["Restarts"], facts["ExitCode"]) == ("1", "0:0"), sweep.logs()
        assert repeated(before, sweep) == []
        check(sweep, undisturbed)
    finally:
        power_up(bed, head)


def test_scancel_leaves_nothing_on_any_node_and_a_new_job_continues(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    job = sweep.submit()
    sweep.wait_for_units(2)
    before = sweep.finished()
    bed.run("scancel", job)
    assert sweep.ended(job)["JobState"] == "CANCELLED"
    for node in NODES:
        wait_until_empty(bed, node, 30)
    again = sweep.submit()
    assert again != job
    assert sweep.ended(again)["ExitCode"] == "0:0", sweep.logs()
    assert repeated(before, sweep) == []
    check(sweep, undisturbed)


def test_usweep_cancel_ends_the_job_with_its_own_exit_code(sweep: SlurmSweep) -> None:
    job = sweep.submit()
    sweep.wait_for_work(5)
    refused = sweep.usweep("submit", str(sweep.config), "--cluster", str(sweep.site),
                           "resources.grace_s=15")  # fmt: skip
    assert refused.returncode == 2 and job in refused.stderr
    assert job in sweep.usweep("cancel", str(sweep.run_folder)).stdout
    facts = sweep.ended(job)
    assert (facts["Restarts"], facts["ExitCode"]) == ("0", "130:0"), sweep.logs()


def test_an_array_of_workers_gives_the_same_tables(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    job = sweep.submit("cluster.mode=array")
    sweep.wait_for_units(1)
    bed.run("scancel", "--signal=USR2", f"{job}_1")  # as ahead of a preemption of one of them
    wait_for(lambda: "RUNNING" not in bed.run("squeue", "--noheader", "--format=%T", "-j", job))
    wait_for(lambda: not bed.run("squeue", "--noheader", "-j", job).strip(), "the array's end")
    check(sweep, undisturbed)
    assert len(sweep.units_by_host()) >= 2
    assert (sweep.run_folder / "report" / "table2.md").exists()


def test_a_sweep_grows_and_shrinks(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    more = "grid.seeds=[0,1,2]"
    job = sweep.submit("cluster.nodes=1", more)
    sweep.wait_for_work(5)
    assert sweep.usweep("grow", str(sweep.run_folder), "--nodes", "2").returncode == 0
    # SLURM may put one of them where the first is, if that has room.
    wait_for(lambda: len(sweep.units_by_host()) >= 2, "work on a new node")
    assert (
        "nodes: 2 joined; 3 now" in (sweep.run_folder / "cluster" / job / "command.log").read_text()
    )
    shrunk = sweep.usweep("shrink", str(sweep.run_folder))
    nodes = shrunk.stdout.split()[-1]
    assert sweep.ended(nodes)["ExitCode"] == "0:0", sweep.logs()
    assert sweep.ended(job)["ExitCode"] == "0:0", sweep.logs()
    assert len(sweep.finished()) == 3 * UNITS


def test_two_sweeps_on_the_same_nodes_do_not_meet(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    other = SlurmSweep(sweep.folder / "other", epochs=LONG, name="other", bed=bed)
    jobs = sweep.submit(), other.submit()
    for one, job in zip((sweep, other), jobs, strict=True):
        assert one.ended(job)["ExitCode"] == "0:0", one.logs()
        check(one, undisturbed)


def test_where_preempted_jobs_are_cancelled_the_watcher_submits_again(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "sweep", "submit", str(sweep.config)]
    command += ["--cluster", str(sweep.site), "--watch", "cluster.partition=cancel"]
    command += ["resources.gpus=0.5", "resources.grace_s=15", "cluster.requeues=0"]
    log = sweep.folder / "watch.log"
    with log.open("w") as file:
        watcher = subprocess.Popen(command, stdout=file, stderr=file, env=bed.environment)
    try:
        sweep.wait_for_units(1)
        job = log.read_text().split()[1].strip(",")
        # The watcher has to find the job gone: scancel is the same to it, and comes at once.
        bed.run("scancel", job)
        assert watcher.wait(240) == 0, log.read_text()
    finally:
        watcher.kill()
        watcher.wait()
    assert "submitted again as job" in log.read_text()
    check(sweep, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_seeded_preemptions_lose_and_repeat_nothing(
    sweep: SlurmSweep, bed: Bed, undisturbed: dict[str, bytes]
) -> None:
    import random

    rng, preemptions, number = random.Random(0), 0, 0
    while preemptions < 20:
        number += 1
        one = SlurmSweep(sweep.folder / str(number), epochs=LONG, name=f"s{number}", bed=bed)
        job = one.submit()
        for _ in range(5):
            logged = one.epochs_logged()
            moment = logged + rng.randint(1, 60)
            one.wait_while_queued_or_running(
                job, lambda one=one, n=moment: one.epochs_logged() >= n
            )
            if bed.facts(job)["JobState"] != "RUNNING":
                break
            before, began = one.finished(), time.monotonic()
            restarts = int(bed.facts(job)["Restarts"])
            bed.run("srun", "--partition=high", "--nodes=3", "--exclusive", "true")
            one.wait_while_queued_or_running(
                job, lambda job=job, n=restarts: int(bed.facts(job)["Restarts"]) > n
            )
            print(f"preemption {preemptions + 1}: {time.monotonic() - began:.1f} s", flush=True)
            preemptions += 1
            assert repeated(before, one) == []
        ended = one.ended(job)
        assert ended["ExitCode"] == "0:0", f"{ended}\n{bed.state()}\n{one.logs()}"
        check(one, undisturbed)
    print(f"{preemptions} preemptions in {number} sweeps")
