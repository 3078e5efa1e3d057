"""Offline: the files that wandb's own client wrote, read back by wandb's own reader."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from made_up_ledger import MadeUpLedger, end, same, streaming, wait_until, without_own_columns
from wandb_stand_in import StandIn

from sweep.tracking.content import summary_of, tags_of
from sweep.tracking.offline import FOLDER
from sweep.tracking.status import describe, read_status


def folders(made_up: MadeUpLedger) -> list[Path]:
    return sorted((made_up.run_folder / FOLDER).glob("*"))


def sync(paths: list[Path], server: StandIn) -> None:
    """`wandb sync`, which reads the files and sends what is in them."""
    wandb = Path(sys.executable).with_name("wandb")
    env = {k: v for k, v in os.environ.items() if k != "WANDB_MODE"} | server.environment()
    done = subprocess.run(
        [wandb, "sync", *paths], capture_output=True, text=True, env=env, timeout=100,
        cwd=paths[0].parent.parent,  # where it writes a log
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_written_files_hold_what_the_ledger_holds(
    made_up: MadeUpLedger, server: StandIn
) -> None:
    (original,) = made_up.units("original")
    with streaming(made_up, WANDB_MODE="offline") as process:
        made_up.finish(original, 20)
        wait_until(lambda: (made_up.run_folder / FOLDER).is_dir(), "written while the sweep runs")
        for unit in made_up.units("two_stage"):
            made_up.finish(unit, 7)
        assert end(process) == 0
    assert server.requests == []
    written = folders(made_up)
    assert len(written) == 5
    for folder in written:
        assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".wandb", ".json"}
    sync(written, server)
    for unit in (original, *made_up.units("two_stage")):
        run = server.runs[unit.key]
        expected = made_up.rows(unit)
        assert len(run.history) == len(expected)
        for found, row in zip(run.history, expected, strict=True):
            assert same(without_own_columns(found), row)
        for name, value in summary_of(made_up.ledger.record(unit.key)).items():
            assert run.summary[name] == pytest.approx(value), name
        assert (run.group, run.job_type, run.display_name) == ("tiny", unit.kind, unit.label)
        assert run.tags == tags_of(made_up.plan, unit)
        assert run.exit_code == 0


def test_each_unit_is_written_once_however_often_the_stream_starts(made_up: MadeUpLedger) -> None:
    (original,) = made_up.units("original")
    made_up.finish(original)
    for _ in range(2):
        with streaming(made_up, WANDB_MODE="offline") as process:
            assert end(process) == 0
    (folder,) = folders(made_up)
    before = folder.stat().st_mtime_ns
    for path in (made_up.run_folder / "tracking").glob("confirmed-*"):
        path.unlink()  # the folder itself says that it is whole
    with streaming(made_up, WANDB_MODE="offline") as process:
        assert end(process) == 0
    assert folders(made_up) == [folder] and folder.stat().st_mtime_ns == before
    status = read_status(made_up.run_folder)
    assert status is not None
    line = describe(status, made_up.run_folder)
    assert line == "W&B offline: 1 of 1 finished units written for `wandb sync`"


def test_a_stream_that_begins_anew_stays_offline(made_up: MadeUpLedger, server: StandIn) -> None:
    (original,) = made_up.units("original")
    scratch, _ = made_up.units("scratch")
    with streaming(made_up, **server.environment() | {"WANDB_MODE": "offline"}) as process:
        made_up.finish(original)
        wait_until(lambda: len(folders(made_up)) == 1, "the first unit is written")
        for child in psutil.Process(process.pid).children():
            child.kill()
        made_up.finish(scratch)
        assert end(process) == 0
    assert len(folders(made_up)) == 2
    assert server.requests == []


def test_what_was_run_offline_is_sent_later(
    made_up: MadeUpLedger, server: StandIn, tmp_path: Path
) -> None:
    made_up.finish_all()
    with streaming(made_up, WANDB_MODE="offline") as process:
        assert end(process) == 0
    command = [sys.executable, "-m", "sweep", "track", str(made_up.run_folder)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    empty = {"NETRC": str(tmp_path / "netrc"), "HOME": str(tmp_path)}
    refused = subprocess.run(command, capture_output=True, text=True, env=env | empty, timeout=60)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: no key for Weights & Biases: run `wandb login`")
    done = subprocess.run(
        command, capture_output=True, text=True, env=env | server.environment(), timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "W&B online: 7 of 7 finished units sent" in done.stdout
    for unit in made_up.plan.units.values():
        assert len(server.runs[unit.key].history) == len(made_up.rows(unit))
    server.misbehave = lambda request: 401
    for path in (made_up.run_folder / "tracking").glob("confirmed-*"):
        path.unlink()
    denied = subprocess.run(
        command, capture_output=True, text=True, env=env | server.environment(), timeout=100
    )
    assert denied.returncode == 1
    assert "refused" in denied.stdout and "Traceback" not in denied.stdout + denied.stderr
