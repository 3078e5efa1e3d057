"""Jobs on an existing Ray: Ray's own client against a stand-in for its dashboard, and for real."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import requests
from omegaconf import OmegaConf
from ray._raylet import AuthenticationTokenLoader

from cluster import ray_jobs
from cluster.errors import ClusterError
from cluster.ray_jobs import RayJobsSettings, follow, logs, state, stop, submit

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "cluster" / "ray_jobs.yaml"
HAS_DEFAULT = all(find_spec(name) for name in ("aiohttp", "aiohttp_cors"))
COMMAND = ["usweep", "run", "a b.yaml", "grid.seeds=[0,1]"]


def settings(address: str = "http://127.0.0.1:8265", **changes: Any) -> RayJobsSettings:
    return RayJobsSettings(address=address, folder="/shared/it's here", **changes)


class Dashboard(ThreadingHTTPServer):
    """Answers as it is told, by method and path, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, Any]] = {
            "GET /api/version": (200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})
        }
        self.sent: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if size:
            self.server.sent.append(json.loads(self.rfile.read(size)))
        self._answer("POST")

    def _answer(self, method: str) -> None:
        code, body = self.server.answers.get(f"{method} {self.path}", (404, "no such thing"))
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    """A stand-in on loopback, which Ray's own client talks to.

    This process has told Ray to use a token (tests/conftest.py): one of the test's own.
    """
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    AuthenticationTokenLoader.instance().reset_cache()
    if not HAS_DEFAULT:  # this much of the client needs requests alone
        monkeypatch.setattr(ray_jobs, "find_spec", lambda name: True)
        monkeypatch.setattr("ray.dashboard.modules.job.sdk.requests", requests)
    server = Dashboard()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    AuthenticationTokenLoader.instance().reset_cache()


def details(status: str, message: str) -> dict[str, Any]:
    return {"type": "SUBMISSION", "entrypoint": "x", "status": status, "message": message}


