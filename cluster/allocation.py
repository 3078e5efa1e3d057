"""What runs on each node of a SLURM job: Ray, and on the first node the command that uses it.

Submitit calls an `Allocation` once on each node. It only supervises: Ray and the command are its
children, and its own main thread, in which signals are handled, never enters Ray.

- SIGUSR2, from SLURM ahead of a preemption or of the time limit: submitit calls `checkpoint`; the
  command is asked to stop, everything is ended by pid, and the job goes back to the queue.
- SIGTERM, the end itself: the same in the time that is left, and nothing is requeued.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from cluster import meeting, processes, ray_node, slurm
from cluster.errors import ClusterError
from cluster.meeting import AWAY, ENDED, UP, Head
from cluster.node import ask_to_leave
from cluster.temporary import remove, temporary_folder

DRAIN_FILE = "CLUSTER_DRAIN_FILE"  # a variable that names the file which asks the command to end
MARGIN_S = 15  # to stop Ray on every node, after the command has ended
COMMAND_SHARE = 0.4  # of the time before SIGKILL; the rest is for Ray and for removing files
HEAD_STARTS_S = 60
HEAD_LOST_S = 15  # how long nodes wait for their own head, which doesn't answer any more
HEAD_RETURNS_S = 600  # how long nodes wait for a head that is away
LEAVING_S = 10  # how long the first node waits for the others to have left
RESTARTS = 3  # of a command or a Ray that was killed, in one attempt
_LOOK_EVERY_S = 0.5
TERMINATED = 128 + signal.SIGTERM


@dataclass
class Allocation:
    """The job: called on each node by submitit; plain data, since submitit writes it to a file."""

    folder: str  # seen by all nodes; `meeting` and the logs are in it
    command: list[str] = field(default_factory=list)  # none: nodes that join another job's Ray
    has_ray: bool = True  # without, the command runs on each node by itself
    resume_codes: tuple[int, ...] = ()  # exit codes of the command that mean: to be continued
    signal_s: int = 120
    kill_wait_s: int = 30
    temporary: str = "/tmp"

    def checkpoint(self) -> Any:
        """Called by submitit in a signal handler on the first node, before it requeues the job.

        Raises:
            SystemExit: there is nothing to continue.
        """
        from submitit.helpers import DelayedSubmission

        code = self._node.drain(self.signal_s - MARGIN_S, AWAY)
        if code is not None and code >= 0 and code not in self.resume_codes:
            sys.exit(code)
        if self._node.is_requeued():
            sys.exit(0)  # by SLURM itself, which would refuse to do it again
        return DelayedSubmission(replace(self))

    def __call__(self) -> None:
        """Run on this node; ends with the command's exit code."""
        self._node = Node(self)
        code = self._node.run()
        if code:
            sys.exit(code)


