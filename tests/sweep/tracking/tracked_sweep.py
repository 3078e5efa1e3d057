"""Made-up sweeps as those of the report's tests, with all that publishing needs."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import yaml

from sweep.plan import Plan
from sweep.report import ReportSummary, write_report
from sweep.store import Store

_PATH = Path(__file__).parents[1] / "report" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("made_up_sweeps", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
made_up = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_sweeps"] = made_up
_SPEC.loader.exec_module(made_up)


def write_run(folder: Path, sweep: Any, tracking: dict[str, Any] | None = None) -> Path:
    """A run's folder with its store, plan and configuration."""
    plan, _, run_folder = sweep.write(folder)
    config: dict[str, Any] = {"output": {"store": str(folder / "store")}}
    if tracking is not None:
        config["tracking"] = tracking
    plan.write(run_folder / "plan.json")
    (run_folder / "config.yaml").write_text(yaml.safe_dump(config))
    return run_folder


def small_sweep(datasets: dict[str, tuple[str, int | None]] | None = None) -> Any:
    """A finished sweep of two ratios, two strategies and two seeds."""
    sweep = made_up.MadeUpSweep(datasets)
    sweep.finish_all(made_up._varied)
    return sweep


def reported(folder: Path, sweep: Any) -> tuple[Plan, ReportSummary, Path]:
    """The same with its report written."""
    run_folder = write_run(folder, sweep)
    summary = write_report(sweep.plan, Store(folder / "store"), run_folder)
    return sweep.plan, summary, run_folder
