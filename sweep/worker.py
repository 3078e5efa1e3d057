"""What a worker process does with one unit: read its parent, compute it, publish it."""

import gc
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cluster.node import at_work, leave_file
from sweep.errors import DamagedError, DataChanged, LeaseLost, UnitHeld, UnitPaused
from sweep.files import keep_others_from_writing
from sweep.lease import Sign
from sweep.plan import Plan, PlannedUnit
from sweep.provenance import Provenance, now
from sweep.store import Store, Work

Report = dict[str, Any]  # how an attempt at a unit went: `state`, and what belongs to it


@dataclass(frozen=True)
class Task:
    """One attempt at a unit."""

    key: str
    gpus: float = 0.0  # share of a GPU; 0 is a CPU
    stale: Sign | None = None  # a lease with this sign may be taken over


@dataclass(frozen=True)
class RunContext:
    """All that a worker needs besides its task; sent once to each worker process."""

    plan: Plan
    store_root: Path
    data_root: Path
    prepared_root: Path
    keep_models: tuple[str, ...]
    provenance: Provenance
    checkpoint_every_s: float = 60.0
    drain_file: Path | None = None  # where it exists, the sweep is ending
    plugins: str = ""  # value of UNLEARNING_PLUGINS
    compute: Callable[["RunContext", str], str] | None = None  # instead of `compute_and_publish`

    @property
    def drain_files(self) -> list[Path]:
        """Where one of these exists, units stop at a checkpoint: the sweep's, this node's."""
        return [path for path in (self.drain_file, leave_file()) if path is not None]


def attempt(context: RunContext, task: Task) -> Report:
    """Compute a unit and say how it went; what happened is told apart here, and only here.

    Returns:
        `state` and what belongs to it. "done": `outcome`. "failed": `cause` and `traceback`; the
        unit is at fault, and would fail again. "held": another sweep has it. "paused": it left a
        checkpoint. "lost": `cause`; through no fault of the unit. "damaged": `damaged` is
        the unit to compute again, mostly the parent. "out_of_memory": on its GPU. "unwritable":
        the store takes no more. Those have a `cause` too.

    Raises:
        Exception: the process is of no use any more, such as after an error of its GPU.
    """
    keep_others_from_writing()
    with at_work():
        return _attempt(context, task)


def _attempt(context: RunContext, task: Task) -> Report:
    if any(path.exists() for path in context.drain_files):
        return {"state": "paused"}
    try:
        if context.compute is not None:
            return {"state": "done", "outcome": context.compute(context, task.key)}
        return {"state": "done", **compute_and_publish(context, task)}
    except (UnitHeld, LeaseLost):
        return {"state": "held"}
    except UnitPaused:
        return {"state": "paused"}
    except DataChanged as error:
        return {"state": "lost", "cause": str(error)}
    except DamagedError as error:
        return {"state": "damaged", "damaged": error.path.parent.name, "cause": str(error)}
    except Exception as error:
        return _report_of(error, Store(context.store_root))


def _report_of(error: Exception, store: Store) -> Report:
    refusal = store.refusal(error) if isinstance(error, OSError) else None
    if refusal is not None:
        return {"state": "unwritable", "cause": refusal}
    if _is_out_of_gpu_memory(error):
        error.__traceback__ = None  # its frames hold what filled the memory
        gc.collect()
        return {"state": "out_of_memory", "cause": _first_line(error)}
    if type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error"):
        raise error  # every later unit of this process would fail with it
    cause = f"{type(error).__name__}: {error}"
    return {"state": "failed", "cause": cause, "traceback": traceback.format_exc()}


def _is_out_of_gpu_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def compute_and_publish(context: RunContext, task: Task) -> Report:
    """Compute a unit, or what is left of it, and publish it in the store.

    Returns:
        `outcome`; `found` if another sweep had just computed it, else `epochs_before`: how many
        epochs an interrupted attempt had done already.

    Raises:
        UnitHeld, LeaseLost: another process has the unit.
        UnitPaused: the sweep is ending; a checkpoint was left.
        DamagedError: the parent's weights are damaged.
        UnlearningError, OSError: the unit failed.
    """
    from unlearning.plugins import VARIABLE

    if context.plugins:
        os.environ[VARIABLE] = context.plugins
    unit = context.plan.units[task.key]
    store = Store(context.store_root)
    if store.has(unit.kind, unit.key):
        outcome = str(store.read_record(unit.kind, unit.key)["outcome"])
        return {"outcome": outcome, "found": True}
    with store.building(unit.kind, unit.key, task.stale) as work:
        return _compute(context, task, unit, store, work)


