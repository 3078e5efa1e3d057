"""Readers by name: those of this package, and those that plug-ins register."""

from typing import TypeVar

from unlearning.config import SourceConfig
from unlearning.datasets.arrays import ArraysReader
from unlearning.datasets.cifar import CIFAR10, CIFAR100
from unlearning.datasets.digits import DigitsReader
from unlearning.datasets.ham10000 import Ham10000Reader
from unlearning.datasets.idx import FASHION_MNIST, MNIST
from unlearning.datasets.reader import Reader
from unlearning.datasets.svhn import SvhnReader
from unlearning.errors import ConfigError
from unlearning.plugins import load_plugins

AnyReader = TypeVar("AnyReader", bound=Reader | type[Reader])

_readers: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        DigitsReader(),
        MNIST,
        FASHION_MNIST,
        CIFAR10,
        CIFAR100,
        SvhnReader(),
        Ham10000Reader(),
        ArraysReader(),
    )
}


def register_reader(reader: AnyReader) -> AnyReader:
    """Make a reader available under its name; a function for instances, a decorator for classes.

    Raises:
        ConfigError: the name is taken, or the object is no reader.
    """
    # Annotated wider than the parameter, since a plug-in may hand over anything.
    instance: object = reader() if isinstance(reader, type) else reader
    if not isinstance(instance, Reader):
        raise ConfigError(f"{reader!r} is no data-set reader: it does not derive from Reader")
    if instance.name in _readers:
        raise ConfigError(f"data-set reader {instance.name!r} is registered twice")
    _readers[instance.name] = instance
    return reader


def known_readers() -> dict[str, Reader]:
    """All readers by name, plug-ins included."""
    load_plugins()
    return dict(_readers)


def get_reader(source: SourceConfig) -> Reader:
    """The reader that a source names.

    Raises:
        ConfigError: there is none of that name; lists those that exist.
    """
    # Plug-ins are searched only for names that are not built in, so that most runs never do.
    known = _readers if source.reader in _readers else known_readers()
    if source.reader not in known:
        raise ConfigError(
            f"source.reader {source.reader!r} is unknown; known: {', '.join(sorted(known))}"
        )
    return known[source.reader]
