"""`usweep run`: prepare, plan, compute what the store lacks, report."""

import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cluster.local import ray_cluster
from cluster.temporary import temporary_folder
from sweep.config import ResolvedConfig
from sweep.ending import Ending
from sweep.errors import DamagedError, SweepError, one_line
from sweep.failures import clear_failures
from sweep.files import write_atomically
from sweep.frontier import Frontier
from sweep.lanes import LanePool
from sweep.lease import HEARTBEAT_S, Holding, Lease, Leases, Watch
from sweep.nodes import Nodes, NodeWatch, wait_for_nodes
from sweep.plan import KINDS, Plan, make_plan, read_plan
from sweep.progress import Progress
from sweep.provenance import Provenance
from sweep.store import Store
from sweep.tracking.beside import Beside
from sweep.trainable import TrialConfig, bundle, run_trial_in_worker
from sweep.worker import RunContext
from unlearning.datasets import find_prepared, prepare

CLEANUP_S = 5  # for Tune to stop workers that the grace time did not end
CONFIG_FILE, PLAN_FILE, DRAIN_FILE = "config.yaml", "plan.json", "drain"
CANCEL_FILE = "cancel"  # where it exists, whoever computes this run ends
WORKERS_FOLDER, CLUSTER_FOLDER = "workers", "cluster"
SUPERVISOR_FILE = "CLUSTER_DRAIN_FILE"  # variable; see cluster/allocation.py
DRIVER = "driver"  # lease in the run's folder: one driver at a time


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    plan: Plan
    counts: dict[str, int]  # units by state
    num_before: int  # units that the store held already
    num_computed: int  # by this run; others may have been computed by another sweep meanwhile
    elapsed_s: float
    interrupted_by: str | None = None  # name of a signal, or who else asked for it
    stopped_by: str | None = None  # what went wrong for all units alike

    @property
    def is_complete(self) -> bool:
        """Whether every unit is in the store."""
        return self.counts["done"] == len(self.plan.units)


@dataclass(frozen=True)
class RunOptions:
    """How, not what, to compute."""

    address: str | None = None  # of an existing Ray; None starts one here
    wait_nodes: int = 1  # of an existing Ray, that can compute, before anything starts
    worker: str | None = None  # name of one of several that work on a run; None: its only driver
    num_cpus: int | None = None  # for a Ray started here; None: all that may be used
    num_gpus: int | None = None
    plugins: str = ""
    compute: Callable[[RunContext, str], str] | None = None  # None: the real thing


def run_sweep(config: ResolvedConfig, options: RunOptions, console: Console) -> RunSummary:
    """Compute every unit that the store lacks; the same call again continues where it ended.

    Raises:
        ConfigError, DatasetError, SweepError: before anything is computed.
    """
    if options.worker is not None:
        return _run(config, options, console, None)
    with only_driver(config.sweep.run_folder, config.sweep.output.takeover_s, console) as lease:
        (config.sweep.run_folder / CANCEL_FILE).unlink(missing_ok=True)
        return _run(config, options, console, lease)


def _run(
    config: ResolvedConfig, options: RunOptions, console: Console, lease: Lease | None
) -> RunSummary:
    began = time.monotonic()
    sweep = config.sweep
    store = Store(Path(sweep.output.store))
    store.open_for_writing()
    prepare_datasets(config, console)
    plan = make_plan(config)
    folder = sweep.run_folder
    if lease is not None:
        write_run_folder(config, plan)
    else:
        folder = worker_folder(sweep.run_folder, plan, str(options.worker))
    done = finished_units(plan, store, console)
    frontier = Frontier(plan, done)
    progress = Progress(plan, done, folder, console, failures_in=sweep.run_folder, store=store)
    held = f"{len(done)} of them already in {store.root}"
    console.print(one_line(f"{sweep.name}: {len(plan.units)} units, {held}"))
    requests = {"usweep cancel": sweep.run_folder / CANCEL_FILE}
    if os.environ.get(SUPERVISOR_FILE):
        requests["the cluster"] = Path(os.environ[SUPERVISOR_FILE])
    ending = Ending(folder / DRAIN_FILE, sweep.resources.grace_s, console, requests)
    beside = Beside(sweep.tracking, sweep.run_folder, console)
    progress.tracking = beside.line
    context = RunContext(
        plan=plan,
        store_root=store.root.resolve(),
        data_root=Path(sweep.data.root).resolve(),
        prepared_root=sweep.data.prepared_root.resolve(),
        keep_models=tuple(sweep.output.keep_models),
        provenance=Provenance.of_this_code(),
        checkpoint_every_s=sweep.output.checkpoint_every_s,
        drain_file=ending.drain_file.resolve(),
        plugins=options.plugins,
        compute=options.compute,
    )
    try:
        with ending, beside:  # in this order: a signal also ends the waiting for the stream
            if not frontier.is_exhausted:  # else there is only what an earlier run did not send
                _compute(context, config, options, frontier, progress, ending, lease)
            beside.is_in_haste = ending.has_begun
    except KeyboardInterrupt:
        if not ending.has_begun:
            raise
    counts = {state: progress.count(state) for state in ("failed", "blocked")}
    counts["not_converged"] = progress.not_converged
    # Asked of the store: a unit may have been published while the sweep was being ended.
    counts["done"] = sum(store.has(unit.kind, unit.key) for unit in plan.units.values())
    return RunSummary(
        plan,
        counts,
        len(done),
        progress.num_computed,
        time.monotonic() - began,
        ending.asked_by,
        ending.reason,
    )


