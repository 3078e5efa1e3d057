"""What is read of single units for the display; what cannot be read is not shown."""

import json
from pathlib import Path

import pytest

from sweep.config import ResolvedConfig
from sweep.glance import Glance, finished_last, under_way
from sweep.plan import Plan
from sweep.snapshot import Snapshot
from sweep.store import Store

HOSTILE = "two_stage \x1b[2J\x1b]0;t\x07 日本語日本語 [/red]\n12.5 % minimum seed 0"


@pytest.fixture
def store(tiny: ResolvedConfig) -> Store:
    return Store(Path(tiny.sweep.output.store))


def write_epochs(store: Store, key: str, text: str) -> None:
    folder = store.root / "building" / key / "holder"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(text)


def test_a_unit_under_way_is_shown_with_its_last_whole_epoch(tiny_plan: Plan, store: Store) -> None:
    scratch, two_stage = list(tiny_plan.units)[1], list(tiny_plan.units)[-1]
    epoch = {"state": "scratch", "epoch": 1, "loss": 2.1, "validation_accuracy": 0.7833}
    write_epochs(store, scratch, "x" * 9000 + "\n" + json.dumps(epoch) + '\n{"state": "scr')
    epoch = {"state": "neutralized", "epoch": 31, "forget_accuracy": 0.5}
    write_epochs(store, two_stage, json.dumps(epoch) + "\n")
    shown = under_way(tiny_plan, store, Snapshot(running_s={scratch: 1.0, two_stage: 2.0, "x": 3}))
    assert [one.words for one in shown] == [
        ("stage 1, epoch 31", "forget 50.0 %"),
        ("epoch 1/2", "valid. 78.3 %"),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "\n", "{", "[]\n", "[" * 3000 + "\n", '{"epoch": "1"}\n', f'{{"epoch": {"9" * 99}}}\n'],
)
def test_epochs_that_cannot_be_read_are_not_shown(tiny_plan: Plan, store: Store, text: str) -> None:
    first, second = list(tiny_plan.units)[:2]
    write_epochs(store, first, text)
    shown = under_way(tiny_plan, store, Snapshot(running_s={first: 2.0, second: 1.0}))
    assert [one.words for one in shown] == [(), ()]
    old = under_way(tiny_plan, store, Snapshot(running=[HOSTILE]))  # of a version without keys
    assert len(old) == 1 and old[0].label.isprintable()


def test_units_finished_last_come_with_their_results(tiny_plan: Plan, store: Store) -> None:
    first, second, *_, last = tiny_plan.units.values()
    accuracies = {"original/test/accuracy": 0.961, "neutralized/forget/accuracy": 1}
    for unit, outcome in ((first, "done"), (last, "not_converged")):
        folder = store.folder(unit.kind, unit.key)
        folder.mkdir(parents=True)
        record = {"key": unit.key, "kind": unit.kind, "outcome": outcome, "files": {}}
        training = {"a": {"seconds": 1.5}, "b": {"seconds": 1}}
        store.write_record(folder, record | {"metrics": accuracies, "training": training})
    when = {first.key: 10.0, second.key: 12.0, last.key: 11.0, "gone": 13.0}
    assert finished_last(tiny_plan, store, Snapshot(finished=when)) == [
        Glance(second.label),
        Glance(last.label, 2.5, ("not converged", "forget 100.0 %"), is_converged=False),
        Glance(first.label, 2.5, ("test 96.1 %",)),
    ]
