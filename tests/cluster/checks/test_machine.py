"""Each check of processors, memory and GPUs can fail."""

import os
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from cluster import cgroup
from cluster.checks import machine
from cluster.checks.check import Finding, run_checks
from cluster.checks.command import Answer
from cluster.checks.machine import gpu_checks, machine_checks

SMI = 'echo "NVIDIA A100-SXM4-40GB, 40960 MiB, 550.54.15, GPU-aaaa"'
TORCH = {"version": "2.11.0", "built_for": "12.8", "count": 2, "failed": {}}


def found(name: str) -> Finding:
    checks = [*machine_checks(), *gpu_checks()]
    return run_checks([[check for check in checks if check.name == name]])[0]


@pytest.fixture
def torch_says(monkeypatch: pytest.MonkeyPatch) -> Any:
    def say(err: str = "", **changes: Any) -> None:
        answer = TORCH | changes, Answer(0, "", err)
        monkeypatch.setattr(machine, "ask_python", lambda code, timeout_s: answer)

    return say


def test_this_machine_will_do() -> None:
    statuses = {finding.name: finding.status for finding in run_checks([machine_checks()])}
    assert statuses.keys() == {"bytecode", "CPUs", "memory", "shared memory"}


@pytest.fixture
def torch_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    cached = tmp_path / "torch" / "__pycache__" / "__init__.pyc"
    spec = ModuleSpec("torch", None)
    spec.cached = str(cached)
    monkeypatch.setattr(machine, "find_spec", lambda name: spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return cached


def test_modules_that_every_process_compiles_anew(
    torch_at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does it for all" in found("bytecode").seen
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    finding = found("bytecode")
    assert finding.status == "warning" and "PYTHONDONTWRITEBYTECODE" in finding.seen
    assert f"{sys.executable} -m compileall" in finding.advice
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "is read-only" in found("bytecode").seen
    torch_at.parent.mkdir(parents=True)
    torch_at.touch()
    assert found("bytecode").status == "ok"


def test_bytecode_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert found("bytecode").status == "skipped"


def test_one_cpu_is_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(machine, "available_cpus", lambda: 1)
    finding = found("CPUs")
    assert finding.status == "warning" and "quota 0.5" in finding.seen


def test_a_quota_that_ray_would_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cpus", lambda: 64)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 2.0)
    assert "--cpus " in found("CPUs").advice


def test_a_step_that_is_bound_to_less_than_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4096")
    assert "--cpus-per-task" in found("CPUs").advice


@pytest.mark.parametrize(("limit_gb", "status"), [(1.5, "problem"), (4, "warning"), (500, "ok")])
def test_memory_for_the_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit_gb: float, status: str
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 524288000 kB\nMemAvailable: 524288000 kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "memory_limit", lambda: int(limit_gb * machine.GB))
    monkeypatch.setattr(machine, "available_cpus", lambda: 8)
    assert found("memory").status == status


def test_shared_memory_that_is_small_or_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil._ntuple_diskusage(64 * 1024**2, 0, 64 * 1024**2)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert found("shared memory").status == "warning"
    monkeypatch.setattr(machine, "_SHM", tmp_path / "shm")
    assert "not there" in found("shared memory").seen


def test_the_tightest_group_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "_MEMBERSHIP", tmp_path / "membership")
    job = tmp_path / "system.slice" / "job_1"
    job.mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/system.slice/job_1/step_0\n")
    assert (cgroup.cpu_quota(), cgroup.memory_limit()) == (None, None)
    (job / "memory.max").write_text("1000\n")
    (job / "cpu.max").write_text("150000 100000\n")
    (job.parent / "memory.max").write_text("max\n")
    (job.parent / "cpu.max").write_text("max 100000\n")
    assert (cgroup.cpu_quota(), cgroup.memory_limit()) == (1.5, 1000)


def test_the_first_version_of_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "_MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n")
    for controller in ("cpu", "memory"):
        (tmp_path / controller).mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    assert (cgroup.cpu_quota(), cgroup.memory_limit()) == (4.0, None)


def test_gpus_and_their_driver(fake: Any) -> None:
    fake("nvidia-smi", f"{SMI}; {SMI}")
    finding = found("GPUs")
    assert finding.status == "ok"
    assert finding.seen == "2 (NVIDIA A100-SXM4-40GB), driver 550.54.15"


def test_a_driver_that_does_not_fit_its_library(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Failed to initialize NVML: Driver/library version mismatch"
    fake("nvidia-smi", f"echo '{words}'; exit 18")
    monkeypatch.setattr(machine, "_DRIVER", Path("/proc/version"))
    finding = found("GPUs")
    assert finding.status == "problem" and words in finding.seen


def test_a_driver_without_gpus(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("nvidia-smi", "exit 0")
    monkeypatch.setattr(machine, "_DRIVER", Path("/proc/version"))
    assert found("GPUs").status == "problem"


@pytest.mark.parametrize(
    ("visible", "status"),
    [
        ("0", "ok"),
        ("0,1", "ok"),
        ("2", "problem"),
        ("0,0", "problem"),
        ("", "warning"),
        ("GPU-aaaa", "ok"),
        ("GPU-bbbb", "problem"),
    ],
)
def test_gpus_that_are_named_but_not_there(
    fake: Any, monkeypatch: pytest.MonkeyPatch, visible: str, status: str
) -> None:
    fake("nvidia-smi", f"{SMI}; {SMI}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert found("visible GPUs").status == status


def test_torch_for_the_gpus(fake: Any, torch_says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("nvidia-smi", f"{SMI}; {SMI}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    torch_says()
    assert found("torch").status == "ok"
    torch_says(built_for=None, count=0)
    assert "without CUDA" in found("torch").seen
    torch_says(count=0, err="UserWarning: The NVIDIA driver on your system is too old")
    finding = found("torch")
    assert finding.status == "problem" and "too old" in finding.seen
    torch_says(failed={"1": "CUDA error: device is busy"})
    assert "GPU 1 does not compute: CUDA error: device is busy" in found("torch").seen


def test_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_TORCH", "raise ImportError('libcudart.so')")
    finding = found("torch")
    assert finding.status == "problem" and "libcudart.so" in finding.seen


def test_torch_of_this_machine() -> None:
    assert found("torch").status in ("ok", "warning")
