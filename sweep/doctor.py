"""`usweep doctor`: everything that usually goes wrong before a sweep, looked at in seconds."""

import os
import platform
import stat
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cluster.checks.check import (
    Check,
    Finding,
    Result,
    Skip,
    Status,
    ok,
    problem,
    run_checks,
    warning,
)
from cluster.checks.existing_ray import ray_checks
from cluster.checks.filesystem import Place, by_file_system, temporary_checks
from cluster.checks.machine import gpu_checks, machine_checks
from cluster.checks.network import network_checks, unreachable
from cluster.checks.other_node import OtherNode
from cluster.checks.slurm import Slurm, is_slurm_here
from cluster.settings import SlurmSettings
from sweep.config import SweepConfig
from sweep.errors import one_line
from sweep.secrets import netrc_path, source_of_key

DISTRIBUTION = "usweep"
_WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
_ANSWER_S = 3.0
_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.PROBLEM: "red", Status.SKIPPED: ""}


@dataclass(frozen=True)
class Subject:
    """What a sweep would use."""

    sweep: SweepConfig | None = None  # None: checks are made in the current folder
    cluster: Any = None  # settings of a site; of those SLURM's are checked
    address: str | None = None  # of a Ray that runs already


def examine(subject: Subject) -> list[Finding]:
    """Make all checks; none of them changes anything that outlasts it."""
    places = _places(subject.sweep)
    folders = [check for place in _distinct(places) for check in place.checks()]
    runs = next((place for place in places if place.name == "runs"), places[0])
    folders.append(Check(f"{runs.name}: token file", runs.check_token))
    on_slurm = isinstance(subject.cluster, SlurmSettings)
    lanes = [
        [Check("versions", check_versions), *machine_checks()],
        gpu_checks(),
        [
            *network_checks(for_nodes=on_slurm),
            *temporary_checks(),
        ],
        folders,
        _slurm_checks(subject, places),
        [Check("W&B key", check_key), Check("W&B host", check_host)],
        ray_checks(subject.address) if subject.address else [],
    ]
    return run_checks(lanes)


def _places(sweep: SweepConfig | None) -> list[Place]:
    if sweep is None:
        return [Place("here", Path.cwd())]
    return [
        Place("store", Path(sweep.output.store)),
        Place("runs", Path(sweep.output.runs)),
        Place("data", sweep.data.prepared_root),
    ]


def _distinct(places: list[Place]) -> list[Place]:
    """One place a file system, but each folder that cannot be written."""
    return [
        place
        for group in by_file_system(places)
        for position, place in enumerate(group)
        if position == 0 or not os.access(place.existing, os.W_OK) or not place.existing.is_dir()
    ]


def _slurm_checks(subject: Subject, places: list[Place]) -> list[Check]:
    if not isinstance(subject.cluster, SlurmSettings):
        return Slurm(None).checks() if is_slurm_here() else []
    slurm = Slurm(subject.cluster)
    node = OtherNode(subject.cluster, places, slurm.controller)
    return [*slurm.checks(), *node.checks()]


def check_versions() -> Result:
    """Python and all packages are what the project asks for."""
    try:
        needed = [Requirement(line) for line in requires(DISTRIBUTION) or []]
        python = SpecifierSet(metadata(DISTRIBUTION)["Requires-Python"] or "")
    except PackageNotFoundError:
        advice = "install it into the environment that runs it: make, or pip install -e ."
        return problem(f"{DISTRIBUTION} is not installed in {sys.prefix}", advice)
    here = platform.python_version()
    wrong = [] if python.contains(here, prereleases=True) else [f"Python {here}, needs {python}"]
    own = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in own:
        try:
            found = version(one.name)
        except PackageNotFoundError:
            wrong.append(f"no {one.name}")
            continue
        if not one.specifier.contains(found, prereleases=True):
            wrong.append(f"{one.name} {found}, needs {one.specifier}")
    if wrong:
        return problem("; ".join(wrong), "install the locked versions: make")
    return ok(f"Python {here}, Ray {version('ray')}, torch {version('torch')}, {len(own)} packages")


def check_key() -> Result:
    """Whether there is a key, and that no stranger can read it; it is never shown."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode and mode not in _WANDB_MODES:
        return warning(f"WANDB_MODE={mode}", f"set it to {', '.join(_WANDB_MODES[:3])} or nothing")
    source = source_of_key()
    how = f", WANDB_MODE={mode}" if mode else ""
    if source is None:
        return Result(Status.SKIPPED, f"no key: written to files{how}", "to send: wandb login")
    path = Path(netrc_path())
    if source == str(path) and stat.S_IMODE(path.stat().st_mode) & 0o077:
        return warning(f"others can read the key in {path}", f"chmod 600 {path}")
    return ok(f"in {source}{how}")


def check_host() -> Result:
    """The server, or the proxy before it, takes connections."""
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
        raise Skip("WANDB_MODE says not to connect")
    if source_of_key() is None:
        raise Skip("not asked without a key")
    base = os.environ.get("WANDB_BASE_URL", "")
    if not base:
        import wandb

        base = wandb.Settings().base_url
    proxy = getproxies().get(urlsplit(base).scheme)
    through = urlsplit(proxy or base)
    if not through.hostname:
        return warning(f"{base} is no address", "set WANDB_BASE_URL to https://HOST")
    port = through.port or (443 if through.scheme == "https" else 80)
    reason = unreachable(through.hostname, port, _ANSWER_S)
    where = f"{through.hostname}:{port}" + (" (a proxy)" if proxy else "")
    if reason is None:
        return ok(f"{where} is reached")
    advice = "set tracking.mode=disabled; from where there is a network: usweep track RUN --follow"
    return warning(f"{where} is not reached within {_ANSWER_S:.0f} s: {reason}", advice)


def describe(findings: list[Finding]) -> Group:
    """The findings for people."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(one_line(finding.seen))
        if finding.advice:
            text.append(f"\n→ {one_line(finding.advice)}", "bold")
        table.add_row(Text(finding.status, _STYLES[finding.status]), one_line(finding.name), text)
    counts = Counter(finding.status for finding in findings)
    words = [
        f"{counts[status]} {status}" + ("s" if status in _PLURAL and counts[status] != 1 else "")
        for status in Status
        if counts[status]
    ]
    return Group(table, ", ".join(words))


_PLURAL = (Status.WARNING, Status.PROBLEM)
