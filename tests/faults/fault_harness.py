"""Real sweeps, disturbed: kills, damage and full disks at seeded moments, and what they cost.

    python tests/faults/fault_harness.py --faults 50 --seed 0

A scenario is one sweep with an empty store. It is started, disturbed and started again until it
has ended by itself; then its tables are compared, byte for byte, with those of an undisturbed
sweep. Moments are counted in epochs that the sweep has logged, not in seconds, so that a seed means
the same on a slow machine.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sweep import node_usage
from sweep.failures import read_failures
from sweep.plan import read_plan
from sweep.report.accuracy_tables import report_tables
from sweep.report.aggregate import results_frame, results_of
from sweep.report.claims import answer_claims
from sweep.report.render import claims_markdown, table_csv, table_markdown, table_tex
from sweep.store import Store

CONFIG = """
name: {name}
datasets:
  digits:
    model: {{widths: [4, 8]}}
    training: {{epochs: {epochs}, batch_size: 64}}
    neutralization: {{max_epochs: 60, learning_rate: 0.01}}
    retraining: {{epochs: {epochs}}}
grid: {{forget_ratios: [0.05, 0.1], strategies: [minimum, maximum], seeds: [0]}}
resources: {{gpus: 0, grace_s: 20}}
data: {{root: {data}}}
output: {{store: {store}, runs: {folder}/runs, checkpoint_every_s: 0, takeover_s: 15}}
"""
UNITS = 7
PATIENCE_S = 150.0  # for anything that should happen; more means that it hangs


class Harness(AssertionError):
    """A promise was broken."""


@dataclass
class Disturbed:
    """A sweep in a folder of its own, and what has happened to it."""

    folder: Path
    epochs: int = 12
    name: str = "tiny"
    store_root: Path | None = None
    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        root = self.store_root or self.folder / "store"
        self.store = Store(root)
        self.config = self.folder / f"{self.name}.yaml"
        self.config.write_text(
            CONFIG.format(
                name=self.name,
                epochs=self.epochs,
                folder=self.folder,
                data=self.folder / "data",
                store=root,
            )
        )

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """`usweep run` in a process of its own."""
        self.runs += 1
        command = [sys.executable, "-m", "sweep", "run", str(self.config), *arguments]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | environment, cwd=self.folder
            )

    def epochs_logged(self) -> int:
        """Epochs that finished units and units under way have in their histories."""
        count = 0
        for pattern in ("building/*/*/metrics.jsonl", "*/*/metrics.jsonl"):
            for path in self.store.root.glob(pattern):
                with suppress(OSError):
                    count += path.read_bytes().count(b"\n")
        return count

    def wait_for_epochs(self, count: int, driver: subprocess.Popen[bytes]) -> bool:
        """Whether the sweep got that far before it ended."""
        ends = time.monotonic() + PATIENCE_S
        while self.epochs_logged() < count:
            if driver.poll() is not None:
                return False
            if time.monotonic() > ends:
                raise Harness(f"no progress for {PATIENCE_S} s:\n{self.log[-3000:]}")
            time.sleep(0.01)
        return driver.poll() is None

    def finish(self, driver: subprocess.Popen[bytes]) -> int:
        """Wait for a driver; its exit code."""
        try:
            return driver.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Harness(f"a driver hangs:\n{self.log[-3000:]}") from None
        finally:
            driver.kill()  # nothing to a driver that has ended
            driver.wait()

    def finished(self) -> dict[str, tuple[int, int]]:
        """Inode and time of the record of every finished unit that is whole."""
        found = {}
        for kind in ("original", "scratch", "two_stage"):
            for key in self.store.keys(kind):
                if self.store.damage(kind, key) is None:
                    with suppress(FileNotFoundError):
                        status = (self.store.folder(kind, key) / "record.json").stat()
                        found[key] = status.st_ino, status.st_mtime_ns
        return found

    def holders(self) -> list[int]:
        """Processes of this machine that hold a lease in the store."""
        keys = self.store.leases.keys()
        pids = []
        for key in keys:
            with suppress(OSError):
                pids.append(int(self.store.leases.holder(key).get("pid", 0)))
        return [pid for pid in pids if pid]


def tables(sweep: Disturbed) -> dict[str, bytes]:
    """Every table and the claims as text; measured seconds, which no two runs share, are zero."""
    plan = read_plan(sweep.run_folder / "plan.json")
    frame = results_frame(plan, sweep.store, read_failures(sweep.run_folder))
    frame["seconds"] = frame["seconds"].where(frame["seconds"].isna(), 0.0)
    results = results_of(plan, frame)
    files = {"claims.md": claims_markdown(answer_claims(results)).encode()}
    for table in report_tables(results):
        for ending, render in (("csv", table_csv), ("md", table_markdown), ("tex", table_tex)):
            files[f"{table.name}.{ending}"] = render(table).encode()
    for key, record in _records(sweep).items():
        files[key] = json.dumps(record, sort_keys=True).encode()
    return files


def _records(sweep: Disturbed) -> dict[str, Any]:
    """What each unit found out: digests of history, weights and outputs, metrics, samples."""
    found = {}
    for kind in ("original", "scratch", "two_stage"):
        for key in sweep.store.keys(kind):
            record = sweep.store.read_record(kind, key)
            kept = {n: record[n] for n in ("metrics", "neutralization", "outcome")}
            # What the machine was doing is no result.
            kept["files"] = {n: d for n, d in record["files"].items() if n != node_usage.FILE}
            costs = {n: cost | {"seconds": 0} for n, cost in record["training"].items()}
            found[f"{kind}/{key}"] = kept | {"training": costs}
    return found


# Each fault takes the sweep, its running driver and a seeded generator.
Fault = Callable[[Disturbed, "subprocess.Popen[bytes]", random.Random], None]


def kill_driver(sweep: Disturbed, driver: "subprocess.Popen[bytes]", rng: random.Random) -> None:
    driver.kill()


def kill_holder(sweep: Disturbed, driver: "subprocess.Popen[bytes]", rng: random.Random) -> None:
    """A trial's worker process, while it holds the lease of a unit."""
    ends = time.monotonic() + 20
    while not (pids := sweep.holders()) and driver.poll() is None and time.monotonic() < ends:
        time.sleep(0.005)
    if pids:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(sorted(pids)), signal.SIGKILL)


