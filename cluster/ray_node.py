"""Ray's process on a node of an allocation: its command line, its environment and its addresses."""

import socket
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from cluster.local import available_cpus, available_gpus
from cluster.node import VARIABLE as NODE_FOLDER

_OBJECT_STORE_BYTES = 128 * 1024**2  # results go through the file system, not through Ray
_ADDRESS_FILE = "ray_current_cluster"  # where a head writes its address, in its temporary folder

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # "0", as for a local Ray, means loopback only
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MALLOC_ARENA_MAX": "1",  # see cluster/local.py
    # A dead node is seen after some seconds instead of half a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
}


def environment(token_file: str, temporary: Path) -> Mapping[str, str]:
    """Variables for Ray on this node, and for whatever connects to it."""
    return {**_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": token_file, NODE_FOLDER: str(temporary)}


def command(flags: list[str], peer: str, name: str, temporary: Path) -> list[str]:
    """The command that is Ray's part of this node until it ends.

    Args:
        flags: those of a head, or the address to join.
        peer: a node that this one has to be reached from.
        name: of the node, as Ray shows it.
        temporary: the node's own folder, with a short path.
    """
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
        *flags,
        f"--node-ip-address={own_address(peer)}",
        f"--node-name={name}",
        f"--num-cpus={available_cpus()}",
        f"--num-gpus={available_gpus()}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        f"--temp-dir={temporary}",
        # Any free port: other people's Ray may be on this node.
        *("--min-worker-port=0", "--max-worker-port=0"),
        *("--dashboard-agent-listen-port=0", "--disable-usage-stats"),
    ]


def head_flags() -> list[str]:
    """What makes Ray a head, on free ports."""
    flags = ["--head", "--port=0", "--include-dashboard=false"]
    if find_spec("grpc"):  # then Ray starts a server for its client too, by default at 10001
        flags.append(f"--ray-client-server-port={_free_port()}")
    return flags


def address_of_head(temporary: Path) -> str:
    """HOST:PORT of the head that was started with this folder; empty until it is up."""
    try:
        return (temporary / _ADDRESS_FILE).read_text().strip()
    except FileNotFoundError:
        return ""


def forget_address(temporary: Path) -> None:
    """Before a head is started again, so that its address is not taken for that of the last one."""
    (temporary / _ADDRESS_FILE).unlink(missing_ok=True)


def own_address(peer: str) -> str:
    """The address of this node on the network that leads to `peer`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostbyname(socket.gethostname())


def answers(address: str) -> bool:
    """Whether anything listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
