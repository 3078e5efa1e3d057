"""What the control groups of this process allow it, whichever of them is the tightest."""

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_NO_LIMIT = 2**60  # version 1 writes "no limit" as a number near 2**63


def cpu_quota() -> float | None:
    """CPUs that may be used at a time, or None without a limit."""
    quotas = []
    for folder in _folders("cpu"):
        try:
            if (folder / "cpu.max").exists():
                limit, period = (folder / "cpu.max").read_text().split()
            else:
                limit = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if limit != "max" and int(limit) > 0:
                quotas.append(int(limit) / int(period))
        except (OSError, ValueError):
            continue
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Bytes that may be used, or None without a limit."""
    limits = []
    for folder in _folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((folder / name).read_text()))
            except (OSError, ValueError):
                continue
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


def _folders(controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in, from its own up to the root."""
    try:
        memberships = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        memberships = ["0::/"]
    for line in memberships:
        _, names, path = line.split(":", 2)
        if names == "":
            base = _ROOT
        elif controller in names.split(","):
            base = _ROOT / controller
        else:
            continue
        inside = Path(path.lstrip("/"))
        # In a container the path can be the host's; the container's own group is then the root.
        yield from (base / part for part in (inside, *inside.parents))
