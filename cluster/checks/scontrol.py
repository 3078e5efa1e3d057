"""What SLURM's `scontrol show` says, as values."""

import re
from dataclasses import dataclass
from functools import cached_property

from cluster.checks.check import Skip
from cluster.checks.command import ask

_ANSWER_S = 8.0
_DOWN = {"DOWN", "DRAIN", "FAIL", "FAILING", "NOT_RESPONDING", "FUTURE", "POWERED_DOWN", "UNKNOWN"}
_DOWN |= {"DRAINED", "DRAINING", "MAINT", "PLANNED_DOWN", "INVALID_REG"}
Fields = dict[str, str]


@dataclass(frozen=True)
class Node:
    """What one node has, and whether jobs can run on it at all."""

    name: str
    cpus: int
    memory_mb: int
    gpus: int
    features: frozenset[str]
    is_up: bool


class Controller:
    """The answers of slurmctld, each asked for once; a sequence of checks shares them."""

    @cached_property
    def ping(self) -> tuple[bool, str]:
        """Whether a controller answers, and what it said."""
        answer = ask("scontrol", "ping", timeout_s=_ANSWER_S)
        up = [line for line in answer.out.splitlines() if line.rstrip().endswith("is UP")]
        if up:
            return True, up[0].strip()
        said = answer.out.strip().splitlines()
        return False, said[0] if said else answer.complaint

    def show(self, *what: str) -> str:
        """The output of `scontrol show …`.

        Raises:
            Skip: the controller does not answer, or not this.
        """
        if not self.ping[0]:
            raise Skip("the controller does not answer")
        answer = ask("scontrol", "show", *what, timeout_s=_ANSWER_S)
        if not answer.is_good:
            raise Skip(f"scontrol show {' '.join(what)}: {answer.complaint}")
        return answer.out

    @cached_property
    def config(self) -> Fields:
        """`scontrol show config`."""
        pairs = (line.partition("=") for line in self.show("config").splitlines())
        return {name.strip(): value.strip() for name, separator, value in pairs if separator}

    @cached_property
    def partitions(self) -> dict[str, Fields]:
        """Partitions by name."""
        found = map(parse_line, self.show("partition", "-o").splitlines())
        return {fields["PartitionName"]: fields for fields in found if "PartitionName" in fields}

    @cached_property
    def nodes(self) -> dict[str, list[Node]]:
        """Nodes by partition."""
        found: dict[str, list[Node]] = {}
        for line in self.show("node", "-o").splitlines():
            fields = parse_line(line)
            if "NodeName" in fields:
                for partition in fields.get("Partitions", "").split(","):
                    found.setdefault(partition, []).append(_node(fields))
        return found

    def partition(self, name: str | None) -> Fields:
        """The partition of that name, or the default one.

        Raises:
            Skip: there is none; `SLURM: partition` is the check that says so.
        """
        for fields in self.partitions.values():
            if fields["PartitionName"] == name or (not name and fields.get("Default") == "YES"):
                return fields
        raise Skip(f"there is no partition {name}" if name else "there is no default partition")


def parse_line(line: str) -> Fields:
    """A line of `scontrol show -o`; a value ends where the next name begins."""
    found = re.findall(r"(?:^|\s)([A-Za-z][\w:/]*)=(.*?)(?=\s+[A-Za-z][\w:/]*=|\s*$)", line)
    return dict(found)


def count_gpus(gres: str) -> int:
    """GPUs in a node's Gres, such as gpu:2 or gpu:a100:4(S:0-1),gpu:v100:2."""
    bare = re.sub(r"\([^)]*\)", "", gres)
    parts = [part.split(":") for part in bare.split(",")]
    return sum(int(part[-1]) if part[-1].isdigit() else 1 for part in parts if part[0] == "gpu")


def minutes(limit: str) -> float | None:
    """A time of SLURM, such as 2-00:00:00, in minutes; None where there is no limit."""
    if limit in ("UNLIMITED", "INFINITE", "NONE", "N/A", ""):
        return None
    days, _, clock = limit.rpartition("-")
    hours, mins, seconds = (["0", "0", *clock.split(":")])[-3:]
    return int(days or 0) * 1440 + int(hours) * 60 + int(mins) + int(seconds) / 60


def first_number(text: str) -> int | None:
    """The number that a value begins with, such as the 30 of "30 sec"; None for UNLIMITED."""
    found = re.match(r"\d+", text)
    return int(found.group()) if found else None


def _node(fields: Fields) -> Node:
    states = set(re.split(r"[+*~#!%$@^-]+", fields.get("State", "UNKNOWN")))
    reserved = first_number(fields.get("MemSpecLimit", "")) or 0
    features = fields.get("AvailableFeatures", "").split(",")
    return Node(
        name=fields["NodeName"],
        cpus=int(fields.get("CPUEfctv") or fields.get("CPUTot") or 0),
        memory_mb=int(fields.get("RealMemory", 0)) - reserved,
        gpus=count_gpus(fields.get("Gres", "")),
        features=frozenset(features) - {"(null)", ""},
        is_up=not states & _DOWN and not fields.get("State", "").endswith("*"),
    )
