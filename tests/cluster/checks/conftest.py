"""Programs that are not there: small shell scripts in a folder that is the whole path."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Fake = Callable[[str, str], None]
DATA = Path(__file__).parent / "slurm"  # what a SLURM 22.05 with three nodes said


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes a program; no other is on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        path.chmod(0o755)

    return make


SCONTROL = """
case "$1 $2" in
  "ping ") echo "Slurmctld(primary) at ctl is {state}"; [ {state} = UP ] ;;
  "--version ") echo "slurm-wlm 22.05.8" ;;
  "show config") cat {folder}/config.txt ;;
  "show partition") cat {folder}/partitions.txt ;;
  "show node") cat {folder}/nodes.txt ;;
  *) exit 1 ;;
esac
"""


class FakeSlurm:
    """A SLURM whose answers a test can change."""

    def __init__(self, folder: Path, fake: Fake) -> None:
        self.folder, self.fake = folder, fake
        for source in DATA.iterdir():
            (folder / source.name).write_text(source.read_text())
        self.set_controller("UP")
        for name in ("sbatch", "srun", "squeue", "sacct"):
            fake(name, "exit 0")
        fake("sacctmgr", "echo physics")

    def set_controller(self, state: str) -> None:
        self.fake("scontrol", SCONTROL.format(state=state, folder=self.folder))

    def change(self, file: str, old: str, new: str) -> None:
        """Change every line of an answer that holds `old`."""
        path = self.folder / f"{file}.txt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def remove(self, name: str) -> None:
        (self.folder / "bin" / name).unlink()


@pytest.fixture
def slurm(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return FakeSlurm(tmp_path, fake)