def _kill_child(driver: "subprocess.Popen[bytes]", name: str) -> None:
    with suppress(psutil.Error):
        for child in psutil.Process(driver.pid).children(recursive=True):
            if child.name() == name:
                child.kill()


def kill_raylet(sweep: Disturbed, driver: "subprocess.Popen[bytes]", rng: random.Random) -> None:
    _kill_child(driver, "raylet")


def kill_gcs(sweep: Disturbed, driver: "subprocess.Popen[bytes]", rng: random.Random) -> None:
    _kill_child(driver, "gcs_server")


def interrupt(sweep: Disturbed, driver: "subprocess.Popen[bytes]", rng: random.Random) -> None:
    driver.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM]))


def interrupt_twice(
    sweep: Disturbed, driver: "subprocess.Popen[bytes]", rng: random.Random
) -> None:
    driver.send_signal(signal.SIGINT)
    time.sleep(rng.random() / 5)
    driver.send_signal(signal.SIGINT)


def damage(sweep: Disturbed, driver: "subprocess.Popen[bytes]", rng: random.Random) -> None:
    """Kill the driver, then cut short or change a file that the next run will read."""
    driver.kill()
    driver.wait()
    time.sleep(1)  # for its workers to notice
    patterns = (
        "*/*/record.json",
        "original/*/original.safetensors",
        "building/*/*/checkpoint*",
        "building/*/*/metrics.jsonl",
        "leases/*/*",
    )
    files = [path for pattern in patterns for path in sweep.store.root.glob(pattern)]
    files = [path for path in files if "damaged" not in path.parts]
    files += (sweep.folder / "data" / "prepared").glob("*/images.npy")
    path = rng.choice(sorted(files))
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        content = content[: rng.randrange(len(content))]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    status = path.stat()
    with suppress(FileNotFoundError), path.open("r+b") as file:
        file.truncate(len(content))
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk would


