"""The units of a sweep: which there are, which need which, and what sharing saves."""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sweep.config import GridConfig, ResolvedConfig
from sweep.files import read_bounded, write_atomically
from sweep.typed import require_types
from unlearning.config import Seeds, TrialSettings
from unlearning.datasets import find_prepared, nominal_facts
from unlearning.errors import ConfigError
from unlearning.unit import UnitSpec

KINDS = ("original", "scratch", "two_stage")
ALL_STATES = ("original", "neutralized", "retrained", "scratch")
TRAINED_STATES = {  # by kind of unit
    "original": ("original",),
    "scratch": ("scratch",),
    "two_stage": ("neutralized", "retrained"),
}


@dataclass(frozen=True)
class PlannedUnit:
    """One unit by its place in the grid; `key` is the content that it will have."""

    key: str
    kind: str
    dataset: str  # the name in the configuration
    forget_ratio: float | None
    strategy: str | None
    seeds: Seeds
    parents: tuple[str, ...] = ()
    also_in: tuple[str, ...] = ()  # other entries of the configuration that need the same unit

    @property
    def label(self) -> str:
        """For people: what and where in the grid."""
        ratio = None if self.forget_ratio is None else f"{100 * self.forget_ratio:g} %"
        values = dataclasses.astuple(self.seeds)  # training, forget, unlearning
        seeds = str(values[0]) if len(set(values)) == 1 else "/".join(map(str, values))
        return " ".join(
            filter(None, [self.kind, self.dataset, ratio, self.strategy, f"seed {seeds}"])
        )


@dataclass(frozen=True)
class PlannedDataset:
    """One data set of a sweep; sizes and fingerprint are None while its files are not there."""

    name: str
    reader: str
    settings: TrialSettings
    fingerprint: str | None = None
    num_classes: int | None = None
    num_train: int | None = None


@dataclass(frozen=True)
class Plan:
    """All units of a sweep, parents before children."""

    name: str
    datasets: dict[str, PlannedDataset]
    units: dict[str, PlannedUnit]

    @property
    def is_provisional(self) -> bool:
        """Whether a data set is not prepared yet, so that its units' keys will be others."""
        return any(dataset.fingerprint is None for dataset in self.datasets.values())

    def spec(self, unit: PlannedUnit) -> UnitSpec:
        """The whole specification of a unit."""
        return unit_spec(self.datasets[unit.dataset], unit)

    def epochs(self, unit: PlannedUnit) -> int:
        """Training epochs of a unit; stage 1 is not in it, since it ends when it ends."""
        settings = self.datasets[unit.dataset].settings
        if unit.kind != "two_stage":
            return settings.training.epochs
        assert settings.retraining.epochs is not None
        return settings.retraining.epochs

    def write(self, path: Path) -> None:
        """Write the plan as JSON, for `status` and `report`."""
        datasets = [dataclasses.asdict(dataset) for dataset in self.datasets.values()]
        units = [dataclasses.asdict(unit) for unit in self.units.values()]
        content = {"name": self.name, "datasets": datasets, "units": units}
        write_atomically(path, json.dumps(content, indent=None))


def unit_spec(dataset: PlannedDataset, unit: PlannedUnit) -> UnitSpec:
    """The whole specification of a unit of this data set."""
    from unlearning.contrast import get_strategy  # torch, which whoever only reads plans can spare

    version = None if unit.strategy is None else get_strategy(unit.strategy).version
    return dataclasses.replace(spec_without_version(dataset, unit), strategy_version=version)


def spec_without_version(dataset: PlannedDataset, unit: PlannedUnit) -> UnitSpec:
    """The same but for the version of the strategy, which only its own module knows."""
    return UnitSpec(
        kind=unit.kind,
        fingerprint=dataset.fingerprint or f"unprepared:{dataset.name}",
        settings=dataset.settings,
        seeds=unit.seeds,
        forget_ratio=unit.forget_ratio,
        strategy=unit.strategy,
        original=unit.parents[0] if unit.parents else None,
    )


def read_plan(path: Path) -> Plan:
    """The plan that `Plan.write` wrote.

    Raises:
        ConfigError: there is none, or the file is damaged.
    """
    try:
        content = json.loads(read_bounded(path))
        datasets = [_dataset_from_json(entry) for entry in content["datasets"]]
        units = [
            PlannedUnit(
                **{
                    **entry,
                    "seeds": Seeds(**entry["seeds"]),
                    "parents": tuple(entry["parents"]),
                    "also_in": tuple(entry["also_in"]),
                }
            )
            for entry in content["units"]
        ]
        plan = Plan(
            content["name"],
            {dataset.name: dataset for dataset in datasets},
            {unit.key: unit for unit in units},
        )
        require_types(plan)
        for unit in units:
            _check_unit(unit, plan)
    except FileNotFoundError as error:
        raise ConfigError(f"{path.parent} is no run's folder: it has no {path.name}") from error
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); the same `usweep run` writes it again"
        ) from error
    return plan


