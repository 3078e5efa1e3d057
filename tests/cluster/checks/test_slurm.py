"""Each check of SLURM can fail; the answers that are changed here were those of a real one."""

from typing import Any

import pytest

from cluster.checks.check import Finding, run_checks
from cluster.checks.scontrol import Controller, count_gpus, first_number, minutes, parse_line
from cluster.checks.slurm import Slurm, outside_of_jobs, request
from cluster.settings import SlurmSettings


def settings(**changes: Any) -> SlurmSettings:
    fits: dict[str, Any] = {"partition": "low", "nodes": 2, "minutes": 60, "memory_gb": 5}
    return SlurmSettings(**fits | {"gpus_per_node": 2, "kill_wait_s": 5} | changes)


def found(asked: SlurmSettings | None) -> dict[str, Finding]:
    findings = run_checks([Slurm(asked).checks()])
    return {finding.name.removeprefix("SLURM: "): finding for finding in findings}


def test_a_request_that_fits(slurm: Any) -> None:
    findings = found(settings())
    assert {name: f.status for name, f in findings.items() if f.status != "ok"} == {}
    assert findings["commands"].seen.endswith("slurm-wlm 22.05.8")
    assert findings["nodes"].seen == "3 of 3 in low have what is asked for, 3 are up"


def test_without_settings_nothing_is_worse_than_a_warning(slurm: Any) -> None:
    assert {f.status for f in found(None).values()} == {"ok"}
    slurm.set_controller("DOWN")
    slurm.remove("sacct")
    assert {f.status for f in found(None).values()} == {"ok", "warning", "skipped"}


def test_a_missing_command(slurm: Any) -> None:
    slurm.remove("srun")
    finding = found(settings())["commands"]
    assert finding.status == "problem" and finding.seen == "not on the path: srun"


def test_a_controller_that_is_down_is_one_problem(slurm: Any) -> None:
    slurm.set_controller("DOWN")
    findings = found(settings())
    assert [name for name, f in findings.items() if f.status == "problem"] == ["controller"]
    assert findings["request"].seen == "the controller does not answer"


@pytest.mark.parametrize(
    ("old", "new", "asked", "seen"),
    [
        ("=low ", "=other ", {}, "no partition low"),
        ("Default=YES", "Default=NO", {"partition": None}, "no default partition"),
        ("State=UP", "State=DOWN", {}, "low is DOWN"),
        ("AllowAccounts=ALL", "AllowAccounts=a,b", {"account": "c"}, "does not let c in"),
        ("AllowQos=ALL", "AllowQos=long", {"qos": "short"}, "does not let short in"),
        ("MaxNodes=UNLIMITED", "MaxNodes=1", {}, "at most 1 nodes"),
    ],
)
def test_a_partition_that_does_not_take_the_job(
    slurm: Any, old: str, new: str, asked: dict[str, Any], seen: str
) -> None:
    slurm.change("partitions", old, new)
    finding = found(settings(**asked))["partition"]
    assert finding.status == "problem" and seen in finding.seen


def test_a_time_limit_above_the_partitions(slurm: Any) -> None:
    slurm.change("partitions", "MaxTime=UNLIMITED", "MaxTime=00:30:00")
    finding = found(settings())["time limit"]
    assert finding.status == "problem" and "would wait for ever" in finding.seen
    slurm.change("config", "EnforcePartLimits       = NO", "EnforcePartLimits = ALL")
    assert "sbatch refuses" in found(settings())["time limit"].seen


@pytest.mark.parametrize(("minutes", "status"), [(3, "problem"), (5, "warning"), (9, "ok")])
def test_the_warning_against_the_time_limit(slurm: Any, minutes: int, status: str) -> None:
    assert found(settings(minutes=minutes))["time limit"].status == status


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"gpus_per_node": 3}, "2 GPUs"),
        ({"cpus_per_node": 5}, "4 CPUs"),
        ({"memory_gb": 6}, "5.9 GB"),
        ({"constraint": "a100"}, "no feature a100"),
        ({"nodes": 4}, "4 needed"),
    ],
)
def test_nodes_that_have_too_little(slurm: Any, asked: dict[str, Any], reason: str) -> None:
    finding = found(settings(**asked))["nodes"]
    assert finding.status == "problem" and reason in finding.seen


@pytest.mark.parametrize("state", ["DOWN", "IDLE+DRAIN", "DOWN*+CLOUD", "IDLE*"])
def test_nodes_that_are_down(slurm: Any, state: str) -> None:
    slurm.change("nodes", "State=IDLE", f"State={state}")
    finding = found(settings())["nodes"]
    assert finding.status == "warning" and "0 are up" in finding.seen


