"""HAM10000, dermatoscopic images of skin lesions, from its metadata and its two image folders."""

import csv
import io
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unlearning.config import SourceConfig
from unlearning.datasets.prepared import Pixels, RawDataset
from unlearning.datasets.reader import NominalSize, Reader
from unlearning.errors import DatasetError

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")  # alphabetical, as `dx` spells them
COLUMNS = ("lesion_id", "image_id", "dx")
METADATA = "HAM10000_metadata.csv"
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 1 << 25  # the publisher's images have 270,000; several are decoded at a time
NUM_NAMED = 3  # files named in an error about many

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One row of the metadata."""

    image_id: str
    lesion_id: str
    label: int


class Ham10000Reader(Reader):
    """The images that the metadata lists, in the order of their image_id; no official test split.

    Of each image the centre square, resized to `image_size` pixels a side by Pillow's BILINEAR
    filter, which averages over all covered pixels when it shrinks. Groups are lesions, so that
    two photographs of one lesion can be kept on one side of a split.
    """

    name = "ham10000"
    description = "10,015 colour images of 7 kinds of skin lesion, metadata and two image folders"
    obtain = (
        "from https://doi.org/10.7910/DVN/DBW86T put HAM10000_metadata.csv, "
        "HAM10000_images_part_1/ and HAM10000_images_part_2/ into <data root>/HAM10000"
    )
    nominal = NominalSize(10_015, 0, 7)
    default_image_size = 64

    def files(self, source: SourceConfig, data_root: Path) -> list[Path]:
        """The metadata and the image folders that exist.

        The folders stand for their images: their times change when an image comes or goes, and
        two entries are quickly looked at where ten thousand are not.
        """
        root = data_root / "HAM10000"
        folders = [root / folder for folder in IMAGE_FOLDERS]
        present = [folder for folder in folders if folder.is_dir()]
        return [root / METADATA, *(present or folders)]

    def read(self, source: SourceConfig, data_root: Path) -> RawDataset:
        """All listed images, decoded and resized.

        Raises:
            DatasetError: listed images are missing, or one cannot be decoded.
        """
        metadata, *folders = self.files(source, data_root)
        records = read_metadata(metadata)
        paths = _locate_images(metadata, folders, records)
        decode = partial(decode_centre_square, image_size=self.image_size(source))
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
            images = np.stack(list(pool.map(decode, paths)))
        lesions = [record.lesion_id for record in records]
        return RawDataset(
            images=images,
            labels=np.array([record.label for record in records], dtype=np.int64),
            class_names=CLASSES,
            num_official_test=0,
            groups=np.unique(lesions, return_inverse=True)[1].astype(np.int64),
        )


def read_metadata(path: Path) -> list[Record]:
    """The rows of the metadata, sorted by image_id.

    Raises:
        DatasetError: a column, a value or all rows are missing, a diagnosis is unknown, an image
            is listed twice, or the file ends inside a line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""))
        absent = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if absent:
            raise DatasetError(f"{path} has no column {', '.join(absent)}")
        rows = [_record(path, table.line_num, row) for row in table]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not a readable CSV file ({error})") from error
    if not rows:
        raise DatasetError(f"{path} lists no images")
    # A cut inside the last column would otherwise pass for a smaller data set.
    if not text.endswith("\n"):
        raise DatasetError(
            f"{path} ends inside a line, so it was probably cut short; fetch it again, "
            "or end its last line if it is whole"
        )
    rows.sort(key=lambda record: record.image_id)
    for first, second in itertools.pairwise(rows):
        if first.image_id == second.image_id:
            raise DatasetError(f"{path} lists image {first.image_id} twice")
    return rows


def _record(path: Path, line: int, row: dict[str, str | None]) -> Record:
    lesion_id, image_id, diagnosis = (row[name] for name in COLUMNS)
    if None in row.values() or not lesion_id or not image_id:
        raise DatasetError(f"{path}, line {line}, is incomplete; was the file cut short?")
    if diagnosis not in CLASSES:
        raise DatasetError(f"{path}, line {line}: dx is {diagnosis!r}, not one of {CLASSES}")
    return Record(image_id, lesion_id, CLASSES.index(diagnosis))


def _locate_images(metadata: Path, folders: list[Path], records: list[Record]) -> list[Path]:
    """Path of each record's image.

    Raises:
        DatasetError: some are missing; says how many, and the first of them.
    """
    found = {
        path.stem: path for folder in folders for path in folder.glob("*.jpg") if path.is_file()
    }
    missing = [record.image_id for record in records if record.image_id not in found]
    if missing:
        some = ", ".join(f"{image_id}.jpg" for image_id in missing[:NUM_NAMED])
        more = ", ..." if len(missing) > NUM_NAMED else ""
        raise DatasetError(
            f"{len(missing)} of the {len(records)} images that {metadata} lists are missing from "
            f"{' and '.join(str(folder) for folder in folders)}: {some}{more}. "
            f"To get them: {Ham10000Reader.obtain}"
        )
    if len(found) > len(records):
        logger.warning(
            "%d images that %s does not list are ignored", len(found) - len(records), metadata
        )
    return [found[record.image_id] for record in records]


def decode_centre_square(path: Path, image_size: int) -> Pixels:
    """Centre square of an image as RGB, [3, image_size, image_size].

    Raises:
        DatasetError: the file is not an image, is cut short, or would fill the memory.
    """
    from PIL import Image

    bombs = Image.DecompressionBombError, Image.DecompressionBombWarning
    try:
        # Two decoders only: some of the others start programs, such as Ghostscript.
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, allowed: {MAX_PIXELS:,}")
            side = min(image.size)
            left, top = ((length - side) // 2 for length in image.size)
            # Not resize(box=...): its filter reaches for pixels outside the box.
            square = image.convert("RGB").crop((left, top, left + side, top + side))
            resized = square.resize((image_size, image_size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, *bombs) as error:
        raise DatasetError(
            f"{path} cannot be decoded as {' or '.join(FORMATS)} ({error}); it is damaged, cut "
            "short or something else, fetch it again"
        ) from error
    return np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1)
