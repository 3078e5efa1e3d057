"""The command line. Heavy imports are inside the commands, so that `--help` answers at once."""

import atexit
import io
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweep import cli_cluster
from sweep.cli_options import (
    Address,
    AsJson,
    Config,
    Cpus,
    Gpus,
    Plugin,
    Run,
    console,
    load,
    show,
    use_plugins,
    wants_plain_text,
)
from sweep.exit_codes import (
    EXIT_BAD_INPUT,
    EXIT_FAILED_UNITS,
    EXIT_INTERRUPTED,
    EXIT_NOT_PUBLISHED,
    EXIT_NOT_TRACKED,
    EXIT_NOT_VERIFIED,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Sweeps of machine-unlearning experiments: data set x forget ratio x strategy x seed.",
)


@app.command()
def plan(arguments: Config, plugin: Plugin = None, as_json: AsJson = False) -> None:
    """Show the units of a sweep, what the store holds of them, and what sharing saves."""
    from sweep.overview import describe_plan, plan_overview
    from sweep.plan import make_plan
    from sweep.store import Store

    config = load(arguments, plugin)
    overview = plan_overview(make_plan(config), Store(Path(config.sweep.output.store)))
    show(overview, as_json, lambda: describe_plan(overview))


@app.command()
def run(
    arguments: Config,
    plugin: Plugin = None,
    address: Address = None,
    wait_nodes: Annotated[
        int, typer.Option(min=1, help="Nodes of an existing Ray to wait for, for up to 10 min.")
    ] = 1,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Compute what the store lacks of a sweep, and write its report.

    The same command again continues an interrupted sweep, and units under way from their last
    checkpoint. Exit code 0 only if every unit is done; 1 if units failed, have damaged records, or
    the store takes no more, 2 for bad input, 130 if a signal ended it.
    """
    from sweep.run import RunOptions, run_sweep
    from sweep.store import Store
    from unlearning.plugins import VARIABLE

    config = load(arguments, plugin)
    options = RunOptions(
        address, wait_nodes, num_cpus=cpus, num_gpus=gpus, plugins=os.environ.get(VARIABLE, "")
    )
    out = console()
    summary = run_sweep(config, options, out)
    sweep = config.sweep
    from sweep.report import write_report

    report = write_report(summary.plan, Store(Path(sweep.output.store)), sweep.run_folder)
    _print_end(out, summary, report)
    if summary.interrupted_by:
        raise typer.Exit(EXIT_INTERRUPTED)
    if summary.stopped_by or not summary.is_complete or report.units["damaged"]:
        raise typer.Exit(EXIT_FAILED_UNITS)


@app.command()
def status(
    run_folder: Run,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until the run ends, or Ctrl-C (exit code 130).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show units by kind and state, what runs now, failures with their causes, and the time left.

    --watch draws on the whole terminal and leaves the last state there. In a
    pipe or a file, with NO_COLOR or TERM=dumb, it prints a plain line every
    30 s and then the last state. Ctrl-C ends the watching alone, never the run.
    """
    from sweep.overview import describe_status, follow, run_status

    if watch and not as_json:
        try:
            follow(run_folder, console())
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        return
    current = run_status(run_folder)
    show(current.to_json(), as_json, lambda: describe_status(current))


@app.command()
def report(
    run_folder: Run,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Also publish it in Weights & Biases.")
    ] = False,
) -> None:
    """Write tables, claims and figures of a run, also of a partial one.

    With --wandb, the same command again renews what it published before. Without a key or a
    network it writes what would be published, which is no failure; exit code 1 if a server refuses.
    """
    from sweep.errors import one_line
    from sweep.overview import open_run
    from sweep.report import write_report

    plan, store = open_run(run_folder)
    summary = write_report(plan, store, run_folder)
    out = console()
    parts = ", ".join(f"{count} {state}" for state, count in summary.units.items() if count)
    out.print(one_line(f"{parts}; report: {summary.page}"))
    if wandb:
        from sweep.tracking.publish import publish_report

        published = publish_report(plan.name, summary, run_folder)
        for line in published.lines:
            out.print(one_line(line))
        if published.is_refused:
            raise typer.Exit(EXIT_NOT_PUBLISHED)


@app.command()
def track(
    run_folder: Run,
    follow: Annotated[
        bool, typer.Option("--follow", help="Also units under way, until the sweep ends.")
    ] = False,
) -> None:
    """Send a run's units to Weights & Biases, each row once, whatever was sent before.

    Works for sweeps that ran offline, and beside one whose own machines have no way out. Exit code
    0 if all finished units are there, 1 if not, 2 for bad input, 130 after Ctrl-C; the same command
    goes on where it was.
    """
    from sweep.tracking.command import track_run
    from sweep.tracking.status import describe

    out = console()
    try:
        status = track_run(run_folder, follow, out)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    out.print(describe(status, run_folder), soft_wrap=True)
    if status.confirmed < status.finished:
        raise typer.Exit(EXIT_NOT_TRACKED)


