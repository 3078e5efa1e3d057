"""A Ray of one's own on this machine, or an existing one by its address."""

import logging
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cluster.cgroup import cpu_quota
from cluster.errors import ClusterError
from cluster.temporary import temporary_folder

_OBJECT_STORE_BYTES = 128 * 1024**2  # results go through the file system, not through Ray
# Ray's servers listen on loopback alone where their node's address is 127.0.0.1, and on every
# address otherwise. On Linux ray.init replaces a 127.0.0.1 that it is given by an address that
# others can reach, for the sake of clusters; the second setting, which has the same effect on
# every system in spite of its name, tells it that there will be no cluster.
_PRIVATE = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def available_cpus() -> int:
    """Processors that this process may use: affinity, SLURM's share and cgroup quota.

    Not the host's count, which Ray would take.
    """
    count = len(os.sched_getaffinity(0))
    share = os.environ.get("SLURM_CPUS_PER_TASK", "") if "SLURM_STEP_ID" in os.environ else ""
    if share.isdigit():
        count = min(count, int(share))
    quota = cpu_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def available_gpus() -> int:
    """GPUs that this process may use, without touching CUDA.

    CUDA_VISIBLE_DEVICES decides where it is set; otherwise the driver's devices are counted.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])


@contextmanager
def ray_cluster(
    address: str | None = None, num_cpus: int | None = None, num_gpus: int | None = None
) -> Iterator[dict[str, float]]:
    """Connect to `address`, or start Ray here; yields the cluster's resources.

    A local Ray listens on loopback only, asks every connection for a token that only this user can
    read, has no dashboard, and keeps its files in a short temporary folder that is removed at the
    end.

    Args:
        address: of an existing cluster, such as "auto" or "10.0.0.1:6379"; None starts one here.
        num_cpus: processors for a local Ray; None: those that this process may use.
        num_gpus: GPUs for a local Ray; None: those that this process may use.

    Raises:
        ClusterError: the address does not answer, or Ray does not start.
    """
    _quiet_ray()
    temporary = None
    if address:
        _require_answer(address)
    else:
        temporary = temporary_folder()
        _keep_private(temporary)
    options: dict[str, Any] = {"address": address or "local"}
    if temporary is not None:
        options |= {
            "num_cpus": available_cpus() if num_cpus is None else num_cpus,
            "num_gpus": available_gpus() if num_gpus is None else num_gpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(temporary),
        }
    import ray

    try:
        _connect(options)
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _connect(options: dict[str, Any]) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    refusals = (ConnectionError, TimeoutError, ValueError, RuntimeError, OSError)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (*refusals, AuthenticationError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ClusterError(f"no Ray at {options['address']}: {words}") from error


def _require_answer(address: str) -> None:
    """Ray waits for minutes at an address where nothing listens, so this is asked first."""
    if "://" in address:
        raise ClusterError(f"the Ray address {address} has a scheme; allowed: HOST:PORT, or auto")
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return  # "auto", which Ray looks up itself
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterError(f"nothing answers at the Ray address {address}: {error}") from error


def _quiet_ray() -> None:
    """Settings that Ray reads when it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Tune runs each trial in a new thread, and glibc gives each thread a heap that it seldom
    # returns: workers grew to 3.4 GB on MNIST. One heap for all threads keeps them at 0.8 GB.
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")


@cache
def _token() -> str:
    # One for the life of the process: Ray reads it once, and a second cluster must accept it.
    return secrets.token_hex(32)


def _keep_private(folder: Path) -> None:
    """Have the new Ray listen on loopback only, and ask each connection for a token of its own.

    The token's file has mode 0600 and goes with the folder.
    """
    if "ray" in sys.modules and any(os.environ.get(key) != _PRIVATE[key] for key in _PRIVATE):
        settings = " ".join(f"{key}={value}" for key, value in _PRIVATE.items())
        raise ClusterError(
            "ray was imported before it could be told to listen on loopback and to ask for a "
            f"token; start the sweep in a process of its own, or set {settings} before importing "
            "ray"
        )
    # A head on this very machine that does not answer is dead: no need to wait a minute for it.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "15")
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(_token())
    os.environ.update(_PRIVATE)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
