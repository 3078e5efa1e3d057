"""Which histories of stage 1 are drawn, and that a strange one does no harm."""

import hashlib
import json
import os

import pytest

from sweep.files import seal
from sweep.report.page.histories import (
    MAX_BYTES,
    MAX_UNITS,
    drawn_epochs,
    quartiles,
    read_curve,
    read_curves,
)
from sweep.report.write import write_report
from sweep.store import METRICS, Store


def publish_history(store, sweep, unit, lines):
    """A history with the digest that the record vouches for; returns its path."""
    content = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
    folder = store.folder(unit.kind, unit.key)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).write_bytes(content)
    record = sweep.finish(unit) | {"files": {METRICS: hashlib.sha256(content).hexdigest()}}
    (folder / "record.json").write_text(seal(record))
    return folder / METRICS


def event(epoch, accuracy, state="neutralized"):
    return json.dumps({"state": state, "epoch": epoch, "forget_accuracy": accuracy})


FALLING = [event(0, 1.0), event(1, 0.5), event(2, 0)]


@pytest.fixture
def one_unit(made_up_sweep, tmp_path):
    sweep = made_up_sweep()
    unit = sweep.find(kind="two_stage")[0]
    return sweep, unit, Store(tmp_path / "store")


def test_a_curve_is_stage_1_of_a_history(one_unit):
    sweep, unit, store = one_unit
    after = json.dumps({"state": "retrained", "epoch": 1, "validation_accuracy": 0.9})
    publish_history(store, sweep, unit, [*FALLING, after])
    assert read_curve(store, unit.kind, unit.key) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        b"\xff\xfe\x00",
        ["[" * 3000],
        ["null"],
        ["{}"],
        [event(0, 1.5)],
        [event(0, True)],
        [event(0, "1")],
        ['{"state": "neutralized", "epoch": 0, "forget_accuracy": NaN}'],
        ['{"state": "neutralized", "epoch": 0, "forget_accuracy": 1e999}'],
        [event(0, 1.0), event(2, 0.5)],
        [event(0, 1.0), event(1, 0.5)[:-3]],
        [event(0, 1.0) + " " * 5000],
        [event(0, 1.0, state="retrained")],
    ],
)
def test_a_history_that_is_none_is_absent(one_unit, lines):
    sweep, unit, store = one_unit
    publish_history(store, sweep, unit, lines)
    assert read_curve(store, unit.kind, unit.key) is None


def test_a_history_that_changed_since_its_record_is_absent(one_unit):
    sweep, unit, store = one_unit
    path = publish_history(store, sweep, unit, FALLING)
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6"))
    assert read_curve(store, unit.kind, unit.key) is None


@pytest.mark.parametrize("what", ["nothing", "pipe", "folder", "too long", "loop"])
def test_what_is_no_file_of_a_sane_length_is_absent(one_unit, what):
    sweep, unit, store = one_unit
    path = publish_history(store, sweep, unit, FALLING)
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "too long":
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)  # no block of it is on the disk
    assert read_curve(store, unit.kind, unit.key) is None


def test_of_many_units_some_are_read_from_the_whole_plan(made_up_sweep, varied, tmp_path):
    sweep = made_up_sweep(ratios=[step / 1000 for step in range(1, 51)], strategies=("minimum",))
    sweep.finish_all(varied)
    rows = sweep.results().frame
    rows = rows[rows["state"] == "neutralized"]
    found = read_curves(Store(tmp_path), rows)
    assert (found.curves, found.wanted, found.planned) == ((), MAX_UNITS, 100)


def test_a_trial_that_has_ended_counts_with_its_last_value():
    values = quartiles([[1.0, 0.0], [1.0, 0.8, 0.6]], [0, 1, 2, 9])
    assert values[1].tolist() == [1.0, 0.4, 0.3, 0.3]


def test_epochs_are_drawn_to_the_last_and_no_more_than_asked():
    assert drawn_epochs(3, 120, logarithmic=False) == [0, 1, 2, 3]
    for logarithmic in (False, True):
        epochs = drawn_epochs(4208, 120, logarithmic=logarithmic)
        assert epochs[0] == 0 and epochs[-1] == 4208 and len(epochs) <= 120


def test_histories_are_on_the_page(one_unit, tmp_path):
    sweep, unit, store = one_unit
    publish_history(store, sweep, unit, FALLING)
    text = (write_report(sweep.plan, store, tmp_path / "run").folder / "index.html").read_text()
    assert "minimum (1 of 1 trials), median at or below 50 % by epoch 1" in text
