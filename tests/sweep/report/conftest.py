"""Made-up sweeps with known numbers, in memory or in a real store on disk."""

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from sweep.errors import StoreError
from sweep.failures import Failure, write_failure
from sweep.files import seal
from sweep.plan import Plan, PlannedDataset, PlannedUnit
from sweep.report.aggregate import Results, results_frame, results_of
from sweep.store import SCHEMA, Store
from unlearning.config import NeutralizationConfig, Seeds, TrialSettings

SPLITS = (
    "test",
    "validation",
    "retain",
    "forget",
    "forget_horizontal_flip",
    "forget_vertical_flip",
    "forget_center_crop",
)
MEASURED = {
    "original": ("original",),
    "scratch": ("scratch",),
    "two_stage": ("original", "neutralized", "retrained"),
}


class MemoryStore:
    """What the report uses of a store, without a disk."""

    def __init__(self, records: dict[str, Any]) -> None:
        self.records = records

    def has(self, kind: str, key: str) -> bool:
        return key in self.records

    def read_record(self, kind: str, key: str) -> Any:
        record = self.records[key]
        if isinstance(record, str):
            raise StoreError(Path(f"store/{kind}/{key}/record.json"), record)
        return record


class MadeUpSweep:
    """A planned grid; units get records, failures or nothing."""

    def __init__(
        self,
        datasets: dict[str, tuple[str, int | None]] | None = None,
        ratios: Iterable[float] = (0.01, 0.05),
        strategies: Iterable[str] = ("minimum", "maximum"),
        seeds: Iterable[int | Seeds] = (0, 1),
        target: str = "zero",
        max_epochs: int = 50,
    ) -> None:
        settings = TrialSettings(
            neutralization=NeutralizationConfig(target=target, max_epochs=max_epochs)
        )
        self.max_epochs = max_epochs
        self.datasets = {
            name: PlannedDataset(name, reader, settings, "f" * 64, num_classes, None)
            for name, (reader, num_classes) in (datasets or {"mnist": ("mnist", 10)}).items()
        }
        self.units: dict[str, PlannedUnit] = {}
        self.records: dict[str, Any] = {}
        self.failures: dict[str, Failure] = {}
        all_seeds = [Seeds.all(seed) if isinstance(seed, int) else seed for seed in seeds]
        for name in self.datasets:
            for seed in all_seeds:
                original = self._plan("original", name, Seeds.all(seed.training))
                for ratio in ratios:
                    shared = Seeds(seed.training, seed.forget, seed.training)
                    self._plan("scratch", name, shared, ratio)
                    for strategy in strategies:
                        self._plan("two_stage", name, seed, ratio, strategy, (original.key,))

    def _plan(
        self,
        kind: str,
        dataset: str,
        seeds: Seeds,
        ratio: float | None = None,
        strategy: str | None = None,
        parents: tuple[str, ...] = (),
    ) -> PlannedUnit:
        key = hashlib.sha256(repr((kind, dataset, seeds, ratio, strategy)).encode()).hexdigest()
        unit = PlannedUnit(key, kind, dataset, ratio, strategy, seeds, parents)
        return self.units.setdefault(key, unit)

    def find(self, **wanted: Any) -> list[PlannedUnit]:
        """Planned units whose attributes are these; `seed` is the training seed."""
        found = []
        for unit in self.units.values():
            actual = {**vars(unit), "seed": unit.seeds.training}
            if all(actual[name] == value for name, value in wanted.items()):
                found.append(unit)
        assert found, wanted
        return found

    def finish(
        self,
        unit: PlannedUnit,
        metrics: dict[str, float] | None = None,
        *,
        outcome: str = "done",
        at_random: int | None = 2,
        at_zero: int | None = 4,
        best_epoch: int = 5,
        samples: tuple[int, int] = (100, 900),
        seconds: tuple[float, float] = (0.5, 4.5),
    ) -> dict[str, Any]:
        """Give a unit a record; `samples` and `seconds` are those of stage 1 and of the rest."""
        states = list(MEASURED[unit.kind])
        if outcome == "not_converged":
            states.remove("retrained")
        found = {f"{state}/{split}/accuracy": 0.5 for state in states for split in SPLITS}
        found |= metrics or {}
        found = {name: value for name, value in found.items() if name.split("/")[0] in states}
        training = {}
        stage_1 = self.max_epochs if outcome == "not_converged" else at_zero or at_random or 0
        for state in states:
            if unit.kind == "two_stage" and state == "original":
                continue
            first = state == "neutralized"
            training[state] = {
                "epochs": stage_1 if first else 10,
                "best_epoch": None if first else best_epoch,
                "samples": samples[0 if first else 1],
                "seconds": seconds[0 if first else 1],
            }
        record = {
            "schema": SCHEMA,
            "files": {},
            "key": unit.key,
            "kind": unit.kind,
            "outcome": outcome,
            "num_classes": self.datasets[unit.dataset].num_classes or 10,
            "counts": {"train": 1000, "validation": 100, "test": 200},
            "metrics": found,
            "training": training,
            "provenance": {"commit": "c0ffee", "dirty": False, "device": "cpu"},
        }
        if unit.kind == "two_stage":
            record["neutralization"] = {
                "first_epoch_at_random": at_random,
                "first_epoch_at_zero": None if outcome == "not_converged" else at_zero,
            }
        self.records[unit.key] = record
        return record

    def finish_all(self, numbers: Callable[[PlannedUnit], dict[str, Any]] | None = None) -> None:
        """Give every unit a record; `numbers` returns arguments of `finish`, by unit."""
        for unit in self.units.values():
            self.finish(unit, **(numbers(unit) if numbers else {}))

    def fail(self, unit: PlannedUnit, cause: str) -> None:
        self.records.pop(unit.key, None)
        self.failures[unit.key] = Failure(unit.key, cause, "", "2030-01-01T00:00:00", "somewhere")

    def forget(self, unit: PlannedUnit) -> None:
        """Make a unit one that has not run."""
        self.records.pop(unit.key, None)

    @property
    def plan(self) -> Plan:
        return Plan("made-up", self.datasets, self.units)

    def results(self) -> Results:
        frame = results_frame(self.plan, MemoryStore(self.records), self.failures)
        return results_of(self.plan, frame)

    def write(self, folder: Path) -> tuple[Plan, Store, Path]:
        """The same in a real store and a run's folder: the arguments of `write_report`."""
        store, run_folder = Store(folder / "store"), folder / "run"
        for key, record in self.records.items():
            path = store.folder(self.units[key].kind, key) / "record.json"
            path.parent.mkdir(parents=True)
            path.write_text(record if isinstance(record, str) else seal(record))
        for failure in self.failures.values():
            write_failure(run_folder, failure)
        return self.plan, store, run_folder


