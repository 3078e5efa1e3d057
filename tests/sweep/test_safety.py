"""What a sweep reads cannot hurt, and what it writes no stranger can change."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.config import ResolvedConfig, load_config
from sweep.errors import DamagedError, one_line
from sweep.failures import Failure, read_failures, write_failure
from sweep.files import MAX_BYTES, keep_others_from_writing
from sweep.overview import read_progress
from sweep.plan import Plan, make_plan
from sweep.provenance import Provenance
from sweep.run import prepare_datasets, write_run_folder
from sweep.snapshot import Snapshot
from sweep.store import Store
from sweep.worker import RunContext, Task, attempt
from unlearning.errors import ConfigError

Call = Callable[..., Any]  # of the fixture `usweep`
Edit = Callable[[dict[str, Any]], object]


# ---- configurations ----

TAGS = {
    "call": "!!python/object/apply:os.mkdir ['{mark}']",
    "constructor": "!!python/object/new:os.mkdir ['{mark}']",
    "function": "!!python/name:os.mkdir",
    "module": "!!python/module:os",
    "tuple": "!!python/tuple [1]",
}


@pytest.mark.parametrize("case", TAGS)
@pytest.mark.parametrize("place", ["file", "included file", "override"])
def test_a_python_tag_in_yaml_is_one_line_and_runs_nothing(
    usweep: Call, tiny_file: Path, tmp_path: Path, case: str, place: str
) -> None:
    mark, evil = tmp_path / "ran", tmp_path / "evil.yaml"
    value = TAGS[case].format(mark=mark)
    if place == "override":
        usweep("plan", tiny_file, f"name={value}").assert_refused("override")
    else:
        evil.write_text(f"name: {value}\n")
        outer = tmp_path / "outer.yaml"
        outer.write_text("include: [evil.yaml]\n")
        usweep("plan", evil if place == "file" else outer).assert_refused("evil.yaml")
    assert not mark.exists()


BAD_YAML = {
    "syntax": "a: [1\nb: {",
    "nested": "a: " + "[" * 3000 + "]" * 3000,
    "nested a little": "a: " + "[" * 200 + "]" * 200,
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in itertools.pairwise("abcde")),
    "alias of itself": "a: &a [*a]",
    "digits": "a: " + "9" * 5000,
    "date": "a: 2020-99-99",
    "include of no path": 'include: ["a\\0b"]',
    "endless interpolation": "name: " + "${" * 2000 + "x" + "}" * 2000,
    "not a number": "grid: {forget_ratios: {start: .nan, stop: 1, step: 1}}",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", BAD_YAML)
def test_yaml_that_is_damaged_or_has_no_end_is_one_line(
    usweep: Call, tmp_path: Path, case: str
) -> None:
    (tmp_path / "bad.yaml").write_text(BAD_YAML[case])
    usweep("plan", tmp_path / "bad.yaml").assert_refused()


def test_a_range_of_ratios_is_bounded_before_it_is_spread_out(tiny_file: Path) -> None:
    for step in ("1e-7", "1e-300"):
        with pytest.raises(ConfigError, match=r"a step of 0\.000001 or more"):
            load_config([tiny_file], [f"grid.forget_ratios={{start: 0.1, stop: 1, step: {step}}}"])
    with pytest.raises(ConfigError, match="stop from the start to 1"):
        load_config([tiny_file], ["grid.forget_ratios={start: 0.1, stop: 1e300, step: 1}"])


@pytest.mark.parametrize(
    "override",
    [
        "name=" + "9" * 5000,
        "datasets.digits.model.pixel_mean=1" + "0" * 400,
        'data.root="a\\0b"',
        'output.store="a\\eb"',
        'output.runs="\\ud800"',
        '{"a\\nb": {source: {reader: digits}}}',
    ],
    ids=lambda text: text[:24],
)
def test_values_that_no_path_or_number_can_be_are_one_line(
    usweep: Call, tiny_file: Path, override: str
) -> None:
    if override.startswith("{"):
        tiny_file.write_text(f"datasets: {override}\ngrid: {{forget_ratios: [0.1]}}\n")
        usweep("plan", tiny_file).assert_refused("a name in datasets")
    else:
        usweep("plan", tiny_file, override).assert_refused()


def test_brackets_in_a_name_are_shown_as_they_are(usweep: Call, tiny_file: Path) -> None:
    text = tiny_file.read_text().replace(
        "  digits:\n", '  "[/red]":\n    source: {reader: digits}\n'
    )
    tiny_file.write_text(text)
    code, output, errors = usweep("plan", tiny_file)
    assert code == 0, errors
    assert "[/red]" in output


def test_text_from_anywhere_becomes_one_harmless_line() -> None:
    assert one_line("a  b\n  c\x1b[2J \ud800 é") == r"a  b c\x1b[2J \ud800 é"


# ---- what a run folder contains ----


@pytest.fixture
def run_folder(tiny: ResolvedConfig) -> Path:
    """A run's folder as `usweep run` leaves it, with nothing computed."""
    prepare_datasets(tiny, Console(quiet=True))
    write_run_folder(tiny, make_plan(tiny))
    folder = tiny.sweep.run_folder
    alive = dataclasses.asdict(Snapshot(host="here", pid=1, updated=time.time() + 100))
    (folder / "progress.json").write_text(json.dumps(alive))
    return folder


