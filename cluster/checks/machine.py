"""Processors, memory and GPUs of this machine, and what of them a sweep would get."""

import os
import shutil
import sys
import sysconfig
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from cluster.cgroup import cpu_quota, memory_limit
from cluster.checks.check import Check, Result, Skip, ok, problem, warning
from cluster.checks.command import ask, ask_python, is_installed
from cluster.local import available_cpus, available_gpus

GB = 1024**3
_WORKER_GB = 1.0  # torch, Ray's worker process and a small data set
_OBJECT_STORE_GB = 0.25
_DRIVER = Path("/proc/driver/nvidia/version")
_SHM = Path("/dev/shm")
_MEMINFO = Path("/proc/meminfo")
_TORCH = """
import json, torch
found = {"version": torch.__version__, "built_for": torch.version.cuda or torch.version.hip}
found["count"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
failed = {}
for index in range(found["count"]):
    try:
        torch.ones(1, device=f"cuda:{index}").add(1).item()
    except Exception as error:
        failed[index] = str(error).splitlines()[0]
print(json.dumps(found | {"failed": failed}))
"""
TORCH_LIMIT_S = 60.0  # importing torch from a slow file system


def machine_checks() -> list[Check]:
    """Processors and memory."""
    return [
        Check("bytecode", _check_bytecode),
        Check("CPUs", _check_cpus),
        Check("memory", _check_memory),
        Check("shared memory", _check_shared_memory),
    ]


def gpu_checks() -> list[Check]:
    """GPUs, from the driver up to torch."""
    gpus = Gpus()
    return [
        Check("GPUs", gpus.check_driver),
        Check("visible GPUs", gpus.check_visible),
        Check("torch", gpus.check_torch),
    ]


def _check_bytecode() -> Result:
    """Modules are compiled, or the first process that imports them keeps what it compiled."""
    spec = find_spec("torch")
    if spec is None or spec.cached is None:
        raise Skip("torch is not installed")
    cached = Path(spec.cached)
    if cached.is_file():
        return ok("Python's modules are compiled")
    writable = _is_writable(cached.parent)
    if writable and not sys.dont_write_bytecode:
        return ok("not yet compiled; the first process that imports a module does it for all")
    why = f"{cached.parent} is read-only" if not writable else "PYTHONDONTWRITEBYTECODE is set"
    packages = sysconfig.get_path("purelib")
    return warning(
        f"torch is not compiled, and {why}: every worker compiles it anew",
        f"once, as who may write there: {sys.executable} -m compileall -qj0 {packages}",
    )


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder that may have to be made first."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    return os.access(there, os.W_OK)


def _check_cpus() -> Result:
    host, affinity, quota = os.cpu_count() or 1, len(os.sched_getaffinity(0)), cpu_quota()
    given = available_cpus()
    allowed = affinity if quota is None else min(affinity, quota)
    seen = f"Ray would be given {given} of the machine's {host}"
    if affinity < host:
        seen += f"; affinity {affinity}"
    if quota is not None:
        seen += f"; cgroup quota {quota:g}"
    if given > max(1, allowed):
        return warning(seen, f"say so yourself: usweep run --cpus {max(1, int(allowed))}")
    in_job = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if in_job.isdigit() and int(in_job) > given:
        seen += f"; the SLURM job has {in_job} here"
        return warning(seen, "start it with srun --cpus-per-task, or outside of srun")
    if allowed < 2:
        return warning(seen, "ask for two or more: the driver and one worker share it")
    return ok(seen)


def _check_memory() -> Result:
    total = _meminfo("MemTotal")
    limit = memory_limit()
    usable = total if limit is None else min(total, limit)
    free = min(_meminfo("MemAvailable"), usable)
    seen = f"{usable / GB:.1f} GB, {free / GB:.1f} GB free on the machine"
    if limit is not None and limit < total:
        seen += f"; a cgroup limits it (the machine has {total / GB:.1f} GB)"
    cpus = available_cpus()
    fit = int((usable / GB - _WORKER_GB) / _WORKER_GB)  # one share for the driver and Ray
    if fit < 1:
        return problem(seen, "Ray and one worker need 2 GB: ask for more memory")
    if fit < cpus:
        seen += f"; {cpus} workers need about {(cpus + 1) * _WORKER_GB:.0f} GB"
        return warning(seen, f"ask for more memory, or run fewer workers: --cpus {fit}")
    return ok(seen)


def _meminfo(name: str) -> int:
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{_MEMINFO} has no {name}")


