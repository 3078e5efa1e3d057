"""What a machine was doing, row by row of a unit's history."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.config import ResolvedConfig
from sweep.node_usage import EVERY_S, FILE, GpuWatch, NodeUsage, ask_gpu, read_usage
from sweep.plan import make_plan
from sweep.provenance import Provenance
from sweep.run import prepare_datasets
from sweep.store import Store
from sweep.worker import RunContext, Task, attempt


class Clock:
    """A clock of the test's own."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_at_first_and_then_not_more_often_than_it_should_be(tmp_path: Path) -> None:
    clock = Clock()
    usage = NodeUsage(tmp_path, "cpu", clock=clock)
    for row in range(100):
        clock.now += 1.0
        usage.note(row)
    lines = read_usage(tmp_path / FILE)
    assert [line["row"] for line in lines] == [0, *range(int(EVERY_S), 100, int(EVERY_S))]
    assert [line["seconds"] for line in lines][:2] == [1.0, 1.0 + EVERY_S]
    for line in lines:
        assert 0 <= line["cpu_percent"] <= 100 and 0 < line["memory_percent"] <= 100


def test_a_unit_of_a_moment_leaves_no_file(tmp_path: Path) -> None:
    usage = NodeUsage(tmp_path, "cpu", clock=Clock())
    usage.note(0)
    assert not (tmp_path / FILE).exists()


def test_going_back_to_a_checkpoint_cuts_what_is_of_later_rows(tmp_path: Path) -> None:
    lines = [{"row": row, "seconds": 1.0} for row in (0, 4, 8)]
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"row": ')
    clock = Clock()
    usage = NodeUsage(tmp_path, "cpu", num_rows=5, clock=clock)
    assert [line["row"] for line in read_usage(tmp_path / FILE)] == [0, 4]
    clock.now += 2.0
    usage.note(5)  # its time goes on where the attempt before had been
    assert read_usage(tmp_path / FILE)[-1]["seconds"] == 3.0
    NodeUsage(tmp_path, "cpu", num_rows=0)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("content", ["", "{", "[1]\n", '{"row": "x"}\n', "\x00\n", "[" * 9999])
def test_what_cannot_be_read_is_left_out(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    assert read_usage(tmp_path / FILE) == []
    assert read_usage(tmp_path / "none") == []


def test_a_gpu_is_asked_in_between_and_means_are_kept() -> None:
    answers = iter([{"gpu_percent": 20.0}, {"gpu_percent": 80.0}])
    asked = threading.Event()

    def ask() -> dict[str, float]:
        try:
            return next(answers)
        except StopIteration:
            asked.set()
            raise RuntimeError("no NVML any more") from None

    watch = GpuWatch(ask, every_s=0.001)
    watch.start()
    assert asked.wait(10)
    watch.stop()
    assert watch.means() == {"gpu_percent": 50.0}
    assert watch.means() == {}


def test_a_gpu_says_how_busy_full_hot_and_hungry_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    answers: dict[str, Any] = {
        "mem_get_info": (25, 100),
        "utilization": 40,
        "power_draw": 250_000,
        "temperature": 61,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    assert ask_gpu() == {
        "gpu_percent": 40.0,
        "gpu_memory_percent": 75.0,
        "gpu_power_w": 250.0,
        "gpu_temperature_c": 61.0,
    }


def test_a_unit_keeps_what_its_machine_was_doing(
    tiny: ResolvedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.node_usage._FIRST_AFTER_S", 0.0)
    monkeypatch.setattr("sweep.node_usage.EVERY_S", 0.0)
    prepare_datasets(tiny, Console(quiet=True))
    plan, store = make_plan(tiny), Store(tmp_path / "store")
    store.open_for_writing()
    roots = Path(tiny.sweep.data.root), tiny.sweep.data.prepared_root
    context = RunContext(plan, store.root, *roots, (), Provenance(None, None))
    key = next(iter(plan.units))
    assert attempt(context, Task(key))["state"] == "done"
    lines = read_usage(store.folder("original", key) / FILE)
    assert [line["row"] for line in lines] == [0, 1]
    assert store.damage("original", key) is None
    (store.folder("original", key) / FILE).write_text("")
    damage = store.damage("original", key)
    assert damage is not None and FILE in str(damage)
