"""A whole sweep beside a server that behaves, and beside one that never answers."""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from made_up_ledger import MadeUpLedger, wait_until
from rich.console import Console
from wandb_stand_in import StandIn

from sweep.config import ResolvedConfig, load_config
from sweep.overview import run_status
from sweep.run import RunOptions, run_sweep
from sweep.store import METRICS
from sweep.tracking import beside
from sweep.tracking.beside import Beside


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


def streams_of(run_folder: Path) -> list[psutil.Process]:
    """Those that this process has started."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended meanwhile
            if str(run_folder) in child.cmdline():
                found.append(child)
    return found


def test_a_killed_stream_is_started_again_until_the_sweep_ends(
    made_up: MadeUpLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "_AGAIN_S", 0.1)
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = io.StringIO()
    with Beside(made_up.config.sweep.tracking, made_up.run_folder, Console(file=out, width=200)):
        for _ in range(2):
            wait_until(lambda: streams_of(made_up.run_folder) != [], "a stream")
            (stream,) = streams_of(made_up.run_folder)
            stream.kill()
            wait_until(lambda was=stream: not was.is_running(), "its end")
        made_up.finish_all()
    assert "7 of 7 finished units written" in out.getvalue()
    assert streams_of(made_up.run_folder) == []


def test_a_stream_that_is_always_killed_is_let_be(
    made_up: MadeUpLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(beside, "_AGAIN_S", 0.0)
    monkeypatch.setenv("WANDB_MODE", "offline")
    started = tmp_path / "started"
    code = f"open({str(started)!r}, 'a').write('x'); import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(beside, "command", lambda *_: [sys.executable, "-c", code])
    out = io.StringIO()
    with Beside(made_up.config.sweep.tracking, made_up.run_folder, Console(file=out)):
        wait_until(lambda: started.exists() and len(started.read_text()) == 5, "five starts")
        time.sleep(0.5)
    assert "nothing was tracked" in out.getvalue()
    assert started.read_text() == "xxxxxx"  # at the end once more
