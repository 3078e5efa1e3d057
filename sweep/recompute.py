"""Compute a finished unit again from its record, and compare what comes out with what is stored."""

import json
import random
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import zip_longest
from typing import Any

import torch

from sweep.artifacts import (
    facts_of,
    history_text,
    model_file,
    outputs_of,
    read_tensors,
    read_weights,
)
from sweep.checks import Finding, and_more, guarded, same_bits
from sweep.plan import PlannedUnit
from sweep.store import METRICS, OUTPUTS, RECORD, Record, Store
from unlearning.datasets import PreparedDataset
from unlearning.pipeline import run_unit
from unlearning.training import Weights
from unlearning.unit import UnitSpec
from unlearning.workspace import UnitResult

# How far two accuracies may be apart, in [0, 1], where bits cannot be the same. One image may
# always be another one's, also in a set so small that it is more than this.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Recomputation:
    """A unit that was computed again."""

    unit: str  # its label
    device: str
    loosened_by: list[str]  # why bits were not compared; empty if they were
    findings: list[Finding] = field(default_factory=list)


def draw_sample(units: Iterable[PlannedUnit], count: int, seed: int) -> list[PlannedUnit]:
    """As many units as asked for, or all; one of each kind before a second one of any."""
    order = sorted(units, key=lambda unit: unit.key)
    random.Random(f"verify {seed}").shuffle(order)
    nth: Counter[str] = Counter()
    rounds: list[tuple[int, PlannedUnit]] = []
    for unit in order:
        rounds.append((nth[unit.kind], unit))
        nth[unit.kind] += 1
    return [unit for _, unit in sorted(rounds, key=lambda entry: entry[0])[:count]]


def device_for(record: Record, asked: str | None) -> str:
    """Where to compute a unit again: where it was computed, as far as that is here."""
    if asked is not None:
        return asked
    on_gpu = any(attempt["device"] != "cpu" for attempt in _attempts(record))
    return "cuda" if on_gpu and torch.cuda.is_available() else "cpu"


def reasons_against_bits(record: Record, spec: UnitSpec, device: str) -> list[str]:
    """Why the last bits may be others than those recorded; none if they have to be the same."""
    here = version("torch")
    reasons = []
    for attempt in _attempts(record):
        if attempt["device"] != "cpu":
            reasons.append(f"computed on {attempt['device']}")
        if attempt["versions"].get("torch") != here:
            reasons.append(f"computed with torch {attempt['versions'].get('torch')}, here {here}")
    if device != "cpu":
        reasons.append(f"computed again on {device}")
    if not spec.settings.numerics.deterministic:
        reasons.append("not deterministic")
    return list(dict.fromkeys(reasons))


def _attempts(record: Record) -> list[dict[str, Any]]:
    """Where the unit was computed; more than one if it was continued from a checkpoint."""
    last = record["provenance"]
    return [*last.get("earlier_attempts", []), last]


def recompute(
    store: Store, unit: PlannedUnit, data: PreparedDataset, asked: str | None
) -> Recomputation:
    """Compute a unit again and compare; whatever goes wrong on the way is a finding."""
    device, reasons = asked or "cpu", ["not computed"]

    def check() -> Iterator[Finding]:
        nonlocal device, reasons
        record = store.read_record(unit.kind, unit.key)
        spec = UnitSpec.from_json(record["spec"])
        device = device_for(record, asked)
        original: Weights | None = None
        if spec.original is not None:
            original = read_weights(store, "original", spec.original, "original")
        result = run_unit(spec, data, original=original, device=device)
        reasons = reasons_against_bits(record, spec, device)
        if reasons:
            yield from compare_accuracies(record, result)
        else:
            yield from compare_bits(store, record, result)

    findings = guarded(check(), RECORD)
    return Recomputation(unit.label, device, reasons, findings)


def compare_bits(store: Store, record: Record, result: UnitResult) -> Iterator[Finding]:
    """Everything that is stored of a unit is what came out again, bit for bit."""
    # Another processor may add in another order; whoever reads the line should think of it.
    host = record["provenance"].get("host")
    where = "" if host == socket.gethostname() else f"; computed on {host}, another machine"
    computed = {OUTPUTS: outputs_of(result)}
    computed |= {model_file(state): weights for state, weights in result.models.items()}
    for name in record["files"]:
        if name.endswith(".safetensors"):
            stored = read_tensors(store, record["kind"], record["key"], name)
            again = computed.get(name, {})
            other = [
                tensor
                for tensor in sorted(stored.keys() | again.keys())
                if tensor not in stored
                or tensor not in again
                or not same_bits(stored[tensor], again[tensor])
            ]
            if other:
                what = f"computed again, {other[0]} is another{and_more(len(other) - 1)}"
                yield Finding(name, what + where)
    path = store.checked_file(record["kind"], record["key"], METRICS)
    both = path.read_text().splitlines(), history_text(result.history).splitlines()
    pairs = enumerate(zip_longest(*both), start=1)
    line = next((number for number, (stored, again) in pairs if stored != again), None)
    if line is not None:
        yield Finding(METRICS, f"computed again, line {line} is another{where}")
    recorded, facts = _without_seconds(record), _without_seconds(facts_of(result))
    differences = [
        text
        for name, value in json.loads(json.dumps(facts)).items()
        for text in _differences(name, recorded.get(name), value)
    ]
    if differences:
        yield Finding(RECORD, differences[0] + and_more(len(differences) - 1) + where)


def compare_accuracies(record: Record, result: UnitResult) -> Iterator[Finding]:
    """Outcome and accuracies are what came out again, within TOLERANCE or one image."""
    recorded = record["metrics"]
    if record["outcome"] != result.outcome or recorded.keys() != result.metrics.keys():
        what = f"the outcome is {record['outcome']} with {len(recorded)} metrics"
        again = f"computed again {result.outcome} with {len(result.metrics)}"
        yield Finding(RECORD, f"{what}, {again}")
        return
    differences = []
    for name, value in result.metrics.items():
        images = name.split("/")[1]
        count = len(result.sets[images if images in result.sets else "forget"])
        # Room for rounding, so that a difference of exactly one image is none.
        if abs(recorded[name] - value) > max(TOLERANCE, 1 / count) + 1e-9:
            differences.append(f"{name} is {recorded[name]:.4f}, computed again {value:.4f}")
    if differences:
        more = and_more(len(differences) - 1)
        yield Finding(RECORD, f"{differences[0]}{more}; allowed is {TOLERANCE:g}")


def _without_seconds(facts: dict[str, Any]) -> dict[str, Any]:
    training = {
        state: {name: value for name, value in part.items() if name != "seconds"}
        for state, part in facts["training"].items()
    }
    return facts | {"training": training}


def _differences(name: str, recorded: Any, again: Any) -> Iterator[str]:
    if isinstance(recorded, dict) and isinstance(again, dict):
        for key in dict.fromkeys([*recorded, *again]):
            yield from _differences(f"{name}: {key}", recorded.get(key), again.get(key))
    elif json.dumps(recorded) != json.dumps(again):  # as text, where 1 is neither 1.0 nor true
        yield f"{name} is {str(recorded)[:80]}, computed again {str(again)[:80]}"
