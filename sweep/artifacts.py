"""A unit's files: how a result is written into its folder, and how weights are read back."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from sweep import node_usage
from sweep.errors import DamagedError
from sweep.files import file_digest, write_atomically
from sweep.store import METRICS, OUTPUTS, Store
from unlearning.training import Event, Weights
from unlearning.unit import UnitSpec
from unlearning.workspace import UnitResult


def write_result(
    store: Store,
    folder: Path,
    spec: UnitSpec,
    result: UnitResult,
    labels: dict[str, Any],
    keep_models: Collection[str],
    provenance: dict[str, Any],
) -> None:
    """Write history, models, outputs and, last, the record into a unit's folder.

    Args:
        labels: what the sweep calls the unit; for people, not part of its content.
        keep_models: states whose weights are kept, besides "original".
    """
    files = {METRICS: write_history(folder, result.history)}
    for state, weights in result.models.items():
        if state == "original" or state in keep_models:
            files[model_file(state)] = _write_tensors(folder / model_file(state), weights)
    files[OUTPUTS] = _write_tensors(folder / OUTPUTS, outputs_of(result))
    if (folder / node_usage.FILE).exists():
        files[node_usage.FILE] = file_digest(folder / node_usage.FILE)
    record = {
        "key": spec.key,
        "kind": spec.kind,
        "labels": labels,
        **facts_of(result),
        "spec": spec.to_json(),
        "provenance": provenance,
        "files": dict(sorted(files.items())),
    }
    store.write_record(folder, record)


def facts_of(result: UnitResult) -> dict[str, Any]:
    """What a record says of the result itself; all but `training/*/seconds` is the same again."""
    return {
        "outcome": result.outcome,
        "num_classes": result.num_classes,
        "counts": {name: len(rows) for name, rows in result.sets.items()},
        "metrics": result.metrics,
        "per_class_accuracy": result.evaluation.per_class,
        "training": {name: dataclasses.asdict(cost) for name, cost in result.training.items()},
        "neutralization": result.neutralization,
    }


def outputs_of(result: UnitResult) -> dict[str, torch.Tensor]:
    """What OUTPUTS holds: logits, row numbers of each set, and what was trained on."""
    rows = {f"rows/{name}": rows for name, rows in result.sets.items()}
    seen = {f"trained_on/{state}": mask for state, mask in result.trained_on.items()}
    return result.evaluation.outputs | rows | seen


def write_history(folder: Path, history: Iterable[Event]) -> str:
    """Write METRICS anew, one line an epoch; returns its digest.

    A new file takes the place of the old one, so that a former holder of the unit that still has
    it open cannot add to it.
    """
    text = history_text(history)
    write_atomically(folder / METRICS, text)
    return hashlib.sha256(text.encode()).hexdigest()


def history_text(history: Iterable[Event]) -> str:
    """What METRICS holds, one line an epoch."""
    return "".join(json.dumps(event, allow_nan=False) + "\n" for event in history)


def append_history(folder: Path, event: Event) -> None:
    """Add an epoch to METRICS, for whoever follows a unit under way."""
    # Opened each time: the folder may have been taken over, and then is not found.
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(event, allow_nan=False) + "\n")


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    # safetensors refuses anything but densely packed rows; channels-last weights are not.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    path.write_bytes(content)  # not save_file, whose errors hide that the disk is full
    return hashlib.sha256(content).hexdigest()


def model_file(state: str) -> str:
    """Name of the file with a state's weights."""
    return f"{state}.safetensors"


def read_weights(store: Store, kind: str, key: str, state: str) -> Weights:
    """Weights of a finished unit's model state, on the CPU.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    return read_tensors(store, kind, key, model_file(state))


def read_tensors(store: Store, kind: str, key: str, name: str) -> dict[str, torch.Tensor]:
    """All tensors of a finished unit's file, on the CPU.

    Raises:
        DamagedError: the file is missing or damaged, or holds no tensors.
    """
    path = store.checked_file(kind, key, name)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path, device="cpu")
    except (SafetensorError, ValueError) as error:
        raise DamagedError(path, f"not a file of tensors ({error})") from error
    return tensors
