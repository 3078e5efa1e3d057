"""A small sweep that is submitted to the test bed, and what can be asked about it."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fault_harness import Disturbed

SITE = """
kind: slurm
nodes: {nodes}
minutes: 30
cpus_per_node: 2
gpus_per_node: 1
memory_gb: 3
signal_s: 45
kill_wait_s: 10
setup: ["export USWEEP_PRETEND_GPUS=1"]
"""
PATIENCE_S = 240.0
# PREEMPTED is so for a moment, until the job is in the queue again.
ALIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "PREEMPTED")


def wait_for(condition: Callable[[], Any], what: str = "it", timeout_s: float = PATIENCE_S) -> Any:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.3)
    return answer


@dataclass
class SlurmSweep(Disturbed):
    """`Disturbed`, run as a job of SLURM."""

    bed: Any = None
    nodes: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.site = self.folder / "site.yaml"
        self.site.write_text(SITE.format(nodes=self.nodes))

    def usweep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line on the login node."""
        command = [sys.executable, "-m", "sweep", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=self.bed.environment
        )

    def submit(self, *arguments: str) -> str:
        """Submit the sweep, with half of a GPU for each unit; the job's id."""
        done = self.usweep(
            "submit", str(self.config), "--cluster", str(self.site),
            "resources.gpus=0.5", "resources.grace_s=15", *arguments,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split()[1].strip(",")

    def wait_for_units(self, count: int) -> None:
        wait_for(lambda: len(self.finished()) >= count, f"{count} finished units")

    def wait_for_work(self, count: int) -> None:
        wait_for(lambda: self.epochs_logged() >= count, f"{count} epochs")

    def ended(self, job: str, timeout_s: float = PATIENCE_S) -> dict[str, str]:
        """What SLURM says of a job once it has ended."""
        return dict(self.wait_while_queued_or_running(job, lambda: None, timeout_s) or {})

    def wait_while_queued_or_running(
        self, job: str, condition: Callable[[], Any], timeout_s: float = PATIENCE_S
    ) -> Any:
        """The first true answer of `condition`, or what SLURM says of a job that has ended."""

        def ended() -> dict[str, str] | None:
            found: dict[str, str] = self.bed.facts(job)
            return None if found["JobState"] in ALIVE else found

        try:
            return wait_for(lambda: condition() or ended(), f"a change of job {job}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.bed.state()}\n{self.logs()}") from None

    def logs(self) -> str:
        """All that its jobs have printed."""
        folder = self.run_folder / "cluster"
        paths = [p for p in sorted(folder.glob("*/*")) if p.suffix in (".log", ".out", ".err")]
        return "\n".join(f"== {path}\n{path.read_text()[-3000:]}" for path in paths)

    def records(self) -> list[dict[str, Any]]:
        paths = self.store.root.glob("*/*/record.json")
        return [json.loads(p.read_text()) for p in paths if p.parts[-3] != "damaged"]

    def seconds_to_first_unit(self, facts: dict[str, str]) -> float:
        """From the start of the job to that of the first unit, to the second."""
        first = min(record["provenance"]["started"] for record in self.records())
        began = datetime.fromisoformat(facts["StartTime"]).timestamp()
        return datetime.fromisoformat(first).timestamp() - began

    def units_by_host(self) -> Counter[str]:
        return Counter(record["provenance"]["host"] for record in self.records())


def left_behind(bed: Any, node: str) -> list[str]:
    """Processes and temporary folders of ours inside a node."""
    folders = str(bed.inside(node, "ls -d /tmp/usweep-* 2>/dev/null")).split()
    return [*bed.processes(node), *folders]


def wait_until_empty(bed: Any, node: str, timeout_s: float) -> None:
    """Until nothing of ours is left inside a node; says what is."""
    deadline = time.monotonic() + timeout_s
    while (left := left_behind(bed, node)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == [], f"left on {node} after {timeout_s:g} s: {left}"


def tail(path: Path, size: int = 3000) -> str:
    return path.read_text()[-size:]
