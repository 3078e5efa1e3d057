"""A command on an existing Ray cluster, by way of its Jobs interface."""

import asyncio
import logging
import os
import re
import secrets
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import ClusterError
from cluster.validation import one_line, require, require_open_environment

_CONNECT_S = 10
_OVER = ("STOPPED", "SUCCEEDED", "FAILED")
# Ray lets these override the address that its client is given; the settings are to decide.
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_SECRETS_BELONG = "set it where the cluster's Ray is started, or use ~/.netrc on its head"


@dataclass
class RayJobsSettings:
    """An existing Ray cluster whose dashboard takes jobs."""

    kind: str = "ray_jobs"
    address: str = "http://127.0.0.1:8265"  # of the dashboard, not of Ray's port 6379
    folder: str = ""  # working folder of the job, on a file system that all nodes share
    usweep: list[str] = field(default_factory=lambda: ["usweep"])  # how it is called over there
    environment: dict[str, str] = field(default_factory=dict)  # of the job and its workers
    cpus: float = 0.0  # kept for the driver; with all four at 0 it runs on the head
    gpus: float = 0.0
    memory_gb: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)  # custom resources for the driver
    grace_s: int = 60  # between SIGTERM and SIGKILL when the job is stopped

    def __post_init__(self) -> None:
        require(self.kind == "ray_jobs", "kind", self.kind, "ray_jobs")
        # First, since an address with a password must not be shown.
        has_user = "@" in self.address
        require(not has_user, "address", "with a user", "http://HOST:PORT, and RAY_AUTH_MODE=token")
        is_url = re.fullmatch(r"https?://[^/:\s]+(:\d{1,5})?(/\S*)?", self.address) is not None
        require(is_url, "address", self.address, "the dashboard's, such as http://head:8265")
        require(self.folder.startswith("/"), "folder", self.folder, "an absolute path")
        require(len(self.usweep) > 0, "usweep", self.usweep, "a command, such as [usweep]")
        for name in ("cpus", "gpus", "memory_gb"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name, amount in self.resources.items():
            require(amount > 0, f"resources.{name}", amount, "above 0")
        require(self.grace_s >= 0, "grace_s", self.grace_s, "0 or more seconds")
        require_open_environment(self.environment, _SECRETS_BELONG)


@dataclass(frozen=True)
class JobState:
    """What the cluster says of a job."""

    status: str  # PENDING, RUNNING, or one of the three that are final
    message: str  # one line

    @property
    def is_over(self) -> bool:
        """Whether it can change no more."""
        return self.status in _OVER


def submit(
    settings: RayJobsSettings, name: str, command: list[str], environment: Mapping[str, str]
) -> str:
    """Have the cluster run a command in the shared folder; returns the job's id at once.

    The job finds its Ray as `auto` and in RAY_ADDRESS. When it is stopped it gets SIGTERM, and
    SIGKILL after `grace_s`.

    Args:
        name: the id begins with it.
        command: program and arguments, as they are to be called on the cluster.
        environment: further variables, which take precedence over those of the settings.

    Raises:
        ClusterError: no Ray, a Ray that refuses, or ray[default] is not installed here.
    """
    variables = describe_environment(settings, environment)
    entrypoint = f"cd {shlex.quote(settings.folder)} && exec {shlex.join(command)}"
    client = _connect(settings)
    with _plainly(settings):
        job: str = client.submit_job(
            entrypoint=entrypoint,
            submission_id=f"{name}-{secrets.token_hex(4)}",
            runtime_env={"env_vars": variables},
            metadata={"name": name},
            entrypoint_num_cpus=settings.cpus or None,
            entrypoint_num_gpus=settings.gpus or None,
            entrypoint_memory=int(settings.memory_gb * 1024**3) or None,
            entrypoint_resources=settings.resources or None,
        )
    return job


def describe_environment(
    settings: RayJobsSettings, environment: Mapping[str, str]
) -> dict[str, str]:
    """The variables that a job gets; everyone who can see the cluster's dashboard can read them.

    Raises:
        ClusterError: one of them is a secret.
    """
    require_open_environment(environment, _SECRETS_BELONG)
    ours = {
        "MALLOC_ARENA_MAX": "1",
        # Ray would kill the driver 3 s after SIGTERM, before units have reached a checkpoint.
        "RAY_JOB_STOP_WAIT_TIME_S": str(settings.grace_s),
    }
    return ours | settings.environment | dict(environment)


def state(settings: RayJobsSettings, job: str) -> JobState:
    """How a job is doing.

    Raises:
        ClusterError: no Ray, or the job is unknown to it.
    """
    client = _connect(settings)
    with _plainly(settings):
        info = client.get_job_info(job)
        return JobState(str(info.status.value), one_line(info.message or ""))


def logs(settings: RayJobsSettings, job: str) -> str:
    """What a job has printed so far.

    Raises:
        ClusterError: no Ray, or the job is unknown to it.
    """
    client = _connect(settings)
    with _plainly(settings):
        return str(client.get_job_logs(job))


def follow(settings: RayJobsSettings, job: str) -> Iterator[str]:
    """What a job prints, piece by piece, until it is over.

    Raises:
        ClusterError: no Ray, or the job is unknown to it.
    """
    client = _connect(settings)
    loop = asyncio.new_event_loop()
    try:
        with _plainly(settings):
            pieces = client.tail_job_logs(job)
            while True:
                try:
                    piece = loop.run_until_complete(anext(pieces))
                except StopAsyncIteration:
                    break
                yield str(piece)
            loop.run_until_complete(pieces.aclose())
    finally:
        loop.close()


def stop(settings: RayJobsSettings, job: str) -> bool:
    """Ask a job to end; returns whether it was running. It may take `grace_s` to end.

    Raises:
        ClusterError: no Ray, or the job is unknown to it.
    """
    client = _connect(settings)
    with _plainly(settings):
        return bool(client.stop_job(job))


def _connect(settings: RayJobsSettings) -> Any:
    """A client that has asked the dashboard for its version.

    With RAY_AUTH_MODE=token in the environment, Ray's client sends the token that it finds in
    RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH or in ~/.ray/auth_token.
    """
    client = _client_class()
    _require_answer(settings.address)
    with _plainly(settings), _without(_ADDRESS_VARIABLES):
        return client(settings.address)


def _client_class() -> Any:
    if find_spec("aiohttp") is None:  # ray[default] has it, ray has not
        raise ClusterError(
            "Ray Jobs need ray[default], which is not installed here: pip install 'usweep[jobs]'"
        )
    from ray.job_submission import JobSubmissionClient

    # It says when its connection to a finished job's log is closed.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    return JobSubmissionClient


def _require_answer(address: str) -> None:
    """Asked first, since Ray's client waits for minutes where packets are dropped."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address}: {error}; is it the address of Ray's dashboard?"
        ) from error


@contextmanager
def _without(variables: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _plainly(settings: RayJobsSettings) -> Iterator[None]:
    """Turn what Ray's client raises into one line that says what to do."""
    from ray.exceptions import AuthenticationError

    where = f"Ray Jobs at {settings.address}"
    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(
            f"{where}: {one_line(str(error))}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to "
            "a file with the cluster's token"
        ) from error
    except (KeyError, TypeError) as error:
        raise ClusterError(f"{where}: the answer is not that of a Ray dashboard") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"{where}: {one_line(str(error))}") from error
