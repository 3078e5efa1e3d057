"""Ports and names: what Ray's processes need to find each other."""

import os
import socket
from ipaddress import ip_address

from cluster.checks.check import Check, Result, ok, problem, warning
from cluster.checks.command import ask_python

_ANSWER_S = 5.0
_RESOLVE = """
import json, socket, sys
try:
    print(json.dumps(sorted({entry[4][0] for entry in socket.getaddrinfo(sys.argv[1], None)})))
except OSError as error:
    sys.exit(str(error))
"""
_CONNECT = """
import json, socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])).close()
    print(json.dumps(True))
except OSError as error:
    sys.exit(str(error))
"""


def network_checks(for_nodes: bool) -> list[Check]:
    """What this machine alone can tell.

    Args:
        for_nodes: the sweep is to run on several nodes, which find each other by name.
    """
    checks = [Check("loopback", _check_loopback)]
    return [*checks, Check("host name", _check_host_name)] if for_nodes else checks


def _check_loopback() -> Result:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(_ANSWER_S)
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as here:
                there, _ = server.accept()
                with there:
                    here.sendall(b"?")
                    there.settimeout(_ANSWER_S)
                    heard = there.recv(1)
    except OSError as error:
        advice = "let the firewall or sandbox allow 127.0.0.1; Ray's processes talk over it"
        return problem(f"a port on 127.0.0.1 cannot be used: {error}", advice)
    if heard != b"?":
        return problem("a port on 127.0.0.1 loses what is sent", "look for a proxy on 127.0.0.1")
    return ok(f"port {port} on 127.0.0.1 was bound and reached")


def _check_host_name() -> Result:
    name = socket.gethostname()
    addresses, answer = ask_python(_RESOLVE, name, timeout_s=_ANSWER_S)
    if addresses is not None and not only_loopback(addresses):
        return ok(f"{name} is {', '.join(addresses)}")
    # Where a job is submitted from, the name matters to no Ray.
    finding = problem if "SLURM_JOB_ID" in os.environ else warning
    if addresses is None:
        return finding(f"{name} has no address: {answer.complaint}", "add it to DNS or /etc/hosts")
    advice = "give it its network address in /etc/hosts if Ray is to run on this machine"
    return finding(f"{name} is {', '.join(addresses)}, which no other machine reaches", advice)


def only_loopback(addresses: list[str]) -> bool:
    """Whether no other machine can reach any of these; also of no address at all."""
    return all(ip_address(address.partition("%")[0]).is_loopback for address in addresses)


def unreachable(host: str, port: int, timeout_s: float) -> str | None:
    """Why a connection cannot be made in time, names looked up included; None if it can."""
    arguments = (host, str(port), str(timeout_s))
    reached, answer = ask_python(_CONNECT, *arguments, timeout_s=timeout_s + 1)
    return None if reached else answer.complaint