def test_an_array_needs_one_node_at_a_time(slurm: Any) -> None:
    assert found(settings(mode="array", nodes=50))["nodes"].status == "warning"


def test_an_account_of_somebody_else(slurm: Any) -> None:
    assert found(settings(account="physics"))["account"].status == "ok"
    finding = found(settings(account="biology"))["account"]
    assert finding.status == "warning" and "has: physics" in finding.seen
    enforced = "AccountingStorageEnforce = associations,limits"
    slurm.change("config", "AccountingStorageEnforce = none", enforced)
    assert found(settings(account="biology"))["account"].status == "problem"


def test_a_job_that_sbatch_refuses(slurm: Any) -> None:
    slurm.fake("sbatch", "echo 'allocation failure: Invalid feature specification' >&2; exit 1")
    finding = found(settings(qos="long"))["request"]
    assert finding.status == "problem" and "Invalid feature specification" in finding.seen
    assert "--gpus-per-node=2" in finding.advice and "--qos=long" in finding.advice


def test_the_options_of_a_request() -> None:
    further = {"exclusive": "true", "comment": "x"}
    options = request(settings(mode="array", account="a", sbatch=further))
    assert {"--nodes=1", "--mem=5120M", "--account=a", "--exclusive", "--comment=x"} <= {*options}


def test_a_job_around_this_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "x")
    assert {n for n in outside_of_jobs() if n.startswith(("SLURM", "SBATCH"))} == {"SLURM_CONF"}


def test_less_time_after_sigterm_than_is_counted_on(slurm: Any) -> None:
    finding = found(settings(kill_wait_s=30))["KillWait"]
    assert finding.status == "warning" and finding.advice.startswith("set kill_wait_s: 5 ")


def test_jobs_that_are_not_requeued(slurm: Any) -> None:
    slurm.change("config", "JobRequeue              = 1", "JobRequeue = 0")
    assert found(settings())["requeue"].status == "warning"
    assert found(settings(sbatch={"requeue": "true"}))["requeue"].status == "ok"


@pytest.mark.parametrize(
    ("mode", "advice"),
    [("CANCEL", "usweep submit --watch"), ("SUSPEND,GANG", "take its units over")],
)
def test_preemption_that_does_not_requeue(slurm: Any, mode: str, advice: str) -> None:
    slurm.change("partitions", "PreemptMode=REQUEUE", f"PreemptMode={mode}")
    finding = found(settings())["preemption"]
    assert finding.status == "warning" and advice in finding.advice


def test_preemption_at_once_and_not_at_all(slurm: Any) -> None:
    slurm.change("partitions", "GraceTime=20", "GraceTime=0")
    assert "checkpoint_every_s" in found(settings())["preemption"].advice
    slurm.change("config", "= preempt/partition_prio", "= preempt/none")
    assert found(settings())["preemption"].seen == "no job is preempted"


def test_no_accounting(slurm: Any) -> None:
    slurm.fake("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    finding = found(settings())["job states"]
    assert finding.status == "warning" and "disabled" in finding.seen
    slurm.remove("sacct")
    finding = found(settings())["job states"]
    assert finding.status == "warning" and "UNKNOWN" in finding.advice


def test_processes_that_could_stay(slurm: Any) -> None:
    slurm.change("config", "proctrack/linuxproc", "proctrack/pgid")
    assert found(settings())["process tracking"].status == "warning"


def test_real_answers_are_read(slurm: Any) -> None:
    controller = Controller()
    assert controller.config["PreemptType"] == "preempt/partition_prio"
    assert controller.partitions["high"]["PreemptMode"] == "OFF"
    nodes = controller.nodes["low"]
    assert [(n.name, n.cpus, n.memory_mb, n.gpus, n.is_up) for n in nodes] == [
        (f"n{number}", 4, 6000, 2, True) for number in (1, 2, 3)
    ]


def test_values_of_slurm() -> None:
    assert (
        parse_line("A=1 Reason=not so good [root@x] B= C=x=y")["Reason"] == "not so good [root@x]"
    )
    gres = {"(null)": 0, "gpu:2": 2, "gpu": 1, "gpu:a100:4(S:0-1),gpu:v100:2,fs:1": 6}
    assert {text: count_gpus(text) for text in gres} == gres
    times = {"UNLIMITED": None, "00:30:00": 30, "2-12:00:00": 3600, "01:30": 1.5}
    assert {text: minutes(text) for text in times} == times
    assert (first_number("30 sec"), first_number("UNLIMITED")) == (30, None)
