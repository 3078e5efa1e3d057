"""Publishes a sweep's report and view in Weights & Biases, the same ones each time.

The specifications are always written to files. Everything that may wait for a server is done by a
process of its own, which is killed when its time is up.
"""

import json
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sweep.errors import one_line
from sweep.files import read_bounded, write_atomically
from sweep.report import ReportSummary
from sweep.secrets import redact
from sweep.tracking.child import command, environment
from sweep.tracking.publisher import NO_ANSWER, NO_KEY, NO_NETWORK
from sweep.tracking.report_spec import report_spec
from sweep.tracking.settings import OFFLINE_MODES, TrackingConfig, read_tracking, wandb_mode
from sweep.tracking.workspace_spec import workspace_spec

REPORT_FILE, VIEW_FILE = "wandb_report.json", "wandb_workspace.json"  # in the report's folder
STATE_FILE = Path("tracking/wandb_report.json")  # in the run's folder
TIMEOUT_S = 60.0
_SERVICE = "Weights & Biases"
OFFLINE = "offline"  # beside the problems of the publishing process
_LIMITS = {
    "WANDB_HTTP_TIMEOUT": "20",  # seconds a request, its repetitions included
    "WANDB__GRAPHQL_RETRY_MAX": "2",  # 20 otherwise
    "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "0.5",
    "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": "2",
}
_QUIET = {
    "WANDB_ERROR_REPORTING": "false",  # else its crashes are reported to the library's makers
    "WANDB_SILENT": "true",
}
_STATUS_WORDS = {
    401: "does not take the key (401)",
    403: "does not let this key write to {place} (403); see tracking.entity and tracking.project",
    404: "has no {place} (404); see tracking.entity, tracking.project and WANDB_BASE_URL",
    429: "is asked too often (429); try again in some minutes",
}
_FIRST = {
    NO_KEY: "wandb login && ",
    OFFLINE: "WANDB_MODE=online ",
    401: "wandb login --relogin && ",
}

Content = dict[str, Any]


@dataclass(frozen=True)
class Published:
    """What became of it, as lines for a person."""

    lines: tuple[str, ...]
    is_refused: bool = False  # by a server; having no network or no key is no failure


def run_publisher(job: Content, timeout_s: float) -> Content:
    """Everything that the publishing process said before it ended or was killed.

    Args:
        job: as of `sweep.tracking.publisher`.
    """
    mode = wandb_mode()
    if mode in (*OFFLINE_MODES, "disabled"):
        return {"problem": OFFLINE, "status": None, "words": f"WANDB_MODE={mode}"}
    variables = _LIMITS | environment() | _QUIET
    variables.pop("WANDB_SERVICE", None)  # a process of wandb that serves somebody else
    said: Content = {}
    # Files instead of pipes, which wandb's own process would hold open after a kill.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        try:
            subprocess.run(
                command("sweep.tracking.publisher"),
                input=json.dumps(job).encode(),
                stdout=out,
                stderr=errors,
                env=variables,
                timeout=timeout_s,
                check=False,
            )
            last = (_lines(errors) or ["the process ended without a word"])[-1]
            ended = {"problem": "crash", "status": None, "words": last}
        except subprocess.TimeoutExpired:
            ended = {"problem": NO_ANSWER, "status": None}
        for line in _lines(out):
            said |= json.loads(line)
    return said if "view" in said or "problem" in said else said | ended


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").splitlines()


def publish_report(
    sweep: str,
    summary: ReportSummary,
    run_folder: Path,
    timeout_s: float = TIMEOUT_S,
    publisher: Callable[[Content, float], Content] = run_publisher,
) -> Published:
    """Write the specifications of report and view, and publish them where that is possible.

    Args:
        sweep: its name.
        summary: what its report in the run's folder says.
        timeout_s: after which publishing is given up.
        publisher: takes a job and a timeout and returns what `run_publisher` returns.

    Raises:
        SweepError: the run's configuration is damaged.
        OSError: the run's folder cannot be written.
    """
    tracking = read_tracking(run_folder)
    report, view = summary.folder / REPORT_FILE, summary.folder / VIEW_FILE
    write_atomically(report, report_spec(sweep, summary, tracking))
    write_atomically(view, workspace_spec(sweep, tracking))
    state = _read_state(run_folder)
    where = {"project": tracking.project, "entity": tracking.entity}
    job = {"report": str(report), "view": str(view), **where, "before": state}
    said = publisher(job, timeout_s)
    found = _merged(state, said)
    if found != state:
        write_atomically(run_folder / STATE_FILE, json.dumps(found, indent=1) + "\n")
    lines = [f"{what}: {said[what]['url']}" for what in ("report", "view") if what in said]
    if "problem" in said:
        again = f"usweep report {shlex.quote(str(run_folder))} --wandb"
        first = _FIRST.get(said["problem"], _FIRST.get(said["status"], ""))
        lines.append(
            f"{one_line(redact(_words(said, tracking, timeout_s)))}. Specification written to "
            f"{report} and {view.name}; publish it with: {first}{again}"
        )
    is_refused = "problem" in said and said["problem"] not in (NO_KEY, NO_NETWORK, OFFLINE)
    return Published(tuple(lines), is_refused)


def _words(said: Content, tracking: TrackingConfig, timeout_s: float) -> str:
    """What kept the report from being published."""
    kind, status = said["problem"], said["status"]
    if kind == NO_KEY:
        return f"No key for {_SERVICE}"
    if kind == OFFLINE:
        return f"{said['words']} keeps everything from {_SERVICE}"
    if kind == NO_NETWORK:
        return f"{_SERVICE} is not reached from here"
    if kind == NO_ANSWER:
        return f"{_SERVICE} did not answer in time (at most {timeout_s:g} s); try again later"
    if status in _STATUS_WORDS:
        whose = said.get("entity") or tracking.entity
        place = f"project {tracking.project}" + (f" of {whose}" if whose else "")
        return f"{_SERVICE} {_STATUS_WORDS[status].format(place=place)}"
    if status is not None and status >= 500:
        return f"{_SERVICE} is in trouble ({status}); try again later"
    return f"{_SERVICE} refused ({said['words']})"


def _merged(state: Content, said: Content) -> Content:
    """What to remember: nothing of another project, and of this one the latest."""
    place = {name: said[name] for name in ("server", "entity", "project") if name in said}
    if not place:
        return state
    old = state if place.items() <= state.items() else {}
    return old | place | {what: said[what] for what in ("report", "view") if what in said}


def _read_state(run_folder: Path) -> Content:
    """What was published before; nothing where that is not known, which makes new ones."""
    try:
        content = json.loads(read_bounded(run_folder / STATE_FILE))
        for what in ("report", "view"):
            if what in content and not isinstance(content[what]["id"], str):
                raise ValueError(what)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
