"""Ray Tune's trainable, and the resources that it asks for.

Only the standard library is imported here: Tune creates a worker's actor by importing this module,
and an actor that is ready at once, with torch still to come, is seen by Tune as running.
"""

from typing import TYPE_CHECKING, Any

from sweep.secrets import redact

if TYPE_CHECKING:
    from sweep.worker import RunContext

TrialConfig = dict[str, Any]  # unit: key, cpus, gpus, lane: numbers, stale: Sign or None


def run_trial_in_worker(config: TrialConfig, context: "RunContext") -> None:
    """Attempt the unit that `config` names and report how it went.

    An exception of the unit is reported, not raised: a strategy that raises once raises again.
    What is raised costs the worker process.
    """
    from ray import tune

    from sweep.worker import Task, attempt

    report = attempt(context, Task(config["unit"], config["gpus"], config["stale"]))
    # Here too, since this node may know secrets that the driver's does not.
    tune.report({k: redact(part) if isinstance(part, str) else part for k, part in report.items()})


def bundle(cpus: float, gpus: float, lane: int) -> dict[str, float]:
    """What a trial asks of Ray: its share, marked with its lane.

    Tune hands a finished trial's worker to a pending trial with an equal request, even if that
    one's own worker is just starting, which is then stopped: with units shorter than the start of
    a worker, all work stays on the workers that came first. A lane's number, written as that many
    bytes of memory, makes requests of different lanes unequal, so each lane keeps its worker.
    """
    request = {"CPU": cpus, "memory": float(lane + 1)}
    return request | {"GPU": gpus} if gpus else request
