"""From original files to a prepared folder, once, however many processes ask for it."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from unlearning.config import SourceConfig
from unlearning.datasets.prepared import (
    FACTS,
    DatasetFacts,
    FileStamp,
    Manifest,
    PreparedDataset,
    RawDataset,
    canonical_json,
    open_prepared,
    read_manifest,
    write_prepared,
)
from unlearning.datasets.reader import NominalSize
from unlearning.datasets.registry import get_reader
from unlearning.errors import DatasetError

ATTEMPTS = 3  # more than one is needed only if files change while they are read
NUM_NAMED = 5  # files named in an error about many

logger = logging.getLogger(__name__)


def prepare(
    source: SourceConfig,
    data_root: Path,
    prepared_root: Path,
    *,
    download: bool = False,
    verify: bool = False,
) -> PreparedDataset:
    """The data set of a source, prepared at the first call and merely opened at later ones.

    The prepared copy is made in a temporary folder and renamed into place, so that it is there
    whole or not at all; of several processes that make it at once, the last ones use the first
    one's. It is made again when an original file has another size or time than when it was read,
    or when the copy is damaged. It needs no original once it is there.

    Args:
        source: which reader, with its options.
        data_root: where original files are; may be read-only.
        prepared_root: where prepared folders go; created where missing.
        download: fetch original files that are missing, if the reader can.
        verify: also read every byte of the copy; one that does not fit its fingerprint is made
            again.

    Raises:
        ConfigError: the reader is unknown, or an option impossible.
        DatasetError: original files are missing or damaged, or the copy cannot be written; names
            the files and what to do.
    """
    folder = prepared_folder(source, data_root, prepared_root)
    prepared = _open_current(folder, data_root, verify)
    attempts = 0
    while prepared is None:
        if attempts == ATTEMPTS:
            raise DatasetError(
                f"data set {source.reader}: files under {data_root} change while they are read"
            )
        _build(source, data_root, folder, download)
        attempts += 1
        prepared = _open_current(folder, data_root, verify)
    return prepared


def find_prepared(
    source: SourceConfig, data_root: Path, prepared_root: Path
) -> DatasetFacts | None:
    """What is known of a source's prepared copy, or None if `prepare` would have to make it.

    Reads dataset.json alone and looks at the size and time of the original files. An original
    that is gone does not matter: the copy then stands for it.

    Raises:
        ConfigError: the reader is unknown, or an option impossible.
    """
    folder = prepared_folder(source, data_root, prepared_root)
    manifest = _current_manifest(folder, data_root)
    return None if manifest is None else manifest.facts(folder)


def nominal_facts(source: SourceConfig) -> NominalSize | None:
    """The published size of a data set, known without any file; None for a user's own arrays.

    Raises:
        ConfigError: the reader is unknown.
    """
    return get_reader(source).nominal


def prepared_folder(source: SourceConfig, data_root: Path, prepared_root: Path) -> Path:
    """Where a source's prepared copy is or will be: named after the reader and its options.

    Raises:
        ConfigError: the reader is unknown, or an option impossible.
    """
    digest = hashlib.sha256(canonical_json(_recipe(source, data_root)).encode()).hexdigest()
    return prepared_root / f"{source.reader}-{digest[:12]}"


def fetch(source: SourceConfig, data_root: Path, *, download: bool) -> list[Path]:
    """The original files of a source, all there; those that are missing downloaded if asked for.

    Raises:
        DatasetError: some are missing; names them and says where to get them.
    """
    reader = get_reader(source)
    if download and reader.can_download and _missing(reader.files(source, data_root)):
        reader.download(data_root)
    files = reader.files(source, data_root)  # again: which files count depends on what is there
    missing = _missing(files)
    if missing:
        names = ", ".join(str(path) for path in missing[:NUM_NAMED])
        more = f" and {len(missing) - NUM_NAMED} more" if len(missing) > NUM_NAMED else ""
        way = "; or set data.download=true to download them" if reader.can_download else ""
        raise DatasetError(
            f"data set {reader.name} is not there: missing {names}{more}. "
            f"To get the files: {reader.obtain}{way}"
        )
    for path in files:
        if not path.is_file() and not path.is_dir():  # a pipe or a device can be read for ever
            raise DatasetError(f"{path} is neither a file nor a folder; {reader.obtain}")
    return files


def check_raw(raw: RawDataset, name: str) -> None:
    """Refuse what a reader handed over if it is not a data set that can be split and trained on.

    Raises:
        DatasetError: says which promise of `RawDataset` is broken.
    """

    def demand(condition: bool, what: str) -> None:
        if not condition:
            raise DatasetError(f"data set {name} cannot be used: {what}")

    images, labels = raw.images, raw.labels
    found = f"{images.dtype} {images.shape}"
    demand(images.dtype == np.uint8, f"images must be uint8 [N, C, H, W], got {found}")
    demand(images.ndim == 4, f"images must be uint8 [N, C, H, W], got {found}")
    demand(min(images.shape) > 0, f"images must not be empty, got {found}")
    demand(images.shape[1] in (1, 3), f"images must have 1 or 3 channels, got {found}")
    for what, array in (("labels", labels), ("groups", raw.groups)):
        if array is not None:
            found = f"{array.dtype} {array.shape}"
            demand(array.dtype == np.int64, f"{what} must be int64, got {found}")
            wanted = f"{what} must be one for each of {len(images)} images, got {found}"
            demand(array.shape == (len(images),), wanted)
    low, high, num_classes = int(labels.min()), int(labels.max()), len(raw.class_names)
    in_range = low >= 0 and high < num_classes
    demand(in_range, f"labels are {low} to {high}, allowed are 0 to {num_classes - 1}")
    demand(low != high, f"all images have label {low}, at least two classes are needed")
    ok = 0 <= raw.num_official_test < len(images)
    demand(ok, f"{raw.num_official_test} of {len(images)} images are of the test split")


def _recipe(source: SourceConfig, data_root: Path) -> dict[str, object]:
    reader = get_reader(source)
    options = reader.options(source, data_root)
    return {"reader": reader.name, "version": reader.version, "options": options}


def _missing(files: list[Path]) -> list[Path]:
    return [path for path in files if not path.exists()]


def _stamp(path: Path, data_root: Path) -> FileStamp:
    status = path.stat()
    inside = path.is_relative_to(data_root)
    name = path.relative_to(data_root) if inside else path
    return FileStamp(name.as_posix(), status.st_size, status.st_mtime_ns)


def _is_changed(recorded: FileStamp, data_root: Path) -> bool:
    path = data_root / recorded.path
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: no path can be like that
        return False  # gone or out of reach: the prepared copy stands for it
    return (status.st_size, status.st_mtime_ns) != (recorded.size, recorded.mtime_ns)


def _current_manifest(folder: Path, data_root: Path) -> Manifest | None:
    """dataset.json if the folder is a prepared copy of the originals as they are now."""
    if not os.path.exists(folder / FACTS):  # False, too, where it cannot be looked at
        return None
    try:
        manifest = read_manifest(folder)
    except DatasetError as error:
        logger.warning("%s", error)
        return None
    changed = [stamp.path for stamp in manifest.originals if _is_changed(stamp, data_root)]
    if changed:
        logger.info("%s is out of date, these files have changed: %s", folder, ", ".join(changed))
        return None
    return manifest


def _open_current(folder: Path, data_root: Path, verify: bool) -> PreparedDataset | None:
    """The prepared copy, unless it is missing, out of date or damaged."""
    if _current_manifest(folder, data_root) is None:
        return None
    try:
        return open_prepared(folder, verify=verify)
    except DatasetError as error:
        logger.warning("%s", error)
        return None


def _build(source: SourceConfig, data_root: Path, folder: Path, download: bool) -> None:
    """Make a prepared copy and put it in place at once; another process may be first."""
    reader = get_reader(source)
    try:
        originals = fetch(source, data_root, download=download)
        # Before reading, so that a file that changes meanwhile is seen as changed.
        stamps = tuple(_stamp(path, data_root) for path in originals)
        with _temporary_folder(folder) as temporary:
            try:
                raw = reader.read(source, data_root)
            except (OSError, MemoryError) as error:
                what = error if isinstance(error, OSError) else "it does not fit into the memory"
                raise DatasetError(f"data set {reader.name} cannot be read: {what}") from error
            check_raw(raw, reader.name)
            recipe = _recipe(source, data_root)
            manifest = write_prepared(raw, temporary, reader.name, recipe, stamps)
            _put_in_place(temporary, folder, manifest)
    except OSError as error:
        raise DatasetError(
            f"data set {reader.name} cannot be prepared in {folder.parent} from files in "
            f"{data_root}: {error}. Prepared copies need a folder that can be written and has room"
        ) from error


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, gone after the block unless it was renamed."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    # Not tempfile.mkdtemp: its mode 0700 would lock out everyone who shares the data.
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path, manifest: Manifest) -> None:
    if _rename(temporary, folder):
        return
    try:
        same_content = open_prepared(folder, verify=True).fingerprint == manifest.fingerprint
    except DatasetError:
        same_content = False
    if same_content:
        # Originals that were merely touched: running trials keep their maps of the arrays.
        os.replace(temporary / FACTS, folder / FACTS)
        return
    aside = temporary.with_name(temporary.name + ".old")
    with suppress(FileNotFoundError):  # another process may have moved it aside
        os.rename(folder, aside)
    try:
        _rename(temporary, folder)  # if another process was first, the caller looks at its copy
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _rename(temporary: Path, folder: Path) -> bool:
    """True if the folder is in place, False if there was one already."""
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True
