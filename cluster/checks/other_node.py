"""What a compute node sees of this machine's folders, asked by a job of a minute."""

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cluster.checks.check import Check, Result, Skip, ok, problem, warning
from cluster.checks.command import ask, is_installed
from cluster.checks.filesystem import Place, judge_skew, skew
from cluster.checks.network import only_loopback
from cluster.checks.scontrol import Controller
from cluster.checks.slurm import outside_of_jobs, where
from cluster.settings import SlurmSettings

WAIT_S = 30  # for a free node
_JOB_S = 20  # for the command itself
_SEEN_WITHIN_S = 10.0  # what the node wrote, through a network file system's cache
_SCRIPT = r"""
token=$1; temporary=$2; shift 2
echo "host $(uname -n)"
echo "clock $(date +%s)"
echo "address $(getent hosts "$(uname -n)" | cut -d' ' -f1 | tr '\n' ' ')"
if probe=$(mktemp -d "$temporary/usweep-doctor-XXXXXX" 2>&1); then
  rmdir "$probe"; echo "temporary $(df -Pk "$temporary" | tail -n 1 | awk '{print $4}')"
else
  echo "temporary refused"
fi
for folder in "$@"; do
  if [ "$(cat "$folder/asked" 2>/dev/null)" != "$token" ]; then echo "folder unseen $folder"
  elif echo "$token" 2>/dev/null >"$folder/answered"; then echo "folder written $folder"
  else echo "folder unwritable $folder"; fi
done
"""


@dataclass(frozen=True)
class Told:
    """What the node said, and when it was asked."""

    host: str
    clock: float
    addresses: list[str]
    temporary: str  # free kB, or "refused"
    folders: dict[str, str]  # "unseen", "unwritable", "written", or "late", by place
    before: float
    after: float


@dataclass
class OtherNode:
    """Checks that share one job; run them one after the other."""

    settings: SlurmSettings
    places: list[Place]
    controller: Controller
    _outcome: Told | Skip | None = field(default=None, init=False)

    def checks(self) -> list[Check]:
        """Folders, clock, name and temporary folder of a node."""
        looks = {
            "folders": self.check_folders,
            "clock": self.check_clock,
            "host name": self.check_name,
            "temporary": self.check_temporary,
        }
        return [Check(f"node: {what}", look) for what, look in looks.items()]

    @property
    def told(self) -> Told:
        """The answers of a node.

        Raises:
            Skip: no node was free in time, or srun cannot ask one.
        """
        if self._outcome is None:
            try:
                self._outcome = self._ask()
            except Skip as reason:
                self._outcome = reason
        if isinstance(self._outcome, Skip):
            raise self._outcome
        return self._outcome

    def _ask(self) -> Told:
        if not is_installed("srun"):
            raise Skip("srun is not installed")
        if not self.controller.ping[0]:
            raise Skip("the controller does not answer")
        with ExitStack() as stack:
            probes = {place: stack.enter_context(place.probe()) for place in self.places}
            token = str(time.time_ns())
            for folder in probes.values():
                (folder / "asked").write_text(token)
            before = time.time()
            lines = self._run(token, [str(folder) for folder in probes.values()])
            after = time.time()
            states = {path: state for state, path in _folders(lines)}
            seen = {
                place.name: _answered(folder, token, states.get(str(folder), "unseen"))
                for place, folder in probes.items()
            }
        values = dict(line.split(" ", 1) for line in lines if " " in line)
        addresses = values.get("address", "").split()
        clock = float(values["clock"])
        host, temporary = values.get("host", "?"), values.get("temporary", "refused")
        return Told(host, clock, addresses, temporary, seen, before, after)

    def _run(self, token: str, folders: list[str]) -> list[str]:
        options = [f"--{name}={value}" for name, value in where(self.settings).items()]
        options += [
            "-N1",
            "-n1",
            "-t1",
            "--mem=100M",
            f"--immediate={WAIT_S}",
            "--job-name=usweep-doctor",
        ]
        options += ["--chdir=/", "--quiet"]
        script = ["sh", "-c", _SCRIPT, "sh", token, self.settings.temporary, *folders]
        limit = WAIT_S + _JOB_S
        answer = ask("srun", *options, *script, timeout_s=limit, environment=outside_of_jobs())
        if answer.is_good and "clock " in answer.out:
            return answer.out.splitlines()
        if answer.code is None or "busy" in answer.err or "not available now" in answer.err:
            raise Skip(f"no node was free within {WAIT_S} s")
        raise Skip(answer.complaint)

    def check_folders(self) -> Result:
        """A node reads what was written here, and what it writes is seen here."""
        told = self.told
        bad = {name: state for name, state in told.folders.items() if state != "written"}
        names = ", ".join(told.folders)
        if told.host == socket.gethostname():
            return warning(f"only this machine was free ({told.host})", "try again later")
        if not bad:
            return ok(f"{told.host} reads and writes {names}")
        words = {
            "unseen": "does not see",
            "unwritable": "sees, but cannot write",
            "late": f"writes, but it is not seen here within {_SEEN_WITHIN_S:.0f} s,",
        }
        paths = {place.name: place.existing for place in self.places}
        seen = "; ".join(f"{told.host} {words[state]} {paths[n]}" for n, state in bad.items())
        return problem(seen, "name folders that are mounted at the same path on all nodes")

    def check_clock(self) -> Result:
        """A node's clock is this machine's."""
        told = self.told
        # The node tells whole seconds.
        return judge_skew(skew(told.clock, told.before - 1, told.after), told.host)

    def check_name(self) -> Result:
        """A node's own name is an address that other nodes reach."""
        told = self.told
        if not told.addresses:
            return problem(f"{told.host} does not know its own address", "ask the site: DNS")
        seen = f"{told.host} is {', '.join(told.addresses)}"
        if only_loopback(told.addresses):
            advice = "ask the site to give nodes their network address in /etc/hosts or DNS"
            return problem(f"{seen} to itself, which no other node reaches", advice)
        return ok(seen)

    def check_temporary(self) -> Result:
        """A node's temporary folder can be written and has space."""
        told, path = self.told, Path(self.settings.temporary)
        advice = "set temporary in the cluster file to a folder on each node's own disk"
        if not told.temporary.isdigit():
            return problem(f"{path} on {told.host} cannot be written", advice)
        free = int(told.temporary) / 1024**2
        seen = f"{path} on {told.host} has {free:.1f} GB free"
        return ok(seen) if free >= 2 else warning(seen, advice)


def _folders(lines: list[str]) -> list[tuple[str, str]]:
    """State and path of each folder that the node was asked about."""
    parts = [line.split(" ", 2) for line in lines if line.startswith("folder ")]
    return [(part[1], part[2]) for part in parts if len(part) == 3]


def _answered(folder: Path, token: str, state: str) -> str:
    """The state of a folder, after waiting for what the node wrote."""
    end = time.monotonic() + _SEEN_WITHIN_S
    while state == "written":
        try:
            if (folder / "answered").read_text().strip() == token:
                return state
        except OSError:
            pass
        if time.monotonic() > end:
            return "late"
        time.sleep(0.1)
    return state
