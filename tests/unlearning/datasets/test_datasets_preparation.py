"""Preparing once: races, errors on the way, damaged copies, and what readers may hand over."""

import errno
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unlearning.config import SourceConfig
from unlearning.datasets import (
    RawDataset,
    Reader,
    find_prepared,
    open_prepared,
    prepare,
)
from unlearning.datasets import preparation as preparation_module
from unlearning.datasets.preparation import check_raw
from unlearning.errors import DatasetError

RACE = """
import sys, time
from pathlib import Path
from unlearning.config import SourceConfig
from unlearning.datasets import prepare

root = Path(sys.argv[1])
(root / f"ready-{sys.argv[2]}").touch()
while not (root / "go").exists():
    time.sleep(0.001)
data = prepare(SourceConfig(reader="mnist"), root, root / "prepared")
print(data.fingerprint, data.labels.sum())
"""


@pytest.fixture
def only_copy(build, tmp_path, prepared_root):
    """An MNIST that is prepared: originals, and the folder of the copy."""
    mnist = build("mnist", tmp_path / "data")
    prepare(mnist.source, mnist.data_root, prepared_root)
    (folder,) = prepared_root.iterdir()
    return mnist, folder


def test_racing_processes_share_one_copy(build, tmp_path):
    build("mnist", tmp_path)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    while len(list(tmp_path.glob("ready-*"))) < len(racers):
        assert all(racer.poll() is None for racer in racers)
    (tmp_path / "go").touch()
    outputs = {racer.communicate()[0] for racer in racers}

    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list((tmp_path / "prepared").iterdir())) == 1


@pytest.mark.parametrize("state", ["missing", "stale", "changed", "damaged"])
def test_racing_threads_share_one_copy(build, tmp_path, prepared_root, state):
    mnist = build("mnist", tmp_path / "data")
    if state != "missing":
        prepare(mnist.source, mnist.data_root, prepared_root)
        (folder,) = prepared_root.iterdir()
    if state == "stale":
        os.utime(mnist.files[0], ns=(1, 1))
    if state == "changed":
        mnist = build("mnist", tmp_path / "data", seed=1)
        os.utime(mnist.files[0], ns=(1, 1))
    if state == "damaged":
        (folder / "images.npy").write_bytes(b"")
    racers = 8
    barrier = threading.Barrier(racers)

    def race(_: int) -> bytes:
        barrier.wait()
        data = prepare(mnist.source, mnist.data_root, prepared_root)
        return data.images.tobytes() + data.labels.tobytes()

    with ThreadPoolExecutor(racers) as pool:
        contents = set(pool.map(race, range(racers)))
    assert contents == {mnist.images.tobytes() + mnist.labels.tobytes()}
    (folder,) = prepared_root.iterdir()
    open_prepared(folder, verify=True)


@pytest.mark.parametrize("failing", ["images", "labels", "rename"])
def test_full_disk_leaves_nothing_behind(build, tmp_path, prepared_root, monkeypatch, failing):
    mnist = build("mnist", tmp_path / "data")
    save = np.save

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def save_or_refuse(path: Path, *args: object, **kwargs: object) -> None:
        (refuse if path.stem == failing else save)(path, *args, **kwargs)

    monkeypatch.setattr(np, "save", save_or_refuse)
    if failing == "rename":
        monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(DatasetError, match="No space left") as caught:
        prepare(mnist.source, mnist.data_root, prepared_root)
    assert str(prepared_root) in str(caught.value)
    assert list(prepared_root.iterdir()) == []

    monkeypatch.undo()
    prepare(mnist.source, mnist.data_root, prepared_root)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_interrupted_reader_leaves_nothing_behind(build, tmp_path, prepared_root, failure):
    mnist = build("mnist", tmp_path / "data")

    def fail(*args: object) -> RawDataset:
        raise failure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlearning.datasets.idx.IdxReader.read", fail)
        with pytest.raises(failure):
            prepare(mnist.source, mnist.data_root, prepared_root)
    assert list(prepared_root.iterdir()) == []


