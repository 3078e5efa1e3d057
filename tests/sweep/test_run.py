"""Whole sweeps on a real Ray, by the command line, as users run them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from sweep.cli import main
from sweep.config import ResolvedConfig, load_config
from sweep.errors import SweepError
from sweep.files import write_atomically
from sweep.run import RunOptions, only_driver, run_sweep
from sweep.store import Store
from sweep.worker import RunContext

UNITS = 7
Here = Callable[..., subprocess.CompletedProcess[str]]


def usweep(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweep", *map(str, arguments)]
    env = os.environ | {"COLUMNS": "200"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=200)


@pytest.fixture
def usweep_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """The command line in this process, for commands that start no Ray."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["usweep", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code, captured.out, captured.err)

    return call


def records(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted((folder / "store").glob("*/*/record.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def numbers(folder: Path) -> dict[str, Any]:
    """All that training decided, without times and hosts."""
    found = {}
    for key, record in records(folder).items():
        kept = {k: record[k] for k in ("metrics", "per_class_accuracy", "neutralization")}
        digests = {n: d for n, d in record["files"].items() if n.endswith(".safetensors")}
        found[key] = kept | {"files": digests}
    return found


def modification_times(folder: Path) -> dict[str, int]:
    paths = (folder / "store").glob("*/*/record.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def finished(finished_file: Path) -> Path:
    """Folder of a sweep that ran to its end, tracked offline."""
    done = usweep("run", finished_file, WANDB_MODE="offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{UNITS} of {UNITS} units done (0 before)" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    return finished_file.parent


def test_a_sweep_ends_with_every_unit_recorded_and_a_report(finished: Path) -> None:
    found = records(finished)
    assert Counter(record["kind"] for record in found.values()) == {
        "original": 1,
        "scratch": 2,
        "two_stage": 4,
    }
    for key, record in found.items():
        folder = finished / "store" / record["kind"] / key
        assert record["key"] == key
        assert set(record["files"]) == {p.name for p in folder.iterdir()} - {"record.json"}
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for state, training in record["training"].items():
            epochs = [line["epoch"] for line in lines if line["state"] == state]
            first = 0 if state == "neutralized" else 1
            assert epochs == list(range(first, training["epochs"] + 1))
    report = finished / "runs" / "tiny" / "report"
    for table in ("table2", "table3", "table4", "table5", "forgetting"):
        for ending in ("csv", "md", "tex"):
            assert (report / f"{table}.{ending}").stat().st_size > 0
    for name in ("claims.md", "figure2.png", "figure2.svg", "report.md", "index.html"):
        assert (report / name).stat().st_size > 0
    frame = pd.read_parquet(report / "results.parquet")
    assert set(frame["unit"]) == set(found)
    assert not list((finished / "store" / "building").iterdir())


def test_a_sweep_without_a_key_leaves_a_whole_run_of_each_unit_for_wandb(finished: Path) -> None:
    folders = (finished / "runs" / "tiny" / "wandb").iterdir()
    assert sorted(path.name.rpartition("-")[2] for path in folders) == sorted(records(finished))


def test_the_same_command_again_repeats_nothing(
    finished: Path, finished_file: Path, usweep_here: Here
) -> None:
    before = modification_times(finished)
    again = usweep_here("run", finished_file)
    assert again.returncode == 0, again.stderr
    assert f"({UNITS} before)" in again.stdout
    assert "computing on" not in again.stdout  # no Ray is started for nothing
    assert modification_times(finished) == before


def test_status_and_report_and_plan_agree_on_a_finished_sweep(
    finished: Path, finished_file: Path, usweep_here: Here
) -> None:
    run_folder = finished / "runs" / "tiny"
    status = json.loads(usweep_here("status", run_folder, "--json").stdout)
    assert not status["alive"] and status["failures"] == []
    assert sum(kind["done"] for kind in status["units"].values()) == UNITS
    assert "complete" in usweep_here("status", run_folder).stdout
    report = usweep_here("report", run_folder)
    assert report.returncode == 0
    assert report.stdout.rstrip().endswith(str(run_folder / "report" / "index.html"))
    plan = json.loads(usweep_here("plan", finished_file, "--json").stdout)
    assert sum(plan["done"].values()) == UNITS and plan["unprepared"] == []
    assert "nothing left to compute" in usweep_here("plan", finished_file).stdout


def test_an_added_strategy_computes_only_its_own_units(
    finished: Path, finished_file: Path, tmp_path: Path, usweep_here: Here
) -> None:
    shutil.copytree(finished / "store", tmp_path / "store")
    before = modification_times(tmp_path)
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from unlearning.contrast import Matching, register_strategy\n"
        "@register_strategy('next_class', 'the next class of the forget set')\n"
        "def next_class(contrast):\n"
        "    following = contrast.classes[1:] + contrast.classes[:1]\n"
        "    return Matching(dict(zip(contrast.classes, following)))\n"
        "@register_strategy('broken', 'raises')\n"
        "def broken(contrast):\n"
        "    raise KeyError('no such thing')\n"
    )
    done = usweep(
        "run", finished_file, "--plugin", plugin, f"output.store={tmp_path}/store",
        f"output.runs={tmp_path}/runs", "grid.strategies=[minimum,next_class,broken]",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = records(tmp_path)
    strategies = Counter(r["spec"].get("strategy", {}).get("name") for r in found.values())
    assert strategies["next_class"] == 2  # the failures of the other did not stop it
    assert strategies["broken"] == 0
    after = modification_times(tmp_path)
    assert all(after[key] == time_ns for key, time_ns in before.items())
    # The cause is in the output, in status and in the report; nothing half-written is left.
    cause = "strategy 'broken' raised KeyError"
    assert cause in done.stdout
    run_folder = tmp_path / "runs" / "tiny"
    assert cause in usweep_here("status", run_folder).stdout
    assert cause in (run_folder / "report" / "report.md").read_text()
    assert not list((tmp_path / "store" / "building").iterdir())


def _start(tiny_file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sweep", "run", str(tiny_file), "--cpus", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for_units(folder: Path, count: int, driver: subprocess.Popen[str]) -> None:
    while len(records(folder)) < count:
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        time.sleep(0.02)


@pytest.mark.slow  # tests/faults has the same in one sweep, and compares more
def test_a_killed_sweep_continues_and_ends_with_the_same_numbers(
    finished: Path, tiny_file: Path
) -> None:
    folder = tiny_file.parent
    driver = _start(tiny_file)
    _wait_for_units(folder, 2, driver)
    driver.kill()
    driver.communicate()
    before = modification_times(folder)
    done = usweep("run", tiny_file)
    assert done.returncode == 0, done.stdout + done.stderr
    after = modification_times(folder)
    assert all(after[key] == time_ns for key, time_ns in before.items())
    assert numbers(folder) == numbers(finished)
    assert not list((folder / "store" / "building").iterdir())


@pytest.mark.slow  # tests/faults has two drivers, and tests/slurm an array of workers
def test_workers_that_share_a_run_compute_each_unit_once_with_the_same_numbers(
    finished: Path, tiny: ResolvedConfig, tmp_path: Path
) -> None:
    write_atomically(tiny.sweep.run_folder / "config.yaml", tiny.to_yaml())
    command = [sys.executable, "-m", "sweep", "work", str(tiny.sweep.run_folder), "--cpus", "1"]
    workers = [subprocess.Popen([*command, "--name", name]) for name in ("a", "b")]
    assert [worker.wait(200) for worker in workers] == [0, 0]
    assert numbers(tmp_path) == numbers(finished)
    assert Store(Path(tiny.sweep.output.store)).leases.keys() == []
    assert (tiny.sweep.run_folder / "report" / "table2.md").exists()
    status = json.loads(usweep("status", tiny.sweep.run_folder, "--json").stdout)
    assert sum(kind["done"] for kind in status["units"].values()) == UNITS


def test_a_worker_with_other_code_or_data_is_refused(tiny: ResolvedConfig) -> None:
    folder = tiny.sweep.run_folder
    write_atomically(folder / "plan.json", '{"name": "tiny", "datasets": [], "units": []}')
    with pytest.raises(SweepError, match="plans other units than this machine"):
        run_sweep(tiny, RunOptions(worker="a"), Console())
    assert list(folder.iterdir()) == [folder / "plan.json"]


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    tiny_file: Path, usweep_here: Here
) -> None:
    folder = tiny_file.parent
    driver = _start(tiny_file)
    _wait_for_units(folder, 1, driver)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert "ended by SIGINT; the same command continues" in output
    kept = len(records(folder))
    assert f"{kept} of {UNITS} units done" in output
    assert not list((folder / "store" / "building").iterdir())
    status = usweep_here("status", folder / "runs" / "tiny")
    assert "not running; the same `usweep run` continues it" in status.stdout
    assert (folder / "runs" / "tiny" / "report" / "report.md").is_file()


def test_a_second_driver_of_a_run_is_refused_while_the_first_shows_life(
    tiny: ResolvedConfig,
) -> None:
    folder = tiny.sweep.run_folder
    with only_driver(folder, 60, Console(quiet=True)) as lease:
        refusal = rf"process {os.getpid()} on .* is running tiny already"
        with pytest.raises(SweepError, match=refusal):
            run_sweep(tiny, RunOptions(), Console(quiet=True))
        # Elsewhere its process cannot be looked up, but its lease is seen to move.
        holder = json.loads(lease.path.read_text())
        lease.path.write_text(json.dumps(holder | {"boot": "another machine"}))
        moving = threading.Timer(0.5, os.utime, [lease.path])
        moving.start()
        with pytest.raises(SweepError, match=refusal):
            run_sweep(tiny, RunOptions(), Console(quiet=True))
    with only_driver(folder, 60, Console(quiet=True)):
        pass


def _note_worker(context: RunContext, key: str) -> str:
    """Publish a record that names the worker process; takes a while."""
    unit, began = context.plan.units[key], time.monotonic()
    time.sleep(0.2)
    note = {"worker": os.getpid(), "began": began, "ended": time.monotonic()}
    store = Store(context.store_root)
    with store.building(unit.kind, key) as work:
        store.write_record(work.folder, {"key": key, "kind": unit.kind, "files": {}} | note)
    return "done"


def test_every_slot_keeps_a_worker_busy(tiny: ResolvedConfig) -> None:
    tiny.sweep.grid.forget_ratios = [i / 100 for i in range(1, 14)]
    options = RunOptions(num_cpus=2, compute=_note_worker)
    summary = run_sweep(tiny, options, Console(quiet=True))
    assert summary.is_complete and len(summary.plan.units) == 40
    paths = Path(tiny.sweep.output.store).glob("*/*/record.json")
    workers = Counter(json.loads(path.read_text())["worker"] for path in paths)
    # Reused, not started anew for each unit; at the end a unit may start a worker in a free lane.
    assert len(workers) <= 4
    (_, _), (_, second) = workers.most_common(2)
    assert second >= 10


def test_units_on_a_share_of_a_gpu_are_scheduled_by_it(tiny: ResolvedConfig) -> None:
    tiny.sweep.resources.gpus = 0.5
    options = RunOptions(num_cpus=4, num_gpus=1, compute=_note_worker)
    assert run_sweep(tiny, options, Console(quiet=True)).is_complete
    paths = Path(tiny.sweep.output.store).glob("*/*/record.json")
    notes = [json.loads(path.read_text()) for path in paths]
    at_once = [sum(a["began"] <= b["began"] < a["ended"] for a in notes) for b in notes]
    assert len(notes) == UNITS
    assert max(at_once) <= 2  # four CPUs, but two halves of a GPU


def _fail_original(context: RunContext, key: str) -> str:
    raise RuntimeError("the disk is on fire")


def test_units_below_a_failed_one_are_blocked_and_named(
    tiny: ResolvedConfig, usweep_here: Here
) -> None:
    summary = run_sweep(tiny, RunOptions(num_cpus=2, compute=_fail_original), Console(quiet=True))
    assert summary.counts == {"done": 0, "failed": 3, "blocked": 4, "not_converged": 0}
    status = usweep_here("status", tiny.sweep.run_folder)
    assert status.stdout.count("RuntimeError: the disk is on fire") == 3


def _die_once(context: RunContext, key: str) -> str:
    """The first attempt at a unit kills its worker process."""
    unit = context.plan.units[key]
    mark = context.store_root / f"died-{key}"
    if unit.kind == "scratch" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _note_worker(context, key)


@pytest.mark.slow  # tests/faults has the same in one sweep, and compares more
def test_a_lost_worker_is_replaced_and_its_unit_tried_again(tiny: ResolvedConfig) -> None:
    summary = run_sweep(tiny, RunOptions(num_cpus=2, compute=_die_once), Console(quiet=True))
    assert summary.counts == {"done": UNITS, "failed": 0, "blocked": 0, "not_converged": 0}


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.slow  # tests/faults has the same among its faults
def test_damaged_files_are_set_aside_and_computed_again_with_the_same_numbers(
    finished: Path, tiny_file: Path, usweep_here: Here
) -> None:
    folder = tiny_file.parent
    shutil.copytree(finished / "store", folder / "store")
    shutil.copytree(finished / "data", folder / "data")
    paths = {kind: sorted((folder / "store" / kind).iterdir()) for kind in ("scratch", "two_stage")}
    before = modification_times(folder)
    (paths["scratch"][0] / "record.json").write_text("{")
    _flip_a_bit(paths["two_stage"][0] / "record.json")
    # The original's weights are read by the unit below it, which is missing; its record is whole.
    _flip_a_bit(next((folder / "store" / "original").glob("*/original.safetensors")))
    shutil.rmtree(paths["two_stage"][1])
    for array in (folder / "data" / "prepared").glob("*/images.npy"):
        _flip_a_bit(array)
    again = usweep("run", tiny_file)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{UNITS} of {UNITS} units done (4 before)" in " ".join(again.stdout.split())
    assert again.stdout.count("set aside in") == 3
    assert "Traceback" not in again.stdout + again.stderr
    assert len(list((folder / "store" / "damaged").iterdir())) == 3
    assert numbers(folder) == numbers(finished)
    whole = {p.name for kind in paths.values() for p in kind[1:]} - {paths["two_stage"][1].name}
    after = modification_times(folder)
    assert all(after[key] == before[key] for key in whole)


def test_a_unit_that_fits_on_no_node_is_refused(tiny: ResolvedConfig) -> None:
    tiny.sweep.resources.cpus = 3
    with pytest.raises(SweepError, match=r"asks for 3 CPUs.*2 CPUs and 0 GPUs"):
        run_sweep(tiny, RunOptions(num_cpus=2, num_gpus=0), Console(quiet=True))


def test_bad_input_ends_with_one_line_and_exit_code_2(
    tiny_file: Path, tmp_path: Path, usweep_here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARNING_PLUGINS", "")
    for arguments in (
        ("run", tiny_file, "grid.sedes=[1]"),
        ("run", tmp_path / "none.yaml"),
        ("run", tiny_file, "output.store=/dev/null/store"),
        ("run", tiny_file, "output.runs=/dev/null/runs"),
        ("run", tiny_file, "data.prepared=/dev/null/prepared"),
        ("run", tiny_file, "datasets.digits.source.reader=svhn"),
        ("run", tiny_file, "--address", "127.0.0.1:1"),
        ("status", tmp_path),
        ("report", tmp_path),
        ("plan", tiny_file, "--plugin", tmp_path / "none.py"),  # the last: it stays named
    ):
        done = usweep_here(*arguments)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_load_config_of_the_run_folder_plans_the_same_units(finished: Path) -> None:
    config = load_config([finished / "runs" / "tiny" / "config.yaml"], [])
    assert run_sweep(config, RunOptions(), Console(quiet=True)).num_before == UNITS
