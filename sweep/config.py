"""A sweep's configuration: YAML files and overrides, checked once, then plain dataclasses."""

import difflib
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from sweep.lease import MIN_TAKEOVER_S
from sweep.secrets import VARIABLES, redact
from sweep.tracking.settings import TrackingConfig
from unlearning.config import TrialSettings, require, require_ratio
from unlearning.datasets import known_readers
from unlearning.errors import ConfigError

MODEL_STATES = ("scratch", "neutralized", "retrained")
SEED_AXES = ("training_seeds", "forget_seeds", "unlearning_seeds")
_TRIAL_KEYS = ("settings", "datasets")  # merged into TrialSettings, the rest into SweepConfig


@dataclass
class GridConfig:
    """The axes; a trial is one point of data set x forget ratio x strategy x seeds."""

    # A list; a file may also write {start: 0.001, stop: 0.1, step: 0.001}, both ends included.
    forget_ratios: list[float] = field(default_factory=list)
    strategies: list[str] = field(default_factory=lambda: ["minimum"])
    seeds: list[int] = field(default_factory=lambda: [0])  # sets all three seeds of a trial
    # Where given, an axis of its own that takes the place of `seeds` for that one draw.
    training_seeds: list[int] | None = None
    forget_seeds: list[int] | None = None
    unlearning_seeds: list[int] | None = None
    datasets: list[str] | None = None  # None: all that are configured

    def __post_init__(self) -> None:
        self.forget_ratios = [round(ratio, 6) for ratio in self.forget_ratios]
        for ratio in self.forget_ratios:
            require_ratio(ratio, "grid.forget_ratios")
        for name in SEED_AXES:
            values = getattr(self, name)
            require(values != [], f"grid.{name}", values, "one or more, or null to follow seeds")
        for name in ("forget_ratios", "strategies", "seeds", *SEED_AXES):
            values = getattr(self, name) or []
            unique = len(set(values)) == len(values)
            require(unique, f"grid.{name}", values, "each value once")
        from unlearning.contrast import get_strategy  # torch, which not every command needs

        for strategy in self.strategies:
            get_strategy(strategy)


def _expand_range(config: DictConfig) -> DictConfig:
    """Turn a range of forget ratios into a list, so that each can override the other.

    Raises:
        ConfigError: the range is incomplete or impossible.
    """
    key = "grid.forget_ratios"
    value = OmegaConf.select(config, key)
    if not isinstance(value, DictConfig):
        return config
    names = ("start", "stop", "step")
    require(set(value) == set(names), key, dict(value), "exactly the keys start, stop and step")
    for name in names:
        is_number = isinstance(value[name], int | float) and not isinstance(value[name], bool)
        require(is_number, f"{key}.{name}", value[name], "a number")
    # Decimal, since 0.001 added up a hundred times in binary is not 0.1.
    start, stop, step = (Decimal(str(value[name])) for name in names)
    # Bounded here, since the list is made before its ratios are checked.
    sane = step >= Decimal("0.000001") and start <= stop <= 1
    allowed = "a step of 0.000001 or more, and a stop from the start to 1"
    require(sane, key, dict(value), allowed)
    ratios = [float(start + step * i) for i in range(int((stop - start) / step) + 1)]
    OmegaConf.update(config, key, ratios, merge=False)
    return config


@dataclass
class DataConfig:
    """Where original files are, and where prepared arrays go."""

    root: str = "data"
    prepared: str | None = None  # None: <root>/prepared
    download: bool = False

    @property
    def prepared_root(self) -> Path:
        """Folder of the prepared arrays."""
        return Path(self.root) / "prepared" if self.prepared is None else Path(self.prepared)


@dataclass
class ShareConfig:
    """What one unit gets while it runs."""

    cpus: float = 1.0
    gpus: float = 0.25  # fraction of one GPU; left out where the cluster has none

    def __post_init__(self) -> None:
        require(self.cpus > 0, "resources.cpus", self.cpus, "above 0")
        whole_or_part = 0 <= self.gpus <= 1
        require(whole_or_part, "resources.gpus", self.gpus, "from 0 to 1: a unit uses one GPU")


@dataclass
class ShareException:
    """What the units of one data set get instead; None is what all units get."""

    cpus: float | None = None
    gpus: float | None = None


@dataclass
class ResourcesConfig(ShareConfig):
    """What units get, and exceptions by data set."""

    datasets: dict[str, ShareException] = field(default_factory=dict)
    retries: int = 2  # of a unit whose worker process was lost
    grace_s: float = 30.0  # for units under way to reach a checkpoint when the sweep is ended

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.retries >= 0, "resources.retries", self.retries, "0 or more")
        require(self.grace_s >= 0, "resources.grace_s", self.grace_s, "0 or more seconds")
        for dataset in self.datasets:
            self.of(dataset)  # refuses an impossible exception

    def of(self, dataset: str) -> ShareConfig:
        """The share of a unit of this data set."""
        exception = self.datasets.get(dataset, ShareException())
        return ShareConfig(
            cpus=self.cpus if exception.cpus is None else exception.cpus,
            gpus=self.gpus if exception.gpus is None else exception.gpus,
        )


