"""What stands in W&B: names, and what is read of the ledger for it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from made_up_ledger import MadeUpLedger

from sweep.config import load_config
from sweep.errors import DamagedError, SweepError
from sweep.plan import Plan
from sweep.store import METRICS
from sweep.tracking.book import Book
from sweep.tracking.content import (
    MAX_TAG,
    config_of,
    history_row,
    summary_of,
    sweep_tag,
    tags_of,
)
from sweep.tracking.errors import ClientDied, Refused, RunRefused, Unreachable, told_apart
from sweep.tracking.settings import TrackingConfig, mode_now, read_tracking
from sweep.tracking.status import TrackingStatus, describe, read_status
from unlearning.errors import ConfigError


def test_an_epoch_is_named_by_its_stage_and_set() -> None:
    event = {"state": "neutralized", "epoch": 3, "loss": 0.5, "forget_accuracy": 0.25, "samples": 9}
    assert history_row(event, {"cpu_percent": 50.0}) == {
        "neutralized/epoch": 3,
        "neutralized/loss": 0.5,
        "neutralized/forget/accuracy": 0.25,
        "neutralized/samples": 9,
        "node/cpu_percent": 50.0,
    }
    event = {"state": "scratch", "epoch": 1, "validation_accuracy": 0.75}
    assert history_row(event) == {"scratch/epoch": 1, "scratch/validation/accuracy": 0.75}


def test_a_summary_is_flat_and_of_the_finished_states() -> None:
    training = {
        "neutralized": {"epochs": 7, "best_epoch": None, "samples": 70, "seconds": 1.5},
        "retrained": {"epochs": 6, "best_epoch": 4, "samples": 600, "seconds": 2.5},
    }
    metrics = {"neutralized/forget/accuracy": 0.0, "retrained/forget/accuracy": 0.75}
    record = {
        "outcome": "done",
        "metrics": metrics,
        "training": training,
        "neutralization": {"first_epoch_at_random": 2, "first_epoch_at_zero": 7},
    }
    found = summary_of(record)
    assert found["rebound"] == 0.75
    assert (found["total/samples"], found["total/seconds"]) == (670, 4.0)
    assert (found["neutralized/epochs"], found["retrained/best_epoch"]) == (7, 4)
    assert found["neutralized/first_epoch_at_zero"] == 7
    assert "neutralized/best_epoch" not in found
    assert not [value for value in found.values() if isinstance(value, dict | list)]


def test_a_configuration_holds_the_whole_specification(tiny_plan: Plan) -> None:
    for unit in tiny_plan.units.values():
        config = config_of(tiny_plan, unit)
        whole = tiny_plan.spec(unit).to_json()
        if unit.strategy is not None:  # whose version is known once there is a record
            whole["strategy"]["version"] = None
        assert config["spec"] == whole
        assert json.loads(json.dumps(config)) == config


def test_tags_have_a_length_that_is_taken(tiny_plan: Plan) -> None:
    (unit, *_) = [unit for unit in tiny_plan.units.values() if unit.kind == "two_stage"]
    tags = tags_of(Plan("x" * 200, tiny_plan.datasets, tiny_plan.units), unit)
    assert all(0 < len(tag) <= MAX_TAG for tag in tags)
    assert "strategy:minimum" in tags and "seed:0" in tags and "forget:5%" in tags
    assert sweep_tag("x" * 200) in tags


def test_a_line_that_is_not_whole_yet_is_no_row(made_up: MadeUpLedger) -> None:
    (original,) = made_up.units("original")
    with made_up.computing(original) as unit:
        unit.train("original", 2)
        with (unit.folder / METRICS).open("a") as file:
            file.write('{"state": "original", "epo')
        assert len(made_up.ledger.rows(unit.folder)) == 2
        look = made_up.ledger.look()
        assert look.building == {original.key: unit.folder}
        with (unit.folder / METRICS).open("a") as file:
            file.write('ch": 3}\n')
        assert made_up.ledger.rows(unit.folder, 2) == [{"original/epoch": 3}]


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"state": 3}', "[" * 10_000, "\x00"])
def test_a_line_that_is_none_is_named(line: str, made_up: MadeUpLedger) -> None:
    (original,) = made_up.units("original")
    with made_up.computing(original) as unit:
        unit.train("original", 1)
        whole = (unit.folder / METRICS).read_text()
        (unit.folder / METRICS).write_text(f"{whole}{line}\n")
        with pytest.raises(DamagedError, match="line 2"):
            made_up.ledger.rows(unit.folder)
        (unit.folder / METRICS).write_text(whole)


def test_a_book_forgets_nothing_but_a_line_that_was_cut_short(tmp_path: Path) -> None:
    book = Book(tmp_path, "server", None, "project")
    for key in ("a" * 64, "b" * 64):
        book.confirm(key)
    (path,) = (tmp_path / "tracking").iterdir()
    path.write_text(path.read_text() + "c" * 10)
    again = Book(tmp_path, "server", None, "project")
    assert {"a" * 64, "b" * 64} <= again.confirmed
    again.confirm("d" * 64)
    assert {"a" * 64, "b" * 64} <= Book(tmp_path, "server", None, "project").confirmed
    assert Book(tmp_path, "server", None, "another").confirmed == set()


class CommError(Exception):
    """As wandb's of the same name."""


