"""A unit of work as plain data, and the key that stands for its content.

Three kinds: an `original` model is shared by every forget ratio and strategy, a `scratch` model by
every strategy, and a `two_stage` unit neutralizes and retrains one original.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from unlearning.config import SECTIONS, Seeds, TrialSettings, require
from unlearning.errors import ConfigError

# Raised when a change of the code moves the numbers of a kind; CHANGELOG marks it [numbers].
RECIPES = {"original": 1, "scratch": 1, "two_stage": 1}

_STAGE_SECTIONS = ("neutralization", "retraining")  # matter to two_stage alone
_SEEDS = {
    "original": ("training",),
    "scratch": ("training", "forget"),
    "two_stage": ("training", "forget", "unlearning"),
}


@dataclass(frozen=True)
class UnitSpec:
    """All that decides a unit's numbers, and nothing else: no paths, names or resources."""

    kind: str
    fingerprint: str  # of the data set's content
    settings: TrialSettings
    seeds: Seeds
    forget_ratio: float | None = None  # None for an original
    strategy: str | None = None  # two_stage only
    strategy_version: int | None = None
    original: str | None = None  # two_stage only: key of the parent

    def to_json(self) -> dict[str, Any]:
        """The unit as JSON-ready data, with only what its kind depends on.

        Every setting is written out in full, never as a difference from a default, so that a
        changed default changes the key.
        """
        sections = settings_json(self.settings)
        if self.kind != "two_stage":
            sections = {k: v for k, v in sections.items() if k not in _STAGE_SECTIONS}
        spec = {
            "kind": self.kind,
            "recipe": RECIPES[self.kind],
            "dataset": self.fingerprint,
            "seeds": {name: getattr(self.seeds, name) for name in _SEEDS[self.kind]},
            **sections,
        }
        if self.kind != "original":
            spec["forget_ratio"] = self.forget_ratio
        if self.kind == "two_stage":
            spec["strategy"] = {"name": self.strategy, "version": self.strategy_version}
            spec["parents"] = {"original": self.original}
        return spec

    @classmethod
    def from_json(cls, spec: dict[str, Any]) -> "UnitSpec":
        """The unit that `to_json` described.

        Raises:
            ConfigError: a key is missing or unknown, a value is not one that `to_json` writes, or
                the recipe is not this code's; names it.
        """
        _require_layout(spec)
        strategy = spec.get("strategy", {})
        try:
            unit = cls(
                kind=spec["kind"],
                fingerprint=spec["dataset"],
                settings=TrialSettings.from_json(spec),
                seeds=Seeds(**spec["seeds"]),
                forget_ratio=spec.get("forget_ratio"),
                strategy=strategy.get("name"),
                strategy_version=strategy.get("version"),
                original=spec.get("parents", {}).get("original"),
            )
        except TypeError as error:
            problem = f"a unit's specification has a value of a wrong type: {error}"
            raise ConfigError(problem) from error
        for name, value in unit.to_json().items():
            # Such as a null that stands for a default: the unit would have another key.
            same = _canonical_json(value) == _canonical_json(spec[name])
            require(same, name, spec[name], f"what it means in full, {value!r}")
        return unit

    @property
    def key(self) -> str:
        """SHA-256 over the canonical JSON of `to_json`, 64 hexadecimal digits."""
        return spec_key(self.to_json())


def settings_json(settings: TrialSettings) -> dict[str, Any]:
    """The settings that decide numbers, by section; where images come from is not among them."""
    names = [name for name in SECTIONS if name != "source"]
    return {name: dataclasses.asdict(getattr(settings, name)) for name in names}


def spec_key(spec: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON (sorted keys, no spaces) of a unit's specification."""
    return hashlib.sha256(_canonical_json(spec).encode()).hexdigest()


def _canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _require_layout(spec: Any) -> None:
    """Refuse a specification that has not exactly the keys that `to_json` writes for its kind."""
    _require_keys("specification", spec, {"kind"}, others=True)
    kind = spec["kind"]
    require(kind in list(RECIPES), "kind", kind, ", ".join(RECIPES))
    sections = {
        name: {field.name for field in dataclasses.fields(make)}
        for name, make in SECTIONS.items()
        if name != "source" and (kind == "two_stage" or name not in _STAGE_SECTIONS)
    }
    nested = {"seeds": set(_SEEDS[kind])} | sections
    if kind == "two_stage":
        nested |= {"strategy": {"name", "version"}, "parents": {"original"}}
    plain = {"kind", "recipe", "dataset"} | (set() if kind == "original" else {"forget_ratio"})
    _require_keys("specification", spec, plain | nested.keys())
    for name, keys in nested.items():
        _require_keys(name, spec[name], keys)
    recipe = spec["recipe"]
    require(recipe == RECIPES[kind], "recipe", recipe, f"{RECIPES[kind]}, this code's for {kind}")


def _require_keys(name: str, value: Any, keys: set[str], *, others: bool = False) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"a unit's {name} is {value!r}; allowed: a mapping")
    missing = keys - value.keys()
    unknown = set() if others else value.keys() - keys
    for what, found in (("lacks", missing), ("has the unknown key", unknown)):
        if found:
            raise ConfigError(f"a unit's {name} {what} {', '.join(sorted(map(str, found)))}")
