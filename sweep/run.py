"""`usweep run`: prepare, plan, compute what the store lacks, report."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.local import ray_cluster, temporary_folder
from sweep.config import ResolvedConfig
from sweep.ending import Ending
from sweep.errors import DamagedError, SweepError
from sweep.failures import clear_failures
from sweep.files import write_atomically
from sweep.frontier import Frontier
from sweep.lanes import LanePool
from sweep.lease import HEARTBEAT_S, Holding, Lease, Leases, Watch
from sweep.plan import KINDS, Plan, make_plan
from sweep.progress import Progress
from sweep.provenance import Provenance
from sweep.store import Store
from sweep.trainable import TrialConfig, bundle, run_trial_in_worker
from sweep.worker import RunContext
from unlearning.datasets import find_prepared, prepare

CLEANUP_S = 5  # for Tune to stop workers that the grace time did not end
CONFIG_FILE, PLAN_FILE, DRAIN_FILE = "config.yaml", "plan.json", "drain"
DRIVER = "driver"  # lease in the run's folder: one driver at a time


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    plan: Plan
    counts: dict[str, int]  # units by state
    num_before: int  # units that the store held already
    num_computed: int  # by this run; others may have been computed by another sweep meanwhile
    elapsed_s: float
    interrupted_by: str | None = None  # name of a signal
    stopped_by: str | None = None  # what went wrong for all units alike

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
    with only_driver(config.sweep.run_folder, config.sweep.output.takeover_s, console) as lease:
        return _run(config, options, console, lease)


def _run(config: ResolvedConfig, options: RunOptions, console: Console, lease: Lease) -> RunSummary:
    began = time.monotonic()
    sweep = config.sweep
    store = Store(Path(sweep.output.store))
    store.open_for_writing()
    prepare_datasets(config, console)
    plan = make_plan(config)
    write_run_folder(config, plan)
    done = finished_units(plan, store, console)
    frontier = Frontier(plan, done)
    progress = Progress(plan, done, sweep.run_folder, console)
    console.print(
        f"{sweep.name}: {len(plan.units)} units, {len(done)} of them already in {store.root}"
    )
    ending = Ending(sweep.run_folder / DRAIN_FILE, sweep.resources.grace_s, console)
    if not frontier.is_exhausted:
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
        with ending:
            try:
                _compute(context, config, options, frontier, progress, ending, lease)
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
        ending.signal_name,
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
                console.print(
                    f"{unit.label}: {error.path.name}: {what}; set aside in {aside}, "
                    "computed again",
                    style="yellow",
                )
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


def _describe(resources: dict[str, float]) -> str:
    parts = [f"{resources.get('CPU', 0):g} CPUs"]
    if resources.get("GPU"):
        parts.append(f"{resources['GPU']:g} GPUs")
    return f"computing on {', '.join(parts)}"


def _compute(
    context: RunContext,
    config: ResolvedConfig,
    options: RunOptions,
    frontier: Frontier,
    progress: Progress,
    ending: Ending,
    lease: Lease,
) -> None:
    """Get a Ray, and let Tune run the units of the frontier on it, one trial each."""
    set_up_tune()
    with ray_cluster(options.address, options.num_cpus, options.num_gpus) as capacity:
        from sweep.searcher import Share, UnitSearcher  # imports Ray, which has its token by now

        ending.listen()  # Ray has put a handler of its own in place
        progress.say_plainly(_describe(capacity))
        resources = config.sweep.resources
        shares = {}
        for name in context.plan.datasets:
            wanted = resources.of(name)
            shares[name] = Share(wanted.cpus, wanted.gpus if capacity.get("GPU") else 0.0)
        pool = LanePool(_live_nodes())
        for share in shares.values():
            pool.of(share.cpus, share.gpus)  # refuses a share that fits nowhere
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
        )

        def begin_ending() -> None:
            searcher.is_ending = True

        ending.on_begin = begin_ending
        with progress:
            _tune(context, searcher, progress, _lease_guard(lease, ending))


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


def _live_nodes() -> list[dict[str, float]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]
