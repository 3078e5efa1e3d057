"""What every reader's data set must do, on small files of the original formats."""

import os
from pathlib import Path

import numpy as np
import pytest

from unlearning.config import SourceConfig
from unlearning.datasets import find_prepared, known_readers, open_prepared, prepare
from unlearning.errors import ConfigError, DatasetError


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Path, size and time of everything below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def test_prepared_arrays_are_the_originals_with_the_test_split_last(originals, prepared_root):
    data = prepare(originals.source, originals.data_root, prepared_root)

    np.testing.assert_array_equal(data.labels, originals.labels)
    if originals.images is not None:
        np.testing.assert_array_equal(data.images, originals.images)
    assert data.num_official_test == originals.num_official_test
    assert data.class_names == originals.class_names
    if originals.groups is None:
        assert data.groups is None
    else:
        np.testing.assert_array_equal(data.groups, originals.groups)
    assert data.name == originals.source.reader


def test_prepared_arrays_are_read_only_maps_of_the_promised_types(originals, prepared_root):
    data = prepare(originals.source, originals.data_root, prepared_root)

    arrays = [data.images, data.labels] + ([] if data.groups is None else [data.groups])
    assert [array.dtype for array in arrays] == [np.uint8, np.int64, np.int64][: len(arrays)]
    assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in arrays)
    assert data.images.ndim == 4 and data.images.flags.c_contiguous


def test_preparing_again_changes_no_file(originals, prepared_root):
    first = prepare(originals.source, originals.data_root, prepared_root)
    before = tree(prepared_root)
    second = prepare(originals.source, originals.data_root, prepared_root)

    assert tree(prepared_root) == before
    assert second.fingerprint == first.fingerprint


def test_preparing_writes_nothing_below_the_data_root(originals, prepared_root):
    before = tree(originals.data_root)
    prepare(originals.source, originals.data_root, prepared_root)

    assert tree(originals.data_root) == before


def test_facts_are_found_after_preparing_and_not_before(originals, prepared_root):
    assert find_prepared(originals.source, originals.data_root, prepared_root) is None
    data = prepare(originals.source, originals.data_root, prepared_root)
    facts = find_prepared(originals.source, originals.data_root, prepared_root)

    assert facts is not None
    assert (facts.name, facts.fingerprint) == (data.name, data.fingerprint)
    assert (facts.num_images, *facts.image_shape) == data.images.shape
    assert facts.num_official_test == data.num_official_test
    assert facts.num_classes == data.num_classes
    assert open_prepared(facts.folder, verify=True).fingerprint == data.fingerprint


def test_prepared_copy_stands_for_originals_that_are_gone(originals, prepared_root, tmp_path):
    data = prepare(originals.source, originals.data_root, prepared_root)
    originals.data_root.rename(tmp_path / "elsewhere")

    assert find_prepared(originals.source, originals.data_root, prepared_root) is not None
    again = prepare(originals.source, originals.data_root, prepared_root)
    assert again.fingerprint == data.fingerprint


def test_changed_originals_are_prepared_again(originals, prepared_root, build, request):
    old = prepare(originals.source, originals.data_root, prepared_root)
    kind = request.node.callspec.params["originals"]
    for path in originals.files:
        path.unlink()  # as an archive that is unpacked again does
    new = build(kind, originals.data_root, seed=1)

    assert find_prepared(originals.source, originals.data_root, prepared_root) is None
    data = prepare(originals.source, originals.data_root, prepared_root)
    np.testing.assert_array_equal(data.labels, new.labels)
    assert data.fingerprint != old.fingerprint
    assert len(list(prepared_root.iterdir())) == 1


def test_touched_originals_keep_fingerprint_and_array_files(originals, prepared_root):
    old = prepare(originals.source, originals.data_root, prepared_root)
    facts = find_prepared(originals.source, originals.data_root, prepared_root)
    assert facts is not None
    inode = (facts.folder / "images.npy").stat().st_ino
    os.utime(originals.files[0], ns=(1, 1))

    assert find_prepared(originals.source, originals.data_root, prepared_root) is None
    new = prepare(originals.source, originals.data_root, prepared_root)
    assert new.fingerprint == old.fingerprint
    assert (facts.folder / "images.npy").stat().st_ino == inode
    assert find_prepared(originals.source, originals.data_root, prepared_root) == facts
    assert len(list(prepared_root.iterdir())) == 1


def test_each_missing_file_is_named_and_nothing_is_left_behind(originals, prepared_root):
    reader = known_readers()[originals.source.reader]
    for path in originals.files:
        content = path.read_bytes()
        path.unlink()
        name = path.name.removesuffix(".gz")
        with pytest.raises(DatasetError, match=name) as caught:
            prepare(originals.source, originals.data_root, prepared_root)
        assert reader.obtain in str(caught.value)
        assert ("data.download=true" in str(caught.value)) == reader.can_download
        path.write_bytes(content)
    assert not prepared_root.exists() or list(prepared_root.iterdir()) == []


def test_no_files_at_all_is_one_error(originals, prepared_root, tmp_path):
    reader = known_readers()[originals.source.reader]
    with pytest.raises(DatasetError) as caught:
        prepare(originals.source, tmp_path / "nowhere", prepared_root)
    assert reader.obtain in str(caught.value)
    assert str(tmp_path / "nowhere") in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, -1])
def test_each_file_cut_short_is_named_and_nothing_is_left_behind(originals, prepared_root, kept):
    for path in originals.files[:6]:
        content = path.read_bytes()
        path.write_bytes(content[: kept if kept == -1 else int(kept * len(content))])
        with pytest.raises(DatasetError, match=path.name):
            prepare(originals.source, originals.data_root, prepared_root)
        path.write_bytes(content)
    assert list(prepared_root.iterdir()) == []


def test_fingerprint_does_not_depend_on_where_the_files_are(originals, build, request, tmp_path):
    kind = request.node.callspec.params["originals"]
    here = prepare(originals.source, originals.data_root, tmp_path / "prepared_here")
    other = build(kind, tmp_path / "other")
    there = prepare(other.source, other.data_root, tmp_path / "prepared_there")

    assert here.fingerprint == there.fingerprint


def test_image_size_is_refused_by_readers_that_do_not_resize(originals, prepared_root):
    if originals.source.reader == "ham10000":
        pytest.skip("resizes")
    originals.source.image_size = 32
    with pytest.raises(ConfigError, match=r"source\.image_size is 32"):
        find_prepared(originals.source, originals.data_root, prepared_root)
    with pytest.raises(ConfigError, match=r"source\.image_size is 32"):
        prepare(originals.source, originals.data_root, prepared_root)


@pytest.mark.parametrize("reader", sorted(set(known_readers()) - {"arrays"}))
def test_paths_of_arrays_are_refused_by_other_readers(reader, tmp_path):
    source = SourceConfig(reader=reader, train_images="mine.npy")
    with pytest.raises(ConfigError, match=r"source\.train_images"):
        prepare(source, tmp_path, tmp_path / "prepared")
