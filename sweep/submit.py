"""A sweep as jobs of SLURM: submitted, watched, grown, shrunk and cancelled from a login node.

All of it goes through files in the run's folder, which every node sees:

    <run>/cluster/site.yaml      the settings it was submitted with
    <run>/cluster/jobs.jsonl     its jobs
    <run>/cluster/head.json      where its Ray is now
    <run>/cluster/<job>/         batch script, logs; `leave` asks its nodes to leave
    <run>/workers/<name>/        progress of one task of an array
    <run>/cancel                 asks whoever computes it to end
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from cluster import meeting, slurm
from cluster.allocation import MARGIN_S, Allocation
from cluster.errors import ClusterError
from cluster.settings import SlurmSettings
from sweep.config import ResolvedConfig
from sweep.errors import SweepError
from sweep.exit_codes import EXIT_FAILED_UNITS, EXIT_INTERRUPTED
from sweep.failures import clear_failures
from sweep.files import write_atomically
from sweep.overview import run_status
from sweep.run import CANCEL_FILE, CONFIG_FILE
from sweep.run import CLUSTER_FOLDER as FOLDER
from sweep.site import load_site

SITE_FILE = "site.yaml"
WATCH_EVERY_S = 10.0
_MISSING_LOOKS = 3  # a job between two states may be missing from the queue for a moment


def check(config: ResolvedConfig, site: SlurmSettings) -> None:
    """Refuse settings that cannot work together.

    Raises:
        SweepError: says which, and what to do.
    """
    grace_s = config.sweep.resources.grace_s
    if grace_s + MARGIN_S > site.signal_s:
        raise SweepError(
            f"resources.grace_s is {grace_s:g} s, but SLURM warns the job only {site.signal_s} s "
            f"ahead, of which {MARGIN_S} s are needed to stop Ray; raise signal_s in the site's "
            "file, or lower resources.grace_s"
        )


def command_of(run_folder: Path, site: SlurmSettings, plugins: str) -> list[str]:
    """What runs on the first node of an allocation, or as each task of an array."""
    python = [sys.executable, "-m", "sweep"]
    named = [f"--plugin={plugin}" for plugin in plugins.split(os.pathsep) if plugin]
    if site.mode == "array":
        return [*python, "work", str(run_folder), *named]
    return [*python, "run", str(run_folder / CONFIG_FILE), *named]


def dry_run(config: ResolvedConfig, site: SlurmSettings) -> str:
    """The batch script that `submit` would hand in."""
    check(config, site)
    folder = config.sweep.run_folder.resolve() / FOLDER
    return slurm.batch_script(site, config.sweep.name, folder)


def submit(config: ResolvedConfig, site: SlurmSettings, plugins: str) -> slurm.SlurmJob:
    """Put a sweep into SLURM's queue.

    Raises:
        SweepError: it is in the queue already, or running elsewhere.
        ClusterError: SLURM is not here, or refuses.
    """
    check(config, site)
    run_folder = config.sweep.run_folder.resolve()
    folder = run_folder / FOLDER
    live = [job.job_id for job, _ in slurm.live_jobs(folder) if job.role != "nodes"]
    if live:
        raise SweepError(
            f"{config.sweep.name} is in the queue already, as job {', '.join(live)}; see usweep "
            f"status {run_folder}, or end it with usweep cancel {run_folder}"
        )
    write_atomically(run_folder / CONFIG_FILE, config.to_yaml())
    write_atomically(folder / SITE_FILE, OmegaConf.to_yaml(OmegaConf.create(asdict(site))))
    (run_folder / CANCEL_FILE).unlink(missing_ok=True)
    clear_failures(run_folder)
    (folder / meeting.FILE).unlink(missing_ok=True)  # of an earlier job, which has ended
    role = "sweep" if site.mode == "allocation" else "workers"
    return _submit(run_folder, site, command_of(run_folder, site, plugins), config.sweep.name, role)


def _submit(
    run_folder: Path, site: SlurmSettings, command: list[str], name: str, role: str
) -> slurm.SlurmJob:
    folder = run_folder / FOLDER
    job = Allocation(
        folder=str(folder),
        command=command,
        has_ray=site.mode == "allocation",
        resume_codes=(EXIT_INTERRUPTED,),
        signal_s=site.signal_s,
        kill_wait_s=site.kill_wait_s,
        temporary=site.temporary,
    )
    job_id = slurm.submit(job, site, name, folder)
    return slurm.remember(folder, job_id, role, site.nodes)


def grow(
    run_folder: Path, nodes: int, site_file: Path | None, overrides: list[str]
) -> slurm.SlurmJob:
    """Add nodes to a sweep that is in the queue or running.

    Raises:
        SweepError: it is not.
        ClusterError, ConfigError: as for `submit`.
    """
    run_folder = run_folder.resolve()
    folder = run_folder / FOLDER
    if not any(job.role != "nodes" for job, _ in slurm.live_jobs(folder)):
        raise SweepError(
            f"no job of {run_folder.name} is in the queue; start it with usweep submit"
        )
    site = load_site(site_file or folder / SITE_FILE, overrides)
    site = replace(site, nodes=nodes)
    if site.mode == "array":
        return _submit(
            run_folder, site, command_of(run_folder, site, ""), run_folder.name, "workers"
        )
    return _submit(run_folder, site, [], f"{run_folder.name}-nodes", "nodes")


def shrink(run_folder: Path) -> list[str]:
    """Ask all nodes that were added to leave; their units stop at a checkpoint and go elsewhere.

    Returns:
        ids of their jobs.
    """
    folder = run_folder.resolve() / FOLDER
    asked = []
    for job, state in slurm.live_jobs(folder):
        if job.role == "nodes":
            if state in slurm.PENDING:
                slurm.cancel(job.job_id)
            else:
                (folder / job.job_id).mkdir(exist_ok=True)
                (folder / job.job_id / "leave").touch()
            asked.append(job.job_id)
    return asked


def cancel(run_folder: Path, now: bool) -> list[str]:
    """End a sweep, wherever it runs; what is finished is kept, and units leave checkpoints.

    Args:
        now: don't wait for them.

    Returns:
        ids of its jobs; empty if it is not in a queue.
    """
    run_folder = run_folder.resolve()
    (run_folder / CANCEL_FILE).touch()
    ended = []
    for job, state in slurm.live_jobs(run_folder / FOLDER):
        if now or state in slurm.PENDING:
            slurm.cancel(job.job_id)
        ended.append(job.job_id)
    return ended


def log_files(run_folder: Path) -> list[Path]:
    """Logs of a run's last job, what the sweep itself printed first.

    Raises:
        SweepError: there are none.
    """
    folder = run_folder.resolve() / FOLDER
    jobs = [job for job in slurm.jobs_of(folder) if job.role != "nodes"]
    if not jobs:
        raise SweepError(f"{run_folder} has no job; `usweep submit` makes one")
    last = jobs[-1].job_id
    found = [path for place in folder.glob(f"{last}*") for path in place.iterdir()]
    logs = [path for path in found if path.suffix in (".log", ".out", ".err")]
    if not logs:
        raise SweepError(f"job {last} has printed nothing yet; see squeue --job {last}")
    return sorted(logs, key=lambda path: (not path.name.startswith("command"), str(path)))


def print_log(path: Path, lines: int, follow: Callable[[], bool], console: Console) -> None:
    """Print the end of a log, and what is added to it while `follow` says so."""
    with path.open(errors="replace") as file:
        for line in deque(file, lines):
            console.print(line.rstrip("\n"))
        while follow():
            added = file.read()
            if added:
                console.print(added.rstrip("\n"))
            time.sleep(1)


def watch(
    run_folder: Path,
    resubmit: Callable[[], slurm.SlurmJob],
    limit: int,
    console: Console,
    every_s: float = WATCH_EVERY_S,
) -> int:
    """Wait for a sweep to end, and put it into the queue again if its job was lost.

    Returns:
        the exit code that the sweep itself would have had.

    Raises:
        ClusterError: it was lost more often than `limit`.
    """
    run_folder = run_folder.resolve()
    resubmissions = missing = 0
    said = ""
    while True:
        live = [(j, s) for j, s in slurm.live_jobs(run_folder / FOLDER) if j.role != "nodes"]
        missing = 0 if live else missing + 1
        line = ", ".join(f"job {job.job_id}: {state.lower()}" for job, state in live)
        line = f"{line or 'no job in the queue'}; {_progress(run_folder)}"
        if line != said:
            console.print(line)
            said = line
        if missing >= _MISSING_LOOKS:
            code = _ended(run_folder)
            if code is not None:
                return code
            if resubmissions == limit:
                raise ClusterError(
                    f"the job was lost {resubmissions + 1} times; look at usweep logs {run_folder}"
                )
            resubmissions += 1
            job = resubmit()
            console.print(f"its job was lost: submitted again as job {job.job_id}")
            missing = 0
        time.sleep(every_s)


def _progress(run_folder: Path) -> str:
    try:
        units: dict[str, Any] = run_status(run_folder).snapshot.units
    except Exception:  # planned by the job itself, which may not have begun
        return "nothing planned yet"
    total = sum(sum(states.values()) for states in units.values())
    return f"{sum(states['done'] for states in units.values())}/{total} units done"


def _ended(run_folder: Path) -> int | None:
    """The exit code of a sweep that has come to its end; None if it was lost."""
    if (run_folder / CANCEL_FILE).exists():
        return EXIT_INTERRUPTED
    try:
        status = run_status(run_folder)
    except Exception:
        return None
    units = status.snapshot.units
    if all(states["waiting"] == 0 for states in units.values()):
        return EXIT_FAILED_UNITS if status.failures else 0
    return None
