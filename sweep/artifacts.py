"""A unit's files: how a result is written into its folder, and how weights are read back."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sweep.store import OUTPUTS, RECORD, SCHEMA, Store, file_digest
from unlearning.training import Weights
from unlearning.unit import UnitSpec
from unlearning.workspace import UnitResult


def write_result(
    folder: Path,
    spec: UnitSpec,
    result: UnitResult,
    labels: dict[str, Any],
    keep_models: Collection[str],
    provenance: dict[str, Any],
) -> None:
    """Write models, outputs and, last, the record into a unit's folder.

    Args:
        folder: may already hold metrics.jsonl.
        labels: what the sweep calls the unit; for people, not part of its content.
        keep_models: states whose weights are kept, besides "original".
    """
    for state, weights in result.models.items():
        if state == "original" or state in keep_models:
            # safetensors refuses anything but densely packed rows; channels-last weights are not.
            packed = {name: tensor.contiguous() for name, tensor in weights.items()}
            save_file(packed, folder / model_file(state))
    rows = {f"rows/{name}": rows for name, rows in result.sets.items()}
    outputs = {name: logits.contiguous() for name, logits in result.evaluation.outputs.items()}
    save_file(outputs | rows, folder / OUTPUTS)
    record = {
        "schema": SCHEMA,
        "key": spec.key,
        "kind": spec.kind,
        "outcome": result.outcome,
        "labels": labels,
        "num_classes": result.num_classes,
        "counts": {name: len(rows) for name, rows in result.sets.items()},
        "metrics": result.metrics,
        "per_class_accuracy": result.evaluation.per_class,
        "training": {name: dataclasses.asdict(cost) for name, cost in result.training.items()},
        "neutralization": result.neutralization,
        "spec": spec.to_json(),
        "provenance": provenance,
        "files": {path.name: file_digest(path) for path in sorted(folder.iterdir())},
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False))


def model_file(state: str) -> str:
    """Name of the file with a state's weights."""
    return f"{state}.safetensors"


def read_weights(store: Store, kind: str, key: str, state: str) -> Weights:
    """Weights of a finished unit's model state, on the CPU.

    Raises:
        StoreError: the file is missing or damaged.
    """
    weights: dict[str, torch.Tensor] = load_file(
        store.checked_file(kind, key, model_file(state)), device="cpu"
    )
    return weights
