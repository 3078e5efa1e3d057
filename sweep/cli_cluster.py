"""The commands that have to do with clusters."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.slurm import SlurmJob
from sweep.cli_options import (
    Address,
    AsJson,
    Config,
    Cpus,
    Gpus,
    OptionalConfig,
    Plugin,
    Run,
    console,
    load,
    show,
    use_plugins,
)
from sweep.errors import SweepError
from sweep.exit_codes import EXIT_FAILED_UNITS, EXIT_INTERRUPTED, EXIT_NOT_READY

Site = Annotated[
    Path,
    typer.Option("--cluster", help="The site's file, such as configs/cluster/slurm.yaml."),
]


def doctor(
    arguments: OptionalConfig = None,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="A site's file: also check what it asks for.")
    ] = None,
    address: Address = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Check everything that usually goes wrong before a sweep, and say what to do.

    Exit code 0 if there is no problem (warnings allowed), 1 for problems, 2 for bad input.
    """
    from cluster.checks.check import Status
    from sweep.doctor import Subject, describe, examine
    from sweep.site import load_site

    ours, theirs = _apart(arguments or [])
    sweep = load(ours, plugin).sweep if ours else None
    settings = None if cluster is None else load_site(cluster, theirs)
    findings = examine(Subject(sweep, settings, address))
    show([finding.to_json() for finding in findings], as_json, lambda: describe(findings))
    if any(finding.status is Status.PROBLEM for finding in findings):
        raise typer.Exit(EXIT_NOT_READY)


def _apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments for the sweep, and overrides for the site's file without their prefix."""
    from sweep.site import PREFIX

    theirs = [word.removeprefix(PREFIX) for word in arguments if word.startswith(PREFIX)]
    return [word for word in arguments if not word.startswith(PREFIX)], theirs


def submit(
    arguments: Config,
    cluster: Site,
    plugin: Plugin = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for its end; submit it again if its job is lost.")
    ] = False,
    resubmit: Annotated[int, typer.Option(min=0, help="How often --watch submits it again.")] = 10,
) -> None:
    """Run a sweep on a cluster: as a job of SLURM, of Kubernetes, or of an existing Ray.

    Overrides such as cluster.nodes=4 are for the site's file. A job of SLURM continues by itself
    after preemptions and time limits; where it was lost, the same command again continues it.
    """
    from cluster.settings import SlurmSettings
    from sweep import submit as jobs
    from sweep import submit_ray
    from sweep.run import CLUSTER_FOLDER
    from sweep.site import load_site
    from unlearning.plugins import VARIABLE

    ours, theirs = _apart(arguments)
    config = load(ours, plugin)
    site = load_site(cluster, theirs)
    out, plugins = console(), os.environ.get(VARIABLE, "")
    if not isinstance(site, SlurmSettings):
        if watch:
            raise SweepError("--watch is for SLURM; elsewhere the cluster itself tries again")
        call = submit_ray.dry_run if dry_run else submit_ray.submit
        print(call(config, site, plugins).rstrip())
        return
    if dry_run:
        print(jobs.dry_run(config, site), end="")
        return
    job = jobs.submit(config, site, plugins)
    run_folder = config.sweep.run_folder
    logs = run_folder.resolve() / CLUSTER_FOLDER
    out.print(f"job {job.job_id}, {job.nodes} nodes; logs: {logs}")
    for follow in ("status --watch", "logs --follow", "cancel"):
        name, _, flag = follow.partition(" ")
        out.print(f"  usweep {name} {run_folder} {flag}".rstrip())
    if watch:

        def again() -> SlurmJob:
            return jobs.submit(config, site, plugins)

        raise typer.Exit(jobs.watch(run_folder, again, resubmit, out))


def work(
    run_folder: Run,
    plugin: Plugin = None,
    name: Annotated[
        str | None, typer.Option(help="Of this worker. [default: host and pid]")
    ] = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Help with a run, on a Ray of this machine's own; any number may, on any machines.

    Each unit is computed by one of them. Ends when the rest is with others. Exit codes as of run.
    """
    from sweep.config import load_config
    from sweep.report import write_report
    from sweep.run import CONFIG_FILE, RunOptions, run_sweep, worker_name
    from sweep.store import Store
    from unlearning.plugins import VARIABLE

    use_plugins(plugin)
    config = load_config([run_folder / CONFIG_FILE], [])
    options = RunOptions(
        num_cpus=cpus,
        num_gpus=gpus,
        worker=name or worker_name(),
        plugins=os.environ.get(VARIABLE, ""),
    )
    out = console()
    summary = run_sweep(config, options, out)
    if summary.is_complete:  # the last one has the last word
        write_report(summary.plan, Store(Path(config.sweep.output.store)), config.sweep.run_folder)
    done = f"{summary.counts['done']} of {len(summary.plan.units)} units done"
    out.print(f"{done}, {summary.num_computed} of them here")
    if summary.interrupted_by:
        raise typer.Exit(EXIT_INTERRUPTED)
    if summary.stopped_by or summary.counts["failed"]:
        raise typer.Exit(EXIT_FAILED_UNITS)


def grow(
    run_folder: Run,
    nodes: Annotated[int, typer.Option(min=1, help="How many to add.")] = 1,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="[default: as it was submitted]")
    ] = None,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[cluster.key=value...]")] = None,
) -> None:
    """Add nodes to a sweep that runs as a job of SLURM."""
    from sweep import submit as jobs

    ours, theirs = _apart(arguments or [])
    if ours:
        raise SweepError(f"{ours[0]!r} is no override for the site's file, cluster.key=value")
    job = jobs.grow(run_folder, nodes, cluster, theirs)
    console().print(f"job {job.job_id}, {job.nodes} nodes, joins as soon as SLURM starts it")


def shrink(run_folder: Run) -> None:
    """Ask nodes that were added with grow to leave; their units continue elsewhere."""
    from sweep import submit as jobs

    asked = jobs.shrink(run_folder)
    console().print(f"leaving: job {', '.join(asked)}" if asked else "no nodes were added")


def cancel(
    run_folder: Run,
    now: Annotated[
        bool, typer.Option("--now", help="Don't wait for units to reach a checkpoint.")
    ] = False,
) -> None:
    """End a sweep, wherever it runs; the same submit or run continues it."""
    from sweep import submit as jobs
    from sweep.overview import open_run
    from sweep.run import CLUSTER_FOLDER

    if not (run_folder / CLUSTER_FOLDER).exists():
        open_run(run_folder)  # refuses what is no run's folder
    ended = jobs.cancel(run_folder, now)
    what = f"ending: job {', '.join(ended)}" if ended else "asked whoever runs it to end"
    console().print(f"{what}; usweep status {run_folder} shows when it has")


def logs(
    run_folder: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing.")] = False,
    lines: Annotated[int, typer.Option(min=0, help="How many from the end.")] = 50,
) -> None:
    """Print what a sweep printed as a job of SLURM, and name its other logs."""
    from sweep import submit as jobs

    out = console()
    first, *others = jobs.log_files(run_folder)
    for path in others:
        out.print(f"see also {path}")
    out.print(f"{first}:")
    jobs.print_log(first, lines, lambda: follow, out)


COMMANDS = (doctor, submit, work, grow, shrink, cancel, logs)
