"""The test bed is a SLURM whose nodes are apart where nodes are, and share what nodes share."""

import subprocess
import time
from pathlib import Path

import pytest
from bed import NODES, Bed

pytestmark = pytest.mark.slurm


def test_nodes_have_names_gpus_and_folders_of_their_own(bed: Bed) -> None:
    shared = bed.folder / "shared"
    code = f"hostname > /tmp/mine; cat /tmp/mine; echo gpus $CUDA_VISIBLE_DEVICES; ls {shared}"
    (shared / "seen").touch()
    printed = bed.run("srun", "--nodes=3", "--gpus-per-node=2", "sh", "-c", code)
    assert sorted(printed.split()) == sorted([*NODES, *["gpus", "0,1", "seen"] * 3])
    assert not Path("/tmp/mine").exists()


def test_a_preempted_job_is_warned_and_requeued(bed: Bed, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\nsrun bash -c \"trap 'echo warned >> {log}' USR2;"
        f' echo started >> {log}; for i in \\$(seq 400); do sleep 0.1; done"\n'
    )
    options = ["--parsable", "--nodes=3", "--exclusive", "--signal=USR2@30", "--output=/dev/null"]
    job = bed.run("sbatch", *options, "--requeue", str(script)).strip()
    wait_for(lambda: log.exists())
    bed.run("srun", "--partition=high", "--nodes=3", "--exclusive", "true")
    wait_for(lambda: bed.facts(job)["Restarts"] == "1")
    assert "warned" in log.read_text()
    bed.run("scancel", job)
    wait_for(lambda: bed.facts(job)["JobState"] == "CANCELLED")


def test_a_node_without_power_comes_back(bed: Bed) -> None:
    assert bed.script("crash", "n3").returncode == 0
    assert bed.script("exec", "n3", "true").returncode != 0
    assert bed.script("boot", "n3").returncode == 0
    assert bed.run("srun", "--nodelist=n3", "hostname").strip() == "n3"


def test_a_second_one_in_the_same_folder_is_refused(bed: Bed) -> None:
    refused = bed.script("up")
    assert refused.returncode == 1 and "down" in refused.stderr
    assert subprocess.run(["pgrep", "-x", "slurmctld"], capture_output=True).stdout


def wait_for(condition: object, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
