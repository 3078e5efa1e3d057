"""Keys of Weights & Biases stay secret."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.config import load_config
from sweep.failures import Failure, read_failures, write_failure
from sweep.plan import Plan
from sweep.provenance import Provenance
from sweep.secrets import redact
from sweep.trainable import run_trial_in_worker
from sweep.worker import RunContext
from unlearning.errors import ConfigError

Call = Callable[..., Any]  # of the fixture `usweep`
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    return KEY


def test_keys_of_the_environment_and_of_netrc_are_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text(
        f"machine api.wandb.ai login user password {KEY}\n"
        "machine example.org login user password other-password\n"
    )
    monkeypatch.setenv("NETRC", str(netrc))
    assert redact(f"a {KEY}b other-password") == "a [redacted]b other-password"
    monkeypatch.setenv("WANDB_API_KEY", "from-the-environment")
    assert redact(f"{KEY} from-the-environment") == "[redacted] [redacted]"


@pytest.mark.parametrize("host", ["api.forge.coreweave.com", "wandb.lab.example:8443"])
def test_a_key_is_known_by_the_servers_own_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text(f"machine {host} login user password {KEY}\n")
    assert redact(KEY) == "[redacted]"


def test_a_key_of_a_labs_own_server_is_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "https://tracking.example:8443")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    netrc = f"machine tracking.example:8443 login user password {KEY}\n"
    (tmp_path / "netrc").write_text(netrc + "machine example.org login user password other-one\n")
    assert redact(f"{KEY} other-one") == "[redacted] other-one"


@pytest.mark.parametrize("key", ["", "a", " "])
def test_what_is_no_key_hides_nothing(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", "/dev/null")
    assert redact("a b") == "a b"


PLACES = {
    "name": "name",
    "output.store": "output.store",
    "data.root": "data.root",
    "datasets.digits.source.train_images": "datasets.digits.source.train_images",
    "settings.source.test_labels": "datasets.digits.source.test_labels",
    "grid.strategies": "is unknown; known:",
    "datasets.digits.model.name": "datasets.digits.model.name",
    "datasets.digits.training.epochs": "datasets.digits.training.epochs",
    "grid.seeds": "grid.seeds",
}


@pytest.mark.parametrize("value", ["${oc.env:WANDB_API_KEY}", "a-${oc.env:WANDB_API_KEY}", KEY])
@pytest.mark.parametrize("place", PLACES)
def test_a_configuration_with_a_secret_is_refused_by_its_key(
    usweep: Call, tiny_file: Path, tmp_path: Path, secret: str, place: str, value: str
) -> None:
    override = f"{place}=[{value!r}]" if place.startswith("grid") else f"{place}={value}"
    with pytest.raises(ConfigError) as caught:
        load_config([tiny_file], [override])
    assert secret not in str(caught.value)
    ended = usweep("run", tiny_file, override)
    ended.assert_refused(PLACES[place])
    assert secret not in "".join(map(str, ended))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_data_set_named_by_a_secret_is_refused(tiny_file: Path, secret: str) -> None:
    tiny_file.write_text(tiny_file.read_text().replace("  digits:", f"  {secret}:"))
    with pytest.raises(ConfigError, match="a name in datasets holds a key") as caught:
        load_config([tiny_file], [])
    assert secret not in str(caught.value)


def _leak(context: RunContext, key: str) -> str:
    raise ValueError(f"the service refused {os.environ['WANDB_API_KEY']}")


def test_a_failure_holds_no_secret(
    tiny_plan: Plan, tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import tune

    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reports.append)
    paths = tmp_path, tmp_path, tmp_path
    context = RunContext(tiny_plan, *paths, (), Provenance(None, None), compute=_leak)
    key = next(iter(tiny_plan.units))
    run_trial_in_worker({"unit": key, "gpus": 0.0, "stale": None}, context)
    assert reports[0]["cause"] == "ValueError: the service refused [redacted]"
    assert secret not in reports[0]["traceback"] and "[redacted]" in reports[0]["traceback"]

    failure = Failure.now(key, f"refused {secret}", f"Traceback: {secret}")
    write_failure(tmp_path, failure)
    assert read_failures(tmp_path)[key].cause == "refused [redacted]"
    assert secret not in (tmp_path / "failures" / f"{key}.json").read_text()


def test_no_error_message_shows_a_secret(
    usweep: Call, tiny_file: Path, tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARNING_PLUGINS", "")
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import os\nraise RuntimeError(os.environ['WANDB_API_KEY'])\n")
    for arguments in (
        ("plan", tmp_path / f"{secret}.yaml"),
        ("status", tmp_path / secret),
        ("plan", tiny_file, f"{secret}=1"),
        ("run", tiny_file, "--address", f"{secret}:1"),
        ("plan", tiny_file, "--plugin", plugin),
    ):
        ended = usweep(*arguments)
        ended.assert_refused("[redacted]")
        assert secret not in "".join(map(str, ended))


def test_a_traceback_shows_no_secret(tiny_file: Path, tmp_path: Path, secret: str) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import os\n"
        "from unlearning.datasets import Reader, register_reader\n"
        "@register_reader\n"
        "class Leaky(Reader):\n"
        "    name, description, obtain = 'leaky', '', ''\n"
        "    def files(self, source, data_root): return []\n"
        "    def read(self, source, data_root): raise KeyError(os.environ['WANDB_API_KEY'])\n"
    )
    command = [sys.executable, "-m", "sweep", "run", tiny_file, "--plugin", plugin]
    overrides = ["datasets.digits.source.reader=leaky"]
    done = subprocess.run([*command, *overrides], capture_output=True, text=True)
    assert "KeyError: '[redacted]'" in done.stderr
    assert secret not in done.stdout + done.stderr
