"""`usweep doctor`: versions, Weights & Biases, and the whole command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.checks.check import Finding, Skip, Status
from sweep import doctor
from sweep.config import load_config
from sweep.doctor import Subject, check_host, check_key, check_versions, examine

KEY = "0123456789abcdef0123456789abcdef01234567"
Call = Callable[..., Any]  # of the fixture `usweep`


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no proxy and no Ray of whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def only_findings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the examination by its result."""

    def put(*statuses: Status) -> None:
        found = [Finding(f"check {s}", s, f"seen {s}", f"mend {s}") for s in statuses]
        monkeypatch.setattr(doctor, "examine", lambda subject: found)

    return put


# ---- versions ----


def test_the_installed_versions_fit() -> None:
    result = check_versions()
    assert result.status == "ok" and "torch" in result.seen


def test_a_package_that_is_old_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["ray[tune]>=999", "no-such-package>=1", 'none-either>=1; extra == "dev"']
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    result = check_versions()
    assert result.status == "problem"
    assert "needs >=999" in result.seen and "no no-such-package" in result.seen
    assert "none-either" not in result.seen


def test_a_python_that_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    assert "Python 3.9.1, needs >=3.11" in check_versions().seen


def test_a_copy_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-package")
    assert check_versions().status == "problem"


# ---- Weights & Biases ----


def test_no_key_is_no_fault() -> None:
    assert check_key().status == "skipped"
    with pytest.raises(Skip, match="without a key"):
        check_host()


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o644)
    result = check_key()
    assert result.status == "warning" and "chmod 600" in result.advice
    (tmp_path / "netrc").chmod(0o600)
    assert check_key().status == "ok"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert check_key().seen == "in WANDB_API_KEY"
    assert KEY not in f"{result} {check_key()}"


def test_a_mode_that_wandb_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "of-line")
    assert check_key().status == "warning"


def test_a_server_that_is_not_reached_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    result = check_host()
    assert result.status == "warning" and "usweep track RUN --follow" in result.advice
    monkeypatch.setenv("http_proxy", "http://127.0.0.2:1")
    assert "127.0.0.2:1 (a proxy)" in check_host().seen
    monkeypatch.setenv("WANDB_BASE_URL", "nonsense")
    assert check_host().status == "warning"
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(Skip, match="WANDB_MODE"):
        check_host()


# ---- a cluster's file ----


# ---- the whole ----


def test_each_folder_of_a_sweep_is_looked_at(tiny_file: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    sweep = load_config([tiny_file], [f"output.runs={blocked}/runs"]).sweep
    found = {finding.name: finding for finding in examine(Subject(sweep))}
    assert found["store: folder"].status != "problem"
    assert found["runs: folder"].status == "problem"
    assert found["runs: token file"].status == "skipped"
    assert "data: folder" not in found  # the store's file system


def test_the_command(tiny_file: Path) -> None:
    command = [sys.executable, "-m", "sweep", "doctor", str(tiny_file)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert {frozenset(one) for one in found} == {frozenset({"name", "status", "seen", "advice"})}
    problems = [one for one in found if one["status"] == "problem"]
    assert done.returncode == (1 if problems else 0), done.stderr
    names = [one["name"] for one in found]
    assert len(set(names)) == len(names) and names[0] == "versions"
    crashed = [one for one in found if "the check failed" in one["seen"]]
    assert crashed == []
    assert not list(tiny_file.parent.glob(".usweep-doctor-*"))


@pytest.mark.parametrize(
    ("statuses", "code", "last"),
    [
        ([Status.OK, Status.WARNING, Status.SKIPPED], 0, "1 ok, 1 warning, 1 skipped"),
        ([Status.OK, Status.PROBLEM, Status.PROBLEM], 1, "1 ok, 2 problems"),
    ],
)
def test_exit_codes_and_lines(
    usweep: Call, only_findings: Callable[..., None], statuses: list[Status], code: int, last: str
) -> None:
    only_findings(*statuses)
    ended, out, _ = usweep("doctor")
    assert ended == code and out.splitlines()[-1].strip() == last
    assert f"{statuses[1]:7}  check {statuses[1]}" in out and f"→ mend {statuses[1]}" in out
    assert "\x1b" not in out and max(map(len, out.splitlines())) <= 80


def test_bad_input(usweep: Call, tmp_path: Path, tiny_file: Path) -> None:
    (tmp_path / "site.yaml").write_text("nodes: 0")
    for arguments in (
        ["--cluster", tmp_path / "site.yaml"],
        ["--cluster", tmp_path / "none.yaml"],
        [tiny_file, "output.stor=x"],
        [tmp_path / "none.yaml"],
    ):
        code, _, errors = usweep("doctor", *arguments)
        assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
