"""`usweep run`: prepare, plan, compute what the store lacks, report."""

import json
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from rich.console import Console

from cluster.local import ray_cluster, temporary_folder
from sweep.config import ResolvedConfig
from sweep.errors import SweepError
from sweep.failures import clear_failures
from sweep.files import write_atomically
from sweep.frontier import Frontier
from sweep.lanes import DEPTH, Lanes, num_lanes
from sweep.plan import Plan, make_plan
from sweep.progress import FILE as PROGRESS_FILE
from sweep.progress import Progress
from sweep.provenance import Provenance
from sweep.store import Store
from sweep.trainable import TrialConfig, bundle, run_trial_in_worker
from sweep.worker import RunContext
from unlearning.datasets import find_prepared, prepare

END_WITHIN_S = 10  # how long an interrupted sweep waits for units that are being computed
CONFIG_FILE, PLAN_FILE = "config.yaml", "plan.json"


@dataclass
class Interruption:
    """Whether the user or the system asked the sweep to end."""

    signal_name: str | None = None


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    plan: Plan
    counts: dict[str, int]  # units by state
    num_before: int  # units that the store held already
    elapsed_s: float
    interrupted_by: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every unit is in the store."""
        return self.counts["done"] == len(self.plan.units)


@dataclass(frozen=True)
class RunOptions:
    """How, not what, to compute."""

    address: str | None = None  # of an existing Ray; None starts one here
    num_cpus: int | None = None  # for a Ray started here; None: all that may be used
    num_gpus: int | None = None
    plugins: str = ""
    compute: Callable[[RunContext, str], str] | None = None  # None: the real thing


def run_sweep(config: ResolvedConfig, options: RunOptions, console: Console) -> RunSummary:
    """Compute every unit that the store lacks; the same call again continues where it ended.

    Raises:
        ConfigError, DatasetError, SweepError: before anything is computed.
    """
    began = time.monotonic()
    sweep = config.sweep
    _refuse_second_driver(sweep.run_folder)
    store = Store(Path(sweep.output.store))
    store.open_for_writing()
    folders = prepare_datasets(config, console)
    plan = make_plan(config)
    write_run_folder(config, plan)
    done = [unit.key for unit in plan.units.values() if store.has(unit.kind, unit.key)]
    frontier = Frontier(plan, done)
    progress = Progress(plan, done, sweep.run_folder, console)
    console.print(
        f"{sweep.name}: {len(plan.units)} units, {len(done)} of them already in {store.root}"
    )
    interruption = Interruption()
    if not frontier.is_exhausted:
        with ray_cluster(options.address, options.num_cpus, options.num_gpus) as resources:
            console.print(_describe(resources))
            num_gpus = resources.get("GPU", 0)
            context = RunContext(
                plan=plan,
                store_root=store.root.resolve(),
                prepared_folders=folders,
                keep_models=tuple(sweep.output.keep_models),
                provenance=Provenance.of_this_code(),
                gpus={n: sweep.resources.of(n).gpus if num_gpus else 0.0 for n in plan.datasets},
                plugins=options.plugins,
                compute=options.compute,
            )
            with progress, _ending_on_signals(interruption, console):
                _tune(context, config, frontier, progress)
    store.remove_abandoned()
    counts = {state: progress.count(state) for state in ("failed", "blocked")}
    counts["not_converged"] = progress.not_converged
    # Asked of the store: a unit may have been published while the sweep was being ended.
    counts["done"] = sum(store.has(unit.kind, unit.key) for unit in plan.units.values())
    elapsed_s = time.monotonic() - began
    return RunSummary(plan, counts, len(done), elapsed_s, interruption.signal_name)


def prepare_datasets(config: ResolvedConfig, console: Console) -> dict[str, Path]:
    """Prepare every data set that is not yet, and return the folders by data set.

    Raises:
        DatasetError: files are missing or damaged.
    """
    folders = {}
    data = config.sweep.data
    for name, settings in config.trials.items():
        with console.status(f"preparing {name}"):
            roots = Path(data.root), data.prepared_root
            prepare(settings.source, *roots, download=data.download)
            facts = find_prepared(settings.source, *roots)
        assert facts is not None
        folders[name] = facts.folder.resolve()
    return folders


def write_run_folder(config: ResolvedConfig, plan: Plan) -> None:
    """Write the resolved configuration and the plan, and forget earlier failures.

    Raises:
        SweepError: the folder cannot be written.
    """
    folder = config.sweep.run_folder
    try:
        write_atomically(folder / CONFIG_FILE, config.to_yaml())
        plan.write(folder / PLAN_FILE)
        clear_failures(folder)
    except OSError as error:
        raise SweepError(
            f"{folder}: the run's folder cannot be written ({error.strerror}); set output.runs"
        ) from error


def _refuse_second_driver(run_folder: Path) -> None:
    """Two drivers of one run would overwrite each other's progress and compute units twice."""
    try:
        progress = json.loads((run_folder / PROGRESS_FILE).read_bytes())
        host, pid, ended = progress["host"], progress["pid"], progress["ended"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if not ended and host == socket.gethostname() and pid != os.getpid() and _is_sweep(pid):
        raise SweepError(
            f"process {pid} on this machine is running {run_folder.name} already; wait for it, "
            "end it, or give this sweep another name (name=...)"
        )


def _is_sweep(pid: int) -> bool:
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except (psutil.Error, TypeError, ValueError, OverflowError):  # or no process number
        return False
    return "usweep" in command or "sweep run" in command


def _describe(resources: dict[str, float]) -> str:
    parts = [f"{resources.get('CPU', 0):g} CPUs"]
    if resources.get("GPU"):
        parts.append(f"{resources['GPU']:g} GPUs")
    return f"computing on {', '.join(parts)}"


@contextmanager
def _ending_on_signals(interruption: Interruption, console: Console) -> Iterator[None]:
    """First Ctrl-C or SIGTERM: Tune ends its loop; finished units are safe. Second: end at once."""

    def end(number: int, frame: FrameType | None) -> None:
        if interruption.signal_name is not None:
            os._exit(128 + number)
        interruption.signal_name = signal.Signals(number).name
        console.print("ending; what is finished is kept (once more to end at once)")
        if not callable(signal.getsignal(signal.SIGUSR1)):  # Tune has not begun
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGUSR1)  # Tune ends its loop in good order on this one

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tune(
    context: RunContext, config: ResolvedConfig, frontier: Frontier, progress: Progress
) -> None:
    """Let Ray Tune run the units of the frontier, one trial each."""
    # Read by Tune when it is imported or when a run starts.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_FORCE_TRIAL_CLEANUP_S"] = str(END_WITHIN_S)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the old output obeys verbose=0, the new one does not
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)  # the store is the ledger
    shares = _shares(context, config)
    lanes = _lanes(shares)
    in_flight = DEPTH * sum(lane.count for lane in set(lanes.values()))
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(in_flight)  # 1 by default with a searcher
    from ray import tune

    # Tune prints the whole trace of every lost worker; the display says it in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    from sweep.callback import ProgressCallback
    from sweep.searcher import UnitSearcher

    def request(trial: TrialConfig) -> tune.PlacementGroupFactory:
        # Sent along with the trainable to each worker, so it must not hold on to the context.
        return tune.PlacementGroupFactory([bundle(*shares[trial["dataset"]], trial["lane"])])

    trainable: Any = tune.with_parameters(run_trial_in_worker, context=context)
    snapshots = temporary_folder()  # Tune insists on a place for its own; nothing reads it
    try:
        tune.Tuner(
            tune.with_resources(trainable, resources=request),
            tune_config=tune.TuneConfig(
                search_alg=UnitSearcher(context.plan, frontier, lanes, progress),
                num_samples=frontier.num_units,
                reuse_actors=True,  # a new worker would import torch again: seconds a unit
            ),
            run_config=tune.RunConfig(
                name="units",
                storage_path=str(snapshots),
                verbose=0,
                callbacks=[ProgressCallback(progress)],
                failure_config=tune.FailureConfig(max_failures=config.sweep.resources.retries),
            ),
        ).fit()
    finally:
        shutil.rmtree(snapshots, ignore_errors=True)


def _shares(context: RunContext, config: ResolvedConfig) -> dict[str, tuple[float, float]]:
    """CPUs and GPUs of one unit, by data set."""
    resources = config.sweep.resources
    return {name: (resources.of(name).cpus, gpus) for name, gpus in context.gpus.items()}


def _lanes(shares: dict[str, tuple[float, float]]) -> dict[str, Lanes]:
    """Lanes by data set; those with equal shares have them in common.

    Raises:
        SweepError: a share fits on no node; Ray would wait for ever.
    """
    import ray

    ray_nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in ray_nodes if node["Alive"]]
    by_share = {}
    for cpus, gpus in set(shares.values()):
        count = num_lanes(nodes, cpus, gpus)
        if count == 0:
            largest = [f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes]
            raise SweepError(
                f"a unit asks for {cpus:g} CPUs and {gpus:g} GPUs (resources.cpus and .gpus), "
                f"more than any node has: {'; '.join(sorted(set(largest)))}"
            )
        by_share[cpus, gpus] = Lanes(count)
    return {name: by_share[share] for name, share in shares.items()}
