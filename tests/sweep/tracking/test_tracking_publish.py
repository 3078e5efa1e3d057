"""Publishing a report and a view, against a stand-in server on 127.0.0.1."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_server import ENTITY, ReportServer, report_server
from tracked_sweep import reported, small_sweep
from typer.testing import CliRunner

from sweep.cli import app
from sweep.report import ReportSummary
from sweep.tracking.library import library
from sweep.tracking.publish import (
    REPORT_FILE,
    STATE_FILE,
    VIEW_FILE,
    Published,
    publish_report,
    run_publisher,
)
from sweep.tracking.publisher import NO_ANSWER, NO_KEY, NO_NETWORK, REFUSED, problem

KEY = "0123456789" * 4
DISCUSSION = [
    {"id": "t", "comments": ["why 0.5?"], "viewRef": {"viewID": "", "type": "", "id": ""}}
]
Run = tuple[ReportSummary, Path]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, server or setting of whoever runs the tests; nothing but 127.0.0.1 is asked."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB__GRAPHQL_RETRY_MAX", "1")  # 0 would be the default, 20


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Run:
    _, summary, run_folder = reported(tmp_path_factory.mktemp("published"), small_sweep())
    return summary, run_folder


@pytest.fixture
def run(written: Run) -> Run:
    """A run of which nothing was published yet."""
    (written[1] / STATE_FILE).unlink(missing_ok=True)
    return written


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportServer]:
    """A server that this process has a key of."""
    with report_server() as state:
        monkeypatch.setenv("WANDB_BASE_URL", state.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield state


def publish(run: Run, timeout_s: float = 100.0) -> Published:
    return publish_report("made-up", *run, timeout_s)


def specification(view: dict[str, Any]) -> Any:
    return json.loads(view["spec"])


def test_the_same_command_again_renews_what_it_published(run: Run, server: ReportServer) -> None:
    first = publish(run)
    (report,), (view,) = server.find("runs"), server.find("project-view")
    assert first.lines == (
        f"report: {server.url}/{ENTITY}/usweep/reports/usweep:-made-up--{report['id']}",
        f"view: {server.url}/{ENTITY}/usweep?nw={view['name'].split('-')[1]}",
    )
    for found, name in ((report, REPORT_FILE), (view, VIEW_FILE)):
        assert specification(found) == json.loads((run[0].folder / name).read_text())["spec"]
        assert found["project"]["entityName"] == ENTITY
    assert server.projects == ["usweep"] and server.keys == {KEY}

    # Meanwhile somebody writes under the report, and somebody removes the view.
    report["spec"] = json.dumps({"discussionThreads": DISCUSSION})
    del server.views[view["id"]]
    again = publish(run)
    (renewed,), (new,) = server.find("runs"), server.find("project-view")
    assert renewed["id"] == report["id"] and new["name"] != view["name"]
    assert again.lines[0] == first.lines[0] and again.lines[1] != first.lines[1]
    (thread,) = specification(renewed)["discussionThreads"]
    assert thread["comments"] == ["why 0.5?"]
    assert server.projects == ["usweep"]
    assert KEY not in (run[1] / STATE_FILE).read_text() + f"{first}{again}"


def test_what_takes_too_long_is_ended(run: Run, server: ReportServer) -> None:
    server.delay_s = 60
    published = publish(run, timeout_s=0.2)
    assert published.is_refused and "did not answer in time (at most 0.2 s)" in published.lines[0]
    assert not (run[1] / STATE_FILE).exists()


def test_without_a_key_the_specifications_are_written(run: Run) -> None:
    for name in (REPORT_FILE, VIEW_FILE):
        (run[0].folder / name).unlink(missing_ok=True)
    published = publish(run)
    (line,) = published.lines
    assert line.startswith("No key for Weights & Biases. Specification written to ")
    assert line.endswith(f"publish it with: wandb login && usweep report {run[1]} --wandb")
    assert not published.is_refused
    for name, model in ((REPORT_FILE, "ReportViewspec"), (VIEW_FILE, "View")):
        text = (run[0].folder / name).read_bytes()
        getattr(library().internal, model).model_validate_json(text)


def test_the_command_is_no_failure_offline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    result = CliRunner().invoke(app, ["report", str(run[1]), "--wandb"])
    assert result.exit_code == 0, result.output
    assert "WANDB_MODE=offline keeps everything from Weights & Biases" in result.stdout
    assert f"WANDB_MODE=online usweep report {run[1]} --wandb" in result.stdout


def said(problem: str, status: int | None = None, words: str = "") -> dict[str, Any]:
    return {"problem": problem, "status": status, "words": words}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (said(REFUSED, 401), "does not take the key (401)"),
        (said(REFUSED, 403), "does not let this key write to project usweep (403)"),
        (said(REFUSED, 403) | {"entity": "lab"}, "write to project usweep of lab (403)"),
        (said(REFUSED, 404), "has no project usweep (404)"),
        (said(REFUSED, 429), "is asked too often (429)"),
        (said(REFUSED, 502), "is in trouble (502)"),
        (said(REFUSED, None, f"no\n\x1b[2J{KEY}"), r"refused (no \x1b[2J[redacted])"),
        (said("crash", None, "ImportError: wandb"), "refused (ImportError: wandb)"),
        (said(NO_ANSWER), "did not answer in time (at most 60 s)"),
        (said(NO_NETWORK), "is not reached from here"),
    ],
)
def test_a_problem_is_one_line_with_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    published = publish_report("made-up", *run, publisher=lambda job, timeout_s: answer)
    (line,) = published.lines
    assert words in line and "usweep report" in line and line.isprintable()
    assert published.is_refused == (answer["problem"] != NO_NETWORK)


def test_what_was_published_before_a_problem_is_remembered(run: Run) -> None:
    place = {"server": "s", "entity": "e", "project": "usweep"}
    report = {"report": {"id": "1", "url": "u"}}
    half = publish_report("made-up", *run, publisher=lambda *_: place | report | said(NO_ANSWER))
    assert half.lines[0] == "report: u" and half.is_refused
    jobs = []
    there = place | {"entity": "other", "view": {"id": "2", "url": "v"}}

    def elsewhere(job: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        jobs.append(job)
        return there

    publish_report("made-up", *run, publisher=elsewhere)
    assert jobs[0]["before"] == place | report
    assert json.loads((run[1] / STATE_FILE).read_text()) == there  # nothing of the other entity


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"report": 1}', '{"view": {"id": 2}}', "[" * 9999]
)
def test_a_damaged_memory_is_forgotten(run: Run, text: str) -> None:
    (run[1] / STATE_FILE).parent.mkdir(exist_ok=True)
    (run[1] / STATE_FILE).write_text(text)
    jobs = []
    publish_report("made-up", *run, publisher=lambda job, _: jobs.append(job) or said(NO_KEY))
    assert jobs[0]["before"] == {}


def test_kinds_of_problems() -> None:
    library()
    from wandb.errors import AuthenticationError, UsageError
    from wandb.proto.wandb_api_pb2 import ApiErrorResponse
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    def failed(words: str, status: int = 0) -> WandbApiFailedError:
        return WandbApiFailedError(words, ApiErrorResponse(message=words, http_status=status))

    def kind(error: BaseException, cause: BaseException | None = None) -> tuple[str, int | None]:
        error.__cause__ = cause
        found = problem(error)
        return found["problem"], found["status"]

    # The words are those of wandb 0.31.
    assert kind(UsageError("No API key configured.")) == (NO_KEY, None)
    assert kind(Exception("not logged in"), UsageError("none")) == (NO_KEY, None)
    assert kind(AuthenticationError("API key must have 40+ characters")) == (REFUSED, None)
    assert kind(AuthenticationError("no"), failed("nope", 401)) == (REFUSED, 401)
    assert kind(failed("giving up after 3 attempt(s)\nwhile retrying: HTTP 429: no")) == (
        REFUSED,
        429,
    )
    assert kind(failed("Post: dial tcp 127.0.0.1:9: connect: connection refused"))[0] == NO_NETWORK
    assert kind(WandbApiFailedError("the service process is busy"))[0] == NO_ANSWER
    assert kind(failed("input: could not find view")) == (REFUSED, None)
    assert kind(ValueError("of anything")) == (REFUSED, None)


def test_help_does_not_import_the_library() -> None:
    code = (
        "import sys, sweep.cli\n"
        "from typer.testing import CliRunner\n"
        "assert '--wandb' in CliRunner().invoke(sweep.cli.app, ['report', '--help']).output\n"
        "sys.exit(any(name.startswith('wandb') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not take the key (401)"),
        (403, "(403)"),
        (404, "has no project usweep (404)"),
        (429, "is asked too often (429)"),
        (500, "is in trouble (500)"),
    ],
)
def test_a_server_that_refuses(run: Run, server: ReportServer, status: int, words: str) -> None:
    server.status = status
    published = publish(run)
    assert published.is_refused and words in published.lines[0]
    assert KEY not in published.lines[0]


@pytest.mark.slow
def test_a_server_that_does_not_answer_a_request(
    run: Run, server: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    server.delay_s = 60
    assert "did not answer in time" in publish(run).lines[0]


@pytest.mark.slow
def test_nobody_listens(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    published = publish(run)
    assert not published.is_refused and "is not reached from here" in published.lines[0]


@pytest.mark.slow
def test_a_library_that_cannot_be_imported_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text("raise ImportError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)
    found = run_publisher({"before": {}}, 100.0)
    assert "half installed" in found["words"]
