"""How fast the page of a large sweep opens, sorts and filters, in headless Chromium.

Writes the report of a made-up sweep: the paper's six data sets and 100 forget ratios with one seed
and three strategies, 2,406 units with records and histories. Times are medians over several fresh
browser contexts; the start of the browser is not in them.

    python scripts/bench_page.py [--repeats 7] [--seeds 1] [--keep FOLDER]

With `--keep` the report stays, to be looked at.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sweep.config import load_config
from sweep.files import seal
from sweep.plan import Plan, PlannedUnit, make_plan
from sweep.report import write_report
from sweep.report.aggregate import SPLITS, TRAINED_STATES
from sweep.store import METRICS, RECORD, SCHEMA, Store

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "paper.yaml"
STATES = {"two_stage": ("original", "neutralized", "retrained")}
LEVELS = {"original": 0.93, "neutralized": 0.4, "retrained": 0.92, "scratch": 0.9}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# Until the layout and the frame after it are done: what a person waits for.
MEASURE = """async () => {
  const started = performance.now();
  %s;
  document.body.offsetHeight;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - started;
}"""
SORT = "document.querySelector('#unit-table th[data-column=\"14\"] button').click()"
FILTER = (
    "const box = document.getElementById('filter-text'); box.value = 'minimum 7';"
    "box.dispatchEvent(new Event('input', { bubbles: true }))"
)


def history(unit: PlannedUnit, draw: random.Random) -> list[dict[str, Any]]:
    """Stage 1 of a made-up trial: accuracy on the forget set falls to zero."""
    epochs = draw.randint(10, 900 if unit.dataset == "ham10000" else 60)
    return [
        {"state": "neutralized", "epoch": n, "forget_accuracy": round((1 - n / epochs) ** 2, 4)}
        for n in range(epochs + 1)
    ]


def record(unit: PlannedUnit, digest: str, epochs: int, draw: random.Random) -> dict[str, Any]:
    """The record of a finished unit, with numbers that differ between units."""
    states = STATES.get(unit.kind, (unit.kind,))
    metrics = {
        f"{state}/{split}/accuracy": round(LEVELS[state] - draw.uniform(0, 0.05), 4)
        for state in states
        for split in SPLITS
    }
    if unit.kind == "two_stage":
        metrics["neutralized/forget/accuracy"] = 0.0
    training = {
        state: {
            "epochs": epochs if state == "neutralized" else 25,
            "best_epoch": None if state == "neutralized" else draw.randint(4, 25),
            "samples": draw.randint(10_000, 900_000),
            "seconds": round(draw.uniform(1, 90), 3),
        }
        for state in TRAINED_STATES[unit.kind]
    }
    return {
        "schema": SCHEMA,
        "key": unit.key,
        "kind": unit.kind,
        "outcome": "done",
        "num_classes": 10,
        "counts": {"train": 50_000, "forget": 500, "retain": 49_500},
        "metrics": metrics,
        "training": training,
        "neutralization": {"first_epoch_at_random": epochs - 3, "first_epoch_at_zero": epochs},
        "provenance": {"commit": "c0ffee" * 6 + "beef", "dirty": False, "device": "cuda:0",
                       "host": f"node{draw.randint(1, 4)}", "versions": {"torch": "2.15.0"}},
        "files": {METRICS: digest},
    }  # fmt: skip


def publish(plan: Plan, store: Store) -> None:
    """Give every unit of the plan a record and a history, but for a few that are missing."""
    for number, unit in enumerate(plan.units.values()):
        if number % 97 == 96:
            continue
        draw = random.Random(number)
        events = history(unit, draw) if unit.kind == "two_stage" else []
        text = "".join(json.dumps(event) + "\n" for event in events)
        folder = store.folder(unit.kind, unit.key)
        folder.mkdir(parents=True)
        (folder / METRICS).write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (folder / RECORD).write_text(seal(record(unit, digest, max(len(events) - 1, 4), draw)))


def measure(page_file: Path, repeats: int) -> dict[str, float]:
    """Medians in milliseconds."""
    from playwright.sync_api import sync_playwright

    found = [os.environ.get("CHROMIUM"), *(shutil.which(name) for name in BROWSERS)]
    program = next(filter(None, found), None)
    runs: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        for _ in range(repeats):
            context = browser.new_context(
                viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
            )
            page = context.new_page()
            started = time.perf_counter()
            page.goto(page_file.resolve().as_uri())
            page.locator("#unit-table th[data-column='7'] button").click()
            page.wait_for_selector("#unit-table [aria-sort]")
            clicked = 1000 * (time.perf_counter() - started)
            timing = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
            runs.append(
                {
                    "scripts done": timing["domContentLoadedEventEnd"],
                    "load event": timing["loadEventEnd"],
                    "sorted by a first click": clicked,
                    "sort": page.evaluate(MEASURE % SORT),
                    "filter": page.evaluate(MEASURE % FILTER),
                }
            )
            context.close()
        browser.close()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        grid = [
            f"grid.seeds={list(range(arguments.seeds))}",
            "grid.strategies=[minimum,maximum,random]",
            f"data.root={folder}/data",
        ]
        plan, store = make_plan(load_config([CONFIG], grid)), Store(folder / "store")
        publish(plan, store)
        started = time.perf_counter()
        page = write_report(plan, store, folder / "run").folder / "index.html"
        seconds = time.perf_counter() - started
        print(f"{len(plan.units):,} units: the whole report written in {seconds:.1f} s")
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")
        for what, milliseconds in measure(page, arguments.repeats).items():
            print(f"{what}: {milliseconds:.0f} ms (median of {arguments.repeats})")


if __name__ == "__main__":
    main()
