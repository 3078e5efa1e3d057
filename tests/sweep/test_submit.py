"""Submitting, watching and ending a sweep, with commands that stand in for SLURM's.

A real one: tests/slurm.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster import slurm
from cluster.errors import ClusterError
from cluster.kuberay_settings import KubeRaySettings
from cluster.ray_jobs import RayJobsSettings
from cluster.settings import SlurmSettings
from sweep import submit, submit_ray
from sweep.config import ResolvedConfig, load_config
from sweep.errors import SweepError
from sweep.failures import Failure, read_failures, write_failure
from sweep.plan import Plan
from sweep.run import CANCEL_FILE, CONFIG_FILE, write_run_folder
from sweep.store import Store

SITE = SlurmSettings(nodes=2)


class FakeSlurm:
    """A queue that a test fills; commands in a folder on the path read and change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue = folder / "queue"
        self.queue.touch()
        (folder / "next").write_text("1")
        self._command("srun", "")
        script = (
            f'n=$(cat {folder}/next); echo $((n+1)) > {folder}/next; cp "$1" {folder}/script-$n'
        )
        self._command("sbatch", f"{script}; echo Submitted batch job $n")
        self._command("squeue", f"cat {self.queue}")
        self._command("scancel", f"echo $1 >> {folder}/cancelled")

    def _command(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.folder / name).chmod(0o755)

    def put(self, **states: str) -> None:
        """Jobs by id, each as j1="RUNNING"."""
        lines = [f"{job[1:]}|{job[1:]}|{state}" for job, state in states.items()]
        self.queue.write_text("\n".join(lines) + "\n")

    @property
    def cancelled(self) -> list[str]:
        path = self.folder / "cancelled"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakeSlurm(folder)


def publish_all(plan: Plan, store: Store) -> None:
    for unit in plan.units.values():
        with store.building(unit.kind, unit.key) as work:
            store.write_record(work.folder, {"key": unit.key, "kind": unit.kind, "files": {}})


def test_a_submitted_sweep_is_a_run_folder_with_its_configuration(
    fake: FakeSlurm, tiny: ResolvedConfig
) -> None:
    folder = tiny.sweep.run_folder
    write_failure(folder, Failure.now("a" * 64, "earlier"))
    (folder / CANCEL_FILE).touch()
    job = submit.submit(tiny, SITE, "")
    assert (job.job_id, job.role, job.nodes) == ("1", "sweep", 2)
    assert load_config([folder / CONFIG_FILE], []).to_yaml() == tiny.to_yaml()
    assert slurm.jobs_of(folder / "cluster") == [job]
    assert read_failures(folder) == {}  # they are tried again
    assert not (folder / CANCEL_FILE).exists()
    assert (fake.folder / "script-1").read_text() == submit.dry_run(tiny, SITE)


def test_a_sweep_in_the_queue_is_not_submitted_twice(fake: FakeSlurm, tiny: ResolvedConfig) -> None:
    submit.submit(tiny, SITE, "")
    fake.put(j1="PENDING")
    with pytest.raises(SweepError, match=r"already, as job 1.*usweep cancel"):
        submit.submit(tiny, SITE, "")
    fake.put(j1="COMPLETED")
    assert submit.submit(tiny, SITE, "").job_id == "2"


def test_times_that_do_not_fit_are_refused(tiny_file: Path) -> None:
    config = load_config([tiny_file], ["resources.grace_s=106"])
    with pytest.raises(SweepError, match=r"grace_s is 106 s.*120 s.*signal_s"):
        submit.dry_run(config, SITE)


def test_what_runs_on_the_node_is_the_run_with_its_plugins(tmp_path: Path) -> None:
    plugins = f"/a.py{os.pathsep}package"
    run = submit.command_of(tmp_path, SITE, plugins)
    assert run[1:] == [
        "-m",
        "sweep",
        "run",
        str(tmp_path / CONFIG_FILE),
        "--plugin=/a.py",
        "--plugin=package",
    ]
    work = submit.command_of(tmp_path, replace(SITE, mode="array"), "")
    assert work[1:] == ["-m", "sweep", "work", str(tmp_path)]