def unit(**changes: object) -> Edit:
    return lambda plan: plan["units"][1].update(changes)


def dataset(**changes: object) -> Edit:
    return lambda plan: plan["datasets"][0].update(changes)


PLANS: dict[str, Edit] = {
    "kind that leaves the store": unit(kind="../../.."),
    "key that leaves the store": unit(key="../../../etc"),
    "kind of no word": unit(kind=["original"]),
    "data set that is not listed": unit(dataset="other"),
    "ratio of no number": unit(forget_ratio="0.1"),
    "ratio without end": unit(forget_ratio=1e400),
    "ratio of an original": lambda plan: plan["units"][0].update(forget_ratio=0.1),
    "seed of no number": unit(seeds={"training": "x", "forget": 0, "unlearning": 0}),
    "seed of many digits": unit(seeds={"training": 10**400, "forget": 0, "unlearning": 0}),
    "parents in a text": unit(parents=3),
    "classes of no number": dataset(num_classes="ten"),
    "no classes": dataset(num_classes=0),
    "reader of no word": dataset(reader=["x"]),
    "setting of many digits": lambda plan: plan["datasets"][0]["settings"]["model"].update(
        pixel_mean=10**400
    ),
    "no name": lambda plan: plan.pop("name"),
    "no data sets": lambda plan: plan.update(datasets=[]),
}


@pytest.mark.parametrize("case", [*PLANS, "nested without end"])
def test_a_plan_that_lies_is_damaged(usweep: Call, run_folder: Path, case: str) -> None:
    path = run_folder / "plan.json"
    content = json.loads(path.read_text())
    PLANS.get(case, lambda plan: None)(content)
    path.write_text("[" * 100_000 if case == "nested without end" else json.dumps(content))
    for command in ("status", "report"):
        usweep(command, run_folder).assert_refused(path, "is damaged", "writes it again")


PROGRESS: dict[str, dict[str, object]] = {
    "time of no number": {"updated": "x"},
    "time without end": {"elapsed_s": 1e400},
    "units of no table": {"units": []},
    "count of no number": {"units": {"original": {"running": "x"}}},
    "another field": {"more": 1},
}


@pytest.mark.parametrize("case", [*PROGRESS, "nested without end"])
def test_progress_that_lies_is_not_believed(usweep: Call, run_folder: Path, case: str) -> None:
    assert "running on here" in usweep("status", run_folder)[1]
    path = run_folder / "progress.json"
    content = json.loads(path.read_text()) | PROGRESS.get(case, {})
    path.write_text("[" * 100_000 if case == "nested without end" else json.dumps(content))
    code, output, errors = usweep("status", run_folder)
    assert code == 0, errors
    assert "not running" in output


def test_what_a_run_folder_says_leaves_the_terminal_as_it_is(
    usweep: Call, run_folder: Path, tiny_plan: Plan
) -> None:
    path = run_folder / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "\x1b[2J[/red]\nhost"}))
    key = next(iter(tiny_plan.units))
    write_failure(run_folder, Failure(key, "\x1b]0;title\x07[/red]", "", "", ""))
    code, output, errors = usweep("status", run_folder)
    assert code == 0, errors
    assert r"running on \x1b[2J[/red] host" in output and r"\x1b]0;title\x07[/red]" in output
    assert "\x1b" not in output


CONFIGS = {
    "tag": "output: {store: !!python/object/apply:os.mkdir ['MARK']}",
    "no mapping": "- 1",
    "no store": "output: {}",
    "store of no text": "output: {store: [a]}",
    "store of no path": 'output: {store: "a\\0b"}',
    "nested": "".join(" " * n + "a:\n" for n in range(2000)),
    "no text": "\udcff\udcfe",
    "digits": "a: " + "9" * 5000,
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_lies_is_damaged(
    usweep: Call, run_folder: Path, tmp_path: Path, case: str
) -> None:
    path, mark = run_folder / "config.yaml", tmp_path / "ran"
    content = CONFIGS[case].replace("MARK", str(mark))
    path.write_text(content, errors="surrogateescape")
    for command in ("status", "report"):
        usweep(command, run_folder).assert_refused(path, "is damaged", "writes it again")
    assert not mark.exists()


def test_a_config_asks_for_nothing_of_the_environment(
    usweep: Call, run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "store"))
    (tmp_path / "store" / "original").mkdir(parents=True)
    key = json.loads((run_folder / "plan.json").read_text())["units"][0]["key"]
    (tmp_path / "store" / "original" / key).mkdir()
    (run_folder / "config.yaml").write_text("output: {store: '${oc.env:ELSEWHERE}'}")
    assert "0/7" in usweep("status", run_folder)[1]