@dataclass
class OutputConfig:
    """Where results go."""

    store: str = "store"  # shared by all sweeps; each unit is computed once in it
    runs: str = "runs"  # one folder a sweep, named after it
    # Model states whose weights are kept; originals always are, since other units need them.
    keep_models: list[str] = field(default_factory=lambda: list(MODEL_STATES))
    checkpoint_every_s: float = 60.0  # of a unit under way; 0 is after each epoch
    takeover_s: float = 60.0  # without a sign of life before another machine's unit is taken over

    def __post_init__(self) -> None:
        every = self.checkpoint_every_s
        require(every >= 0, "output.checkpoint_every_s", every, "0 or more seconds")
        least = f"{MIN_TAKEOVER_S:g} seconds or more"
        enough = self.takeover_s >= MIN_TAKEOVER_S
        require(enough, "output.takeover_s", self.takeover_s, least)
        for state in self.keep_models:
            known = ", ".join(MODEL_STATES)
            require(state in MODEL_STATES, "output.keep_models", state, known)


@dataclass
class SweepConfig:
    """A sweep's own settings; those of its trials are in `ResolvedConfig.trials`."""

    name: str = "sweep"
    grid: GridConfig = field(default_factory=GridConfig)
    data: DataConfig = field(default_factory=DataConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def run_folder(self) -> Path:
        """Folder of this run's configuration, plan, failures and report."""
        return Path(self.output.runs) / self.name


@dataclass(frozen=True)
class ResolvedConfig:
    """What a sweep is made from: its own settings, and those of the trials of each data set."""

    sweep: SweepConfig
    trials: dict[str, TrialSettings]  # by data set, in the order of the grid

    def to_yaml(self) -> str:
        """The whole configuration as one file that gives this sweep again, from any folder."""
        sweep = asdict(self.sweep)
        for section, key in (("data", "root"), ("output", "store"), ("output", "runs")):
            sweep[section][key] = str(Path(sweep[section][key]).resolve())
        exceptions = sweep["resources"]["datasets"]
        sweep["resources"]["datasets"] = {k: v for k, v in exceptions.items() if k in self.trials}
        sweep["data"]["prepared"] = str(self.sweep.data.prepared_root.resolve())
        datasets = {name: asdict(settings) for name, settings in self.trials.items()}
        return OmegaConf.to_yaml(OmegaConf.create(sweep | {"datasets": datasets}))


def load_config(paths: list[Path], overrides: list[str]) -> ResolvedConfig:
    """Merge files from left to right, then `key=value` overrides, and check everything.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, a wrong type or an impossible
            value; the message names it and what is allowed. Also a secret of the environment,
            since configurations are written down; the message names its key alone.
    """
    try:
        return _load(paths, overrides)
    except ConfigError as error:
        raise ConfigError(redact(str(error))) from None
    except RecursionError as error:
        names = " ".join(map(str, paths))
        raise ConfigError(f"{names}: the configuration is nested too deeply") from error


def _load(paths: list[Path], overrides: list[str]) -> ResolvedConfig:
    try:
        merged = OmegaConf.merge(*[_read(path, ()) for path in paths], _parse(overrides))
    except (OmegaConfBaseException, TypeError) as error:
        raise ConfigError(f"the files and overrides do not fit: {_first_line(error)}") from error
    assert isinstance(merged, DictConfig)
    shared = merged.get("settings") or OmegaConf.create({})
    entries = merged.get("datasets") or OmegaConf.create({})
    if not isinstance(entries, DictConfig):
        raise ConfigError(f"datasets is {entries!r}; allowed: a mapping of names to settings")
    _check_texts([str(name) for name in entries], "a name in datasets")
    rest = OmegaConf.masked_copy(merged, [str(k) for k in merged if k not in _TRIAL_KEYS])
    sweep: SweepConfig = to_dataclass(SweepConfig, "", rest, extra_keys=_TRIAL_KEYS)
    _check_name(sweep.name)
    for axis in ("forget_ratios", "strategies", "seeds"):
        require(len(getattr(sweep.grid, axis)) > 0, f"grid.{axis}", [], "a list of one or more")
    names = list(entries) if sweep.grid.datasets is None else sweep.grid.datasets
    require(len(names) > 0, "datasets", names, "one or more")
    for name in [*names, *sweep.resources.datasets]:
        if name not in entries:
            raise ConfigError(f"data set {name!r} is not configured; {_list('datasets', entries)}")
    # All entries are checked, also those that this grid leaves out.
    trials = {str(name): _trial_settings(str(name), shared, entries[name]) for name in entries}
    return ResolvedConfig(sweep, {name: trials[name] for name in names})


def _trial_settings(name: str, shared: Any, entry: Any) -> TrialSettings:
    key = f"datasets.{name}"
    readers = known_readers()
    entry = OmegaConf.create({}) if entry is None else entry
    if not isinstance(entry, DictConfig):
        raise ConfigError(f"{key} is {entry!r}; allowed: a mapping of settings")
    if OmegaConf.select(entry, "source.reader") is None:
        if name not in readers:
            known = ", ".join(sorted(readers))
            raise ConfigError(f"{key}.source.reader is missing; known readers: {known}")
        entry = OmegaConf.merge(entry, {"source": {"reader": name}})
    from unlearning.models import require_model  # torch

    settings: TrialSettings = to_dataclass(TrialSettings, key, shared, entry)
    reader = settings.source.reader
    require(reader in readers, f"{key}.source.reader", reader, ", ".join(sorted(readers)))
    try:
        require_model(settings.model.name)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error
    return settings


def _read(path: Path, including: tuple[Path, ...]) -> DictConfig:
    """A file and, below it, the files it includes; paths are relative to the including file."""
    try:
        resolved = path.resolve()
        loaded = None if resolved in including else OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file {path} does not exist") from error
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        # ValueError: no text, no path, or a number or date that Python cannot hold
        raise ConfigError(f"configuration file {path} cannot be read: {error}") from error
    if loaded is None:
        raise ConfigError(f"{path} includes itself, through {' -> '.join(map(str, including))}")
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"configuration file {path} is not a mapping of keys to values")
    includes = loaded.pop("include", None) or []
    if not isinstance(includes, ListConfig | list):
        raise ConfigError(f"{path}: include is {includes!r}; allowed: a list of files")
    parts = [_read(path.parent / str(name), (*including, resolved)) for name in includes]
    merged = OmegaConf.merge(*parts, _expand_range(loaded))
    assert isinstance(merged, DictConfig)
    return merged