def finished_units(plan: Plan, store: Store, console: Console) -> list[str]:
    """Keys of the plan's units that the store holds; damaged ones are set aside first.

    Reads every record, so that no unit counts as finished whose record is cut short or changed.
    """
    held = {kind: store.keys(kind) for kind in KINDS}
    store.remove_leftovers(held)
    done = []
    for unit in plan.units.values():
        if unit.key in held[unit.kind]:
            try:
                store.read_record(unit.kind, unit.key)
            except DamagedError as error:
                aside = store.set_aside(unit.kind, unit.key)
                what = error.problem.partition(";")[0]
                line = f"{unit.label}: {error.path.name}: {what}; set aside in {aside}, "
                console.print(Text(one_line(line + "computed again"), "yellow"))
            else:
                done.append(unit.key)
    return done


@contextmanager
def only_driver(run_folder: Path, takeover_s: float, console: Console) -> Iterator[Lease]:
    """The lease of a run's driver; two drivers would overwrite each other's progress.

    Raises:
        SweepError: another driver shows signs of life, or the folder cannot be written.
    """
    leases = Leases(run_folder)
    watch = Watch(leases, takeover_s)
    first = stale = None
    try:
        while (lease := leases.acquire(DRIVER, stale)) is None:
            holding, sign = watch.look(DRIVER)
            first = first or sign
            if leases.is_alive_here(DRIVER) or (sign is not None and sign != first):
                holder = leases.holder(DRIVER)
                raise SweepError(
                    f"process {holder.get('pid')} on {holder.get('host')} is running "
                    f"{run_folder.name} already; wait for it, end it, or give this sweep another "
                    "name (name=...)"
                )
            stale = sign if holding is Holding.STALE else None
            time.sleep(min(1.0, HEARTBEAT_S / 4))
    except OSError as error:
        raise SweepError(
            f"{run_folder}: the run's folder cannot be written ({error.strerror}); set output.runs"
        ) from error
    with lease:
        yield lease


def prepare_datasets(config: ResolvedConfig, console: Console) -> dict[str, Path]:
    """Prepare every data set that is not, or no more, and return the folders by data set.

    Raises:
        DatasetError: files are missing or damaged.
    """
    folders = {}
    data = config.sweep.data
    for name, settings in config.trials.items():
        with console.status(f"preparing {name}"):
            roots = Path(data.root), data.prepared_root
            prepare(settings.source, *roots, download=data.download, verify=True)
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


def worker_name() -> str:
    """A name for this process that no other worker has."""
    return f"{socket.gethostname()}-{os.getpid()}"


