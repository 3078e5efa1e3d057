"""unlearning.plugins: strategies from files and modules outside the package."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unlearning import plugins
from unlearning.contrast import contrastive_labels, get_strategy, known_strategies
from unlearning.errors import ConfigError
from unlearning.plugins import VARIABLE
from unlearning.seeding import generator

NEXT_CLASS = """
from unlearning.contrast import ContrastInput, Matching, register_strategy


@register_strategy("{name}", "the next class of the forget set", version=3)
def next_class(contrast: ContrastInput) -> Matching:
    classes = contrast.classes
    return Matching({{c: classes[(n + 1) % len(classes)] for n, c in enumerate(classes)}})
"""


@pytest.fixture
def plugin_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_strategies: None
) -> Iterator[Path]:
    """An empty folder; what is loaded from it is forgotten after the test."""
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_strategy_in_a_file_is_known_and_used(
    plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plugin_folder / "mine.py"
    path.write_text(NEXT_CLASS.format(name="next_class"))
    assert "next_class" not in known_strategies()
    monkeypatch.setenv(VARIABLE, str(path))
    assert get_strategy("next_class").version == 3
    matching = contrastive_labels(
        "next_class", torch.zeros(3, 5), torch.tensor([0, 2, 4]), generator(0)
    )
    assert matching.labels == {0: 2, 2: 4, 4: 0}
    assert {"minimum", "next_class"} <= set(known_strategies())  # loaded once, not again


def test_several_plugins_are_separated_as_in_path_and_may_be_modules(
    plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plugin_folder / "first.py").write_text(NEXT_CLASS.format(name="first"))
    (plugin_folder / "second_module.py").write_text(NEXT_CLASS.format(name="second"))
    names = [str(plugin_folder / "first.py"), "second_module", ""]
    monkeypatch.setenv(VARIABLE, os.pathsep.join(names))
    assert {"first", "second"} <= set(known_strategies())


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("1 / 0", "division by zero"),
        ("def", "invalid syntax"),
        ("import no_such_package", "No module named 'no_such_package'"),
        (NEXT_CLASS.format(name="minimum"), "strategy 'minimum' is registered twice"),
    ],
)
def test_a_broken_plugin_that_was_asked_for_is_named_with_its_cause(
    plugin_folder: Path, monkeypatch: pytest.MonkeyPatch, content: str, cause: str
) -> None:
    path = plugin_folder / "broken.py"
    path.write_text(content)
    monkeypatch.setenv(VARIABLE, str(path))
    for _ in range(2):  # the second time as clearly as the first
        with pytest.raises(ConfigError, match=r"broken\.py cannot be imported: ") as caught:
            known_strategies()
        assert cause in str(caught.value)


def test_a_missing_plugin_is_named(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (str(plugin_folder / "absent.py"), "absent_module"):
        monkeypatch.setenv(VARIABLE, name)
        with pytest.raises(ConfigError, match=r"plug-in .*absent.* cannot be imported"):
            known_strategies()


class Installed:
    """Stands for an installed package's entry point, which importlib.metadata would make."""

    def __init__(self, value: str) -> None:
        self.value = value

    def load(self) -> object:
        if self.value == "broken":
            raise ImportError("its library is gone")
        known = sys.modules["unlearning.contrast"]
        return known.register_strategy("installed", "from a package")(known.minimum)


def test_an_installed_plugin_is_loaded_and_a_broken_one_only_warned_about(
    plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [Installed("broken"), Installed("fine")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group else [])
    plugins._load_installed.cache_clear()
    try:
        with pytest.warns(UserWarning, match="plug-in broken cannot be imported: its library"):
            known = known_strategies()
    finally:
        plugins._load_installed.cache_clear()
    assert "installed" in known