@pytest.mark.parametrize("content", ["[" * 100_000, '{"key": []}', "OTHER"], ids=lambda c: c[:9])
def test_a_failure_that_lies_still_counts(
    usweep: Call, run_folder: Path, tiny_plan: Plan, content: str
) -> None:
    key, other, *_ = tiny_plan.units
    failure = dataclasses.asdict(Failure(other, "bad luck", "", "", ""))
    (run_folder / "failures").mkdir(exist_ok=True)
    path = run_folder / "failures" / f"{key}.json"
    path.write_text(json.dumps(failure) if content == "OTHER" else content)
    assert read_failures(run_folder)[key].cause.startswith(f"{path} is damaged")
    for command in ("status", "report"):
        code, output, errors = usweep(command, run_folder)
        assert code == 0 and "failed" in output, errors


RECORDS: dict[str, dict[str, object]] = {
    "no training": {},
    "training of no table": {"training": [1]},
    "seconds of no number": {"training": {"original": {"seconds": "x"}}},
    "seconds of many digits": {"training": {"original": {"seconds": 10**400}}},
}


@pytest.mark.parametrize("case", [*RECORDS, "nested without end"])
def test_a_record_that_lies_is_counted_as_damaged(
    usweep: Call, tiny_file: Path, run_folder: Path, tmp_path: Path, tiny_plan: Plan, case: str
) -> None:
    plan = json.loads((run_folder / "plan.json").read_text())
    key = plan["units"][0]["key"]
    store = Store(tmp_path / "store")
    folder = store.folder("original", key)
    folder.mkdir(parents=True)
    lies = RECORDS.get(case, {})
    store.write_record(folder, {"key": key, "kind": "original", **lies})
    if case == "nested without end":
        (folder / "record.json").write_text("[" * 100_000)
    assert usweep("plan", tiny_file)[0] == 0
    assert "1 damaged" in usweep("report", run_folder)[1]


def make_endless(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def make_long(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_BYTES + 1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [make_endless, make_long])
def test_a_file_without_end_is_damaged_and_not_read(
    usweep: Call, run_folder: Path, tiny_plan: Plan, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    key = next(key for key, unit in tiny_plan.units.items() if unit.kind == "original")
    store, failure = Store(tmp_path / "store"), run_folder / "failures" / f"{key}.json"
    record = store.folder("original", key) / "record.json"
    for path in (record, failure, progress := run_folder / "progress.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        make(path)
    with pytest.raises(DamagedError, match="not a file" if make is make_endless else "too long"):
        store.read_record("original", key)
    assert "is damaged" in read_failures(run_folder)[key].cause
    assert read_progress(progress.parent).ended
    for name in ("config.yaml", "plan.json"):
        (run_folder / name).unlink()
        make(run_folder / name)
        usweep("status", run_folder).assert_refused(run_folder / name, "is damaged")


# ---- who can write ----


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def world_writable(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.lstat().st_mode & 0o002]


def test_only_the_others_lose_their_right_to_write(open_umask: None) -> None:
    for before, after in ((0, 0o002), (0o002, 0o002), (0o022, 0o022), (0o077, 0o077)):
        os.umask(before)
        keep_others_from_writing()
        assert os.umask(0) == after


def test_a_worker_makes_nothing_that_is_world_writable(
    tiny: ResolvedConfig, tmp_path: Path, open_umask: None
) -> None:
    prepare_datasets(tiny, Console(quiet=True))
    plan, store = make_plan(tiny), Store(tmp_path / "store")
    store.open_for_writing()
    made_before = set(world_writable(tmp_path))
    assert made_before  # the umask of this test is what it should be
    roots = Path(tiny.sweep.data.root), tiny.sweep.data.prepared_root
    context = RunContext(plan, store.root, *roots, (), Provenance(None, None))
    key = next(iter(plan.units))
    assert attempt(context, Task(key))["state"] == "done"
    assert len(list(store.folder("original", key).iterdir())) >= 4
    assert set(world_writable(tmp_path)) == made_before


@pytest.mark.slow
def test_a_whole_sweep_makes_nothing_that_is_world_writable(
    tiny_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "sweep", "run", str(tiny_file), "--cpus", "1"]
    overrides = ["grid.strategies=[minimum]", "grid.forget_ratios=[0.1]"]
    done = subprocess.run([*command, *overrides], umask=0, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.rglob("*")}
    assert {"images.npy", "dataset.json", "record.json", "original.safetensors", "plan.json",
            "progress.json", "config.yaml", "report.md", "figure2.png"} <= made  # fmt: skip
    assert world_writable(tmp_path) == []
