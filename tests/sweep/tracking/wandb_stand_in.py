"""A small server on loopback that speaks the calls of wandb's client, and can be made to misbehave.

It keeps what arrives by run, and answers as W&B does: start-up, run upsert, file stream, questions
about many runs at once. Lines of a history are kept by their offset, so that it can be told whether
each step arrived once.
"""

import gzip
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "lab"
KEY = "0123456789" * 4
Misbehave = Callable[["Request"], int | None]  # a status to refuse with; None to answer properly


@dataclass(frozen=True)
class Request:
    """One call, as far as a test may want to know of it."""

    kind: str  # an operation of GraphQL, or "file_stream" or "upload"
    run: str | None
    when: float
    body: Any = None


@dataclass
class StoredRun:
    """What the server knows of a run."""

    name: str
    project: str = ""
    group: str | None = None
    job_type: str | None = None
    display_name: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)  # history by offset
    writes: Counter[int] = field(default_factory=Counter)  # times that an offset was written
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows in order; their offsets have no gap, or the test is to fail."""
        assert sorted(self.lines) == list(range(len(self.lines))), sorted(self.lines)
        return [self.lines[offset] for offset in range(len(self.lines))]

    def node(self) -> dict[str, Any]:
        """As GraphQL answers for it."""
        wrapped = json.dumps(self.config)
        return {
            "id": f"id-{self.name}",
            "name": self.name,
            "displayName": self.display_name or self.name,
            "state": "running" if self.exit_code is None else "finished",
            "config": wrapped,
            "group": self.group,
            "jobType": self.job_type,
            "tags": self.tags,
            "notes": None,
            "description": None,
            "commit": None,
            "readOnly": False,
            "createdAt": "2030-01-01T00:00:00",
            "heartbeatAt": "2030-01-01T00:00:00",
            "sweepName": None,
            "user": {"name": "someone", "username": "someone"},
            "systemMetrics": "{}",
            "historyKeys": None,
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(self.lines[max(self.lines)])])
            if self.lines
            else "[]",
            "eventsTail": "[]",
            # Without it the client takes a run for one that was never begun.
            "wandbConfig": json.dumps(self.config.get("_wandb", {}).get("value", {})),
            "project": {"id": "p", "name": self.project, "entity": {"id": "e", "name": ENTITY}},
        }


class StandIn:
    """The server's state, and how it is to misbehave."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.requests: list[Request] = []
        self.misbehave: Misbehave = lambda request: None
        self.delay_s = 0.0
        self.hangs = threading.Event()  # while set, no call is answered
        self.lock = threading.Lock()
        self.url = ""

    def counts(self) -> Counter[str]:
        """Calls so far by kind."""
        return Counter(request.kind for request in self.requests)

    def environment(self) -> dict[str, str]:
        """Variables that lead wandb's client here."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ERROR_REPORTING": "false",
            "NO_PROXY": "127.0.0.1",
        }

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Data for an operation."""
        if operation in ("RunResumeStatus", "UpsertBucket"):
            name = variables["name"]
        if operation == "RunResumeStatus":
            run = self.runs.get(name)
            model = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": ENTITY}}
            return {"model": model | {"bucket": None if run is None else run.node()}}
        if operation == "UpsertBucket":
            inserted = name not in self.runs
            run = self.runs.setdefault(name, StoredRun(name))
            _upsert(run, variables)
            return {"upsertBucket": {"bucket": run.node(), "inserted": inserted}}
        if operation == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/upload/{n}"} for n in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if operation == "GetDefaultEntity":
            return {"viewer": {"id": "u", "entity": ENTITY}}
        if operation == "Viewer":
            viewer = {"id": "u", "entity": ENTITY, "username": "someone", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}}}
        if "Runs" in operation:
            return {"project": self._project(variables)}
        return {}

    def _project(self, variables: dict[str, Any]) -> dict[str, Any]:
        wanted = json.loads(variables["filters"])["name"]["$in"]
        found = [self.runs[name] for name in wanted if name in self.runs]
        edges = [{"node": run.node(), "cursor": run.name} for run in found]
        page = {"endCursor": None, "hasNextPage": False}
        return {
            "internalId": "p",
            "runCount": len(found),
            "runs": {"edges": edges, "pageInfo": page},
        }

    def stream(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take a part of a run's files."""
        run = self.runs.setdefault(name, StoredRun(name))
        for file, part in body.get("files", {}).items():
            for at, line in enumerate(part.get("content", []), part.get("offset", 0)):
                if file == "wandb-history.jsonl":
                    run.lines[at] = json.loads(line)
                    run.writes[at] += 1
                elif file == "wandb-summary.json":
                    run.summary = json.loads(line)
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
        return {"exitcode": None, "limits": {}}


def _upsert(run: StoredRun, variables: dict[str, Any]) -> None:
    names = {
        "project": "project",
        "groupName": "group",
        "jobType": "job_type",
        "displayName": "display_name",
        "tags": "tags",
    }
    for variable, attribute in names.items():
        if variables.get(variable) is not None:
            setattr(run, attribute, variables[variable])
    if variables.get("config"):
        run.config |= json.loads(variables["config"])


def _handler(server: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def _answer(self, content: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path.startswith("/upload/"):
                request = Request("upload", None, time.monotonic())
                content = {}
            else:
                content = json.loads(body or "{}")
                request = _describe(self.path, content)
            with server.lock:
                server.requests.append(request)
            while server.hangs.is_set():
                time.sleep(0.05)
            time.sleep(server.delay_s)
            status = server.misbehave(request)
            if status is not None:
                self._answer({"errors": [{"message": f"refused with {status}"}]}, status)
                return
            with server.lock:
                if request.kind == "upload":
                    self._answer({})
                elif request.kind == "file_stream":
                    assert request.run is not None
                    self._answer(server.stream(request.run, content))
                else:
                    variables = content.get("variables") or {}
                    self._answer({"data": server.graphql(request.kind, variables)})

        do_GET = do_POST = do_PUT = _take

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client was killed, or gave up
                super().handle()

    return Handler


def _describe(path: str, content: dict[str, Any]) -> Request:
    if path.endswith("/file_stream"):
        return Request("file_stream", path.split("/")[-2], time.monotonic(), content)
    found = re.search(r"(?:query|mutation)\s+(\w+)", content.get("query", ""))
    variables = content.get("variables") or {}
    kind = found.group(1) if found else path
    return Request(kind, variables.get("name"), time.monotonic(), content)


@contextmanager
def serving() -> Iterator[StandIn]:
    """A stand-in that listens on a free port of loopback until the block is left."""
    server = StandIn()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.hangs.clear()
        http.shutdown()
        thread.join()
        http.server_close()
