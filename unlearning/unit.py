"""A unit of work as plain data, and the key that stands for its content.

Three kinds: an `original` model is shared by every forget ratio and strategy, a `scratch` model by
every strategy, and a `two_stage` unit neutralizes and retrains one original.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from unlearning.config import SECTIONS, Seeds, TrialSettings

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
        """The unit that `to_json` described."""
        strategy = spec.get("strategy", {})
        return cls(
            kind=spec["kind"],
            fingerprint=spec["dataset"],
            settings=TrialSettings.from_json(spec),
            seeds=Seeds(**spec["seeds"]),
            forget_ratio=spec.get("forget_ratio"),
            strategy=strategy.get("name"),
            strategy_version=strategy.get("version"),
            original=spec.get("parents", {}).get("original"),
        )

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
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