def test_a_job_is_described_to_the_letter(dashboard: Dashboard) -> None:
    dashboard.answers["POST /api/jobs/"] = (200, {"job_id": "d-1", "submission_id": "d-1"})
    described = settings(dashboard.address, environment={"A": "1", "B": "1"}, memory_gb=2, cpus=1)
    assert submit(described, "d", COMMAND, {"B": "2"}) == "d-1"
    (sent,) = dashboard.sent
    entered, command = sent["entrypoint"].split(" && exec ")
    shown = subprocess.run(
        ["sh", "-c", f"printf '%s|' {entered.removeprefix('cd ')} {command}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split("|")[:-1] == ["/shared/it's here", *COMMAND]
    assert re.fullmatch(r"d-[0-9a-f]{8}", sent["submission_id"])
    variables = {"A": "1", "B": "2", "MALLOC_ARENA_MAX": "1", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert sent["runtime_env"] == {"env_vars": variables}
    assert sent["entrypoint_num_cpus"] == 1 and sent["entrypoint_memory"] == 2 * 1024**3
    assert "entrypoint_num_gpus" not in sent and "entrypoint_resources" not in sent


def test_two_jobs_of_a_name_do_not_collide(dashboard: Dashboard) -> None:
    dashboard.answers["POST /api/jobs/"] = (200, {"job_id": "d", "submission_id": "d"})
    for _ in range(2):
        submit(settings(dashboard.address), "d", COMMAND, {})
    first, second = dashboard.sent
    assert first["submission_id"] != second["submission_id"]


def test_state_log_and_end_of_a_job(dashboard: Dashboard) -> None:
    here = settings(dashboard.address)
    dashboard.answers["GET /api/jobs/d-1"] = (200, details("RUNNING", "Job is running.\nAnd on."))
    assert state(here, "d-1") == ray_jobs.JobState("RUNNING", "Job is running.")
    assert not state(here, "d-1").is_over
    dashboard.answers["GET /api/jobs/d-1"] = (200, details("STOPPED", "stopped"))
    assert state(here, "d-1").is_over
    dashboard.answers["GET /api/jobs/d-1/logs"] = (200, {"logs": "0/4 units\n"})
    assert logs(here, "d-1") == "0/4 units\n"
    dashboard.answers["POST /api/jobs/d-1/stop"] = (200, {"stopped": True})
    assert stop(here, "d-1") is True


def test_the_settings_decide_where_a_job_goes(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    dashboard.answers["GET /api/jobs/d-1"] = (200, details("PENDING", ""))
    assert state(settings(dashboard.address), "d-1").status == "PENDING"
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


TRACEBACK = "Traceback (most recent call last):\n  File x\nValueError: no room\n"


@pytest.mark.parametrize(
    ("path", "code", "body", "expected"),
    [
        ("version", 401, "Unauthorized", r"Authentication required.*set RAY_AUTH_MODE=token and"),
        ("version", 403, "Forbidden", r"Authentication failed.*RAY_AUTH_TOKEN_PATH to a file"),
        ("version", 200, {"ray_version": "1.8.0"}, r"Ray version 1\.8\.0 is running"),
        ("version", 200, {"name": "another service"}, r"not that of a Ray dashboard"),
        ("version", 200, "<html>hello</html>", r"Expecting value"),
        ("version", 404, "no", r"Version check returned 404"),
        ("version", 503, "down", r"503 Server Error"),
        ("jobs/d-1", 404, "Job d-1 does not exist.", r"404: Job d-1 does not exist"),
        ("jobs/d-1", 500, TRACEBACK, r"ValueError: no room"),
        ("jobs/d-1", 200, ["x"], r"not that of a Ray dashboard"),
    ],
)
def test_what_goes_wrong_is_one_line_with_the_address(
    dashboard: Dashboard, path: str, code: int, body: Any, expected: str
) -> None:
    dashboard.answers[f"GET /api/{path}"] = (code, body)
    with pytest.raises(ClusterError, match=expected) as refusal:
        state(settings(dashboard.address), "d-1")
    assert dashboard.address in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_address_where_nothing_listens_is_refused_at_once(dashboard: Dashboard) -> None:
    refused = pytest.raises(ClusterError, match=r"nothing answers.*address of Ray's dashboard\?")
    with refused:
        state(settings("http://127.0.0.1:1"), "d-1")


def test_without_its_extra_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"pip install 'usweep\[jobs\]'"):
        submit(settings(), "d", COMMAND, {})


def test_a_log_is_followed_to_its_end_and_a_lost_cluster_is_said(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pieces(job: str) -> AsyncIterator[str]:
        yield f"{job}: 1/4\n"
        yield "2/4\n"
        if job == "lost":
            raise RuntimeError("connection closed\nwith more")

    client = SimpleNamespace(tail_job_logs=pieces)
    monkeypatch.setattr(ray_jobs, "_connect", lambda settings: client)
    assert list(follow(settings(), "d")) == ["d: 1/4\n", "2/4\n"]
    with pytest.raises(ClusterError, match=r"connection closed$"):
        list(follow(settings(), "lost"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "kuberay"}, "allowed: ray_jobs"),
        ({"address": "head:8265"}, "such as http://head:8265"),
        ({"address": "ray://head:10001"}, "such as http://head:8265"),
        ({"address": "http://head:port"}, "such as http://head:8265"),
        ({"address": "http://me:hidden-value@head:8265"}, "RAY_AUTH_MODE=token"),
        ({"folder": ""}, "an absolute path"),
        ({"folder": "runs"}, "an absolute path"),
        ({"usweep": []}, "a command"),
        ({"cpus": -1.0}, "0 or more"),
        ({"resources": {"driver": 0.0}}, "resources.driver is 0.0; allowed: above 0"),
        ({"grace_s": -1}, "0 or more seconds"),
        ({"environment": {"WANDB_API_KEY": "hidden-value"}}, "WANDB_API_KEY would be written down"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(words)) as refusal:
        RayJobsSettings(**{"folder": "/shared", **changes})
    assert "hidden-value" not in str(refusal.value)


def test_a_secret_among_the_variables_is_refused_before_anything_is_sent(
    dashboard: Dashboard,
) -> None:
    with pytest.raises(ClusterError, match=r"RAY_AUTH_TOKEN.*~/\.netrc") as refusal:
        submit(settings(dashboard.address), "d", COMMAND, {"RAY_AUTH_TOKEN": "hidden-value"})
    assert dashboard.sent == [] and "hidden-value" not in str(refusal.value)


def test_the_example_is_read_and_shows_the_defaults() -> None:
    schema = OmegaConf.structured(RayJobsSettings)
    text = EXAMPLE.read_text()
    shown = re.sub(r"^# ([a-z_]+: )", r"\1", text, flags=re.MULTILINE)
    read, all_of_it = (
        OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(one))) for one in (text, shown)
    )
    assert isinstance(read, RayJobsSettings) and read == all_of_it
    assert len(OmegaConf.create(shown)) == len(OmegaConf.to_container(schema))


# For real


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


@contextmanager
def real_ray(folder: Path) -> Iterator[dict[str, str]]:
    """A Ray of its own that asks for a token: the environment of whoever uses it, and ADDRESS."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, agent, grpc, client = free_ports(5)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=1"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}/r"]
    command += [f"--dashboard-agent-listen-port={agent}", "--object-store-memory=100000000"]
    command += [f"--dashboard-agent-grpc-port={grpc}", f"--ray-client-server-port={client}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield environment | {"ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        for one in [process, *family]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(30)
        psutil.wait_procs(family, 30)


DRIVER = """
import os, signal, sys, time, ray
def end(*signal):
    time.sleep(4)  # more than the 3 s that Ray gives by itself
    print("drained", flush=True)
    sys.exit(130)
ray.init("auto", log_to_driver=False, logging_level="ERROR")
print("CPUs", int(ray.cluster_resources()["CPU"]), os.getcwd(), os.environ["NOTE"], flush=True)
signal.signal(signal.SIGTERM, end)
while len(sys.argv) > 1:
    time.sleep(0.2)
"""

USER = """
import os, sys, time
from cluster.errors import ClusterError
from cluster.ray_jobs import RayJobsSettings, follow, logs, state, stop, submit
described = RayJobsSettings(address=os.environ["ADDRESS"], folder=sys.argv[1])
driver, until = [sys.executable, "-c", sys.argv[2]], time.monotonic() + 150
def wait(done):
    while not done():
        assert time.monotonic() < until
        time.sleep(0.5)
def begun():
    global job
    try:
        job = submit(described, "short", driver, {"NOTE": "a b"})
    except ClusterError:
        return False  # its dashboard is not up yet
    return True
wait(begun)
text = "".join(follow(described, job))
assert f"CPUs 1 {sys.argv[1]} a b" in text, text
assert state(described, job).status == "SUCCEEDED"
job = submit(described, "long", [*driver, "wait"], {"NOTE": "a b"})
wait(lambda: "CPUs 1" in logs(described, job))
assert stop(described, job) is True
wait(lambda: state(described, job).is_over)
assert state(described, job).status == "STOPPED"
assert "drained" in logs(described, job)
try:
    state(described, "unknown")
except ClusterError as error:
    assert "does not exist" in str(error), error
    print("all of it")
"""


@pytest.mark.skipif(not HAS_DEFAULT, reason="ray[default] is not installed")
def test_a_real_ray_runs_a_job_and_lets_it_end_in_peace(tmp_path: Path) -> None:
    # Ray's sockets need a short path.
    with (
        tempfile.TemporaryDirectory(prefix="rj-", dir="/tmp", ignore_cleanup_errors=True) as short,
        real_ray(Path(short)) as environment,
    ):
        # In a process of its own, since Ray reads the mode of its tokens only once.
        command = [sys.executable, "-c", USER, str(tmp_path), DRIVER]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
    assert done.stdout.splitlines()[-1:] == ["all of it"], done.stdout + done.stderr