class Node:
    """This node's part of an allocation."""

    def __init__(self, job: Allocation) -> None:
        self.job = job
        self.meeting = Path(job.folder)
        self.id = _job_id()
        self.attempt = f"{self.id}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        self.rank = int(os.environ.get("SLURM_PROCID", "0"))
        self.num_nodes = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
        self.logs = self.meeting / self.id
        self.files = self.logs / self.attempt  # that only this attempt uses
        self.temporary = temporary_folder(Path(job.temporary))
        self.ray: subprocess.Popen[bytes] | None = None
        self.command: subprocess.Popen[bytes] | None = None
        self.token_file = self.files / "token"
        self.drain_file = self.files / "drain"
        self.terminated = False
        self.is_over = False

    # -- the whole of it ------------------------------------------------------------------------

    def run(self) -> int:
        """Do this node's part to its end; the command's exit code, or 0 where there is none."""
        processes.adopt_orphans()
        signal.signal(signal.SIGTERM, self._on_terminate)
        self.files.mkdir(parents=True, exist_ok=True)
        try:
            if not self.job.has_ray:
                return self._run_command_again_and_again({})
            if self.job.command and self.rank == 0:
                return self._lead()
            self._follow()
            return 0
        finally:
            self._clean_up()

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True  # what follows is done by the loops, not in the handler

    def _clean_up(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        # All of it well within the time before SIGKILL, since that would leave the folder behind.
        patience_s = min(5.0, self.job.kill_wait_s / 20)
        processes.stop(*self._children(), patience_s=patience_s)
        processes.stop_all(patience_s)
        remove(self.temporary, patience_s)
        if self.rank == 0:
            self.token_file.unlink(missing_ok=True)
        (self.files / f"left-{self.rank}").touch()

    def drain(self, patience_s: float, state: str) -> int | None:
        """Ask the command, or the work on this node, to stop, and end everything here.

        Returns:
            the command's exit code; None if it had to be killed, or there is none.
        """
        code = None
        deadline = time.monotonic() + max(0.0, patience_s)
        self.drain_file.touch()
        if self.command is not None:
            code = processes.wait(self.command, deadline - time.monotonic())
        elif self.ray is not None:
            ask_to_leave(self.temporary, deadline - time.monotonic())
        if self.job.command and self.job.has_ray and self.rank == 0:
            meeting.publish(self.meeting, Head(state, self.attempt))
        self._clean_up()
        if self.rank == 0:
            self._wait_until_all_left()
        return code

    def is_requeued(self) -> bool:
        """Whether SLURM has put this job back into its queue already."""
        try:
            return slurm.restarts(self.id) > int(self.attempt.rpartition(".")[2])
        except ClusterError:
            return False

    def _wait_until_all_left(self) -> None:
        deadline = time.monotonic() + LEAVING_S
        others = [self.files / f"left-{rank}" for rank in range(1, self.num_nodes)]
        while time.monotonic() < deadline and not all(path.exists() for path in others):
            time.sleep(0.2)

    # -- the first node -------------------------------------------------------------------------

    def _lead(self) -> int:
        code = 1
        state = ENDED
        try:
            for generation in range(RESTARTS + 1):
                self._say(f"starting Ray's head on {socket.gethostname()}")
                environment = self._start_head(generation)
                self._start_command(environment)
                code = self._watch_command()
                is_killed = code < 0 or self._ray_has_ended()
                if self.terminated or not is_killed:
                    break
                self._say(f"the command or its Ray was killed (code {code}); once more")
                self._stop_children()
            return code if code >= 0 else 128 - code
        finally:
            if not self.is_over:
                meeting.publish(self.meeting, Head(state, self.attempt))
                self._clean_up()
                self._wait_until_all_left()

    def _start_head(self, generation: int) -> Mapping[str, str]:
        """Start Ray's head and tell the others; the environment for whoever connects to it.

        Raises:
            RuntimeError: it does not start.
        """
        self._write_token()
        environment = self._environment(str(self.token_file))
        ray_node.forget_address(self.temporary)
        self._start_ray(ray_node.head_flags(), environment, "")
        deadline = time.monotonic() + HEAD_STARTS_S
        while not (address := ray_node.address_of_head(self.temporary)):
            if self._ray_has_ended() or time.monotonic() > deadline or self.terminated:
                raise RuntimeError(f"Ray's head did not start; see {self._ray_log()}")
            time.sleep(0.1)
        head = Head(UP, self.attempt, address, str(self.token_file), generation)
        meeting.publish(self.meeting, head)
        return {**environment, "RAY_ADDRESS": address}

    def _write_token(self) -> None:
        self.token_file.unlink(missing_ok=True)
        handle = os.open(self.token_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))

    def _start_command(self, environment: Mapping[str, str]) -> None:
        # What it leaves behind when it is killed goes with this node's folder.
        own = {DRAIN_FILE: str(self.drain_file), "TMPDIR": str(self.temporary)}
        log = self.logs / ("command.log" if self.job.has_ray else f"command-{self._name()}.log")
        self.command = processes.start(self.job.command, log, {**environment, **own})

    def _watch_command(self) -> int:
        """The exit code of the command, which is asked to stop when this job is to end."""
        assert self.command is not None
        while (code := self.command.poll()) is None:
            if self.terminated:
                code = self.drain(COMMAND_SHARE * self.job.kill_wait_s, AWAY)
                return TERMINATED if code is None else code
            if self._ray_has_ended():
                # It notices by itself; if not, it waits for something that never comes.
                code = processes.wait(self.command, 60)
                if code is None:
                    processes.stop(self.command)
                return -signal.SIGKILL
            time.sleep(_LOOK_EVERY_S)
        if self.job.has_ray and code > 0:
            time.sleep(2)  # did it end because its Ray did? That is noticed once a second
        return code

    def _ray_has_ended(self) -> bool:
        return self.ray is not None and self.ray.poll() is not None

    def _stop_children(self) -> None:
        processes.stop(*self._children())
        processes.stop_all()
        self.command = self.ray = None

    def _children(self) -> list[subprocess.Popen[bytes]]:
        return [child for child in (self.command, self.ray) if child is not None]

    # -- a node that joins ----------------------------------------------------------------------

    def _follow(self) -> None:
        """Be a node of the Ray that is published, for as long as there is one."""
        restarts, lost = 0, None
        while restarts <= RESTARTS and (head := self._await_head(lost)) is not None:
            self._say(f"{socket.gethostname()} joins the Ray at {head.address}")
            environment = self._environment(head.token_file)
            peer = head.address.rpartition(":")[0]
            self._start_ray([f"--address={head.address}"], environment, peer)
            while not self._ray_has_ended() and meeting.find(self.meeting) == head:
                if self._is_to_leave():
                    patience_s = COMMAND_SHARE * self.job.kill_wait_s
                    if not self.terminated:
                        patience_s = self.job.signal_s - MARGIN_S
                    self.drain(patience_s, AWAY)
                    return
                time.sleep(_LOOK_EVERY_S)
            if meeting.find(self.meeting) == head:  # else there is another one, or none any more
                restarts += 1
                lost = None if ray_node.answers(head.address) else head
                here = f"Ray has ended on this node, see {self._ray_log()}"
                self._say(f"{here if lost is None else 'the head is lost'}; once more")
            self._stop_children()
        if self.job.command and lost is not None and not self.terminated:
            # With --no-kill SLURM leaves a job without its first node as it is.
            self._say("no other head came: requeueing the job")
            slurm.requeue(self.id)

    def _await_head(self, lost: Head | None) -> Head | None:
        """The head once it is up, another than the lost one; None if there is nothing to wait for.

        Nodes of the same job wait for a moment only, since it is their own first node that is lost.
        """
        patience_s = HEAD_LOST_S if lost and self.job.command else HEAD_RETURNS_S
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not self._is_to_leave():
            head = meeting.find(self.meeting)
            is_ours = head is not None and (head.attempt == self.attempt or not self.job.command)
            if head is not None and head != lost and is_ours:
                if head.state == UP:
                    return head
                if head.state == ENDED or self.job.command:
                    return None
            time.sleep(_LOOK_EVERY_S)
        return None

    def _is_to_leave(self) -> bool:
        """Whether this node leaves a Ray that goes on; with their own head all stay to its end."""
        asked = (self.logs / "leave").exists() or self.drain_file.exists()
        return self.terminated or (asked and not self.job.command)

    # -- a command without a Ray of this job ----------------------------------------------------

    def _run_command_again_and_again(self, environment: Mapping[str, str]) -> int:
        code = 1
        for _ in range(RESTARTS + 1):
            self._start_command(environment)
            code = self._watch_command()
            if self.terminated or code >= 0:
                return code
            self._say(f"the command was killed by signal {-code}; once more")
            self._stop_children()
        return 128 - code

    # -- what both have --------------------------------------------------------------------------

    def _start_ray(self, flags: list[str], environment: Mapping[str, str], peer: str) -> None:
        command = ray_node.command(flags, peer or _other_node(), self._name(), self.temporary)
        self.ray = processes.start(command, self._ray_log(), environment)

    def _environment(self, token_file: str) -> Mapping[str, str]:
        return ray_node.environment(token_file, self.temporary)

    def _ray_log(self) -> Path:
        return self.logs / f"ray-{self._name()}.log"

    def _name(self) -> str:
        return os.environ.get("SLURMD_NODENAME") or socket.gethostname()

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def _job_id() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ["SLURM_JOB_ID"]


def _other_node() -> str:
    """A node that the first one has to be reached from, or a far address if it is alone."""
    import submitit

    others = [name for name in submitit.JobEnvironment().hostnames if name != socket.gethostname()]
    return others[0] if others else "192.0.2.1"  # TEST-NET-1, RFC 5737
