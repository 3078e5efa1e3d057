"""A sweep whose units are written down line by line, without any training."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweep.artifacts import append_history
from sweep.config import ResolvedConfig
from sweep.failures import Failure, write_failure
from sweep.files import file_digest, write_atomically
from sweep.node_usage import FILE as NODE_FILE
from sweep.plan import TRAINED_STATES, Plan, PlannedUnit
from sweep.run import write_run_folder
from sweep.snapshot import FILE as PROGRESS
from sweep.snapshot import Snapshot
from sweep.store import METRICS, Store, Work
from sweep.tracking.ledger import Ledger

Event = dict[str, Any]


class MadeUpLedger:
    """A run's folder and a store; units grow and are finished as a test says."""

    def __init__(self, config: ResolvedConfig, plan: Plan) -> None:
        self.plan, self.config = plan, config
        self.run_folder = config.sweep.run_folder.resolve()
        self.store = Store(Path(config.sweep.output.store).resolve())
        self.store.open_for_writing()
        write_run_folder(config, plan)
        self.ledger = Ledger(plan, self.store, self.run_folder)
        self._running: set[str] = set()

    def units(self, kind: str) -> list[PlannedUnit]:
        return [unit for unit in self.plan.units.values() if unit.kind == kind]

    @contextmanager
    def computing(self, unit: PlannedUnit) -> Iterator["UnitUnderWay"]:
        """A unit that is computed while the block runs, and finished at its end."""
        with self.store.building(unit.kind, unit.key) as work:
            under_way = UnitUnderWay(self.store, unit, work, self.plan.spec(unit).to_json())
            self._running.add(unit.key)
            self.say_what_runs()
            yield under_way
            under_way.sweep = self.plan.name
            under_way.write_record()
        self._running.discard(unit.key)
        self.say_what_runs()

    def say_what_runs(self, ended: bool = False) -> None:
        """As a driver does, every 2 s and at its end."""
        running_s = dict.fromkeys(self._running, 1.0)
        snapshot = Snapshot(running_s=running_s, updated=time.time(), ended=ended)
        write_atomically(self.run_folder / PROGRESS, json.dumps(asdict(snapshot)))

    def finish(self, unit: PlannedUnit, num_epochs: int = 3, outcome: str = "done") -> None:
        with self.computing(unit) as under_way:
            under_way.outcome = outcome
            for state in TRAINED_STATES[unit.kind]:
                under_way.train(state, num_epochs)

    def finish_all(self, num_epochs: int = 3) -> None:
        for unit in self.plan.units.values():
            self.finish(unit, num_epochs)

    def fail(self, unit: PlannedUnit, cause: str) -> None:
        write_failure(self.run_folder, Failure.now(unit.key, cause))

    def rows(self, unit: PlannedUnit) -> list[dict[str, Any]]:
        """What W&B is to have of a finished unit, without the columns that it adds itself."""
        return self.ledger.rows(self.ledger.folder(unit.key))


class UnitUnderWay:
    """Writes what a worker writes."""

    def __init__(self, store: Store, unit: PlannedUnit, work: Work, spec: dict[str, Any]) -> None:
        self.unit, self._store, self.folder, self._spec = unit, store, work.folder, spec
        self.num_rows, self.outcome, self.sweep = 0, "done", ""
        self._epochs: dict[str, int] = {}

    def train(self, state: str, num_epochs: int = 1) -> None:
        for _ in range(num_epochs):
            epoch = self._epochs.get(state, -1 if state == "neutralized" else 0) + 1
            self._epochs[state] = epoch
            name = "forget_accuracy" if state == "neutralized" else "validation_accuracy"
            event = {"state": state, "epoch": epoch, name: round(1 / (1 + epoch), 6)}
            event |= {"loss": 2.0 / (1 + epoch)} if epoch else {}
            usage = {"row": self.num_rows, "seconds": float(epoch), "cpu_percent": 50.0}
            if self.num_rows % 2 == 0:
                with (self.folder / NODE_FILE).open("a") as file:
                    file.write(json.dumps(usage) + "\n")
            append_history(self.folder, event | {"samples": 100 * epoch})
            self.num_rows += 1

    def write_record(self) -> None:
        kind = self.unit.kind
        metrics = {f"{state}/test/accuracy": 0.5 for state in TRAINED_STATES[kind]}
        metrics |= {f"{state}/forget/accuracy": 0.25 for state in TRAINED_STATES[kind]}
        cost = {"best_epoch": 1, "samples": 100, "seconds": 0.5}
        training = {s: cost | {"epochs": n} for s, n in self._epochs.items()}
        names = (METRICS, NODE_FILE)
        files = {n: file_digest(self.folder / n) for n in names if (self.folder / n).exists()}
        record = {
            "key": self.unit.key,
            "kind": kind,
            "labels": {"sweep": self.sweep},
            "outcome": self.outcome,
            "metrics": metrics,
            "training": training,
            "neutralization": None,
            "counts": {"test": 10},
            "spec": self._spec,
            "provenance": {"commit": "c0ffee", "device": "cpu"},
            "files": files,
        }
        self._store.write_record(self.folder, record)


@contextmanager
def streaming(made_up: MadeUpLedger, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The stream's process as a driver starts it; killed at the end if it still runs."""
    command = [sys.executable, "-m", "sweep.tracking", str(made_up.run_folder)]
    env = os.environ | {"WANDB_MODE": ""} | environment
    log = made_up.run_folder.parent / "stream.txt"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def end(process: subprocess.Popen[bytes], seconds: float = 30.0) -> int:
    """What a driver does when its sweep has ended; the exit code."""
    assert process.stdin is not None
    process.stdin.write(f"{seconds}\n".encode())
    process.stdin.close()
    return process.wait(seconds + 20)


def kill(process: subprocess.Popen[bytes]) -> None:
    """As the kernel does when memory runs out: no word to anyone."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], bool], what: str, patience_s: float = 60.0) -> None:
    """Wait for something that another process is to do."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def without_own_columns(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what W&B adds to each."""
    return {name: value for name, value in row.items() if not name.startswith("_")}


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two rows hold the same numbers; JSON knows no difference between 1 and 1.0."""
    return found.keys() == expected.keys() and all(
        math.isclose(found[name], value) if isinstance(value, float) else found[name] == value
        for name, value in expected.items()
    )
