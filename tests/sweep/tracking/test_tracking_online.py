"""The stream with wandb's own client, against a server on loopback."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest
from made_up_ledger import (
    MadeUpLedger,
    end,
    kill,
    same,
    streaming,
    wait_until,
    without_own_columns,
)
from wandb_stand_in import KEY, Request, StandIn

from sweep.plan import PlannedUnit
from sweep.tracking.content import summary_of, sweep_tag, tags_of
from sweep.tracking.status import read_status


def assert_arrived(server: StandIn, made_up: MadeUpLedger, unit: PlannedUnit) -> None:
    """The server has a unit whole, and every row of it once."""
    run = server.runs[unit.key]
    expected = made_up.rows(unit)
    assert len(run.history) == len(expected)
    for found, row in zip(run.history, expected, strict=True):
        assert same(without_own_columns(found), row)
    assert [row["_step"] for row in run.history] == list(range(len(expected)))
    assert set(run.writes.values()) <= {1}
    record = made_up.ledger.record(unit.key)
    for name, value in summary_of(record).items():
        assert run.summary[name] == pytest.approx(value), name
    assert run.exit_code == 0
    config = {name: entry["value"] for name, entry in run.config.items()}
    assert config["spec"] == record["spec"]
    assert config["provenance"]["commit"] == "c0ffee"
    assert (config["dataset"], config["forget_ratio"]) == (unit.dataset, unit.forget_ratio)
    assert (run.group, run.job_type, run.display_name) == ("tiny", unit.kind, unit.label)
    assert run.tags == tags_of(made_up.plan, unit)


def test_rows_arrive_while_a_unit_is_computed_and_each_once(
    made_up: MadeUpLedger, server: StandIn
) -> None:
    (original,) = made_up.units("original")
    two_stage, failing, *_ = made_up.units("two_stage")
    with streaming(made_up, **server.environment()) as process:
        with made_up.computing(original) as unit:
            unit.train("original", 5)
            # The client sends what it has when a run begins, and then every 15 s.
            wait_until(lambda: original.key in server.runs, "the run is there while it is computed")
            assert server.runs[original.key].exit_code is None
            wait_until(lambda: status_of(made_up)["live"] == 1, "the status says so")
            unit.train("original", 5)
        made_up.finish(two_stage)
        made_up.fail(failing, "the disk is on fire")
        assert end(process) == 0
    assert_arrived(server, made_up, original)
    assert_arrived(server, made_up, two_stage)
    failed = server.runs[failing.key]
    assert failed.exit_code == 1
    assert failed.summary["cause"] == "the disk is on fire"
    status = status_of(made_up)
    assert (status["confirmed"], status["finished"], status["state"]) == (2, 2, "ended")
    assert status["url"] == f"{server.url}/lab/usweep"


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_key_is_in_no_file(mode: str, made_up: MadeUpLedger, server: StandIn) -> None:
    (original,) = made_up.units("original")
    made_up.finish(original)
    with streaming(made_up, **server.environment() | {"WANDB_MODE": mode}) as process:
        if mode == "online":  # a refusal is where a client might quote what it sent
            server.misbehave = lambda request: 401
            wait_until(lambda: status_of(made_up).get("state") == "refused", "it was refused")
            server.misbehave = lambda request: None
        assert end(process) == 0
    files = [path for path in made_up.run_folder.parent.rglob("*") if path.is_file()]
    assert any(path.name.startswith("status-") for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def status_of(made_up: MadeUpLedger) -> dict[str, object]:
    status = read_status(made_up.run_folder)
    return {"live": 0} if status is None else vars(status)


def test_after_a_kill_in_the_middle_the_server_has_every_step_once(
    made_up: MadeUpLedger, server: StandIn
) -> None:
    units = list(made_up.plan.units.values())
    server.delay_s = 0.05
    for unit in units[:4]:
        made_up.finish(unit, 40)
    with made_up.computing(units[4]) as under_way:
        under_way.train(units[4].kind.replace("two_stage", "neutralized"), 30)
        with streaming(made_up, **server.environment()) as process:
            wait_until(lambda: server.counts()["file_stream"] >= 3, "something was sent")
            kill(process)
        half = {name: len(run.lines) for name, run in server.runs.items()}
        under_way.train(units[4].kind.replace("two_stage", "neutralized"), 30)
    for unit in units[5:]:
        made_up.finish(unit, 40)
    server.delay_s = 0.0
    with streaming(made_up, **server.environment()) as process:
        assert end(process, 60) == 0
    assert half, "the kill came before anything was sent"
    for unit in units:
        assert_arrived(server, made_up, unit)
    # Once more: nothing is left to say.
    server.requests.clear()
    with streaming(made_up, **server.environment()) as process:
        assert end(process) == 0
    assert server.requests == []


Refusal = Callable[[Request], bool]


@pytest.mark.parametrize(
    ("status", "concerns"),
    [
        pytest.param(429, lambda request: True, id="429 everywhere", marks=pytest.mark.slow),
        pytest.param(429, lambda request: request.kind == "file_stream", id="429 of the stream"),
        pytest.param(500, lambda request: request.kind == "UpsertBucket", id="500 at the start"),
        pytest.param(404, lambda request: request.kind == "file_stream", id="404 of the stream"),
    ],
)
def test_what_was_refused_for_a_while_arrives_once(
    status: int, concerns: Refusal, made_up: MadeUpLedger, server: StandIn
) -> None:
    left = [4]
    lock = threading.Lock()

    def refuse_a_few(request: Request) -> int | None:
        with lock:
            if left[0] == 0 or not concerns(request):
                return None
            left[0] -= 1
        return status

    server.misbehave = refuse_a_few
    made_up.finish_all()
    with streaming(made_up, **server.environment()) as process:
        assert end(process, 90) == 0
    assert left == [0]
    for unit in made_up.plan.units.values():
        assert_arrived(server, made_up, unit)


def test_a_server_that_never_answers_is_given_up_in_time_and_loses_nothing(
    made_up: MadeUpLedger, server: StandIn
) -> None:
    server.hangs.set()
    made_up.finish_all()
    with streaming(made_up, **server.environment()) as process:
        wait_until(lambda: len(server.requests) > 0, "it was asked")
        assert end(process, 2) in (0, 1)
    server.hangs.clear()
    status = read_status(made_up.run_folder)
    assert status is not None and status.confirmed == 0
    with streaming(made_up, **server.environment()) as process:
        assert end(process, 60) == 0
    for unit in made_up.plan.units.values():
        assert_arrived(server, made_up, unit)


@pytest.mark.parametrize("when", ["RunResumeStatus", "UpsertBucket", "file_stream"])
def test_a_killed_process_of_wandbs_is_replaced(
    when: str, made_up: MadeUpLedger, server: StandIn
) -> None:
    (original,) = made_up.units("original")
    server.delay_s = 0.2  # so that it dies while it waits for an answer
    with streaming(made_up, **server.environment()) as process:
        with made_up.computing(original) as unit:
            unit.train("original", 3)
            wait_until(lambda: server.counts()[when] > 0, "it has begun")
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            unit.train("original", 3)
        for other in made_up.units("scratch"):
            made_up.finish(other)
        assert end(process, 90) == 0
    for unit_ in (original, *made_up.units("scratch")):
        assert_arrived(server, made_up, unit_)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["never answers", "refuses rows"])
def test_an_outage_of_more_than_a_minute_loses_nothing_and_leaves_nothing_running(
    how: str, made_up: MadeUpLedger, server: StandIn
) -> None:
    (original,) = made_up.units("original")
    most = 0
    with streaming(made_up, **server.environment()) as process:
        with made_up.computing(original) as unit:
            unit.train("original", 3)
            wait_until(lambda: original.key in server.runs, "the run is there")
            if how == "never answers":
                server.hangs.set()
            else:
                server.misbehave = lambda request: 429 if request.kind == "file_stream" else None
            for scratch in made_up.units("scratch"):
                made_up.finish(scratch)
            until = time.monotonic() + 75
            while time.monotonic() < until:
                made_up.say_what_runs()
                children = psutil.Process(process.pid).children()
                most = max(most, sum(c.status() != psutil.STATUS_ZOMBIE for c in children))
                time.sleep(0.5)
            server.hangs.clear()
            server.misbehave = lambda request: None
            unit.train("original", 3)
        assert end(process, 150) == 0
    assert most == 1
    for unit_ in (original, *made_up.units("scratch")):
        assert_arrived(server, made_up, unit_)


def test_ctrl_c_ends_track_at_once_and_its_stream_with_it(
    made_up: MadeUpLedger, server: StandIn
) -> None:
    made_up.finish_all()
    server.hangs.set()
    command = [sys.executable, "-m", "sweep", "track", str(made_up.run_folder)]
    env = os.environ | {"WANDB_MODE": ""} | server.environment()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: len(server.requests) > 0, "the server was asked")
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert family
    _, alive = psutil.wait_procs(family, 10)
    assert not alive


def test_a_sweep_that_shares_a_unit_adds_its_tag_and_sends_no_row_again(
    made_up: MadeUpLedger, server: StandIn
) -> None:
    (original,) = made_up.units("original")
    made_up.finish(original)
    with streaming(made_up, **server.environment()) as process:
        assert end(process) == 0
    made_up.config.sweep.name = "another"
    plan = made_up.plan.__class__("another", made_up.plan.datasets, made_up.plan.units)
    another = MadeUpLedger(made_up.config, plan)
    with streaming(another, **server.environment()) as process:
        assert end(process) == 0
    run = server.runs[original.key]
    assert {sweep_tag("tiny"), sweep_tag("another")} <= set(run.tags)
    assert run.group == "tiny"
    assert set(run.writes.values()) == {1}


def test_track_follows_a_sweep_from_elsewhere_until_it_ends(
    made_up: MadeUpLedger, server: StandIn
) -> None:
    (original,) = made_up.units("original")
    scratch, _ = made_up.units("scratch")
    command = [sys.executable, "-m", "sweep", "track", str(made_up.run_folder), "--follow"]
    env = os.environ | {"WANDB_MODE": ""} | server.environment()
    made_up.finish(scratch)
    with made_up.computing(original) as unit:
        unit.train("original", 4)
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: {original.key, scratch.key} <= server.runs.keys(), "both are there")
            assert server.runs[original.key].exit_code is None
            second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
            assert second.returncode == 2
            assert "sends tiny already" in second.stderr
            unit.train("original", 4)
        except BaseException:
            process.kill()
            raise
    made_up.say_what_runs(ended=True)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "W&B online: 2 of 2 finished units sent" in output
    for unit_ in (original, scratch):
        assert_arrived(server, made_up, unit_)
