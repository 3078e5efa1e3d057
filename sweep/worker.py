"""What a worker process does with one unit: read its parent, compute it, publish it."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweep.files import keep_others_from_writing
from sweep.plan import Plan
from sweep.provenance import Provenance
from sweep.store import METRICS, Store


@dataclass(frozen=True)
class RunContext:
    """All that a worker needs besides a unit's key; sent once to each worker process."""

    plan: Plan
    store_root: Path
    prepared_folders: dict[str, Path]  # by data set
    keep_models: tuple[str, ...]
    provenance: Provenance
    gpus: dict[str, float]  # GPU fraction of a unit, by data set; 0 is a CPU
    plugins: str = ""  # value of UNLEARNING_PLUGINS
    compute: Callable[["RunContext", str], str] | None = None  # instead of `compute_and_publish`

    def compute_unit(self, key: str) -> str:
        """Compute a unit and publish it in the store; returns its outcome."""
        keep_others_from_writing()
        return (self.compute or compute_and_publish)(self, key)


def compute_and_publish(context: RunContext, key: str) -> str:
    """Compute a unit and publish it in the store; returns its outcome.

    Raises:
        UnlearningError, StoreError, OSError: the unit failed; nothing of it is left in the store.
    """
    from sweep.artifacts import read_weights, write_result
    from unlearning.pipeline import run_unit
    from unlearning.plugins import VARIABLE

    if context.plugins:
        os.environ[VARIABLE] = context.plugins
    unit = context.plan.units[key]
    spec = context.plan.spec(unit)
    store = Store(context.store_root)
    if store.has(unit.kind, key):
        return str(store.read_record(unit.kind, key)["outcome"])
    started = _now()
    device = device_of(context.gpus[unit.dataset])
    dataset, resident = _resident(context.prepared_folders[unit.dataset], device)
    original = None
    if unit.parents:
        original = read_weights(store, "original", unit.parents[0], "original")
    with store.building(unit.kind, key) as folder:
        with (folder / METRICS).open("a") as file:

            def log(event: dict[str, Any]) -> None:
                file.write(json.dumps(event) + "\n")
                file.flush()

            result = run_unit(spec, dataset, original=original, resident=resident, log=log)
        labels = {"sweep": context.plan.name, "dataset": unit.dataset, "unit": unit.label}
        provenance = context.provenance.to_json(_device_name(device), started, _now())
        write_result(folder, spec, result, labels, context.keep_models, provenance)
    return result.outcome


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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


_open: dict[tuple[Path, str], Any] = {}


def _resident(folder: Path, device: str) -> Any:
    """A prepared data set and its images on the device; the last one stays there for next time."""
    import torch

    from unlearning.datasets import open_prepared
    from unlearning.images import ResidentImages

    if (folder, device) not in _open:
        _open.clear()
        if device == "cuda":
            torch.cuda.empty_cache()
        dataset = open_prepared(folder)
        _open[folder, device] = dataset, ResidentImages.load(dataset, torch.device(device))
    return _open[folder, device]