def test_place_that_cannot_be_written_is_named(build, tmp_path):
    mnist = build("mnist", tmp_path / "data")
    in_the_way = tmp_path / "a_file"
    in_the_way.write_text("not a folder")
    with pytest.raises(DatasetError, match=str(in_the_way)):
        prepare(mnist.source, mnist.data_root, in_the_way)
    with pytest.raises(DatasetError, match=str(in_the_way)):
        prepare(mnist.source, mnist.data_root, in_the_way / "deeper")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_read_only_folders(build, tmp_path, prepared_root):
    mnist = build("mnist", tmp_path / "data")
    prepared_root.mkdir(mode=0o500)
    with pytest.raises(DatasetError, match=str(prepared_root)):
        prepare(mnist.source, mnist.data_root, prepared_root)
    prepared_root.chmod(0o700)
    mnist.files[0].parent.chmod(0o500)
    prepare(mnist.source, mnist.data_root, prepared_root)
    prepared_root.chmod(0o500)
    prepare(mnist.source, mnist.data_root, prepared_root)


def test_copy_has_the_permissions_of_other_new_folders(only_copy, tmp_path):
    _, folder = only_copy
    (tmp_path / "other").mkdir()
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "dataset.json"])
def test_damaged_copy_is_made_again_and_said_so(only_copy, prepared_root, caplog, name):
    mnist, folder = only_copy
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-9])
    with caplog.at_level(logging.WARNING):
        data = prepare(mnist.source, mnist.data_root, prepared_root)

    assert name in caplog.text
    np.testing.assert_array_equal(data.images, mnist.images)
    assert (folder / name).read_bytes() == content
    assert list(prepared_root.iterdir()) == [folder]


def test_damaged_copy_without_originals_is_an_error(only_copy, prepared_root, caplog):
    mnist, folder = only_copy
    (folder / "labels.npy").unlink()
    mnist.files[0].unlink()
    with pytest.raises(DatasetError, match=mnist.files[0].name):
        prepare(mnist.source, mnist.data_root, prepared_root)
    assert str(folder / "labels.npy") in caplog.text


def test_stale_copy_whose_originals_are_now_damaged_is_not_used(only_copy, prepared_root):
    mnist, _ = only_copy
    mnist.files[0].write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=mnist.files[0].name):
        prepare(mnist.source, mnist.data_root, prepared_root)


def test_file_that_changes_while_it_is_read_is_read_again(build, tmp_path, prepared_root):
    mnist = build("mnist", tmp_path / "data")
    reader_class = "unlearning.datasets.idx.IdxReader"
    from unlearning.datasets.idx import IdxReader

    read = IdxReader.read
    changes = iter([1, 2])

    def read_and_change(self: IdxReader, source: SourceConfig, data_root: Path) -> RawDataset:
        raw = read(self, source, data_root)
        seed = next(changes, None)
        if seed is not None:
            build("mnist", data_root, seed)
            os.utime(mnist.files[0], ns=(seed, seed))
        return raw

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{reader_class}.read", read_and_change)
        data = prepare(mnist.source, mnist.data_root, prepared_root)
    np.testing.assert_array_equal(data.images, build("mnist", tmp_path / "data2", 2).images)


def test_file_that_never_stops_changing_is_an_error(build, tmp_path, prepared_root):
    mnist = build("mnist", tmp_path / "data")
    ticks = iter(range(1, 100))

    def touch(raw: RawDataset, name: str) -> None:
        tick = next(ticks)
        os.utime(mnist.files[0], ns=(tick, tick))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation_module, "check_raw", touch)
        with pytest.raises(DatasetError, match="change while they are read"):
            prepare(mnist.source, mnist.data_root, prepared_root)


