"""A Ray that runs already: does it let us in, is it of our version, what has it."""

from importlib.metadata import version

from cluster.checks.check import Check, Result, ok, problem
from cluster.checks.command import ask_python

_ANSWER_S = 10
_LIMIT_S = 60.0  # with importing Ray from a slow file system
_SIGALRM = 14
# An alarm without a handler ends the process wherever it waits, also inside Ray's C++ code.
_CONNECT = f"""
import json, signal, sys
from cluster.errors import ClusterError
from cluster.local import ray_cluster
import ray
signal.alarm({_ANSWER_S})
try:
    with ray_cluster(sys.argv[1]) as resources:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        print(json.dumps({{"resources": resources, "nodes": len(nodes)}}))
        sys.stdout.flush()
        signal.alarm({_ANSWER_S})
except ClusterError as error:
    cause = str(error.__cause__)  # the error itself is its first line
    sys.exit(cause if "mismatch" in cause else str(error))
"""


def ray_checks(address: str) -> list[Check]:
    """Whether a sweep can use the Ray at this address."""
    return [Check("Ray", lambda: check_ray(address))]


def check_ray(address: str) -> Result:
    """It answers, is of the same version, and has processors."""
    found, answer = ask_python(_CONNECT, address, timeout_s=_LIMIT_S)
    if found is None:
        return _explain(address, answer.code, answer.err)
    resources = found["resources"]
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    seen = f"{found['nodes']} nodes, {cpus:g} CPUs, {gpus:g} GPUs, Ray {version('ray')} as here"
    if not cpus:
        return problem(seen, "start its nodes with processors: ray start --num-cpus")
    return ok(seen)


def _explain(address: str, code: int | None, err: str) -> Result:
    if code in (None, -_SIGALRM):
        advice = "see that its head runs, that the port is its GCS port (6379), and the token"
        return problem(f"{address} does not answer within {_ANSWER_S} s", advice)
    words = [line.strip() for line in err.splitlines() if line.strip()]
    text = " ".join(words)
    if "ersion mismatch" in text:
        start = text.index("ersion mismatch") - 1
        advice = "start it with this project's environment: same Ray and same Python on all nodes"
        return problem(text[start : start + 300], advice)
    last = words[-1] if words else f"exit code {code}"
    if "AuthenticationError" in last or "RAY_AUTH_" in last:
        advice = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to that Ray's token file"
        return problem(last.partition("Ensure")[0], advice)
    return problem(last, "see that its head runs and that this machine reaches HOST:PORT")