def _compute(
    context: RunContext, task: Task, unit: PlannedUnit, store: Store, work: Work
) -> Report:
    from sweep.artifacts import append_history, read_weights, write_history, write_result
    from sweep.checkpoints import Pace, read_checkpoint
    from sweep.node_usage import NodeUsage
    from unlearning.datasets import is_intact
    from unlearning.pipeline import run_unit

    spec = context.plan.spec(unit)
    device = device_of(task.gpus)
    dataset, resident = _resident(context, unit, device)
    original = None
    if unit.parents:
        original = read_weights(store, "original", unit.parents[0], "original")
    found = read_checkpoint(work.folder, unit.key)
    resume, facts = (None, {}) if found is None else found
    history = [] if resume is None else resume.facts["history"]
    write_history(work.folder, history)
    provenance = context.provenance.of_attempt(_device_name(device))
    earlier = facts.get("attempts", [])
    attempts = {"attempts": [*earlier, provenance]}
    pace = Pace(work, context.drain_files, context.checkpoint_every_s, attempts)
    rows = count(len(history))
    with NodeUsage(work.folder, device, len(history)) as usage:

        def log(event: dict[str, Any]) -> None:
            usage.note(next(rows))  # first, so that whoever sees the row finds what belongs to it
            append_history(work.folder, event)

        result = run_unit(
            spec,
            dataset,
            original=original,
            resident=resident,
            log=log,
            after_epoch=pace.after_epoch,
            resume=resume,
        )
    if device == "cpu" and not is_intact(dataset):
        # The arrays were read from the disk all the while, not from a copy as on a GPU.
        raise DataChanged(f"the prepared data of {unit.dataset} changed while it was trained on")
    labels = {"sweep": context.plan.name, "dataset": unit.dataset, "unit": unit.label}
    provenance |= {"finished": now(), "earlier_attempts": earlier}
    write_result(store, work.folder, spec, result, labels, context.keep_models, provenance)
    return {"outcome": result.outcome, "epochs_before": len(history)}


def device_of(gpu_fraction: float) -> str:
    """The device for a unit with this share of a GPU, limited to that share of its memory.

    Ray's fraction is bookkeeping only; the memory limit is what keeps neighbours apart.

    Raises:
        RuntimeError: the unit was given a GPU, but torch sees none.
    """
    import torch

    if gpu_fraction == 0:
        return "cpu"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the unit before this one left in a reused process
        torch.cuda.set_per_process_memory_fraction(gpu_fraction)
        return "cuda"
    if os.environ.get("USWEEP_PRETEND_GPUS") == "1":  # tests schedule by GPUs that are not there
        return "cpu"
    raise RuntimeError(
        f"the unit was given {gpu_fraction:g} of a GPU, but torch sees none: check the driver and "
        "CUDA_VISIBLE_DEVICES, or set resources.gpus=0 to compute on the CPU"
    )


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


_on_gpu: dict[str, Any] = {}  # by fingerprint


def _resident(context: RunContext, unit: PlannedUnit, device: str) -> tuple[Any, Any]:
    """A unit's data set, checked byte by byte, and its images on the device.

    On a GPU the last one stays there for next time.
    """
    import torch

    from unlearning.images import ResidentImages

    if device != "cuda":
        dataset = open_intact(context, unit)
        return dataset, ResidentImages.load(dataset, torch.device(device))
    fingerprint = context.plan.datasets[unit.dataset].fingerprint or ""
    if fingerprint not in _on_gpu:
        _on_gpu.clear()
        torch.cuda.empty_cache()
        dataset = open_intact(context, unit)
        _on_gpu[fingerprint] = dataset, ResidentImages.load(dataset, torch.device(device))
    pair: tuple[Any, Any] = _on_gpu[fingerprint]
    return pair


def open_intact(context: RunContext, unit: PlannedUnit) -> Any:
    """A unit's prepared data set; one that does not fit its fingerprint is prepared again.

    Raises:
        DatasetError: it is damaged, and its original files are not there.
    """
    from unlearning.datasets import prepare

    source = context.plan.datasets[unit.dataset].settings.source
    return prepare(source, context.data_root, context.prepared_root, verify=True)