def test_only_a_live_sweep_grows_and_what_was_added_shrinks(
    fake: FakeSlurm, tiny: ResolvedConfig
) -> None:
    folder = tiny.sweep.run_folder
    submit.submit(tiny, SITE, "")
    with pytest.raises(SweepError, match="no job of tiny is in the queue"):
        submit.grow(folder, 3, None, [])
    fake.put(j1="RUNNING")
    grown = submit.grow(folder, 3, None, ["partition=gpu"])
    assert (grown.job_id, grown.role, grown.nodes) == ("2", "nodes", 3)
    assert "--partition=gpu" in (fake.folder / "script-2").read_text()
    submit.grow(folder, 1, None, [])
    fake.put(j1="RUNNING", j2="RUNNING", j3="PENDING")
    assert submit.shrink(folder) == ["2", "3"]
    assert (folder / "cluster" / "2" / "leave").exists()
    assert fake.cancelled == ["3"]  # it has no nodes yet
    assert not (folder / "cluster" / "1" / "leave").exists()


def test_cancel_asks_what_runs_and_takes_back_what_waits(
    fake: FakeSlurm, tiny: ResolvedConfig
) -> None:
    folder = tiny.sweep.run_folder
    submit.submit(tiny, SITE, "")
    fake.put(j1="RUNNING")
    assert submit.cancel(folder, now=False) == ["1"]
    assert (folder / CANCEL_FILE).exists() and fake.cancelled == []
    fake.put(j1="PENDING")
    submit.cancel(folder, now=False)
    assert fake.cancelled == ["1"]
    fake.put(j1="RUNNING")
    submit.cancel(folder, now=True)
    assert fake.cancelled == ["1", "1"]


def test_logs_begin_with_what_the_sweep_printed(fake: FakeSlurm, tiny: ResolvedConfig) -> None:
    folder = tiny.sweep.run_folder
    with pytest.raises(SweepError, match="has no job"):
        submit.log_files(folder)
    submit.submit(tiny, SITE, "")
    for path in (folder / "cluster").glob("1/*"):
        path.unlink()
    with pytest.raises(SweepError, match="nothing yet"):
        submit.log_files(folder)
    for name in ("ray-n1.log", "command.log", "1_0_log.out"):
        (folder / "cluster" / "1" / name).write_text(f"first\n{name}\n")
    logs = submit.log_files(folder)
    assert [path.name for path in logs] == ["command.log", "1_0_log.out", "ray-n1.log"]
    output = io.StringIO()
    submit.print_log(logs[0], 1, lambda: False, Console(file=output))
    assert output.getvalue() == "command.log\n"


