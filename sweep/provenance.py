"""Where a result comes from: code, versions, machine."""

import os
import platform
import socket
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("usweep", "torch", "torchvision", "numpy", "ray", "safetensors", "omegaconf")


@dataclass(frozen=True)
class Provenance:
    """What a record says of the code that made it; taken once by the driver."""

    commit: str | None  # None outside a git checkout
    dirty: bool | None  # whether tracked files differed from that commit
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_this_code(cls) -> "Provenance":
        """Commit of the checkout that this file is in, and versions of the packages."""
        commit = _git("rev-parse", "HEAD")
        status = None if commit is None else _git("status", "--porcelain", "--untracked-files=no")
        versions = {"python": platform.python_version()}
        for package in _PACKAGES:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "not installed"
        return cls(commit, None if status is None else bool(status), versions)

    def of_attempt(self, device: str) -> dict[str, Any]:
        """The record's section, begun by the process that is about to compute."""
        host = {"host": socket.gethostname(), "device": device, "cpus": os.cpu_count()}
        visible = {
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
        }
        return asdict(self) | host | visible | {"started": now()}


def now() -> str:
    """This moment, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        top = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"],
            cwd=here, capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
        if Path(top) != here.parent:
            return None  # installed somewhere inside another project's checkout
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
