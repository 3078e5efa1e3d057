"""What a local Ray is given, and what it leaves behind."""

import json
import os
import subprocess
import sys
from ipaddress import IPv6Address, ip_address

import pytest

from cluster import local
from cluster.errors import ClusterError
from cluster.local import available_cpus, available_gpus, ray_cluster


def test_cpus_follow_the_affinity_not_the_host() -> None:
    code = (
        "import os; from cluster.local import available_cpus\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(available_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
def test_cpus_follow_the_cgroup(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(local, "cpu_quota", lambda: quota)
    assert available_cpus() == expected


@pytest.mark.parametrize(
    ("visible", "expected"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2), ("GPU-abc,GPU-def", 2)]
)
def test_gpus_are_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert available_gpus() == expected


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    refused = pytest.raises(ClusterError, match=r"nothing answers.*127\.0\.0\.1:1")
    with refused, ray_cluster("127.0.0.1:1"):
        raise AssertionError


@pytest.mark.parametrize("told", [{}, {"RAY_AUTH_MODE": "token"}])
def test_a_ray_that_was_imported_too_early_to_be_private_is_refused(told: dict[str, str]) -> None:
    code = (
        "import ray\nfrom cluster.errors import ClusterError\n"
        "from cluster.local import ray_cluster\n"
        "try:\n    with ray_cluster(num_cpus=1): pass\n"
        "except ClusterError as error: print(error)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | told
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "process of its own" in done.stdout


LIFE = """
import os
from cluster.local import ray_cluster
for turn in range(2):
    with ray_cluster(num_cpus=3, num_gpus=1) as resources:
        assert resources["CPU"] == 3 and resources["GPU"] == 1, resources
        import ray
        token = os.environ["RAY_AUTH_TOKEN_PATH"]
        assert os.stat(token).st_mode & 0o777 == 0o600
        address = ray.get_runtime_context().gcs_address
        folder = os.path.dirname(token)
    assert not os.path.exists(folder)
    print(address, folder)
"""


def test_ray_starts_twice_with_what_it_is_given_and_leaves_no_folder() -> None:
    done = subprocess.run([sys.executable, "-c", LIFE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR")
"""

HOST = """
import os, subprocess, sys
from cluster.local import ray_cluster
with ray_cluster(num_cpus=1, num_gpus=0):
    import ray
    address = ray.get_runtime_context().gcs_address
    strange = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    strange |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    for environment in (dict(os.environ), strange):
        try:
            done = subprocess.run([sys.executable, "-c", sys.argv[1], address], env=environment,
                                  capture_output=True, text=True, timeout=60)
            print("let in" if done.returncode == 0 else "refused")
        except subprocess.TimeoutExpired:
            print("refused")
"""


def test_a_local_ray_lets_in_its_own_token_and_no_other() -> None:
    command = [sys.executable, "-c", HOST, STRANGER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.stdout.splitlines() == ["let in", "refused"], done.stdout + done.stderr


SOCKETS = """
import json, os, psutil
from cluster.local import ray_cluster
with ray_cluster(num_cpus=1, num_gpus=0):
    import ray
    worker = ray.get(ray.remote(lambda: os.getpid()).remote())
    folder = os.path.dirname(os.environ["RAY_AUTH_TOKEN_PATH"])
    driver = psutil.Process()
    family = {driver, *driver.children(recursive=True)}
    family |= {one for one in psutil.process_iter(["cmdline"])
               if folder in " ".join(one.info["cmdline"] or [])}
    found = []
    for one in family:
        try:
            name = {driver.pid: "driver", worker: "worker"}.get(one.pid) or one.name()
            found += [(name, c.laddr.ip) for c in one.net_connections() if c.laddr and not c.raddr]
        except psutil.NoSuchProcess:
            pass
print(json.dumps(found))
"""


def test_a_local_ray_listens_on_loopback_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SOCKETS], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    sockets = [(name, address) for name, address in json.loads(done.stdout)]
    assert {"driver", "worker", "gcs_server", "raylet"} <= {name for name, _ in sockets}
    assert [socket for socket in sockets if not _is_loopback(socket[1])] == []


def _is_loopback(address: str) -> bool:
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped  # ::ffff:127.0.0.1, which is not loopback to Python 3.11
    return parsed.is_loopback