def test_compressed_and_plain_files_are_one_copy(build, tmp_path, prepared_root):
    compressed = build("mnist_gz", tmp_path / "data")
    first = prepare(compressed.source, compressed.data_root, prepared_root)
    build("mnist", tmp_path / "data")  # unpacked beside
    again = find_prepared(compressed.source, compressed.data_root, prepared_root)
    assert again is not None and again.fingerprint == first.fingerprint


def test_image_sizes_are_separate_copies(build, tmp_path, prepared_root):
    ham = build("ham10000", tmp_path / "data")
    sizes = [None, 64, 16, 1]
    shapes = []
    for size in sizes:
        source = SourceConfig(reader="ham10000", image_size=size)
        shapes.append(prepare(source, ham.data_root, prepared_root).images.shape[1:])
    assert shapes == [(3, 64, 64), (3, 64, 64), (3, 16, 16), (3, 1, 1)]
    assert len(list(prepared_root.iterdir())) == 3  # None is 64


def test_reader_version_makes_a_separate_copy(only_copy, prepared_root, monkeypatch):
    mnist, folder = only_copy
    monkeypatch.setattr("unlearning.datasets.idx.IdxReader.version", 2)
    assert find_prepared(mnist.source, mnist.data_root, prepared_root) is None
    prepare(mnist.source, mnist.data_root, prepared_root)
    assert len(list(prepared_root.iterdir())) == 2 and folder.exists()


GOOD = RawDataset(
    images=np.zeros((6, 3, 4, 4), np.uint8),
    labels=np.array([0, 1, 1, 0, 1, 0]),
    class_names=("a", "b"),
    num_official_test=2,
    groups=np.arange(6),
)
BAD = {
    "float images": ({"images": np.zeros((6, 3, 4, 4))}, "uint8"),
    "flat images": ({"images": np.zeros((6, 16), np.uint8)}, "uint8"),
    "two channels": ({"images": np.zeros((6, 2, 4, 4), np.uint8)}, "1 or 3 channels"),
    "no images": ({"images": np.zeros((0, 3, 4, 4), np.uint8)}, "not be empty"),
    "no pixels": ({"images": np.zeros((6, 3, 0, 4), np.uint8)}, "not be empty"),
    "float labels": ({"labels": np.zeros(6)}, "labels must be int64"),
    "short labels": ({"labels": np.array([0, 1])}, "labels must be one for each"),
    "two-dimensional labels": ({"labels": np.zeros((6, 1), np.int64)}, "one for each"),
    "negative label": ({"labels": np.array([0, 1, -1, 0, 1, 0])}, "-1 to 1"),
    "label too large": ({"labels": np.array([0, 1, 2, 0, 1, 0])}, "0 to 2"),
    "one class": ({"labels": np.zeros(6, np.int64)}, "two classes"),
    "short groups": ({"groups": np.arange(5)}, "groups must be one for each"),
    "only a test split": ({"num_official_test": 6}, "6 of 6"),
    "negative test split": ({"num_official_test": -1}, "-1 of 6"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_data_set_of_a_reader_is_refused(case):
    change, complaint = BAD[case]
    check_raw(GOOD, "good")
    with pytest.raises(DatasetError, match=complaint):
        check_raw(replace(GOOD, **change), "bad")


def test_prepare_refuses_what_a_reader_must_not_hand_over(prepared_root, tmp_path, monkeypatch):
    class BrokenReader(Reader):
        name = "broken"
        description = "hands over labels without images"
        obtain = "it needs no files"

        def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
            return []

        def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
            return replace(GOOD, images=GOOD.images[:-1])

    monkeypatch.setattr("unlearning.datasets.registry._readers", {"broken": BrokenReader()})
    with pytest.raises(DatasetError, match="data set broken cannot be used"):
        prepare(SourceConfig(reader="broken"), tmp_path, prepared_root)
    assert list(prepared_root.iterdir()) == []
