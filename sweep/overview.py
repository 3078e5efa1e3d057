"""What `plan` and `status` show, as data first and then as text."""

import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.errors import ClusterError
from cluster.slurm import live_jobs
from sweep.display import Picture, draw, running_on
from sweep.errors import StoreError, one_line
from sweep.failures import Failure, read_failures
from sweep.files import read_bounded
from sweep.glance import Glance, finished_last, under_way
from sweep.plan import KINDS, Plan, read_plan, sharing
from sweep.progress import LINE_EVERY_S
from sweep.run import CLUSTER_FOLDER, CONFIG_FILE, PLAN_FILE, WORKERS_FOLDER
from sweep.snapshot import FILE as PROGRESS_FILE
from sweep.snapshot import STATES, Snapshot, summary
from sweep.store import Store
from sweep.tracking.status import TrackingStatus, describe, read_status
from sweep.typed import require_types
from unlearning.errors import ConfigError

STALE_AFTER_S = 30.0  # a driver writes its progress every 2 s
LOOK_EVERY_S = 2.0
_MAX_CONFIG_BYTES = 2**22


def open_run(run_folder: Path) -> tuple[Plan, Store]:
    """The plan of a run and the store that it writes to.

    Raises:
        ConfigError: not a run's folder, or a damaged one.
    """
    plan = read_plan(run_folder / PLAN_FILE)
    path = run_folder / CONFIG_FILE
    try:
        # Read as plain YAML: this file is resolved, and asks for nothing of the environment.
        store = yaml.safe_load(read_bounded(path, _MAX_CONFIG_BYTES))["output"]["store"]
        if not isinstance(store, str) or "\0" in store:
            raise ValueError(f"output.store is {store!r}")
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged; the same `usweep run` writes it again") from error
    return plan, Store(Path(store))


def plan_overview(plan: Plan, store: Store) -> dict[str, Any]:
    """Units by data set and kind, how many are done, epochs saved, and hours left if known."""
    saved = sharing(plan)
    units: dict[str, dict[str, int]] = {name: dict.fromkeys(KINDS, 0) for name in plan.datasets}
    finished = {kind: store.keys(kind) for kind in KINDS}
    done = dict.fromkeys(KINDS, 0)
    measured: dict[str, list[float | None]] = defaultdict(list)
    epochs_left = Counter[str]()
    for unit in plan.units.values():
        units[unit.dataset][unit.kind] += 1
        if unit.key in finished[unit.kind]:
            done[unit.kind] += 1
            if len(measured[unit.dataset]) < 20:
                measured[unit.dataset].append(_seconds_an_epoch(plan, store, unit.key))
        else:
            epochs_left[unit.dataset] += plan.epochs(unit)
    return {
        "name": plan.name,
        "trials": saved.num_trials,
        "units": units,
        "done": done,
        "epochs": {"shared": saved.epochs_shared, "apart": saved.epochs_apart},
        "unprepared": [d.name for d in plan.datasets.values() if d.fingerprint is None],
        "worker_hours_left": _hours_left(epochs_left, measured),
    }


def _seconds_an_epoch(plan: Plan, store: Store, key: str) -> float | None:
    unit = plan.units[key]
    try:
        training = store.read_record(unit.kind, key)["training"]
        return float(sum(part["seconds"] for part in training.values()) / plan.epochs(unit))
    except (StoreError, KeyError, TypeError, AttributeError, OverflowError):
        return None  # the report names what is damaged


def _hours_left(epochs: Counter[str], measured: dict[str, list[float | None]]) -> float | None:
    """Hours of one worker for the epochs left; None where a data set has no finished unit."""
    hours = 0.0
    for dataset, count in epochs.items():
        known = [seconds for seconds in measured.get(dataset, []) if seconds is not None]
        if not known:
            return None
        hours += count * sum(known) / len(known) / 3600
    return hours


