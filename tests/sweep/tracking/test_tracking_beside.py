"""A whole sweep beside a server that behaves, and beside one that never answers."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from wandb_stand_in import StandIn

from sweep.config import ResolvedConfig, load_config
from sweep.overview import run_status
from sweep.run import RunOptions, run_sweep
from sweep.store import METRICS


@pytest.fixture
def tracked(
    tiny_file: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ResolvedConfig]:
    """Three units, tracked in the stand-in."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    overrides = ["grid.forget_ratios=[0.1]", "grid.strategies=[minimum]", "tracking.mode=online"]
    yield load_config([tiny_file], [*overrides, "tracking.finish_s=20"])


@pytest.mark.slow  # test_run has one that is tracked offline, test_tracking_online all the rest
def test_a_sweep_is_tracked_while_it_runs(tracked: ResolvedConfig, server: StandIn) -> None:
    out = io.StringIO()
    summary = run_sweep(tracked, RunOptions(num_cpus=2), Console(file=out, width=200))
    assert summary.is_complete
    assert "W&B online: 3 of 3 finished units sent" in out.getvalue()
    for key, unit in summary.plan.units.items():
        folder = Path(tracked.sweep.output.store) / unit.kind / key
        lines = (folder / METRICS).read_text().splitlines()
        assert len(server.runs[key].history) == len(lines)
        assert set(server.runs[key].writes.values()) == {1}
    status = run_status(tracked.sweep.run_folder).to_json()["tracking"]
    assert (status["confirmed"], status["state"]) == (3, "ended")
    server.requests.clear()
    run_sweep(tracked, RunOptions(), Console(quiet=True))
    assert server.requests == []


@pytest.mark.slow  # test_tracking_online has the same without a sweep, the benchmark with figures
def test_a_server_that_never_answers_costs_a_sweep_its_finish_s_at_most(
    tracked: ResolvedConfig, server: StandIn
) -> None:
    server.hangs.set()
    tracked.sweep.tracking.finish_s = 0.5
    out = io.StringIO()
    summary = run_sweep(tracked, RunOptions(num_cpus=2), Console(file=out, width=200))
    assert summary.is_complete and summary.counts["failed"] == 0
    assert "W&B online: 0 of 3 finished units sent" in out.getvalue()
    assert f"`usweep track {tracked.sweep.run_folder}` sends the rest" in out.getvalue()
    assert server.requests  # it did ask
