"""The check of a Ray that runs already."""

import socket
import subprocess
import sys

import pytest

from cluster.checks import existing_ray
from cluster.checks.command import Answer
from cluster.checks.existing_ray import check_ray

HOST = """
from cluster.local import ray_cluster
with ray_cluster(num_cpus=3, num_gpus=0):
    import ray
    from cluster.checks.existing_ray import check_ray
    result = check_ray(ray.get_runtime_context().gcs_address)
    print(result.status, result.seen)
"""


def test_a_ray_that_answers() -> None:
    done = subprocess.run([sys.executable, "-c", HOST], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("ok 1 nodes, 3 CPUs, 0 GPUs, Ray "), done.stdout + done.stderr


def test_nothing_listens() -> None:
    result = check_ray("127.0.0.1:1")
    assert result.status == "problem" and "nothing answers" in result.seen


def test_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    code = existing_ray._CONNECT.replace("signal.alarm(10)", "signal.alarm(1)")
    monkeypatch.setattr(existing_ray, "_CONNECT", code)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = check_ray(f"127.0.0.1:{server.getsockname()[1]}")
    assert result.status == "problem" and "does not answer" in result.seen


def test_no_token_where_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = check_ray(f"127.0.0.1:{server.getsockname()[1]}")
    assert result.status == "problem" and "RAY_AUTH_TOKEN_PATH" in result.advice, result


OTHER = """some warning
Version mismatch: The cluster was started with:
    Ray: 2.40.0
    Python: 3.12.1
This process on node 10.0.0.7 was started with:
    Ray: 2.60.0
"""


def test_a_ray_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = None, Answer(1, "", OTHER)
    monkeypatch.setattr(existing_ray, "ask_python", lambda *args, **options: answer)
    result = check_ray("10.0.0.7:6379")
    assert result.status == "problem"
    assert result.seen.startswith("Version mismatch: The cluster was started with: Ray: 2.40.0")


def test_a_ray_without_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"nodes": 1, "resources": {}}, Answer(0, "", "")
    monkeypatch.setattr(existing_ray, "ask_python", lambda *args, **options: answer)
    assert check_ray("10.0.0.7:6379").status == "problem"