class Device(StrEnum):
    """Where `verify` can compute."""

    cpu = "cpu"
    cuda = "cuda"


@app.command()
def verify(
    run_folder: Run,
    sample: Annotated[int, typer.Option(min=0, help="Units to compute again; 0: none.")] = 2,
    everything: Annotated[bool, typer.Option("--all", help="Compute every unit again.")] = False,
    seed: Annotated[int, typer.Option(help="Of the draw of the sample.")] = 0,
    device: Annotated[
        Device | None, typer.Option(help="[default: where the unit was computed, or the CPU]")
    ] = None,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Move damaged units out of the next run's way.")
    ] = False,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Check a run's files, what its models were trained on, and that a sample repeats.

    Exit code 0 if nothing is wrong, 1 for problems, 2 for bad input.
    """
    from sweep.verify import Options, describe_verification, verify_run

    use_plugins(plugin)
    options = Options(None if everything else sample, seed, device, set_aside)
    out = Console(quiet=True) if as_json else console()
    result = verify_run(run_folder, options, out)
    show(result.to_json(), as_json, lambda: describe_verification(result))
    if result.problems:
        raise typer.Exit(EXIT_NOT_VERIFIED)


class Listing(StrEnum):
    """What `list` can list."""

    strategies = "strategies"
    datasets = "datasets"
    models = "models"
    metrics = "metrics"


@app.command(name="list")
def list_(what: Listing, plugin: Plugin = None, as_json: AsJson = False) -> None:
    """List what a configuration can name, plug-ins included."""
    from sweep.errors import one_line

    use_plugins(plugin)
    if what is Listing.strategies:
        from unlearning.contrast import known_strategies

        found = {name: entry.description for name, entry in known_strategies().items()}
    elif what is Listing.datasets:
        from unlearning.datasets import known_readers

        found = {name: entry.description for name, entry in known_readers().items()}
    elif what is Listing.models:
        from unlearning.models import MODEL_DESCRIPTIONS

        found = dict(MODEL_DESCRIPTIONS)
    else:
        from unlearning.evaluate import METRIC_DESCRIPTIONS

        found = dict(METRIC_DESCRIPTIONS)

    def table() -> Table:
        grid = Table.grid(padding=(0, 3))
        for name, description in found.items():
            grid.add_row(one_line(name), one_line(description))
        return grid

    show(found, as_json, table)


def _print_end(out: Console, summary: Any, report: Any) -> None:
    from sweep.errors import one_line
    from sweep.snapshot import duration

    counts = summary.counts
    done = f"{counts['done']} of {len(summary.plan.units)} units done"
    others = counts["done"] - summary.num_before - summary.num_computed
    before = f"{summary.num_before} before"
    before += f", {others} by another sweep meanwhile" if others > 0 else ""
    parts = [Text(f"{done} ({before})"), Text(duration(summary.elapsed_s))]
    parts += [
        Text(f"{counts[state]} {state}", "red") for state in ("failed", "blocked") if counts[state]
    ]
    if report.units["not_converged"]:
        parts.append(Text(f"{report.units['not_converged']} not converged at the cap of stage 1"))
    if report.units["damaged"]:
        words = f"{report.units['damaged']} with damaged records, named in the report"
        parts.append(Text(words, "red"))
    if summary.interrupted_by:
        parts.append(Text(f"ended by {summary.interrupted_by}; the same command continues"))
    if summary.stopped_by:
        stopped = Text("stopped", "red") + "; the same command continues once that is mended"
        parts.append(stopped)
    out.print(Text(", ").join(parts))
    if counts["failed"]:
        out.print(one_line(f"causes: usweep status {report.folder.parent}"))
    out.print(one_line(f"report: {report.page}"))


for command in cli_cluster.COMMANDS:
    app.command()(command)


def _set_up_console() -> None:
    """No character is an error, and typer's own texts obey NO_COLOR in full."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if wants_plain_text():
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None


def _silence_colorama() -> None:
    """Take back the escape code that Ray's colorama would end with, where none is wanted."""
    module: Any = sys.modules.get("colorama.initialise")
    if module is not None and wants_plain_text():
        atexit.unregister(module.reset_all)


def main() -> None:
    """Run the command line; errors made for people are printed as one line, with exit code 2."""
    from cluster.errors import ClusterError
    from sweep.errors import SweepError, one_line
    from sweep.files import keep_others_from_writing
    from sweep.secrets import redact_console
    from unlearning.errors import UnlearningError

    keep_others_from_writing()
    _set_up_console()
    redact_console()
    try:
        app()
    except (UnlearningError, SweepError, ClusterError, OSError) as error:
        message = Text.assemble(("error:", "red"), " ", one_line(str(error)))
        console(stderr=True).print(message, soft_wrap=True)
        sys.exit(EXIT_BAD_INPUT)
    finally:
        _silence_colorama()
