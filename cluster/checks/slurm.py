"""SLURM: is it there, would it take the job, and what does it do to a job that runs."""

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from cluster.checks.check import Check, Result, Skip, Status, ok, problem, warning
from cluster.checks.command import ask, is_installed
from cluster.checks.scontrol import Controller, Fields, Node, first_number, minutes
from cluster.settings import SlurmSettings

COMMANDS = ("sbatch", "srun", "squeue", "scontrol")
_ANSWER_S = 10.0
_EARLY_S = 60  # SLURM may send its warning by so much earlier than it was asked to


def is_slurm_here() -> bool:
    """Whether this machine can submit jobs."""
    return is_installed("sbatch")


def outside_of_jobs() -> dict[str, str]:
    """The environment without the job that this process may be in, whose options would count."""
    drop = ("SLURM_", "SBATCH_", "SRUN_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    conf = os.environ.get("SLURM_CONF")
    return kept | ({"SLURM_CONF": conf} if conf else {})


def request(settings: SlurmSettings, nodes: int | None = None) -> list[str]:
    """Options of sbatch for what the settings ask of each job."""
    nodes = nodes or (settings.nodes if settings.mode == "allocation" else 1)
    options = {
        "nodes": nodes,
        "ntasks-per-node": 1,
        "time": settings.minutes,
        "cpus-per-task": settings.cpus_per_node,
        "mem": f"{int(settings.memory_gb * 1024)}M",
        "gpus-per-node": settings.gpus_per_node or None,
        "signal": f"USR2@{settings.signal_s}",
    }
    given = {name: value for name, value in options.items() if value is not None}
    written = [f"--{name}={value}" for name, value in (given | where(settings)).items()]
    return written + [
        f"--{name}" if value == "true" else f"--{name}={value}"
        for name, value in settings.sbatch.items()
    ]


def where(settings: SlurmSettings) -> dict[str, str]:
    """Options that say on whose behalf a job runs and on which nodes it may."""
    names = ("partition", "account", "qos", "constraint")
    return {name: getattr(settings, name) for name in names if getattr(settings, name)}


@dataclass
class Slurm:
    """Checks that share the controller's answers; without settings the default partition's."""

    settings: SlurmSettings | None
    controller: Controller = field(default_factory=Controller)

    def checks(self) -> list[Check]:
        """All checks; those of a request only where there are settings."""
        looks = {
            "commands": self.check_commands,
            "controller": self.check_controller,
            "partition": self.check_partition,
        }
        if self.settings is not None:
            looks |= {
                "time limit": self.check_time,
                "nodes": self.check_nodes,
                "account": self.check_account,
                "request": self.check_request,
                "KillWait": self.check_kill_wait,
            }
        looks |= {
            "requeue": self.check_requeue,
            "preemption": self.check_preemption,
            "job states": self.check_accounting,
            "process tracking": self.check_tracking,
        }
        return [
            Check(f"SLURM: {what}", partial(self._weighed, look)) for what, look in looks.items()
        ]

    def _weighed(self, look: Callable[[], Result]) -> Result:
        """Where nobody asked for SLURM, what is wrong with it keeps no sweep from running."""
        result = look()
        if self.settings is None and result.status is Status.PROBLEM:
            return warning(result.seen, result.advice)
        return result

    def _asked(self) -> SlurmSettings:
        if self.settings is None:
            raise Skip("no --cluster file was given")
        return self.settings

    def _partition(self) -> Fields:
        return self.controller.partition(self.settings.partition if self.settings else None)

    def check_commands(self) -> Result:
        """What submitting needs is on the path."""
        missing = [name for name in COMMANDS if not is_installed(name)]
        if missing:
            advice = "log in to a machine that submits jobs, or load the site's SLURM module"
            return problem(f"not on the path: {', '.join(missing)}", advice)
        version = ask("scontrol", "--version", timeout_s=_ANSWER_S)
        return ok(", ".join(COMMANDS) + (f" of {version.out.strip()}" if version.is_good else ""))

    def check_controller(self) -> Result:
        """slurmctld answers."""
        is_up, said = self.controller.ping
        advice = "wait for it or tell the site; is SLURM_CONF right, and munged running here?"
        return ok(said) if is_up else problem(said, advice)

    def check_partition(self) -> Result:
        """It exists, is up, and lets this account and this number of nodes in."""
        wanted = self.settings.partition if self.settings else None
        known = self.controller.partitions
        try:
            partition = self._partition()
        except Skip as reason:
            advice = f"name one of {', '.join(sorted(known)) or 'none'} as partition"
            return problem(str(reason), advice)
        name = partition["PartitionName"]
        seen = f"{name}{'' if wanted else ' (the default)'} is {partition.get('State')}, "
        seen += f"{partition.get('TotalNodes')} nodes, at most {partition.get('MaxTime')}"
        if partition.get("State") != "UP":
            return problem(seen, "name another partition, or wait until the site opens it")
        return self._refused(partition) or ok(seen)

    def _refused(self, partition: Fields) -> Result | None:
        settings = self.settings
        if settings is None:
            return None
        name = partition["PartitionName"]
        for value, what in ((settings.account, "Accounts"), (settings.qos, "Qos")):
            allowed = partition.get(f"Allow{what}", "ALL")
            if value and allowed != "ALL" and value not in allowed.split(","):
                return problem(f"{name} does not let {value} in", f"name one of: {allowed}")
        most = first_number(partition.get("MaxNodes", ""))
        if settings.mode == "allocation" and most is not None and settings.nodes > most:
            return problem(f"{name} gives a job at most {most} nodes", f"set nodes: {most}")
        return None

    def check_time(self) -> Result:
        """The time limit is within the partition's, and leaves time after the warning signal."""
        settings, partition = self._asked(), self._partition()
        limit = minutes(partition.get("MaxTime", ""))
        seen = f"{settings.minutes} min, warned {settings.signal_s} s before the end"
        if limit is not None and settings.minutes > limit:
            enforced = self.controller.config.get("EnforcePartLimits", "NO") != "NO"
            then = "sbatch refuses the job" if enforced else "the job would wait for ever"
            seen = f"{settings.minutes} min, but the partition allows {limit:g}: {then}"
            return problem(seen, f"set minutes: {limit:g}; what is not done then is requeued")
        left = settings.minutes * 60 - settings.signal_s - _EARLY_S
        if left <= 0:
            advice = (
                f"set minutes above {(settings.signal_s + _EARLY_S) // 60 + 1}, or lower signal_s"
            )
            return problem(f"{seen}: no time to compute", advice)
        if left < settings.minutes * 30:
            return warning(f"{seen}: under half of it is left to compute", "raise minutes")
        return ok(seen)

    def check_nodes(self) -> Result:
        """Enough nodes of the partition have what is asked of each, and are up."""
        settings, partition = self._asked(), self._partition()
        name = partition["PartitionName"]
        nodes = self.controller.nodes.get(name, [])
        need = settings.nodes if settings.mode == "allocation" else 1
        lacks = {node.name: _lacking(node, settings) for node in nodes}
        fit = [node for node in nodes if not lacks[node.name]]
        up = [node for node in fit if node.is_up]
        seen = f"{len(fit)} of {len(nodes)} in {name} have what is asked for, {len(up)} are up"
        if len(fit) < need:
            reasons = sorted({reason for found in lacks.values() for reason in found})
            seen = f"{seen}; {need} needed; too little: {', '.join(reasons)}"
            return problem(seen, "ask for less of it, for fewer nodes, or name another partition")
        if len(up) < need:
            return warning(
                f"{seen}; {need} needed", "the job waits until nodes return: see sinfo -R"
            )
        if len(up) < settings.nodes:
            return warning(seen, f"of {settings.nodes} jobs so many run at a time")
        return ok(seen)

    def check_account(self) -> Result:
        """The accounting data base lets this user charge the account."""
        settings, config = self._asked(), self.controller.config
        if "slurmdbd" not in config.get("AccountingStorageType", ""):
            raise Skip("this SLURM keeps no accounts")
        if not is_installed("sacctmgr"):
            raise Skip("sacctmgr is not installed")
        user = _user_name()
        query = ("show", "assoc", f"user={user}", "format=account")
        answer = ask("sacctmgr", "-n", "-P", *query, timeout_s=_ANSWER_S)
        if not answer.is_good:
            raise Skip(answer.complaint)
        accounts = sorted({line.strip() for line in answer.out.splitlines() if line.strip()})
        known = ", ".join(accounts) or "none"
        enforced = "assoc" in config.get("AccountingStorageEnforce", "") or any(
            word in config.get("AccountingStorageEnforce", "") for word in ("limits", "qos", "all")
        )
        finding = problem if enforced else warning
        if settings.account and settings.account not in accounts:
            seen = f"{user} has no account {settings.account} (has: {known})"
            return finding(seen, "name one of these as account")
        if not accounts:
            return finding(f"{user} has no account", "ask the site for one")
        return ok(settings.account or f"{user} has: {known}")

    def check_request(self) -> Result:
        """SLURM itself says that it would take the job, without taking it."""
        settings = self._asked()
        if not self.controller.ping[0]:
            raise Skip("the controller does not answer")
        command = ["sbatch", "--test-only", *request(settings), "--wrap=true"]
        answer = ask(*command, timeout_s=_ANSWER_S, environment=outside_of_jobs())
        said = [line.removeprefix("sbatch: ") for line in answer.err.splitlines() if line.strip()]
        if answer.is_good:
            return ok(said[-1] if said else "sbatch --test-only accepts it")
        if answer.code is None:
            return warning("sbatch --test-only: no answer in time", "try again later")
        seen = "; ".join(said) or answer.complaint
        return problem(f"sbatch refuses it: {seen}", f"asked: {' '.join(command[2:-1])}")

    def check_kill_wait(self) -> Result:
        """The settings do not count on more time after SIGTERM than SLURM gives."""
        settings = self._asked()
        given = first_number(self.controller.config.get("KillWait", ""))
        if given is None:
            raise Skip("scontrol show config has no KillWait")
        seen = f"SLURM gives {given} s after SIGTERM, kill_wait_s is {settings.kill_wait_s}"
        if given < settings.kill_wait_s:
            advice = f"set kill_wait_s: {max(5, given)} in the cluster file"
            return (warning if given >= 5 else problem)(seen, advice)
        return ok(seen)

    def check_requeue(self) -> Result:
        """A job can go back into the queue after its time limit, a preemption or a node's loss."""
        if self.controller.config.get("JobRequeue") == "1":
            return ok("jobs may be requeued (JobRequeue=1)")
        if self.settings is not None and "requeue" in self.settings.sbatch:
            return ok("this job may be requeued, others not (JobRequeue=0)")
        advice = 'add sbatch: {requeue: "true"} to the cluster file; else a job ends for good'
        return warning("jobs are not requeued unless they ask for it (JobRequeue=0)", advice)

    def check_preemption(self) -> Result:
        """What happens to the job when one of higher priority wants its nodes."""
        kind = self.controller.config.get("PreemptType", "(null)")
        if kind in ("preempt/none", "(null)"):
            return ok("no job is preempted")
        partition = self._partition()
        mode, grace = partition.get("PreemptMode", "OFF"), partition.get("GraceTime", "0")
        seen = f"{partition['PartitionName']}: PreemptMode={mode}, GraceTime={grace} s ({kind})"
        if "CANCEL" in mode:
            advice = "a preempted job is cancelled: `usweep submit --watch` submits it again"
            return warning(seen, advice)
        if "SUSPEND" in mode:
            advice = "a suspended job seems dead to other sweeps, which take its units over"
            return warning(seen, advice)
        if "REQUEUE" in mode and (first_number(grace) or 0) == 0:
            return warning(seen, "killed at once: lower output.checkpoint_every_s to lose less")
        return ok(seen)

    def check_accounting(self) -> Result:
        """sacct answers; only submitit needs it."""
        advice = "submitit's job states stay UNKNOWN; usweep itself uses squeue and scontrol"
        if not is_installed("sacct"):
            return warning("sacct is not installed", advice)
        answer = ask("sacct", "-n", "-X", "-P", "-o", "JobID", timeout_s=_ANSWER_S)
        return ok("sacct answers") if answer.is_good else warning(answer.complaint, advice)

    def check_tracking(self) -> Result:
        """How SLURM finds a job's processes when it ends the job."""
        kind = self.controller.config.get("ProctrackType", "unknown")
        if kind == "proctrack/cgroup":
            return ok(f"{kind}: signals go to each task's own process, nothing outlives the job")
        if kind == "proctrack/linuxproc":
            return ok(f"{kind}: signals go to all processes of a task")
        advice = "after `scancel` look for processes that are left on the nodes"
        return warning(f"{kind}: what leaves its process group can outlive the job", advice)


def _lacking(node: Node, settings: SlurmSettings) -> list[str]:
    """What of the settings a node does not have."""
    lacks = []
    if node.cpus < settings.cpus_per_node:
        lacks.append(f"{node.cpus} CPUs")
    if node.memory_mb < settings.memory_gb * 1024:
        lacks.append(f"{node.memory_mb / 1024:.1f} GB")
    if node.gpus < settings.gpus_per_node:
        lacks.append(f"{node.gpus} GPUs")
    feature = settings.constraint or ""
    # An expression of several features is left to sbatch.
    if feature and not set(feature) & set("&|[]()*!") and feature not in node.features:
        lacks.append(f"no feature {feature}")
    return lacks


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