def describe_plan(overview: dict[str, Any]) -> Group:
    """The overview of a plan for people."""
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column("units")
    for kind in (*KINDS, "all"):
        table.add_column(kind, justify="right")
    for name, kinds in overview["units"].items():
        table.add_row(
            Text(one_line(name)), *(f"{kinds[k]:,}" for k in KINDS), f"{sum(kinds.values()):,}"
        )
    sums = {k: sum(kinds[k] for kinds in overview["units"].values()) for k in KINDS}
    total, done = sum(sums.values()), sum(overview["done"].values())
    table.add_row("all", *(f"{sums[k]:,}" for k in KINDS), f"{total:,}", style="bold")
    table.add_row("in the store", *(f"{overview['done'][k]:,}" for k in KINDS), f"{done:,}")
    shared, apart = overview["epochs"]["shared"], overview["epochs"]["apart"]
    share = 0 if apart == 0 else 100 * (apart - shared) / apart
    lines = [
        f"{one_line(overview['name'])}: {overview['trials']:,} trials in {total:,} units",
        f"training epochs: {shared:,} with originals and scratch models shared; {apart:,} if each "
        f"trial trained its own: {apart - shared:,} saved ({share:.0f} %). Stage 1, which ends "
        "when the forget set is lost, is on top of both.",
    ]
    if overview["unprepared"]:
        lines.append(
            f"not prepared yet: {one_line(', '.join(overview['unprepared']))}; `usweep run` reads "
            "their files, and only then is it known what the store holds of them"
        )
    hours = overview["worker_hours_left"]
    if total == done:
        lines.append("nothing left to compute")
    elif hours is None:
        lines.append("time left: known once a unit of each data set has been measured")
    else:
        lines.append(f"left: about {hours:.1f} hours of one worker, by the units in the store")
    return Group(lines[0], table, *lines[1:])


@dataclass(frozen=True)
class Status:
    """A run as its folder and the store show it, without asking Ray."""

    plan: Plan
    snapshot: Snapshot
    is_alive: bool  # a driver wrote its progress in the last seconds
    failures: dict[str, Failure]
    jobs: dict[str, str] = field(default_factory=dict)  # of a batch system -> their states
    running: list[Glance] = field(default_factory=list)
    finished: list[Glance] = field(default_factory=list)  # the last ones
    tracking: TrackingStatus | None = None  # in Weights & Biases
    folder: Path = Path()  # the run's

    @property
    def is_over(self) -> bool:
        """Whether nobody computes it, nor will as things are."""
        return not self.is_alive and not (self.num_waiting and self.jobs)

    @property
    def num_waiting(self) -> int:
        """Units that could still be computed."""
        return sum(self.snapshot.units[kind]["waiting"] for kind in KINDS)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.plan.name,
            "alive": self.is_alive,
            **asdict(self.snapshot),
            "jobs": self.jobs,
            "tracking": None if self.tracking is None else asdict(self.tracking),
            "failures": [asdict(failure) for failure in self.failures.values()],
        }


def run_status(run_folder: Path) -> Status:
    """The state of a run: finished units from the store, the rest from the driver's last word.

    Raises:
        ConfigError: not a run's folder.
    """
    plan, store = open_run(run_folder)
    alive = _alive(run_folder)
    snapshot = together(alive) if alive else read_progress(run_folder)
    is_alive = bool(alive)
    finished = {kind: store.keys(kind) for kind in KINDS}
    failures = {
        key: failure
        for key, failure in read_failures(run_folder).items()
        if key in plan.units and key not in finished[plan.units[key].kind]
    }
    states: Counter[tuple[str, str]] = Counter()
    for unit in plan.units.values():
        if unit.key in finished[unit.kind]:
            states[unit.kind, "done"] += 1
        elif unit.key in failures:
            states[unit.kind, "failed"] += 1
        elif any(parent in failures for parent in unit.parents):
            states[unit.kind, "blocked"] += 1
        else:
            states[unit.kind, "waiting"] += 1
    for kind in KINDS:
        running = snapshot.units.get(kind, {}).get("running", 0) if is_alive else 0
        running = min(running, states[kind, "waiting"])
        states[kind, "running"] += running
        states[kind, "waiting"] -= running
    snapshot.units = {kind: {state: states[kind, state] for state in STATES} for kind in KINDS}
    if not is_alive:
        snapshot.time_left_s, snapshot.units_per_h, snapshot.phase = None, None, ""
        snapshot.running, snapshot.running_s = [], {}
    return Status(
        plan,
        snapshot,
        is_alive,
        failures,
        _jobs(run_folder),
        under_way(plan, store, snapshot),
        finished_last(plan, store, snapshot),
        read_status(run_folder),
        run_folder,
    )


def is_running(run_folder: Path) -> bool:
    """Whether a driver, or one of several workers, wrote its progress in the last seconds."""
    return bool(_alive(run_folder))


def running_units(run_folder: Path) -> set[str]:
    """Keys of the units that this run computes now, and not another that shares its store."""
    return {key for snapshot in _alive(run_folder) for key in snapshot.running_s}


def _alive(run_folder: Path) -> list[Snapshot]:
    places = [run_folder, *sorted((run_folder / WORKERS_FOLDER).glob("*"))]
    last = [(place, read_progress(place)) for place in places]
    return [seen for place, seen in last if _is_alive(place, seen)]


