"""What a worker computes on, and what it hands back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sweep.artifacts import read_weights
from sweep.config import ResolvedConfig
from sweep.errors import StoreError
from sweep.plan import make_plan
from sweep.provenance import Provenance
from sweep.report import write_report
from sweep.run import prepare_datasets
from sweep.store import Store
from sweep.worker import RunContext, Task, compute_and_publish, device_of, open_intact
from unlearning.pipeline import run_unit
from unlearning.unit import UnitSpec


@pytest.fixture
def context(tiny: ResolvedConfig, tmp_path: Path) -> RunContext:
    return context_of(tiny, tmp_path, ("retrained",))


def context_of(config: ResolvedConfig, folder: Path, keep: tuple[str, ...] = ()) -> RunContext:
    prepare_datasets(config, Console(quiet=True))
    store = Store(folder / "store")
    store.open_for_writing()
    data = config.sweep.data
    roots = Path(data.root), data.prepared_root
    provenance = Provenance("abc", False, {"torch": "x"})
    return RunContext(make_plan(config), store.root, *roots, keep, provenance)


def compute(context: RunContext, key: str) -> str:
    return str(compute_and_publish(context, Task(key))["outcome"])


def test_without_a_share_of_a_gpu_a_unit_is_on_the_cpu() -> None:
    assert device_of(0) == "cpu"


def test_a_share_of_a_gpu_that_torch_does_not_see_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"given 0\.5 of a GPU.*resources\.gpus=0"):
        device_of(0.5)
    monkeypatch.setenv("USWEEP_PRETEND_GPUS", "1")
    assert device_of(0.5) == "cpu"


def test_a_share_of_a_gpu_limits_the_processs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    assert device_of(0.25) == "cuda"
    assert limits == [0.25]


def test_a_record_holds_settings_result_and_origin(context: RunContext) -> None:
    units = {unit.kind: unit for unit in reversed(context.plan.units.values())}
    store = Store(context.store_root)
    for kind in ("original", "two_stage"):
        assert compute(context, units[kind].key) == "done"
    record = store.read_record("two_stage", units["two_stage"].key)
    assert UnitSpec.from_json(record["spec"]).key == units["two_stage"].key
    assert record["provenance"]["commit"] == "abc" and record["provenance"]["device"] == "cpu"
    train = store.read_record("original", units["original"].key)["counts"]["train"]
    assert record["counts"]["forget"] + record["counts"]["retain"] == train
    assert {"retrained/test/accuracy", "neutralized/forget_center_crop/accuracy"} <= set(
        record["metrics"]
    )
    # Of its own states only the retrained one was to be kept.
    assert "retrained.safetensors" in record["files"]
    assert "neutralized.safetensors" not in record["files"]


def test_not_converged_units_are_results_and_are_said_so(
    tiny: ResolvedConfig, tmp_path: Path
) -> None:
    tiny.trials["digits"].neutralization.max_epochs = 1
    context = context_of(tiny, tmp_path)
    plan, store = context.plan, Store(context.store_root)
    original = next(iter(plan.units))
    two_stage = next(u.key for u in plan.units.values() if u.parents)
    assert compute(context, original) == "done"
    assert compute(context, two_stage) == "not_converged"
    record = store.read_record("two_stage", two_stage)
    assert not any(name.startswith("retrained/") for name in record["metrics"])
    summary = write_report(plan, store, tmp_path / "run")
    assert summary.units["not_converged"] == 1
    assert "1 not converged" in (summary.folder / "table2.md").read_text()


def test_a_unit_that_is_done_is_not_computed_again(context: RunContext) -> None:
    key = next(iter(context.plan.units))
    compute(context, key)
    path = Store(context.store_root).folder("original", key) / "record.json"
    before = path.stat().st_mtime_ns
    assert compute(context, key) == "done"
    assert path.stat().st_mtime_ns == before


def test_a_damaged_parent_stops_its_child_with_the_files_name(context: RunContext) -> None:
    original = next(iter(context.plan.units))
    child = next(u.key for u in context.plan.units.values() if u.parents)
    compute(context, original)
    path = Store(context.store_root).folder("original", original) / "original.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"original\.safetensors.*not what was recorded"):
        compute(context, child)
    assert not Store(context.store_root).has("two_stage", child)


def test_stored_weights_are_those_that_were_trained(context: RunContext) -> None:
    key, unit = next(iter(context.plan.units.items()))
    compute(context, key)
    dataset = open_intact(context, unit)
    again = run_unit(context.plan.spec(unit), dataset).models["original"]
    stored = read_weights(Store(context.store_root), "original", key, "original")
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[name], again[name]) for name in stored)


def test_the_trainable_imports_nothing_heavy() -> None:
    code = "import json, sys, sweep.trainable; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "pandas", "omegaconf"} & set(json.loads(done.stdout))
