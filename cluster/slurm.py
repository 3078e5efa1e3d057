"""Jobs of SLURM: their batch script, their submission through submitit, their state."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.settings import SlurmSettings

JOBS_FILE = "jobs.jsonl"
PENDING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
LIVE = (*PENDING, "RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING")


@dataclass(frozen=True)
class SlurmJob:
    """A job of a run, as the run's folder remembers it."""

    job_id: str
    role: str  # sweep, nodes, or workers
    nodes: int
    submitted: str  # ISO 8601


def parameters(settings: SlurmSettings, name: str) -> dict[str, Any]:
    """What submitit is told, in its names for sbatch's options."""
    sbatch = {key: True if value == "true" else value for key, value in settings.sbatch.items()}
    always = {"requeue": True, "no-kill": True}  # a lost node costs its own units only
    named = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "gpus_per_node": settings.gpus_per_node or None,
    }
    return {
        "job_name": name,
        "time": settings.minutes,
        "nodes": settings.nodes if settings.mode == "allocation" else 1,
        "ntasks_per_node": 1,
        "cpus_per_task": settings.cpus_per_node,
        "mem": _memory(settings.memory_gb),
        "signal_delay_s": settings.signal_s,
        "setup": list(settings.setup) or None,
        # Since 22.05 srun doesn't take the processors of a task from sbatch by itself.
        "srun_args": [f"--cpus-per-task={settings.cpus_per_node}", "--no-kill"],
        "additional_parameters": always | sbatch,
    } | {key: value for key, value in named.items() if value is not None}


def _memory(gigabytes: float) -> str:
    """As submitit writes it."""
    is_whole = gigabytes == int(gigabytes)
    return f"{int(gigabytes)}GB" if is_whole else f"{int(gigabytes * 1024)}MB"


def batch_script(settings: SlurmSettings, name: str, folder: Path) -> str:
    """The text that sbatch is given; needs no SLURM."""
    from submitit.slurm.slurm import _make_sbatch_string

    job_folder = folder / "%j"
    command = f"{sys.executable} -u -m submitit.core._submit {job_folder}"
    told = parameters(settings, name)
    if settings.mode == "array":
        told["map_count"] = settings.nodes
    return _make_sbatch_string(command=command, folder=job_folder, **told)


def submit(job: Callable[[], Any], settings: SlurmSettings, name: str, folder: Path) -> str:
    """Put a job into the queue, or an array of as many as there are nodes; its id.

    Raises:
        ClusterError: there is no SLURM here, or it refuses; with its words.
    """
    import submitit

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ClusterError(
            "sbatch and srun are not here; submit from a login node of the cluster, or add "
            "--dry-run to see the batch script"
        )
    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.AutoExecutor(
        folder=folder / "%j", cluster="slurm", slurm_max_num_timeout=settings.requeues
    )
    told = parameters(settings, name)
    memory_gb = settings.memory_gb
    del told["mem"]
    executor.update_parameters(mem_gb=memory_gb, **{f"slurm_{k}": v for k, v in told.items()})
    try:
        if settings.mode == "array":
            with executor.batch():
                jobs = [executor.submit(job) for _ in range(settings.nodes)]
            return str(jobs[0].job_id).partition("_")[0]
        return str(executor.submit(job).job_id)
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        words = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise ClusterError(f"sbatch refused the job: {words[-1] if words else error}") from error


def remember(folder: Path, job_id: str, role: str, nodes: int) -> SlurmJob:
    """Write a job down in its run's folder."""
    job = SlurmJob(job_id, role, nodes, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / JOBS_FILE).open("a") as file:
        file.write(json.dumps(asdict(job)) + "\n")
    return job


def jobs_of(folder: Path) -> list[SlurmJob]:
    """All jobs that were ever submitted for a run, the oldest first."""
    try:
        lines = (folder / JOBS_FILE).read_text().splitlines()
        return [SlurmJob(**json.loads(line)) for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"{folder / JOBS_FILE} cannot be read: {error}") from error


def states(job_ids: Iterable[str]) -> dict[str, str]:
    """SLURM's word for the state of each job in its queue; one that is not there has ended.

    An array is in the state of its liveliest task.

    Raises:
        ClusterError: SLURM does not answer.
    """
    wanted = set(job_ids)
    found: dict[str, str] = {}
    if not wanted:
        return found
    # All of the user's jobs: squeue refuses a list with an id that it has forgotten.
    for line in _ask(
        ["squeue", "--noheader", "--me", "--states=all", "--format=%A|%F|%T"]
    ).splitlines():
        job, array, state = (part.strip() for part in line.split("|"))
        for job_id in {job, array} & wanted:
            if found.get(job_id) != "RUNNING" and state in LIVE:
                found[job_id] = state
    return found


def live_jobs(folder: Path) -> list[tuple[SlurmJob, str]]:
    """Jobs of a run that are in the queue, with their states."""
    jobs = jobs_of(folder)
    if not jobs or shutil.which("squeue") is None:
        return []
    known = states(job.job_id for job in jobs)
    return [(job, known[job.job_id]) for job in jobs if job.job_id in known]


def restarts(job_id: str) -> int:
    """How often SLURM has put a job back into its queue."""
    words = _ask(["scontrol", "--oneliner", "show", "job", job_id]).split()
    facts = dict(word.partition("=")[::2] for word in words)
    return int(facts.get("Restarts", "0"))


def requeue(job_id: str) -> None:
    """Put a running job back into the queue."""
    _ask(["scontrol", "requeue", job_id])


def cancel(job_id: str) -> None:
    """Take a job out of the queue, or end it."""
    _ask(["scancel", job_id])


def _ask(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60, env=environment
        ).stdout
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not here; run this on a login node") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"SLURM does not answer {command[0]} within 60 s") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().splitlines() or ["no reason given"]
        raise ClusterError(f"{command[0]}: {words[-1]}") from error
