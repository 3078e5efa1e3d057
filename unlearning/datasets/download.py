"""Original files from their publishers, only where the user asked for it."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from unlearning.errors import DatasetError


@contextmanager
def downloaded(urls: Sequence[str], md5: str, folder: Path) -> Iterator[Path]:
    """A file fetched from the first of its mirrors that has it, for as long as the block lasts.

    It lies in a temporary folder inside `folder` (created where missing), so that `os.replace`
    moves it or what is unpacked beside it into place at once: whoever else looks never sees half
    a file, and nothing stays behind after an error.

    Raises:
        DatasetError: no mirror has a file with this MD5, or the folder cannot be written.
    """
    # torchvision imports torch: seconds that only a download is worth.
    from torchvision.datasets.utils import download_url

    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".download-", dir=folder)
    except OSError as error:
        raise DatasetError(f"cannot download into {folder}: {error}") from error
    with temporary:
        failures = []
        for url in urls:
            filename = os.path.basename(url)
            try:
                download_url(url, temporary.name, filename, md5)
            except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError
                failures.append(f"{url}: {error}")
            else:
                yield Path(temporary.name) / filename
                return
        raise DatasetError(f"download failed: {'; '.join(failures)}")
