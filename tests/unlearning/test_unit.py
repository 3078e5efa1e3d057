"""unlearning.unit: a key stands for all that decides a unit's numbers, and for nothing else."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from unlearning import unit
from unlearning.config import SECTIONS, Seeds, SourceConfig, TrialSettings
from unlearning.errors import ConfigError
from unlearning.unit import RECIPES, UnitSpec, settings_json, spec_key

KINDS = ("original", "scratch", "two_stage")
EVERY_KIND = set(KINDS)
TWO_STAGE = {"two_stage"}

# Another allowed value for each setting, by section; a setting that is not here fails a test below.
OTHER: dict[str, dict[str, Any]] = {
    "source": {
        "reader": "mnist",
        "image_size": 64,
        "train_images": "images.npy",
        "train_labels": "labels.npy",
        "test_images": "test_images.npy",
        "test_labels": "test_labels.npy",
    },
    "split": {"validation_fraction": 0.2, "test_fraction": 0.2, "seed": 1},
    "model": {"name": "resnet50", "widths": [32, 65], "pixel_mean": 0.4, "pixel_std": 0.4},
    "training": {"epochs": 51, "batch_size": 64, "learning_rate": 0.002},
    "neutralization": {
        "target": "random",
        "outputs": "softmax",
        "max_epochs": 4999,
        "batch_size": 64,
        "learning_rate": 0.002,
    },
    "retraining": {
        "epochs": 24,
        "batch_size": 64,
        "learning_rate": 0.002,
        "alpha": 1.0,
        "beta": 1.0,
        "distillation_epochs": 9,
        "temperature": 5.0,
        "temperature_squared": False,
        "data_fraction": 0.5,
    },
    "numerics": {
        "precision": "bf16",
        "deterministic": False,
        "channels_last": False,
        "cpu_threads": 2,
    },
}
SETTINGS = [(section, name) for section, values in OTHER.items() for name in values]
STAGES = ("neutralization", "retraining")


def spec(kind: str, settings: TrialSettings | None = None, **changes: Any) -> UnitSpec:
    values: dict[str, Any] = {"seeds": Seeds(1, 2, 3), "fingerprint": "f" * 64}
    if kind != "original":
        values["forget_ratio"] = 0.01
    if kind == "two_stage":
        values |= {"strategy": "minimum", "strategy_version": 1, "original": "a" * 64}
    return UnitSpec(kind=kind, settings=settings or TrialSettings(), **(values | changes))


def kinds_whose_key_changes(change: Callable[[str], UnitSpec]) -> set[str]:
    return {kind for kind in KINDS if change(kind).key != spec(kind).key}


def test_every_setting_has_another_value_here() -> None:
    fields = {
        section: {field.name for field in dataclasses.fields(make)}
        for section, make in SECTIONS.items()
    }
    assert {section: set(values) for section, values in OTHER.items()} == fields


@pytest.mark.parametrize(("section", "name"), SETTINGS)
def test_a_setting_changes_the_key_of_the_kinds_it_matters_to(section: str, name: str) -> None:
    settings = TrialSettings()
    changed = dataclasses.replace(getattr(settings, section), **{name: OTHER[section][name]})
    settings = dataclasses.replace(settings, **{section: changed})
    expected = EVERY_KIND
    if section == "source":
        expected = set()
    elif section in STAGES:
        expected = TWO_STAGE
    assert kinds_whose_key_changes(lambda kind: spec(kind, settings)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seeds": Seeds(9, 2, 3)}, EVERY_KIND),
        ({"seeds": Seeds(1, 9, 3)}, {"scratch", "two_stage"}),
        ({"seeds": Seeds(1, 2, 9)}, TWO_STAGE),
        ({"fingerprint": "e" * 64}, EVERY_KIND),
        ({"strategy": "maximum"}, TWO_STAGE),
        ({"strategy_version": 2}, TWO_STAGE),
        ({"original": "b" * 64}, TWO_STAGE),
    ],
)
def test_seeds_data_and_strategy_change_the_keys_of_the_kinds_they_matter_to(
    changes: dict[str, Any], expected: set[str]
) -> None:
    assert kinds_whose_key_changes(lambda kind: spec(kind, **changes)) == expected


def test_the_forget_ratio_changes_the_keys_of_all_but_the_original() -> None:
    for kind in ("scratch", "two_stage"):
        assert spec(kind, forget_ratio=0.011).key != spec(kind).key


@pytest.mark.parametrize("raised", KINDS)
def test_a_recipe_version_is_in_the_keys_of_its_kind(
    raised: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {kind: spec(kind).key for kind in KINDS}
    monkeypatch.setitem(unit.RECIPES, raised, RECIPES[raised] + 1)
    assert {kind for kind in KINDS if spec(kind).key != before[kind]} == {raised}


def test_kinds_have_different_keys() -> None:
    assert len({spec(kind).key for kind in KINDS}) == 3


def test_a_default_that_was_resolved_and_the_same_value_given_have_one_key() -> None:
    given = TrialSettings()
    given.neutralization.batch_size = given.training.batch_size
    given.retraining.epochs = 25
    for kind in KINDS:
        assert spec(kind, given).key == spec(kind).key


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_comes_back_from_json_text_with_its_key(kind: str) -> None:
    settings = TrialSettings(source=SourceConfig(reader="mnist"))
    for section in OTHER:
        if section != "source":
            for name, value in OTHER[section].items():
                setattr(getattr(settings, section), name, value)
    first = spec(kind, settings)
    again = UnitSpec.from_json(json.loads(json.dumps(first.to_json())))
    assert again.to_json() == first.to_json()
    assert again.key == first.key
    assert again.kind == kind


def leaves(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """Where keys are in a specification, such as ("seeds", "forget") and ("seeds",)."""
    nested = {name: value for name, value in content.items() if isinstance(value, dict)}
    return [(name,) for name in content] + [(n, key) for n, keys in nested.items() for key in keys]


@pytest.mark.parametrize("kind", KINDS)
def test_a_specification_that_lacks_any_key_is_refused_by_its_name(kind: str) -> None:
    for path in leaves(spec(kind).to_json()):
        content = spec(kind).to_json()
        section = content
        for name in path[:-1]:
            section = section[name]
        del section[path[-1]]
        with pytest.raises(ConfigError, match=rf"lacks {path[-1]}$"):
            UnitSpec.from_json(content)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("original", "extra"),
        ("original", "forget_ratio"),
        ("original", "retraining"),
        ("original", "seeds.forget"),
        ("scratch", "strategy"),
        ("scratch", "neutralization"),
        ("scratch", "seeds.unlearning"),
        ("two_stage", "source"),
        ("two_stage", "training.extra"),
        ("two_stage", "parents.scratch"),
    ],
)
def test_a_specification_with_a_key_too_many_is_refused_by_its_name(kind: str, path: str) -> None:
    content = spec(kind).to_json()
    *sections, last = path.split(".")
    section = content[sections[0]] if sections else content
    section[last] = 1
    with pytest.raises(ConfigError, match=rf"unknown key {last}$"):
        UnitSpec.from_json(content)


@pytest.mark.parametrize("kind", KINDS)
def test_another_recipe_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = spec(kind).to_json()
    monkeypatch.setitem(unit.RECIPES, kind, RECIPES[kind] + 1)
    with pytest.raises(ConfigError, match=rf"recipe is 1; allowed: 2, this code's for {kind}"):
        UnitSpec.from_json(content)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("kind",), "both", "kind is 'both'"),
        (("kind",), ["original"], r"kind is \['original'\]"),
        (("seeds",), 3, "seeds is 3; allowed: a mapping"),
        (("training", "epochs"), "5", "wrong type"),
        (("training", "epochs"), 0, "training.epochs is 0"),
        (("retraining", "epochs"), None, "retraining is .*'epochs': None.* in full"),
        (("strategy",), None, "strategy is None; allowed: a mapping"),
    ],
)
def test_a_value_that_is_never_written_is_refused_by_its_name(
    path: tuple[str, ...], value: object, named: str
) -> None:
    content = spec("two_stage").to_json()
    section = content
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    with pytest.raises(ConfigError, match=named):
        UnitSpec.from_json(content)


def test_a_specification_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: a mapping"):
        UnitSpec.from_json([])  # type: ignore[arg-type]


def test_the_specification_is_plain_json_and_holds_every_setting_in_full() -> None:
    content = json.loads(json.dumps(spec("two_stage").to_json()))
    assert content == spec("two_stage").to_json()
    for section, make in SECTIONS.items():
        if section != "source":
            assert set(content[section]) == {field.name for field in dataclasses.fields(make)}
            assert None not in content[section].values()
    assert "source" not in content
    assert settings_json(TrialSettings()) == {
        section: content[section] for section in SECTIONS if section != "source"
    }


def test_the_key_is_the_hash_of_the_canonical_json() -> None:
    content = spec("scratch").to_json()
    shuffled = dict(reversed(list(content.items())))
    text = json.dumps(shuffled, sort_keys=True, separators=(",", ":"))
    assert spec("scratch").key == spec_key(shuffled) == hashlib.sha256(text.encode()).hexdigest()


def test_a_number_that_json_cannot_hold_has_no_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        spec("scratch", forget_ratio=float("nan")).key  # noqa: B018


def test_golden_keys_change_only_on_purpose(golden: Any) -> None:
    """A store's finished units are found by these; a changed key computes all of them again.

    This fails when a setting is added, renamed, or gets another default, and when a recipe is
    raised. If that is meant, scripts/refresh_golden.py writes the file anew.
    """
    measured = {
        kind: {"key": spec(kind).key, "specification": spec(kind).to_json()} for kind in KINDS
    }
    if golden.refreshing:
        golden.write("unit_keys.json", measured)
    assert measured == golden.read("unit_keys.json")
