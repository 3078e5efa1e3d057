"""What SLURM is asked, and how its answers are read; commands in its place write down their words.

A real SLURM: tests/slurm.
"""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import slurm
from cluster.allocation import Allocation
from cluster.errors import ClusterError
from cluster.settings import SlurmSettings

GOLDEN = Path(__file__).parent / "golden"
PLAIN = SlurmSettings()
FULL = SlurmSettings(
    nodes=4,
    minutes=1440,
    partition="gpu",
    account="lab",
    qos="long",
    constraint="a100",
    cpus_per_node=32,
    gpus_per_node=4,
    memory_gb=256.5,
    sbatch={"exclusive": "true", "mail-type": "END"},
    setup=["module load cuda", "export TMPDIR=/scratch"],
    signal_s=300,
)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, for commands in the place of SLURM's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("plain", PLAIN), ("full", FULL), ("array", replace(FULL, mode="array"))],
)
def test_the_batch_script_is_the_golden_one(name: str, settings: SlurmSettings) -> None:
    text = slurm.batch_script(settings, "paper", Path("/shared/runs/paper/cluster"))
    text = text.replace(sys.executable, "PYTHON")
    assert text == (GOLDEN / f"{name}.sbatch").read_text()


def test_what_is_submitted_is_what_the_dry_run_shows(commands: Path, tmp_path: Path) -> None:
    write(commands, "srun", "")
    write(commands, "sbatch", f'cp "$1" {tmp_path}/script; echo Submitted batch job 42')
    folder = tmp_path / "run" / "cluster"
    assert slurm.submit(Allocation(str(folder)), FULL, "paper", folder) == "42"
    assert (tmp_path / "script").read_text() == slurm.batch_script(FULL, "paper", folder)


def test_an_array_is_one_job(commands: Path, tmp_path: Path) -> None:
    write(commands, "srun", "")
    write(commands, "sbatch", f'cp "$1" {tmp_path}/script; echo Submitted batch job 42')
    folder, settings = tmp_path / "cluster", replace(FULL, mode="array", nodes=3)
    assert slurm.submit(Allocation(str(folder)), settings, "paper", folder) == "42"
    assert (tmp_path / "script").read_text() == slurm.batch_script(settings, "paper", folder)
    assert len(list(folder.glob("42_*/*_submitted.pkl"))) == 3


def test_a_refusal_is_said_in_slurms_words(commands: Path, tmp_path: Path) -> None:
    write(commands, "srun", "")
    write(commands, "sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(ClusterError, match="invalid partition specified: gpu"):
        slurm.submit(Allocation(str(tmp_path)), FULL, "paper", tmp_path)


def test_without_slurm_the_message_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"login node.*--dry-run"):
        slurm.submit(Allocation(str(tmp_path)), FULL, "paper", tmp_path)
    assert slurm.live_jobs(tmp_path) == []


def test_states_are_those_of_the_queue_and_an_array_is_as_lively_as_its_tasks(
    commands: Path,
) -> None:
    lines = ["7|7|RUNNING", "8|8|COMPLETED", "90|9|PENDING", "91|9|RUNNING", "92|9|PENDING"]
    write(commands, "squeue", "printf '" + "\\n".join(lines) + "\\n'")
    assert slurm.states(["7", "8", "9", "10"]) == {"7": "RUNNING", "9": "RUNNING"}


def test_jobs_are_remembered_in_the_runs_folder(tmp_path: Path) -> None:
    assert slurm.jobs_of(tmp_path) == []
    first = slurm.remember(tmp_path, "7", "sweep", 3)
    second = slurm.remember(tmp_path, "8", "nodes", 1)
    assert slurm.jobs_of(tmp_path) == [first, second]
    (tmp_path / slurm.JOBS_FILE).write_text("{")
    with pytest.raises(ClusterError, match=re.escape(slurm.JOBS_FILE)):
        slurm.jobs_of(tmp_path)


def test_restarts_are_counted_by_slurm(commands: Path) -> None:
    write(commands, "scontrol", "echo JobId=7 JobName=a Restarts=3 BatchFlag=1")
    assert slurm.restarts("7") == 3


def test_a_slurm_that_refuses_an_answer_is_an_error_of_one_line(commands: Path) -> None:
    write(commands, "scancel", "echo first >&2; echo 'Invalid job id specified' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"^scancel: Invalid job id specified$"):
        slurm.cancel("7")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "both"),
        ("nodes", 0),
        ("minutes", 0),
        ("gpus_per_node", -1),
        ("memory_gb", 0.0),
        ("signal_s", 29),
        ("kill_wait_s", 4),
        ("requeues", -1),
    ],
)
def test_impossible_settings_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ClusterError, match=rf"{name} is .*allowed"):
        replace(PLAIN, **{name: value})  # type: ignore[arg-type]
