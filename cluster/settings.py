"""What a site's file under `configs/cluster/` can say of a SLURM allocation."""

from dataclasses import dataclass, field

from cluster.validation import require

MODES = ("allocation", "array")
MIN_SIGNAL_S = 30  # less would leave no time to stop Ray after the units have stopped


@dataclass
class SlurmSettings:
    """One SLURM allocation of several nodes, or an array of one-node jobs."""

    kind: str = "slurm"
    mode: str = "allocation"
    nodes: int = 1  # of the allocation, or of the array
    minutes: int = 240  # time limit
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus_per_node: int = 4
    gpus_per_node: int = 0
    memory_gb: float = 16.0  # of each node
    sbatch: dict[str, str] = field(default_factory=dict)  # further options; "true" has no value
    setup: list[str] = field(default_factory=list)  # lines of the batch script before the job
    signal_s: int = 120  # how long before the end SLURM warns the job
    kill_wait_s: int = 30  # between SIGTERM and SIGKILL: KillWait in `scontrol show config`
    requeues: int = 100  # after time limits, by the job itself
    temporary: str = "/tmp"  # of each node's own

    def __post_init__(self) -> None:
        require(self.kind == "slurm", "kind", self.kind, "slurm")
        require(self.mode in MODES, "mode", self.mode, " or ".join(MODES))
        for name in ("nodes", "minutes", "cpus_per_node"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.gpus_per_node >= 0, "gpus_per_node", self.gpus_per_node, "0 or more")
        require(self.memory_gb > 0, "memory_gb", self.memory_gb, "above 0")
        least = f"{MIN_SIGNAL_S} or more seconds"
        require(self.signal_s >= MIN_SIGNAL_S, "signal_s", self.signal_s, least)
        require(self.kill_wait_s >= 5, "kill_wait_s", self.kill_wait_s, "5 or more seconds")
        require(self.requeues >= 0, "requeues", self.requeues, "0 or more")
