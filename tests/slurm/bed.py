"""A real SLURM of three nodes on this machine, for the whole test session."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "slurm_testbed.sh"
NODES = ("n1", "n2", "n3")
CANNOT = 3  # exit code: no root, or no packages


class Bed:
    """The cluster, from its login node."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._bed_environment = environment
        self.environment = environment | {"SLURM_CONF": str(folder / "slurm.conf")}

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call the test bed's script."""
        return subprocess.run(
            [str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120,
            env=self._bed_environment,
        )  # fmt: skip

    def run(self, *command: str) -> str:
        """What a command on the login node prints."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=self.environment
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def inside(self, node: str, command: str) -> str:
        """What a shell command inside a node prints."""
        return self.script("exec", node, "sh", "-c", command).stdout

    def processes(self, node: str) -> list[str]:
        """Command lines inside a node, those of SLURM and of the bed itself aside."""
        lines = self.inside(node, "ps -eo pid,args --no-headers").splitlines()
        others = ("slurmd", "slurmstepd", "node.sh", "ps -eo", "sleep 1")
        return [line for line in lines if not any(word in line for word in others)]

    def state(self) -> str:
        """Its jobs, its nodes and its controller's last words, for the message of a failed test."""
        log = (self.folder / "log" / "slurmctld.log").read_text()[-5000:]
        return self.run("scontrol", "show", "job") + self.run("scontrol", "show", "node") + log

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.partition("=")[::2] for word in words)


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Up for the whole session; skips where there is no root or no SLURM to install it from."""
    # Short, since sockets lie below it; network and bridge by pid, since others may have theirs.
    folder, number = Path(f"/tmp/slt{os.getpid()}"), os.getpid() % 250
    keep = [ROOT, tmp_path_factory.getbasetemp(), Path(sys.prefix), Path(sys.base_prefix)]
    bed = Bed(
        folder,
        os.environ
        | {
            "SLBED_DIR": str(folder),
            "SLBED_NET": f"10.88.{number}",
            "SLBED_BRIDGE": f"slt{number}",
            "SLBED_KEEP": ":".join(str(path) for path in keep),
            "SLBED_GRACE_S": "25",
        },
    )
    up = bed.script("up")
    if up.returncode == CANNOT:
        pytest.skip(up.stderr.strip())
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield bed
    finally:
        bed.script("down")