class UsageError(Exception):
    """As wandb's of the same name."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CommError('returned error 401: {"data":null}'), Refused),
        (CommError("returned error 404: not found"), Refused),
        (CommError("returned error 409: run was deleted"), RunRefused),
        (CommError("context deadline exceeded while retrying: HTTP 429: slow down"), Unreachable),
        (CommError("HTTP 500: oops"), Unreachable),
        (CommError("dial tcp: connection refused"), Unreachable),
        (CommError(""), Unreachable),
        (TimeoutError("too slow"), Unreachable),
        (UsageError("api_key not configured"), Refused),
        (CommError("run ID abc is in use"), ClientDied),
        (ConnectionResetError("Connection lost"), ClientDied),
        (SystemExit(1), ClientDied),
    ],
)
def test_errors_are_told_apart_by_what_helps(error: BaseException, kind: type) -> None:
    assert type(told_apart(error)) is kind


def test_the_mode_follows_the_key_and_wandbs_own_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE")
    assert mode_now(TrackingConfig()) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert mode_now(TrackingConfig()) == "online"
    assert mode_now(TrackingConfig(mode="offline")) == "offline"
    for wished in ("offline", "DryRun "):
        monkeypatch.setenv("WANDB_MODE", wished)
        assert mode_now(TrackingConfig()) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_now(TrackingConfig()) == "disabled"
    assert mode_now(TrackingConfig(mode="online")) == "online"


@pytest.mark.parametrize(
    "override",
    [
        "tracking.mode=on",
        "tracking.project=a/b",
        "tracking.project=''",
        "tracking.open_runs=-1",
        "tracking.requests_per_minute=1",
        "tracking.finish_s=-1",
        "tracking.projekt=x",
    ],
)
def test_an_impossible_setting_is_refused_by_name(override: str, tiny_file: Path) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_config([tiny_file], [override])


def test_the_runs_own_configuration_says_where_it_is_tracked(made_up: MadeUpLedger) -> None:
    assert read_tracking(made_up.run_folder) == made_up.config.sweep.tracking
    path = made_up.run_folder / "config.yaml"
    path.write_text("name: older\n")  # from before there was such a section
    assert read_tracking(made_up.run_folder) == TrackingConfig()
    for damaged in ("tracking: 3\n", "tracking: {mood: x}\n", "[", "3"):
        path.write_text(damaged)
        with pytest.raises(SweepError, match="damaged"):
            read_tracking(made_up.run_folder)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"state": "sending", "live": 3}, "W&B online: 4 of 5 finished units sent, 3 live"),
        (
            {"state": "waiting", "problem": "no\nroute"},
            "W&B online: 4 of 5 finished units sent, waiting: no route",
        ),
        (
            {"state": "ended", "given_up": 1},
            "W&B online: 4 of 5 finished units sent, 1 given up, "
            "`usweep track runs/x` sends the rest",
        ),
    ],
)
def test_a_line_says_how_far_it_is(said: dict[str, Any], line: str, tmp_path: Path) -> None:
    status = TrackingStatus(finished=5, confirmed=4, updated=time.time(), **said)
    assert describe(status, "runs/x") == line
    status.write(tmp_path)
    assert read_status(tmp_path) == status
    path = tmp_path / "tracking" / "status-online.json"
    for damaged in ('{"mode": 3}', '{"mode": "offline"}', '{"state": "\\u001b[2J"}'):
        path.write_text(damaged)
        assert read_status(tmp_path) is None


def test_a_stream_that_said_nothing_for_long_is_not_shown_as_living(tmp_path: Path) -> None:
    status = TrackingStatus(finished=5, confirmed=4, live=3, updated=time.time() - 60)
    line = describe(status, "runs/a b")
    assert (
        line == "W&B online: 4 of 5 finished units sent, `usweep track 'runs/a b'` sends the rest"
    )


def test_of_two_streams_the_newer_one_is_shown_and_each_is_kept(tmp_path: Path) -> None:
    offline, online = TrackingStatus(mode="offline"), TrackingStatus(mode="online")
    offline.write(tmp_path)
    online.write(tmp_path)
    assert read_status(tmp_path) == online
    assert read_status(tmp_path, "offline") == offline