def _jobs(run_folder: Path) -> dict[str, str]:
    try:
        live = live_jobs(run_folder / CLUSTER_FOLDER)
    except ClusterError as error:
        return {"SLURM": str(error)}
    return {job.job_id: f"{job.role}, {job.nodes} nodes, {state.lower()}" for job, state in live}


def read_progress(folder: Path) -> Snapshot:
    """What a driver, or one of several workers, last said; ended if it never said anything."""
    try:
        snapshot = Snapshot(**json.loads(read_bounded(folder / PROGRESS_FILE)))
        require_types(snapshot)
    except (OSError, ValueError, TypeError, RecursionError):
        return Snapshot(ended=True)
    return snapshot


def _is_alive(folder: Path, snapshot: Snapshot) -> bool:
    """Whether it wrote its progress in the last seconds, by the clock of whoever has the file.

    Its own clock and this machine's may differ.
    """
    if snapshot.ended:
        return False
    try:
        written = (folder / PROGRESS_FILE).stat().st_mtime
        with tempfile.TemporaryFile(dir=folder) as probe:
            now = os.fstat(probe.fileno()).st_mtime
    except OSError:  # somebody else's run, which this user may only read
        written, now = snapshot.updated, time.time()
    return now - written < STALE_AFTER_S


def together(snapshots: list[Snapshot]) -> Snapshot:
    """What several that work on the same run say, as one."""
    if len(snapshots) == 1:
        return snapshots[0]
    units: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        states = [s.units.get(kind, {}) for s in snapshots]
        units[kind] = {name: sum(s.get(name, 0) for s in states) for name in STATES}
    # Each estimates the time that it would need for all that is left.
    speeds = [1 / s.time_left_s for s in snapshots if s.time_left_s]
    return replace(
        snapshots[0],
        host=", ".join(sorted({s.host for s in snapshots})),
        pid=0,
        elapsed_s=max(s.elapsed_s for s in snapshots),
        time_left_s=1 / sum(speeds) if speeds else None,
        units=units,
        not_converged=sum(s.not_converged for s in snapshots),
        running=[label for s in snapshots for label in s.running],
        phase=snapshots[0].phase if len({s.phase for s in snapshots}) == 1 else "",
        units_per_h=sum(s.units_per_h or 0.0 for s in snapshots) or None,
        running_s={key: since for s in snapshots for key, since in s.running_s.items()},
        finished={key: when for s in snapshots for key, when in s.finished.items()},
    )


def state_of(status: Status) -> str:
    """Whether a run goes on, in words."""
    if status.is_alive:
        return running_on(status.snapshot)
    if status.num_waiting and status.jobs:
        return "not running at the moment; its job is in the queue"
    if status.num_waiting or status.failures:
        return "not running; the same `usweep run` continues it"
    return "complete"


def describe_status(status: Status, fits: bool = False) -> RenderableType:
    """The state of a run for people; see `draw`."""
    tracking = None if status.tracking is None else describe(status.tracking, status.folder)
    picture = Picture(
        status.plan.name,
        state_of(status),
        status.snapshot,
        status.is_alive,
        status.running,
        status.finished,
        [(status.plan.units[f.key].label, f.cause) for f in status.failures.values()],
        [f"{job}: {state}" for job, state in status.jobs.items()],
    )
    return draw(picture, tracking, fits)


def follow(run_folder: Path, console: Console) -> None:
    """Show the state of a run until it ends, and then, or on Ctrl-C, the last state once more.

    A terminal is drawn on as a whole and gets its text back; anything else gets a line at times.
    """
    status = run_status(run_folder)
    try:
        if not console.is_interactive:
            while not status.is_over:
                line = f"{one_line(status.plan.name)}: {state_of(status)}: "
                console.print(Text(line + summary(status.snapshot)))
                status = _next(run_folder, status, LINE_EVERY_S)
        elif not status.is_over:
            live = Live(console=console, screen=True, refresh_per_second=1)
            try:  # no `with`: Ctrl-C while it begins must not leave the terminal to it
                live.start()
                while not status.is_over:
                    live.update(describe_status(status, fits=True), refresh=True)
                    status = _next(run_folder, status, LOOK_EVERY_S)
            finally:
                live.stop()
    finally:
        console.print(describe_status(status))


def _next(run_folder: Path, status: Status, after_s: float) -> Status:
    """The state after a time, or as soon as the run has ended."""
    until = time.monotonic() + after_s
    while time.monotonic() < until and not status.is_over:
        time.sleep(LOOK_EVERY_S)
        status = run_status(run_folder)
    return status