def _varied(unit: PlannedUnit) -> dict[str, Any]:
    """Numbers that differ between units and are the same on every machine."""
    digest = hashlib.sha256(f"{unit.key}".encode()).digest()
    wobble = [byte / 255 for byte in digest]
    ratio = unit.forget_ratio or 0.0
    chance = {"minimum": 0.3, "maximum": 1.5}.get(unit.strategy or "", 1.0) / 10
    metrics = {}
    for index, state in enumerate(MEASURED[unit.kind]):
        base = {"original": 0.95, "neutralized": 0.6, "retrained": 0.94, "scratch": 0.92}[state]
        for at, split in enumerate(SPLITS):
            value = base - 0.02 * wobble[index + at] - 0.1 * ratio
            if state == "neutralized" and split.startswith("forget"):
                value = 0.0 if split == "forget" else chance * (0.6 + 0.3 * wobble[at])
            metrics[f"{state}/{split}/accuracy"] = round(value, 4)
    epochs = 3 + math.floor(6 * wobble[20])
    return {
        "metrics": metrics,
        "at_random": max(1, epochs - 2),
        "at_zero": epochs,
        "best_epoch": 4 + math.floor(5 * wobble[21]) + (6 if unit.kind == "scratch" else 0),
        "samples": (math.floor(1000 * ratio) * epochs, 9000),
        "seconds": (round(wobble[22], 2), 4 + round(wobble[23], 2)),
    }


@pytest.fixture(scope="module")
def made_up_sweep() -> type[MadeUpSweep]:
    """The class of made-up sweeps."""
    return MadeUpSweep


@pytest.fixture(scope="module")
def varied() -> Callable[[PlannedUnit], dict[str, Any]]:
    """Numbers for `finish_all` that differ between units."""
    return _varied


@pytest.fixture(scope="module")
def accident() -> MadeUpSweep:
    """A sweep in which everything that can befall a unit has befallen one."""
    sweep = MadeUpSweep(
        {"digits": ("digits", 10), "mnist": ("mnist", 10)},
        ratios=(0.01, 0.05, 0.2),
        strategies=("minimum", "maximum", "random"),
        seeds=(0, 1),
    )
    sweep.finish_all(_varied)
    ours = {"dataset": "mnist", "kind": "two_stage", "strategy": "minimum"}
    sweep.finish(sweep.find(**ours, forget_ratio=0.01, seed=0)[0], outcome="not_converged")
    sweep.fail(sweep.find(**ours, forget_ratio=0.05, seed=1)[0], "out of memory: 3 | 4 GiB")
    sweep.forget(sweep.find(dataset="mnist", kind="scratch", forget_ratio=0.2, seed=1)[0])
    cut = sweep.find(dataset="mnist", kind="two_stage", strategy="maximum", forget_ratio=0.2)[0]
    sweep.records[cut.key]["metrics"]["neutralized/forget/accuracy"] = 1.7
    for unit in sweep.find(dataset="digits", kind="two_stage", seed=1):
        sweep.forget(unit)
    sweep.fail(sweep.find(dataset="digits", kind="original", seed=1)[0], "images are gone")
    return sweep
