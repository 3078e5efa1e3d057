"""Counting, the time left, and what is shown of them."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from sweep.config import ResolvedConfig
from sweep.failures import Failure, read_failures
from sweep.overview import STALE_AFTER_S, run_status, together
from sweep.plan import KINDS, Plan
from sweep.progress import Progress, TimeLeft
from sweep.run import write_run_folder
from sweep.snapshot import FILE, Snapshot, duration, summary


def keys_of(plan: Plan, kind: str) -> list[str]:
    return [unit.key for unit in plan.units.values() if unit.kind == kind]


@pytest.fixture
def progress(tiny_plan: Plan, tmp_path: Path) -> Progress:
    return Progress(tiny_plan, [], tmp_path, Console(file=io.StringIO()))


def test_units_move_from_waiting_over_running_to_done(progress: Progress, tiny_plan: Plan) -> None:
    (original,) = keys_of(tiny_plan, "original")
    assert progress.count("waiting") == 7
    progress.started(original)
    assert (progress.count("waiting"), progress.count("running")) == (6, 1)
    assert progress.snapshot().running == [tiny_plan.units[original].label]
    progress.finished(original, "done", 2.0)
    assert (progress.count("running"), progress.count("done")) == (0, 1)


def test_a_failure_is_written_down_and_blocks_its_children(
    progress: Progress, tiny_plan: Plan, tmp_path: Path
) -> None:
    (original,) = keys_of(tiny_plan, "original")
    progress.started(original)
    progress.failed(Failure.now(original, "bad luck"), keys_of(tiny_plan, "two_stage"))
    assert (progress.count("failed"), progress.count("blocked")) == (1, 4)
    assert read_failures(tmp_path)[original].cause == "bad luck"


def test_time_left_is_work_left_over_parallel_speed(tiny_plan: Plan) -> None:
    estimate = TimeLeft(tiny_plan, tiny_plan.units)
    assert estimate.estimate_s(1.0) is None
    # Epochs: original 2, scratch 2 + 2, two-stage 1 each: 10 in all. One scratch model of 2 epochs
    # took 4 s, so an epoch takes 2 s; 4 s of work were done in 2 s, so two units run at a time.
    estimate.finished(keys_of(tiny_plan, "scratch")[0], 4.0)
    assert estimate.estimate_s(2.0) == pytest.approx(8 * 2 / 2)
    estimate.dropped(keys_of(tiny_plan, "scratch")[1])
    assert estimate.estimate_s(2.0) == pytest.approx(6 * 2 / 2)


def test_nothing_left_takes_no_time(tiny_plan: Plan) -> None:
    estimate = TimeLeft(tiny_plan, tiny_plan.units)
    for key in tiny_plan.units:
        estimate.finished(key, 1.0)
    assert estimate.estimate_s(3.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (89, "89 s"),
        (91, "2 min"),
        (3600, "60 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_snapshot_keeps_the_last_finished_units_and_the_throughput(
    progress: Progress, tiny_plan: Plan
) -> None:
    first, second, third, *_ = tiny_plan.units
    assert progress.snapshot().units_per_h is None
    for key in (first, second, third):
        progress.started(key)
    progress.finished(first, "done", 1.0)
    progress.found(second)
    snapshot = progress.snapshot()
    assert list(snapshot.finished) == [first, second] and list(snapshot.running_s) == [third]
    assert snapshot.units_per_h is not None and snapshot.units_per_h > 0
    progress.reopened(first, "damaged\x1b[2J")
    progress.finished(first, "done", 1.0)
    assert list(progress.snapshot().finished) == [second, first]


def test_a_log_gets_plain_lines_and_the_file_every_state(tiny_plan: Plan, tmp_path: Path) -> None:
    out = io.StringIO()
    with Progress(tiny_plan, [], tmp_path, Console(file=out, width=100)) as progress:
        progress.finished(keys_of(tiny_plan, "original")[0], "not_converged", 1.0)
        assert "1 not converged" in summary(progress.snapshot())
    assert "0/7 units done, 0 running, elapsed 0 s, left -" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    written = Snapshot(**json.loads((tmp_path / FILE).read_text()))
    assert written.ended and written.units["original"]["done"] == 1


def test_status_does_not_believe_a_driver_that_went_silent(
    tiny: object, tiny_plan: Plan, tmp_path: Path
) -> None:
    from sweep.config import ResolvedConfig

    assert isinstance(tiny, ResolvedConfig)
    write_run_folder(tiny, tiny_plan)
    folder = tiny.sweep.run_folder
    progress = Progress(tiny_plan, [], folder, Console(file=io.StringIO()))
    progress.started(keys_of(tiny_plan, "original")[0])
    progress.tick()
    status = run_status(folder)
    assert status.is_alive and status.snapshot.units["original"]["running"] == 1
    written = (folder / FILE).stat().st_mtime
    os.utime(folder / FILE, (written, written - STALE_AFTER_S - 1))
    status = run_status(folder)
    assert not status.is_alive
    assert status.snapshot.units["original"] == {
        "done": 0,
        "running": 0,
        "waiting": 1,
        "failed": 0,
        "blocked": 0,
    }
    (folder / FILE).write_text("{")
    assert not run_status(folder).is_alive


def test_several_that_work_on_a_run_are_shown_as_one(tiny: ResolvedConfig, tiny_plan: Plan) -> None:
    write_run_folder(tiny, tiny_plan)
    folder = tiny.sweep.run_folder
    for name, unit in (("a", "original"), ("b", "scratch")):
        progress = Progress(
            tiny_plan, [], folder / "workers" / name, Console(file=io.StringIO()), folder
        )
        progress.started(keys_of(tiny_plan, unit)[0])
        progress.tick()
    status = run_status(folder)
    assert status.is_alive
    assert len(status.snapshot.running) == 2
    assert [status.snapshot.units[kind]["running"] for kind in KINDS] == [1, 1, 0]


def test_what_several_run_and_have_finished_is_put_together() -> None:
    one = Snapshot(running_s={"a": 1.0}, finished={"c": 5.0}, units_per_h=60.0, phase="ending")
    other = Snapshot(running_s={"b": 2.0}, finished={"d": 4.0}, units_per_h=30.0)
    both = together([one, other, Snapshot()])
    assert (both.running_s, both.finished) == ({"a": 1.0, "b": 2.0}, {"c": 5.0, "d": 4.0})
    assert (both.units_per_h, both.phase) == (90.0, "")


def test_two_workers_of_equal_speed_need_half_the_time() -> None:
    one = Snapshot(host="n1", time_left_s=60.0, elapsed_s=5.0)
    other = Snapshot(host="n2", time_left_s=60.0, elapsed_s=9.0)
    both = together([one, other, Snapshot(host="n3")])
    assert (both.time_left_s, both.elapsed_s, both.host) == (30.0, 9.0, "n1, n2, n3")
