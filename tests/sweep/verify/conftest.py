"""A tiny sweep that is computed once, and a copy of it for each test."""

import shutil
from pathlib import Path

import pytest
from spoiled_run import Run, WriteTiny

from sweep.config import load_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_in: WriteTiny) -> Path:
    """Folder of a tiny sweep of which every unit is computed; not to be changed."""
    folder = tmp_path_factory.mktemp("verify")
    run = Run(load_config([tiny_in(folder)], []))
    run.compute(*run.plan.units.values())
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, tiny_in: WriteTiny) -> Run:
    """A copy of the finished sweep."""
    for name in ("data", "store"):
        shutil.copytree(finished / name, tmp_path / name)
    return Run(load_config([tiny_in(tmp_path)], []))