def _parse(overrides: list[str]) -> DictConfig:
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"{override!r} is neither a .yaml file nor an override key=value")
    try:
        return _expand_range(OmegaConf.from_dotlist(overrides))
    except ConfigError:
        raise
    except (ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"override cannot be read: {error}") from error


def to_dataclass(
    schema: type[Any], prefix: str, *configs: Any, extra_keys: tuple[str, ...] = ()
) -> Any:
    """Merge into a schema; every refusal becomes a ConfigError that names the full key."""
    try:
        settings: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), *configs))
        _check_texts(asdict(settings), "")
        return settings
    except ConfigKeyError as error:
        key = ".".join(filter(None, [prefix, error.full_key]))
        raise ConfigError(_unknown_key(schema, error.full_key or "", key, extra_keys)) from error
    except OmegaConfBaseException as error:
        key = ".".join(filter(None, [prefix, error.full_key])) or "configuration"
        raise ConfigError(f"{key}: {_first_line(error)}") from error
    except (TypeError, OverflowError) as error:
        raise ConfigError(f"{prefix or 'configuration'}: {_first_line(error)}") from error
    except ConfigError as error:
        # A value refused by a section's own check names the section, not the data set.
        raise ConfigError(f"{prefix}.{error}" if prefix else str(error)) from error


def _check_texts(value: object, key: str) -> None:
    """Refuse names and values that must not be written down, or cannot be.

    Raises:
        ConfigError: a secret or a control character; names the key.
    """
    if isinstance(value, dict):
        for name, part in value.items():
            _check_texts(name, f"a name in {key}")
            _check_texts(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for part in value:
            _check_texts(part, key)
    elif isinstance(value, str):
        if redact(value) != value:
            raise ConfigError(
                f"{key} holds a key of yours, which would be written down with the results; "
                f"leave it where it is ({', '.join(VARIABLES)} or ~/.netrc) and take it out here"
            )
        if re.search("[\x00-\x1f\x7f\ud800-\udfff]", value):
            raise ConfigError(f"{key} is {value!r}; allowed: text without control characters")


def _unknown_key(schema: type[Any], path: str, key: str, extra: tuple[str, ...]) -> str:
    if key == "include":
        return "include names files in a file; it cannot be an override"
    *parents, last = path.split(".")
    section: Any = schema
    for parent in parents:
        types = {f.name: f.type for f in fields(section)} if is_dataclass(section) else {}
        section = types.get(parent)
    names = [f.name for f in fields(section)] if is_dataclass(section) else []
    names += [*extra, "include"] if not parents and extra else []
    close = difflib.get_close_matches(last, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown key {key!r}{hint} (known: {', '.join(sorted(names))})"


def _check_name(name: str) -> None:
    ok = bool(name) and all(c.isalnum() or c in "-_." for c in name) and name[0] != "."
    require(ok, "name", name, "letters, digits, '-', '_' and '.'; it names the run's folder")


def _list(what: str, names: Any) -> str:
    return f"{what}: {', '.join(sorted(map(str, names))) or 'none'}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