def worker_folder(run_folder: Path, plan: Plan, name: str) -> Path:
    """The folder of one of several workers on a run, whose plan must be the same.

    Raises:
        SweepError: the run has another plan, since its data or this code are not the same here.
    """
    path = run_folder / PLAN_FILE
    if not path.exists():
        plan.write(path)
    elif read_plan(path).units.keys() != plan.units.keys():
        raise SweepError(
            f"{path} plans other units than this machine would: its data sets or the version of "
            "this code differ; run the same version on the same prepared data everywhere"
        )
    folder = run_folder / WORKERS_FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _describe(nodes: Nodes) -> str:
    sums = {name: sum(node.get(name, 0) for node in nodes.values()) for name in ("CPU", "GPU")}
    parts = [f"{sums['CPU']:g} CPUs"] + [f"{sums['GPU']:g} GPUs"] * bool(sums["GPU"])
    parts += [f"{len(nodes)} nodes"] * (len(nodes) > 1)
    return f"computing on {', '.join(parts)}"


def _compute(
    context: RunContext,
    config: ResolvedConfig,
    options: RunOptions,
    frontier: Frontier,
    progress: Progress,
    ending: Ending,
    lease: Lease | None,
) -> None:
    """Get a Ray, and let Tune run the units of the frontier on it, one trial each."""
    set_up_tune()
    progress.phase = "connecting to Ray" if options.address else "starting Ray"
    with progress, ray_cluster(options.address, options.num_cpus, options.num_gpus):
        from sweep.searcher import Share, UnitSearcher  # imports Ray, which has its token by now

        ending.listen()  # Ray has put a handler of its own in place
        nodes = wait_for_nodes(options.wait_nodes, progress.say_plainly, progress.tick)
        progress.phase = ""
        progress.say_plainly(_describe(nodes))
        resources = config.sweep.resources
        has_gpus = any(node.get("GPU") for node in nodes.values())
        shares = {}
        for name in context.plan.datasets:
            wanted = resources.of(name)
            shares[name] = Share(wanted.cpus, wanted.gpus if has_gpus else 0.0)
        pool = LanePool(list(nodes.values()))
        for share in shares.values():
            pool.require(share.cpus, share.gpus)
        searcher = UnitSearcher(
            context.plan,
            Store(context.store_root),
            frontier,
            shares,
            pool,
            progress,
            retries=resources.retries,
            takeover_s=config.sweep.output.takeover_s,
            stop=ending.stop,
            failures_in=None if lease is not None else config.sweep.run_folder,
        )

        def begin_ending() -> None:
            searcher.is_ending = True
            progress.phase = "ending"

        ending.on_begin = begin_ending
        watch = NodeWatch(pool, nodes, progress.say_plainly)
        guard = None if lease is None else _lease_guard(lease, ending)

        def on_turn() -> None:
            watch.tick()
            if guard is not None:
                guard()

        _tune(context, searcher, progress, on_turn)


def _lease_guard(lease: Lease, ending: Ending) -> Callable[[], None]:
    """Ends a driver that another one has taken for dead, such as one that was suspended."""
    checked = time.monotonic()

    def check() -> None:
        nonlocal checked
        if time.monotonic() - checked > HEARTBEAT_S:
            checked = time.monotonic()
            if not lease.is_current():
                ending.stop("another driver has taken this run over, or its folder was removed")

    return check


def set_up_tune() -> None:
    """Settings that Tune reads when it is imported or when a run starts."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_FORCE_TRIAL_CLEANUP_S"] = str(CLEANUP_S)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the old output obeys verbose=0, the new one does not
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)  # the store is the ledger
    # With a searcher Tune keeps one pending trial by default; lanes set the limit here.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(10**6)
    # Tune prints the whole trace of every lost worker; the display says it in a line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _tune(
    context: RunContext,
    searcher: Any,
    progress: Progress,
    on_turn: Callable[[], None],
) -> None:
    from ray import tune

    from sweep.callback import SweepCallback

    def request(trial: TrialConfig) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([bundle(trial["cpus"], trial["gpus"], trial["lane"])])

    trainable: Any = tune.with_parameters(run_trial_in_worker, context=context)
    snapshots = temporary_folder()  # Tune insists on a place for its own; nothing reads it
    try:
        tune.Tuner(
            tune.with_resources(trainable, resources=request),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,  # the searcher says when it is enough
                reuse_actors=True,  # a new worker would import torch again: seconds a unit
            ),
            run_config=tune.RunConfig(
                name="units",
                storage_path=str(snapshots),
                verbose=0,
                callbacks=[SweepCallback(searcher, progress, on_turn)],
                failure_config=tune.FailureConfig(max_failures=0),  # see UnitSearcher
            ),
        ).fit()
    finally:
        shutil.rmtree(snapshots, ignore_errors=True)
