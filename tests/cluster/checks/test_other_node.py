"""What another node sees; the node is a shell here, started by an srun of the test's own."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.checks import other_node
from cluster.checks.check import Finding, run_checks
from cluster.checks.filesystem import Place
from cluster.checks.other_node import OtherNode
from cluster.checks.scontrol import Controller
from cluster.settings import SlurmSettings

# Drops srun's options; names and clock are another machine's.
SRUN = """
while [ "${1#-}" != "$1" ]; do shift; done
uname() { echo n7; }
getent() { echo "ADDRESS $2"; }
date() { echo $(( $(/bin/date +%s) + AHEAD )); }
shift 2; script=$1; shift 2
eval "$script"
"""


def node(slurm: Any, address: str = "10.0.0.7", ahead: int = 0, before: str = "") -> None:
    script = SRUN.replace("ADDRESS", address).replace("AHEAD", str(ahead))
    slurm.fake("srun", before + script)


def found(folder: Path, **changes: Any) -> dict[str, Finding]:
    places = [Place("store", folder / "store"), Place("runs", folder)]
    settings = SlurmSettings(**{"partition": "low", "temporary": "/tmp"} | changes)
    findings = run_checks([OtherNode(settings, places, Controller()).checks()])
    assert not list(folder.glob(".usweep-doctor-*"))
    return {finding.name.removeprefix("node: "): finding for finding in findings}


def test_a_node_that_sees_all(slurm: Any, tmp_path: Path) -> None:
    node(slurm)
    findings = found(tmp_path)
    assert {f.status for f in findings.values()} == {"ok"}, findings
    assert findings["folders"].seen == "n7 reads and writes store, runs"


def test_a_job_for_all_questions(slurm: Any, tmp_path: Path) -> None:
    node(slurm, before=f'echo "$@" >>{tmp_path}/asked\n')
    found(tmp_path, account="physics", partition="high")
    asked = (tmp_path / "asked").read_text()
    assert asked.count("usweep-doctor ") == 1
    assert "--partition=high --account=physics -N1" in asked and "--immediate=30" in asked


def test_folders_that_are_this_machines_own(slurm: Any, tmp_path: Path) -> None:
    node(slurm, before="cat() { /bin/false; }\n")
    finding = found(tmp_path)["folders"]
    assert finding.status == "problem" and "does not see" in finding.seen


def test_what_a_node_writes_is_not_seen_here(
    slurm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_node, "_SEEN_WITHIN_S", 0.2)
    node(slurm)
    path = tmp_path / "bin" / "srun"
    path.write_text(path.read_text() + 'rm "$folder/answered"\n')
    finding = found(tmp_path)["folders"]
    assert finding.status == "problem" and "not seen here" in finding.seen


def test_a_nodes_clock_and_name(slurm: Any, tmp_path: Path) -> None:
    node(slurm, "127.0.1.1", ahead=300)
    findings = found(tmp_path)
    assert findings["clock"].status == "warning" and " s ahead of" in findings["clock"].seen
    assert findings["host name"].status == "problem"
    slurm.fake("srun", SRUN.replace('echo "ADDRESS $2"', ":").replace("AHEAD", "0"))
    assert "its own address" in found(tmp_path)["host name"].seen


def test_a_nodes_temporary_folder(slurm: Any, tmp_path: Path) -> None:
    node(slurm)
    finding = found(tmp_path, temporary=str(tmp_path / "gone"))["temporary"]
    assert finding.status == "problem" and "cannot be written" in finding.seen


def test_no_other_node_than_this(slurm: Any, tmp_path: Path) -> None:
    node(slurm)
    path = tmp_path / "bin" / "srun"
    path.write_text(path.read_text().replace("echo n7", f"echo {socket.gethostname()}"))
    assert found(tmp_path)["folders"].status == "warning"


BUSY = "echo 'srun: error: Unable to allocate resources: Requested nodes are busy' >&2; exit 1"
REFUSED = "echo 'srun: error: Invalid account' >&2; exit 1"


@pytest.mark.parametrize(
    ("script", "seen"),
    [(BUSY, "no node was free within 30 s"), (REFUSED, "Invalid account")],
)
def test_no_node_that_can_be_asked(slurm: Any, tmp_path: Path, script: str, seen: str) -> None:
    slurm.fake("srun", script)
    for finding in found(tmp_path).values():
        assert finding.status == "skipped" and seen in finding.seen


def test_an_srun_that_never_ends(
    slurm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_node, "WAIT_S", 0.5)
    monkeypatch.setattr(other_node, "_JOB_S", 0)
    slurm.fake("srun", f"echo $$ >{tmp_path}/pid; exec sleep 60")
    assert {f.status for f in found(tmp_path).values()} == {"skipped"}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_without_srun_or_a_controller(slurm: Any, tmp_path: Path) -> None:
    slurm.set_controller("DOWN")
    assert found(tmp_path)["clock"].seen == "the controller does not answer"
    slurm.remove("srun")
    assert found(tmp_path)["clock"].seen == "srun is not installed"