FAULTS: dict[str, Fault] = {
    "SIGKILL of the driver": kill_driver,
    "SIGKILL of a trial that holds a lease": kill_holder,
    "SIGKILL of the raylet": kill_raylet,
    "SIGKILL of Ray's head (gcs_server)": kill_gcs,
    "SIGINT or SIGTERM": interrupt,
    "two Ctrl-C": interrupt_twice,
    "file cut short or changed": damage,
}


@dataclass
class Counts:
    """What a number of faults cost."""

    injected: Counter[str] = field(default_factory=Counter)
    scenarios: int = 0
    units_lost: int = 0
    units_repeated: int = 0
    tables_different: int = 0

    def lines(self) -> list[str]:
        lines = [f"{name}: {count}" for name, count in sorted(self.injected.items())]
        return [
            *lines,
            f"faults injected: {self.injected.total()}, in {self.scenarios} sweeps",
            f"units lost: {self.units_lost}",
            f"units repeated: {self.units_repeated}",
            f"tables different: {self.tables_different}",
        ]


def seeded_faults(rng: random.Random) -> list[str]:
    """Faults for one scenario; last the one that a sweep survives, after which none can follow."""
    last = "SIGKILL of a trial that holds a lease"
    return [*rng.choices(sorted(FAULTS.keys() - {last}), k=4), last]


def disturb_until_done(
    sweep: Disturbed, faults: list[str], rng: random.Random, counts: Counts
) -> None:
    """Start the sweep again and again, one fault each time, then let it end by itself."""
    for name in faults:
        before = sweep.finished()
        driver = sweep.start()
        if not sweep.wait_for_epochs(sweep.epochs_logged() + rng.randint(1, 25), driver):
            break  # it was done before the moment came
        FAULTS[name](sweep, driver, rng)
        counts.injected[name] += 1
        sweep.finish(driver)
        after = sweep.finished()
        is_own = name == "file cut short or changed"
        counts.units_repeated += sum(after.get(k, v) != v for k, v in before.items())
        counts.units_lost += sum(k not in after for k in before) if not is_own else 0
    before = sweep.finished()
    if sweep.finish(sweep.start()) != 0:
        raise Harness(f"the last run did not end well:\n{sweep.log[-3000:]}")
    after = sweep.finished()
    counts.units_repeated += sum(after.get(k) != v for k, v in before.items())
    counts.units_lost += UNITS - len(after)
    counts.scenarios += 1


def compare(sweep: Disturbed, undisturbed: dict[str, bytes], counts: Counts) -> list[str]:
    """Names of the files that differ."""
    found = tables(sweep)
    names = sorted(found.keys() | undisturbed.keys())
    different = [name for name in names if found.get(name) != undisturbed.get(name)]
    counts.tables_different += len(different)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--faults", type=int, default=50, help="how many to inject at least")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts, rng = Counts(), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Disturbed(Path(folder) / "undisturbed")
        if whole.finish(whole.start()) != 0:
            raise Harness(whole.log)
        undisturbed = tables(whole)
        while counts.injected.total() < arguments.faults:
            sweep = Disturbed(Path(folder) / f"scenario-{counts.scenarios}")
            names = seeded_faults(rng)
            disturb_until_done(sweep, names, rng, counts)
            different = compare(sweep, undisturbed, counts)
            print(f"{counts.injected.total():4d} {', '.join(names)} {different or ''}", flush=True)
    print("\n".join(counts.lines()))


if __name__ == "__main__":
    main()
