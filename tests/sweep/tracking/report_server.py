"""A stand-in for the server of Weights & Biases, on 127.0.0.1: what reports and views ask of it."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "lab"


@dataclass
class ReportServer:
    """What it was asked, what it holds, and how it answers."""

    url: str = ""
    status: int = 200  # of every answer
    delay_s: float = 0.0  # before every answer
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # operation, variables
    keys: set[str] = field(default_factory=set)  # that came with a request
    projects: list[str] = field(default_factory=list)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)  # reports too, by id

    def find(self, kind: str) -> list[dict[str, Any]]:
        """Reports ("runs") or views ("project-view")."""
        return [view for view in self.views.values() if view["type"] == kind]

    def operations(self) -> list[str]:
        """What was asked for, in order."""
        return [operation for operation, _ in self.calls]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The `data` of an answer."""
        operation = query.replace("(", " ").replace("{", " ").split()[1]
        self.calls.append((operation, variables))
        if operation in ("Viewer", "GetDefaultEntity"):
            return {"viewer": {"id": "u", "entity": ENTITY, "username": "someone", "flags": "{}"}}
        if operation == "GetProjects":
            return {"models": {"pageInfo": _LAST_PAGE, "edges": list(map(_project, self.projects))}}
        if operation == "CreateProject":
            self.projects.append(variables["input"]["name"])
            return {"upsertModel": {"model": _project(self.projects[-1])["node"]}}
        if operation == "SpecificReport":
            return {"view": self.views.get(variables["reportId"])}
        assert operation.lower().startswith("upsertview"), query
        return {"upsertView": {"view": self._upsert(variables), "inserted": True}}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        number = variables.get("id") or f"View:{len(self.calls)}"
        key = number if variables.get("id") else base64.b64encode(number.encode()).decode()
        where = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        names = ("type", "name", "displayName", "description", "spec")
        self.views[key] = {"id": key, "project": where} | {name: variables[name] for name in names}
        return self.views[key]


_LAST_PAGE = {"endCursor": None, "hasNextPage": False}


def _project(name: str) -> dict[str, Any]:
    node = {
        "id": f"p:{name}",
        "name": name,
        "entityName": ENTITY,
        "createdAt": "2030-01-01T00:00:00",
        "isBenchmark": False,
        "user": None,
    }
    return {"cursor": "", "node": node}


@contextmanager
def report_server() -> Iterator[ReportServer]:
    """A server that runs as long as the context."""
    state = ReportServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            credentials = self.headers.get("Authorization", "Basic ").split()[-1]
            state.keys.add(base64.b64decode(credentials).decode().partition(":")[2])
            time.sleep(state.delay_s)
            if state.status == 200:
                content = {"data": state.answer(request["query"], request.get("variables") or {})}
            else:
                state.calls.append(("refused", {}))
                content = {"errors": [{"message": f"no, and your key was {max(state.keys)}"}]}
            body = json.dumps(content).encode()
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(BrokenPipeError):  # who asked has been killed
                self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Nothing: the calls are recorded."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
