"""Downloads, from a server of this test that hands out small original files."""

import functools
import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from unlearning.config import SourceConfig
from unlearning.datasets import known_readers, prepare
from unlearning.errors import DatasetError


class QuietHandler(SimpleHTTPRequestHandler):
    requests: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()


class Mirror:
    """A folder that is served, and torchvision's addresses turned to it."""

    def __init__(self, folder: Path, url: str, requests: list[str]) -> None:
        self.folder = folder
        self.url = url
        self.requests = requests

    def md5(self, name: str) -> str:
        return hashlib.md5((self.folder / name).read_bytes()).hexdigest()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "mirror"
    folder.mkdir()
    requests: list[str] = []
    handler_class = type("Handler", (QuietHandler,), {"requests": requests})
    handler = functools.partial(handler_class, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Mirror(folder, f"http://127.0.0.1:{server.server_port}/", requests)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def served_mnist(build, mirror, tmp_path, monkeypatch):
    """MNIST's compressed files on the second of two mirrors."""
    mnist = build("mnist_gz", tmp_path / "publisher")
    for path in mnist.files:
        path.rename(mirror.folder / path.name)
    resources = [(path.name, mirror.md5(path.name)) for path in mnist.files]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    mirrors = [mirror.url + "gone/", mirror.url]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", mirrors)
    return mnist


@pytest.fixture
def served_cifar(build, mirror, tmp_path, monkeypatch):
    """CIFAR-10's archive, with a member that wants to leave its folder."""
    cifar = build("cifar10", tmp_path / "publisher")
    with tarfile.open(mirror.folder / "cifar.tar.gz", "w:gz") as archive:
        archive.add(cifar.files[0].parent, "cifar-10-batches-py")
        archive.addfile(tarfile.TarInfo("../../escaped"), io.BytesIO())
    origin = torchvision.datasets.CIFAR10
    monkeypatch.setattr(origin, "url", mirror.url + "cifar.tar.gz")
    monkeypatch.setattr(origin, "tgz_md5", mirror.md5("cifar.tar.gz"))
    return cifar


@pytest.fixture
def served_svhn(build, mirror, tmp_path, monkeypatch):
    svhn = build("svhn", tmp_path / "publisher")
    for path in svhn.files:
        path.rename(mirror.folder / path.name)
    splits = {
        name: [mirror.url + f"{name}_32x32.mat", "unused", mirror.md5(f"{name}_32x32.mat")]
        for name in ("train", "test")
    }
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    return svhn


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mnist", {f"MNIST/raw/{s}-{k}-ubyte.gz" for s in ("train", "t10k")
                   for k in ("images-idx3", "labels-idx1")}),
        ("cifar", {f"cifar-10-batches-py/{n}" for n in ("data_batch_1", "data_batch_2",
                   "data_batch_3", "data_batch_4", "data_batch_5", "test_batch", "batches.meta")}),
        ("svhn", {"train_32x32.mat", "test_32x32.mat"}),
    ],
)  # fmt: skip
def test_missing_files_are_downloaded_where_asked(request, tmp_path, kind, expected):
    served = request.getfixturevalue(f"served_{kind}")
    root, prepared_root = tmp_path / "data", tmp_path / "prepared"
    with pytest.raises(DatasetError, match=r"data\.download=true"):
        prepare(served.source, root, prepared_root)
    assert not root.exists()

    data = prepare(served.source, root, prepared_root, download=True)
    np.testing.assert_array_equal(data.images, served.images)
    assert data.class_names == served.class_names
    assert files_below(root) == expected
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", ["mnist", "cifar", "svhn"])
def test_nothing_is_downloaded_twice(request, mirror, tmp_path, kind):
    served = request.getfixturevalue(f"served_{kind}")
    root = tmp_path / "data"
    prepare(served.source, root, tmp_path / "prepared", download=True)
    before = len(mirror.requests)
    prepare(served.source, root, tmp_path / "prepared", download=True)
    prepare(served.source, root, tmp_path / "prepared_again", download=True)
    assert len(mirror.requests) == before


@pytest.mark.parametrize("kind", ["mnist", "svhn"])
def test_only_what_is_missing_is_downloaded(request, mirror, tmp_path, kind):
    served = request.getfixturevalue(f"served_{kind}")
    root = tmp_path / "data"
    prepare(served.source, root, tmp_path / "prepared", download=True)
    lost = next(path for path in root.rglob("*") if path.is_file())
    lost.unlink()
    mirror.requests.clear()
    prepare(served.source, root, tmp_path / "prepared_again", download=True)
    assert {Path(path).name for path in mirror.requests} == {lost.name}


@pytest.mark.parametrize("kind", ["mnist", "cifar", "svhn"])
def test_file_with_another_checksum_is_refused_and_not_kept(request, mirror, tmp_path, kind):
    served = request.getfixturevalue(f"served_{kind}")
    for path in mirror.folder.iterdir():
        path.write_bytes(gzip.compress(b"not what was published"))
    root = tmp_path / "data"
    with pytest.raises(DatasetError, match=f"download failed: {mirror.url}"):
        prepare(served.source, root, tmp_path / "prepared", download=True)
    assert files_below(root) == set()
    assert not list(root.rglob(".download*"))


def test_server_that_is_away_is_an_error_that_names_each_mirror(served_mnist, mirror, tmp_path):
    for path in mirror.folder.iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="download failed") as caught:
        prepare(served_mnist.source, tmp_path / "data", tmp_path / "prepared", download=True)
    assert mirror.url + "gone/train-images" in str(caught.value)
    assert mirror.url + "train-images" in str(caught.value)


def test_archive_without_a_batch_is_refused(served_cifar, mirror, tmp_path, monkeypatch):
    with tarfile.open(mirror.folder / "cifar.tar.gz", "w:gz") as archive:
        archive.add(served_cifar.files[0], "cifar-10-batches-py/data_batch_1")
    origin = torchvision.datasets.CIFAR10
    monkeypatch.setattr(origin, "tgz_md5", mirror.md5("cifar.tar.gz"))
    with pytest.raises(DatasetError, match="data_batch_2"):
        prepare(served_cifar.source, tmp_path / "data", tmp_path / "prepared", download=True)
    assert files_below(tmp_path / "data") == set()


def test_data_root_that_cannot_be_written_is_named(served_mnist, tmp_path):
    (tmp_path / "a_file").write_text("in the way")
    with pytest.raises(DatasetError, match="a_file"):
        prepare(served_mnist.source, tmp_path / "a_file", tmp_path / "prepared", download=True)


def test_asking_to_download_what_cannot_be_says_where_to_get_it(tmp_path):
    with pytest.raises(DatasetError, match="DVN/DBW86T"):
        source = SourceConfig(reader="ham10000")
        prepare(source, tmp_path / "data", tmp_path / "prepared", download=True)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_addresses_are_torchvisions(name):
    origin = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
    files = list(known_readers()[name].remote_files())
    assert [md5 for _, md5 in files] == [
        md5 for _, md5 in getattr(torchvision.datasets, origin).resources
    ]
    assert all(url.startswith("http") and url.endswith(".gz") for urls, _ in files for url in urls)
