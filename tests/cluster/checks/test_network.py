"""Each check of ports and names can fail."""

import json
import socket

import pytest

from cluster.checks import network
from cluster.checks.check import run_checks
from cluster.checks.command import Answer
from cluster.checks.network import network_checks, only_loopback, unreachable


def test_a_port_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = run_checks([network_checks(for_nodes=False)])
    assert finding.status == "ok"

    def refuse(*args: object, **options: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(socket, "create_connection", refuse)
    (finding,) = run_checks([network_checks(for_nodes=False)])
    assert finding.status == "problem" and "not permitted" in finding.seen


@pytest.mark.parametrize(
    ("addresses", "in_job", "status"),
    [
        (["10.0.0.7", "127.0.1.1"], True, "ok"),
        (["127.0.1.1", "::1"], False, "warning"),
        (["127.0.1.1"], True, "problem"),
        (None, True, "problem"),
    ],
)
def test_the_hosts_own_name(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str] | None, in_job: bool, status: str
) -> None:
    if in_job:
        monkeypatch.setenv("SLURM_JOB_ID", "1")
    else:
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    answer = addresses, Answer(0, json.dumps(addresses), "Name or service not known")
    monkeypatch.setattr(network, "ask_python", lambda *args, **options: answer)
    assert run_checks([network_checks(for_nodes=True)])[1].status == status


def test_a_name_is_looked_up() -> None:
    assert network.ask_python(network._RESOLVE, "localhost", timeout_s=20)[0]
    assert only_loopback(["127.0.0.1", "::1"]) and not only_loopback(["fe80::1%eth0"])


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert unreachable("127.0.0.1", port, 3) is None
    reason = unreachable("127.0.0.1", port, 3)
    assert reason is not None and "refused" in reason