class Watched:
    """`watch` with a queue whose states are given one a look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder, self.output, self.again = folder, io.StringIO(), 0
        self._looks: Iterator[Any] = iter(())
        monkeypatch.setattr(slurm, "live_jobs", self._live)

    def _live(self, folder: Path) -> list[tuple[slurm.SlurmJob, str]]:
        state = next(self._looks, None)
        state = state() if callable(state) else state
        return [(slurm.SlurmJob("1", "sweep", 2, ""), state)] if state else []

    def _resubmit(self) -> slurm.SlurmJob:
        self.again += 1
        return slurm.SlurmJob(str(self.again + 1), "sweep", 2, "")

    def __call__(self, *looks: Any, limit: int = 2) -> int:
        self._looks = iter(looks)
        return submit.watch(self.folder, self._resubmit, limit, Console(file=self.output), 0.0)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tiny: ResolvedConfig, tiny_plan: Plan) -> Watched:
    write_run_folder(tiny, tiny_plan)
    return Watched(monkeypatch, tiny.sweep.run_folder)


def test_the_watcher_ends_with_the_sweep(
    watched: Watched, tiny: ResolvedConfig, tiny_plan: Plan
) -> None:
    finish = lambda: publish_all(tiny_plan, Store(Path(tiny.sweep.output.store)))  # noqa: E731
    assert watched("PENDING", "RUNNING", "RUNNING", finish) == 0
    assert watched.again == 0
    assert "job 1: pending" in watched.output.getvalue()


def test_the_watcher_submits_a_lost_job_again_up_to_a_limit(watched: Watched) -> None:
    with pytest.raises(ClusterError, match="lost 3 times"):
        watched("RUNNING", limit=2)
    assert watched.again == 2


def test_the_watcher_is_not_misled_by_a_job_that_is_missing_for_a_moment(
    watched: Watched, tiny: ResolvedConfig, tiny_plan: Plan
) -> None:
    finish = lambda: publish_all(tiny_plan, Store(Path(tiny.sweep.output.store)))  # noqa: E731
    assert watched("RUNNING", None, None, "PENDING", "RUNNING", finish) == 0
    assert watched.again == 0


def test_the_watcher_does_not_undo_a_cancellation(watched: Watched) -> None:
    (watched.folder / CANCEL_FILE).touch()
    assert watched("RUNNING") == 130
    assert watched.again == 0


def test_the_watcher_ends_with_1_where_units_failed(watched: Watched, tiny_plan: Plan) -> None:
    for key, unit in tiny_plan.units.items():
        if not unit.parents:
            write_failure(watched.folder, Failure.now(key, "on purpose"))
    assert watched("RUNNING") == 1


# ---- other clusters ----


def on_volume(tiny_file: Path, *more: str) -> ResolvedConfig:
    folders = ["output.store=/shared/store", "output.runs=/shared/runs"]
    data = ["data.root=/shared/data", "data.prepared=null"]
    return load_config([tiny_file], [*folders, *data, *more])


KUBERAY = KubeRaySettings(image="lab/usweep:1", claim="usweep")


def test_a_kuberay_manifest_carries_the_configuration(tiny_file: Path) -> None:
    manifest = submit_ray.dry_run(on_volume(tiny_file), KUBERAY, "")
    assert "kind: RayJob" in manifest and "store: /shared/store" in manifest
    assert f"--wait-nodes {KUBERAY.workers.count}" in manifest


def test_folders_that_pods_would_lose_are_refused(tiny: ResolvedConfig) -> None:
    with pytest.raises(ClusterError, match=r"output\.store"):
        submit_ray.dry_run(tiny, KUBERAY, "")


def test_files_of_this_machine_are_no_plugins_elsewhere(tiny_file: Path) -> None:
    with pytest.raises(SweepError, match=r"/here/next_class\.py is a file of this machine"):
        submit_ray.dry_run(on_volume(tiny_file), KUBERAY, "/here/next_class.py")


def test_a_cluster_that_kills_before_units_can_stop_is_refused(tiny_file: Path) -> None:
    with pytest.raises(SweepError, match="grace_s is 60 s"):
        submit_ray.dry_run(on_volume(tiny_file, "resources.grace_s=60"), KUBERAY, "")


def test_a_ray_job_runs_the_configuration_of_the_run_folder(
    tiny: ResolvedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[Any] = []
    monkeypatch.setattr(
        submit_ray.ray_jobs, "submit", lambda *arguments: handed.append(arguments) or "tiny-1"
    )
    site = RayJobsSettings(folder="/shared")
    assert "tiny-1" in submit_ray.submit(tiny, site, "")
    path = tiny.sweep.run_folder.resolve() / CONFIG_FILE
    assert handed == [(site, "tiny", ["usweep", "run", str(path), "--address", "auto"], {})]
    assert load_config([path], []).to_yaml() == tiny.to_yaml()
