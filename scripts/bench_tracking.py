"""What tracking costs: a look, processor time, 500 finished units, and beside a sweep that trains.

The server is the tests' stand-in on loopback; wandb's client is the real one.

    python scripts/bench_tracking.py [--rounds 3] [--units 500]
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "sweep" / "tracking"))

from bench_sweep import sweep_of  # noqa: E402
from made_up_ledger import MadeUpLedger, end, streaming  # noqa: E402
from wandb_stand_in import StandIn, serving  # noqa: E402

from sweep.config import load_config  # noqa: E402
from sweep.plan import make_plan  # noqa: E402
from sweep.run import RunOptions, run_sweep  # noqa: E402
from sweep.tracking.book import Book  # noqa: E402
from sweep.tracking.budget import Budget  # noqa: E402
from sweep.tracking.offline import OfflineRuns  # noqa: E402
from sweep.tracking.sink import Sink  # noqa: E402

Server = Callable[[StandIn], None]


def behaves(server: StandIn) -> None:
    """Answers at once."""


def is_slow(server: StandIn) -> None:
    """Takes two seconds for each call."""
    server.delay_s = 2.0


def hangs(server: StandIn) -> None:
    """Never answers."""
    server.hangs.set()


def refuses_with(status: int) -> Server:
    """Answers every call with an error."""

    def refuse(server: StandIn) -> None:
        server.misbehave = lambda request: status

    return refuse


CASES: dict[str, tuple[str, Server]] = {
    "disabled": ("disabled", behaves),
    "offline": ("offline", behaves),
    "online": ("online", behaves),
    "online, 2 s a call": ("online", is_slow),
    "online, 401": ("online", refuses_with(401)),
    "online, 429": ("online", refuses_with(429)),
    "online, 500": ("online", refuses_with(500)),
    "online, never answers": ("online", hangs),
}


def train(mode: str, arrange: Server, folder: Path) -> tuple[float, float]:
    """Seconds until the last of 16 units was published, and until the command was back."""
    config = load_config(
        [ROOT / "configs" / "quickstart.yaml"],
        [
            "grid.seeds=[0]",
            f"tracking.mode={mode}",
            "tracking.finish_s=10",
            f"output.store={folder}/store",
            f"output.runs={folder}/runs",
            f"data.root={folder.parent}/data",
        ],
    )
    with serving() as server:
        os.environ.update(server.environment())
        arrange(server)
        began, began_at = time.monotonic(), time.time()
        summary = run_sweep(config, RunOptions(num_cpus=2), Console(quiet=True))
        whole_s = time.monotonic() - began
    assert summary.is_complete, summary.counts
    published = max(path.stat().st_mtime for path in folder.glob("store/*/*/record.json"))
    return published - began_at, whole_s


def compare(rounds: int) -> None:
    """Every case in turn, several times over, each against the untracked one of its round."""
    ratios: dict[str, list[float]] = {name: [] for name in CASES}
    after: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds + 1):
            base = None
            for case, (mode, arrange) in CASES.items():
                folder = Path(name) / f"{number}-{case.replace(' ', '-')}"
                published_s, whole_s = train(mode, arrange, folder)
                base = base or published_s
                if number:  # the first round prepares data and fills caches
                    ratios[case].append(published_s / base)
                    after[case].append(whole_s - published_s)
    for case in CASES:
        middle, found = statistics.median(ratios[case]), sorted(ratios[case])
        print(
            f"{case}: {middle:.2f} times the untracked time ({found[0]:.2f} to {found[-1]:.2f}, "
            f"n = {rounds}); {statistics.median(after[case]):.1f} s from the last unit to the end"
        )


def many(num_units: int, per_minute: int) -> None:
    """Send a finished sweep of so many units; what it took."""
    with tempfile.TemporaryDirectory() as name, serving() as server:
        count = num_units // 5
        config = load_config(
            [ROOT / "configs" / "quickstart.yaml"],
            [
                f"grid.forget_ratios={[round(0.001 + 0.9 * i / count, 6) for i in range(count)]}",
                "grid.strategies=[minimum,maximum,random,minimum_independent]",
                "grid.seeds=[0]",
                f"tracking.requests_per_minute={per_minute}",
                f"output.store={name}/store",
                f"output.runs={name}/runs",
                f"data.root={name}/data",
            ],
        )
        made_up = MadeUpLedger(config, make_plan(config))
        made_up.finish_all(50)
        environment = server.environment()
        began = time.monotonic()
        with streaming(made_up, **environment) as process:
            watch = Watch(process.pid)
            code = end(process, 3600)
            watch.stop()
        seconds = time.monotonic() - began
        rows = sum(len(run.history) for run in server.runs.values())
        times = [request.when for request in server.requests]
    busiest = max(sum(t <= other < t + 60 for other in times) for t in times)
    assert code == 0 and all(set(run.writes.values()) == {1} for run in server.runs.values())
    print(
        f"{len(made_up.plan.units)} finished units, {rows:,} rows: {seconds:.0f} s, "
        f"{len(times):,} requests ({len(times) / len(made_up.plan.units):.1f} a unit), at most "
        f"{busiest} in a minute; at most {watch.processes} processes, {watch.megabytes:.0f} MB"
    )


def processor_time(seconds: float = 30.0) -> None:
    """What the stream itself takes while the server behaves in one way or another."""
    for case, (mode, arrange) in CASES.items():
        if mode == "disabled":
            continue
        with tempfile.TemporaryDirectory() as name, serving() as server:
            arrange(server)
            config = load_config(
                [ROOT / "configs" / "quickstart.yaml"],
                [
                    f"tracking.mode={mode}",
                    "grid.seeds=[0]",
                    f"output.store={name}/store",
                    f"output.runs={name}/runs",
                    f"data.root={name}/data",
                ],
            )
            made_up = MadeUpLedger(config, make_plan(config))
            made_up.finish_all(20)
            with streaming(made_up, **server.environment()) as process:
                time.sleep(seconds)
                root = psutil.Process(process.pid)
                family = [root, *root.children(recursive=True)]
                used = sum(sum(one.cpu_times()[:2]) for one in family)
        print(f"{case}: {used:.1f} s of processor time in {seconds:.0f} s")


def look(num_units: int = 10_000) -> None:
    """What a turn of the sink takes that finds nothing to do."""
    with tempfile.TemporaryDirectory() as name:
        config = sweep_of(num_units, Path(name), "look")
        made_up = MadeUpLedger(config, make_plan(config))
        units = made_up.plan.units
        for unit in units.values():
            made_up.ledger.folder(unit.key).mkdir(parents=True)
        book = Book(made_up.run_folder, "bench")
        book.confirmed = set(units)
        offline = OfflineRuns(made_up.plan, config.sweep.tracking, made_up.run_folder)
        sink = Sink(made_up.ledger, offline, book, Budget(600), 32)
        sink.turn()
        began = time.perf_counter()
        for _ in range(20):
            sink.turn()
        print(f"a look at {len(units):,} units: {(time.perf_counter() - began) * 50:.0f} ms")
        sink.end()


class Watch:
    """The most processes and memory (PSS) of a process and its children."""

    def __init__(self, pid: int) -> None:
        self.processes, self.megabytes = 0, 0.0
        self._root, self._ended = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            try:
                family = [self._root, *self._root.children(recursive=True)]
                used = sum(one.memory_full_info().pss for one in family) / 1e6
            except psutil.Error:
                continue
            self.processes = max(self.processes, len(family))
            self.megabytes = max(self.megabytes, used)

    def stop(self) -> None:
        """Watch no more."""
        self._ended.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--units", type=int, default=500)
    arguments = parser.parse_args()
    look()
    processor_time()
    many(arguments.units, 600)
    many(arguments.units, 100_000)
    compare(arguments.rounds)


if __name__ == "__main__":
    main()
