"""What the sweep itself costs: planning 10,000 units, and 1,000 units that compute nothing.

A no-op unit goes the whole way of a real one (plan, searcher, Ray Tune, worker, a record published
in the store) without training.

    python scripts/bench_sweep.py [--units 1000] [--cpus 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console

from sweep.config import ResolvedConfig, load_config
from sweep.plan import make_plan
from sweep.run import RunOptions, run_sweep
from sweep.store import Store
from sweep.worker import RunContext

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"


def sweep_of(num_units: int, folder: Path, name: str) -> ResolvedConfig:
    """A digits sweep of about this many units: 1 original, then a scratch and 2 two-stage each."""
    count = num_units // 3
    ratios = [round(0.001 + 0.9 * i / count, 6) for i in range(count)]
    return load_config(
        [CONFIG],
        [
            f"name={name}",
            f"grid.forget_ratios={ratios}",
            "grid.seeds=[0]",
            "tracking.mode=disabled",  # these units have nothing to show
            f"output.store={folder}/store-{name}",
            f"output.runs={folder}/runs",
            f"data.root={folder}/data",
        ],
    )


def publish_nothing(context: RunContext, key: str) -> str:
    """Publish a record without results."""
    unit = context.plan.units[key]
    store = Store(context.store_root)
    record = {"key": key, "kind": unit.kind, "outcome": "done", "files": {}}
    with store.building(unit.kind, key) as work:
        store.write_record(work.folder, record)
    return "done"


def run(num_units: int, folder: Path, name: str, cpus: int) -> tuple[int, float, float]:
    """Units computed, wall seconds, and growth of this process's memory in KB."""
    config = sweep_of(num_units, folder, name)
    process = psutil.Process()
    before = process.memory_info().rss
    started = time.perf_counter()
    options = RunOptions(num_cpus=cpus, compute=publish_nothing)
    summary = run_sweep(config, options, Console(quiet=True))
    seconds = time.perf_counter() - started
    assert summary.is_complete, summary.counts
    return len(summary.plan.units), seconds, (process.memory_info().rss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--cpus", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = sweep_of(10_000, folder, "plan")
        started = time.perf_counter()
        plan = make_plan(config)
        print(f"planning {len(plan.units):,} units: {time.perf_counter() - started:.2f} s")
        # A small run first: it pays for imports, and tells the start of Ray from the units.
        few, few_seconds, _ = run(30, folder, "few", arguments.cpus)
        many, many_seconds, kilobytes = run(arguments.units, folder, "many", arguments.cpus)
        print(
            f"{few} no-op units: {few_seconds:.1f} s; {many}: {many_seconds:.1f} s, start included"
        )
        print(f"a unit, start included: {1000 * many_seconds / many:.1f} ms")
        print(f"a unit at the margin: {1000 * (many_seconds - few_seconds) / (many - few):.1f} ms")
        print(f"driver memory: {kilobytes / many:.1f} KB a unit")


if __name__ == "__main__":
    main()
