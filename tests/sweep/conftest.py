"""Small sweeps on scikit-learn's digits, made in a folder of the test's own."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from sweep.cli import main
from sweep.config import ResolvedConfig, load_config
from sweep.plan import Plan, make_plan

TINY = """
name: tiny
datasets:
  digits:
    model: {widths: [4, 8]}
    training: {epochs: 2, batch_size: 128}
    neutralization: {max_epochs: 40, learning_rate: 0.01}
grid:
  forget_ratios: [0.05, 0.1]
  strategies: [minimum, maximum]
  seeds: [0]
resources: {gpus: 0}
"""


def write_tiny(folder: Path) -> Path:
    """A configuration whose data, store and runs are in `folder`."""
    paths = f"data: {{root: {folder}/data}}\noutput: {{store: {folder}/store, runs: {folder}/runs}}"
    path = folder / "tiny.yaml"
    path.write_text(TINY + paths + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_in() -> Callable[[Path], Path]:
    """Writes the tiny sweep's configuration into a folder."""
    return write_tiny


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """The tiny sweep as a file, for the command line."""
    return write_tiny(tmp_path)


@pytest.fixture(scope="session")
def finished_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose sweep `test_run.py` computes once for several tests."""
    return write_tiny(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def tiny(tmp_path: Path) -> ResolvedConfig:
    """A sweep of 7 units: 1 original, 2 scratch, 4 two-stage."""
    return load_config([write_tiny(tmp_path)], [])


@pytest.fixture
def tiny_plan(tiny: ResolvedConfig) -> Plan:
    return make_plan(tiny)


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    errors: str

    def assert_refused(self, *words: object) -> None:
        """It was bad input, and one line says so, with these words."""
        assert self.code == 2, self
        line, end, rest = self.errors.partition("\n")
        assert line.startswith("error: ") and (end, rest) == ("\n", ""), self
        assert all(str(word) in line for word in words), self


@pytest.fixture
def usweep(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """The command line in this process."""

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["usweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return call
