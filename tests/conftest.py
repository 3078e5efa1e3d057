"""What all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Some tests import Ray for its classes, before others start one in this process; it reads these
# at its import (see cluster/local.py).
os.environ.update({"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})

# No test sends anything, or writes what could be sent, unless it says so.
os.environ["WANDB_MODE"] = "disabled"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two test processes on two cores must not each start two threads."""
    os.environ["OMP_NUM_THREADS"] = "1"