def _check_unit(unit: PlannedUnit, plan: Plan) -> None:
    """Refuse a unit that no plan could have; its kind and key are names of folders.

    Raises:
        ValueError: says what is wrong.
    """
    if unit.kind not in KINDS or not re.fullmatch("[0-9a-f]{64}", unit.key):
        raise ValueError(f"a unit of kind {unit.kind[:64]!r} and key {unit.key[:64]!r}")
    if not {unit.dataset, *unit.also_in} <= set(plan.datasets):
        raise ValueError(f"a unit of data set {unit.dataset[:64]!r}, which it does not list")
    if plan.datasets[unit.dataset].num_classes == 0:
        raise ValueError("a data set without classes")
    has_ratio, has_strategy = unit.forget_ratio is not None, unit.strategy is not None
    if (has_ratio, has_strategy) != (unit.kind != "original", unit.kind == "two_stage"):
        raise ValueError(f"a unit of kind {unit.kind} with a ratio or strategy of another")


def _dataset_from_json(entry: dict[str, Any]) -> PlannedDataset:
    return PlannedDataset(**{**entry, "settings": TrialSettings.from_json(entry["settings"])})


def make_plan(config: ResolvedConfig) -> Plan:
    """The units of a grid, each once however many trials need it.

    Looks at prepared data sets but prepares none: where one is missing, the plan counts its units
    all the same and is provisional.

    Raises:
        ConfigError: a forget ratio leaves no image to forget or to retain.
    """
    from unlearning.splits import num_forgotten  # torch

    datasets = {name: _plan_dataset(name, config) for name in config.trials}
    units: dict[str, PlannedUnit] = {}
    for dataset in datasets.values():
        if dataset.num_train is not None:
            for ratio in config.sweep.grid.forget_ratios:
                try:
                    num_forgotten(ratio, dataset.num_train)
                except ConfigError as error:
                    raise ConfigError(f"data set {dataset.name}: {error}") from error
        for unit in _dataset_units(dataset, config.sweep.grid):
            first = units.get(unit.key)
            if first is None:
                units[unit.key] = unit
            elif dataset.name not in (first.dataset, *first.also_in):
                also_in = (*first.also_in, dataset.name)
                units[unit.key] = dataclasses.replace(first, also_in=also_in)
    return Plan(config.sweep.name, datasets, units)


def _plan_dataset(name: str, config: ResolvedConfig) -> PlannedDataset:
    settings, data = config.trials[name], config.sweep.data
    facts = find_prepared(settings.source, Path(data.root), data.prepared_root)
    size = facts or nominal_facts(settings.source)
    num_train = None
    if size is not None:
        # Exact without groups; with HAM10000's lesions the fractions count lesions, not images.
        pool = size.num_images - size.num_official_test
        test = 0 if size.num_official_test else round(settings.split.test_fraction * pool)
        num_train = pool - test - round(settings.split.validation_fraction * pool)
    return PlannedDataset(
        name=name,
        reader=settings.source.reader,
        settings=settings,
        fingerprint=None if facts is None else facts.fingerprint,
        num_classes=None if size is None else size.num_classes,
        num_train=num_train,
    )


def seed_axes(grid: GridConfig) -> list[Seeds]:
    """Every combination of the three seeds that a grid asks for, each once."""
    combinations = []
    for seed in grid.seeds:
        axes = [
            [seed] if axis is None else axis
            for axis in (grid.training_seeds, grid.forget_seeds, grid.unlearning_seeds)
        ]
        combinations += [Seeds(*point) for point in product(*axes)]
    return list(dict.fromkeys(combinations))


def _dataset_units(dataset: PlannedDataset, grid: GridConfig) -> Iterator[PlannedUnit]:
    """Originals first, then by seeds and ratio: a scratch model and its two-stage units."""
    originals: dict[int, PlannedUnit] = {}
    for seeds in seed_axes(grid):
        if seeds.training not in originals:
            unit = _planned(dataset, "original", Seeds.all(seeds.training))
            originals[seeds.training] = unit
            yield unit
    for seeds in seed_axes(grid):
        for ratio in grid.forget_ratios:
            # Seeds that a kind does not depend on repeat the training seed, for one label.
            scratch_seeds = dataclasses.replace(seeds, unlearning=seeds.training)
            yield _planned(dataset, "scratch", scratch_seeds, ratio)
            original = originals[seeds.training].key
            for strategy in grid.strategies:
                yield _planned(dataset, "two_stage", seeds, ratio, strategy, (original,))


def _planned(
    dataset: PlannedDataset,
    kind: str,
    seeds: Seeds,
    ratio: float | None = None,
    strategy: str | None = None,
    parents: tuple[str, ...] = (),
) -> PlannedUnit:
    unit = PlannedUnit("", kind, dataset.name, ratio, strategy, seeds, parents)
    return dataclasses.replace(unit, key=unit_spec(dataset, unit).key)


@dataclass(frozen=True)
class Sharing:
    """What computing each unit once saves; epochs of stage 1 are not counted on either side."""

    num_trials: int
    epochs_shared: int
    epochs_apart: int  # with an original and a scratch model trained in every trial


def sharing(plan: Plan) -> Sharing:
    """Compare the plan's epochs with those of trials that share nothing."""
    trials = [unit for unit in plan.units.values() if unit.kind == "two_stage"]
    apart = sum(
        plan.epochs(unit) + 2 * plan.datasets[unit.dataset].settings.training.epochs
        for unit in trials
    )
    shared = sum(plan.epochs(unit) for unit in plan.units.values())
    return Sharing(len(trials), shared, apart)
