"""Data sets: readers of original files, and prepared copies that every trial maps into memory."""

from unlearning.datasets.preparation import find_prepared, nominal_facts, prepare
from unlearning.datasets.prepared import (
    DatasetFacts,
    PreparedDataset,
    RawDataset,
    is_intact,
    open_prepared,
)
from unlearning.datasets.reader import NominalSize, Reader
from unlearning.datasets.registry import get_reader, known_readers, register_reader

__all__ = [
    "DatasetFacts",
    "NominalSize",
    "PreparedDataset",
    "RawDataset",
    "Reader",
    "find_prepared",
    "get_reader",
    "is_intact",
    "known_readers",
    "nominal_facts",
    "open_prepared",
    "prepare",
    "register_reader",
]
