"""Readers by name: those built in, and those from outside."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unlearning.config import SourceConfig
from unlearning.datasets import (
    NominalSize,
    RawDataset,
    Reader,
    find_prepared,
    get_reader,
    known_readers,
    nominal_facts,
    prepare,
    register_reader,
)
from unlearning.datasets import registry as registry_module
from unlearning.errors import ConfigError

BUILT_IN = {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "ham10000", "arrays"}

PLUGIN = """
import numpy as np
from unlearning.datasets import RawDataset, Reader, register_reader

class {name}Reader(Reader):
    name = "{name}"
    description = "two grey images"
    obtain = "it is made up"

    def files(self, source, data_root):
        return []

    def read(self, source, data_root):
        images = np.zeros((2, 1, 2, 2), np.uint8)
        return RawDataset(images, np.array([0, 1]), ("a", "b"), 0)
"""

USE_PLUGINS = """
import sys, warnings
from pathlib import Path
from unlearning.config import SourceConfig
from unlearning.datasets import known_readers, prepare
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name in sys.argv[2:]:
        print(prepare(SourceConfig(reader=name), Path(sys.argv[1]), Path(sys.argv[1])).name)
    known_readers()
    print(*sorted(str(warning.message) for warning in caught), sep="\\n")
"""


class ToyReader(Reader):
    name = "toy"
    description = "a reader for these tests"
    obtain = "nowhere"

    def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
        return [data_root / "toy"]

    def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
        raise NotImplementedError


@pytest.fixture
def fresh_registry(monkeypatch):
    monkeypatch.setattr(registry_module, "_readers", dict(registry_module._readers))


def run_with_plugins(tmp_path: Path, *names: str, plugins: str = "") -> list[str]:
    environment = dict(os.environ, UNLEARNING_PLUGINS=plugins)
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-c", USE_PLUGINS, str(tmp_path / "out"), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_all_data_sets_of_the_paper_are_known():
    assert set(known_readers()) >= BUILT_IN
    for name, reader in known_readers().items():
        assert reader.name == name
        assert reader.description and "\n" not in reader.description


def test_unknown_name_is_an_error_that_lists_the_known_ones(tmp_path):
    source = SourceConfig(reader="imagenet")
    for call in (
        lambda: get_reader(source),
        lambda: nominal_facts(source),
        lambda: find_prepared(source, tmp_path, tmp_path),
        lambda: prepare(source, tmp_path, tmp_path),
    ):
        with pytest.raises(ConfigError, match="'imagenet' is unknown") as caught:
            call()
        assert all(name in str(caught.value) for name in BUILT_IN)


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        ("digits", NominalSize(1_797, 0, 10)),
        ("mnist", NominalSize(70_000, 10_000, 10)),
        ("fashion_mnist", NominalSize(70_000, 10_000, 10)),
        ("cifar10", NominalSize(60_000, 10_000, 10)),
        ("cifar100", NominalSize(60_000, 10_000, 100)),
        ("svhn", NominalSize(99_289, 26_032, 10)),
        ("ham10000", NominalSize(10_015, 0, 7)),
        ("arrays", None),
    ],
)
def test_published_sizes_are_those_of_the_paper(reader, expected):
    assert nominal_facts(SourceConfig(reader=reader)) == expected


def test_class_and_instance_can_be_registered(fresh_registry):
    assert register_reader(ToyReader) is ToyReader
    other = ToyReader()
    other.name = "other"
    assert register_reader(other) is other
    assert set(known_readers()) >= {*BUILT_IN, "toy", "other"}
    assert nominal_facts(SourceConfig(reader="toy")) is None


def test_taken_name_is_refused(fresh_registry):
    register_reader(ToyReader)
    with pytest.raises(ConfigError, match="'toy' is registered twice"):
        register_reader(ToyReader)
    impostor = ToyReader()
    impostor.name = "mnist"
    with pytest.raises(ConfigError, match="'mnist' is registered twice"):
        register_reader(impostor)


@pytest.mark.parametrize("thing", [object(), dict, "mnist"])
def test_what_is_no_reader_is_refused(fresh_registry, thing):
    with pytest.raises(ConfigError, match="is no data-set reader"):
        register_reader(thing)


def test_reader_of_a_plugin_file_can_be_prepared(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(name="mine") + "\nregister_reader(mineReader)\n")
    assert run_with_plugins(tmp_path, "mine", plugins=str(plugin))[0] == "mine"


def test_reader_of_the_user_s_page_works_as_printed(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# circles\.py\n.*?)```", page, flags=re.DOTALL)
    (tmp_path / "circles.py").write_text(code)
    content = {"images": np.zeros((4, 5, 5), np.uint8), "filled": np.array([0, 1, 1, 0])}
    (tmp_path / "out").mkdir()
    np.savez(tmp_path / "out" / "circles.npz", **content)
    plugin = str(tmp_path / "circles.py")
    assert run_with_plugins(tmp_path, "circles", plugins=plugin)[0] == "circles"


def test_entry_points_are_loaded_and_a_broken_one_is_only_reported(tmp_path):
    register = "\nregister_reader({name}Reader)\n"
    (tmp_path / "good_module.py").write_text((PLUGIN + register).format(name="good"))
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('out of order')")
    (tmp_path / "shadow_module.py").write_text((PLUGIN + register).format(name="mnist"))
    info = tmp_path / "extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[unlearning.plugins]\ngood = good_module\nbroken = broken_module\nshadow = shadow_module\n"
    )
    prepared, *warned = run_with_plugins(tmp_path, "good")
    assert prepared == "good"
    assert len(warned) == 2
    assert "broken_module cannot be imported: out of order" in warned[0]
    assert "'mnist' is registered twice" in warned[1]


def test_importing_the_package_loads_no_heavy_library():
    heavy = "{'torch', 'torchvision', 'scipy', 'sklearn', 'PIL'}"
    code = f"import sys, unlearning.datasets; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