def _check_shared_memory() -> Result:
    advice = "give the container more, such as docker run --shm-size=1g; Ray uses the disk instead"
    if not _SHM.is_dir():
        return warning(f"{_SHM} is not there", advice)
    usage = shutil.disk_usage(_SHM)
    seen = f"{_SHM} has {usage.free / GB:.1f} GB free of {usage.total / GB:.1f} GB"
    return warning(seen, advice) if usage.free < _OBJECT_STORE_GB * GB else ok(seen)


class Gpus:
    """The GPUs of this machine, as the driver and as torch see them."""

    @cached_property
    def _listed(self) -> list[str] | str:
        """Lines of nvidia-smi, one a GPU, or why there are none."""
        if not is_installed("nvidia-smi"):
            return "nvidia-smi is not installed"
        query = ("--query-gpu=name,memory.total,driver_version,uuid", "--format=csv,noheader")
        answer = ask("nvidia-smi", *query, timeout_s=10)
        if answer.is_good:
            return [line.strip() for line in answer.out.splitlines() if line.strip()]
        return f"nvidia-smi fails: {answer.complaint}"

    @cached_property
    def count(self) -> int:
        """GPUs that the driver lists; without nvidia-smi those that have a device file."""
        if isinstance(self._listed, list):
            return len(self._listed)
        return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])

    def check_driver(self) -> Result:
        """The driver answers and knows the GPUs that have device files."""
        listed = self._listed
        if isinstance(listed, list) and listed:
            names = sorted({line.split(",")[0].strip() for line in listed})
            driver = listed[0].split(",")[2].strip()
            return ok(f"{len(listed)} ({', '.join(names)}), driver {driver}")
        if self.count == 0 and not _DRIVER.exists():
            return ok("none here; units run on the CPU")
        if isinstance(listed, list):
            return problem("a driver without any GPU", "see dmesg, and ask for GPUs in the job")
        if "fails" in listed:
            advice = "reload the driver or restart the machine; in a container, give it the GPUs"
            return problem(listed, advice)
        if not _DRIVER.exists():
            seen = f"{self.count} device files, but no driver"
            return problem(seen, "install NVIDIA's driver, or give it to the container")
        return ok(f"{self.count}; {_DRIVER.read_text().splitlines()[0]}")

    def check_visible(self) -> Result:
        """CUDA_VISIBLE_DEVICES names GPUs that are there."""
        value = os.environ.get("CUDA_VISIBLE_DEVICES")
        if value is None:
            return ok("CUDA_VISIBLE_DEVICES is not set")
        seen = f"CUDA_VISIBLE_DEVICES={value}, GPUs here: {self.count}"
        named = [part.strip() for part in value.split(",") if part.strip()]
        if not available_gpus():
            hint = "unset CUDA_VISIBLE_DEVICES to use them"
            return warning(seen, hint) if self.count else ok(seen)
        if any(part.isdigit() and int(part) >= self.count for part in named) or not self.count:
            return problem(seen, "CUDA stops at the first that is not there: unset or mend it")
        uuids = self._listed if isinstance(self._listed, list) else []
        lost = [part for part in named if part.startswith("GPU-") and part not in " ".join(uuids)]
        if uuids and lost:
            return problem(f"{seen}; unknown: {', '.join(lost)}", "unset or mend it")
        if len(set(named)) < len(named):
            return problem(seen, "name each GPU once, or CUDA sees none of them")
        return ok(seen)

    def check_torch(self) -> Result:
        """torch is made for the GPUs that are there, and computes on those that Ray is given."""
        found, answer = ask_python(_TORCH, timeout_s=TORCH_LIMIT_S)
        if found is None:
            advice = "install the project anew (make), on a fast disk if it took too long"
            return problem(f"torch cannot be imported: {answer.complaint}", advice)
        given = available_gpus()
        seen = f"torch {found['version']}"
        if self.count and not found["built_for"]:
            advice = "install a torch with CUDA: see https://pytorch.org/get-started"
            return problem(f"{seen} is built without CUDA, and there are GPUs", advice)
        if found["failed"]:
            index, error = next(iter(found["failed"].items()))
            advice = "see nvidia-smi for its state and other users; leave it out"
            return problem(f"{seen}; GPU {index} does not compute: {error}", advice)
        seen += f" sees {found['count']} GPUs" if self.count else ", on the CPU"
        if found["count"] != given:
            told = answer.err.strip().splitlines()
            seen += f", where Ray would be given {given}" + (f": {told[-1]}" if told else "")
            advice = "the driver must be new enough for this torch's CUDA; check visible GPUs"
            return problem(seen, advice) if found["count"] < given else warning(seen, advice)
        return ok(seen)
