"""What all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two test processes on two cores must not each start two threads."""
    os.environ["OMP_NUM_THREADS"] = "1"
