"""What all tests share."""

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Some tests import Ray for its classes, before others start one in this process; it reads these
# at its import (see cluster/local.py).
os.environ.update({"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})

# No test sends anything, or writes what could be sent, unless it says so.
os.environ["WANDB_MODE"] = os.environ.get("USWEEP_TEST_WANDB_MODE", "disabled")


# A shell's background jobs ignore Ctrl-C, and so would all that tests start and then interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two test processes on two cores must not each start two threads."""
    os.environ["OMP_NUM_THREADS"] = "1"


# Files whose tests start a Ray: two at once would each take the machine for theirs. `make test`
# runs tests in two processes, files in the order that they are found, these all in the same one.
_WITH_RAY = (
    *("cluster/checks/test_existing_ray.py", "cluster/test_local.py", "cluster/test_ray_jobs.py"),
    *("faults/test_faults.py", "sweep/test_doctor.py", "sweep/test_run.py"),
    "sweep/tracking/test_tracking_beside.py",
)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Say which tests must be in the same process: those of a file, and those with a Ray."""
    file = item.path.relative_to(Path(__file__).parent).as_posix()
    group = "ray" if file in _WITH_RAY else file
    item.add_marker(pytest.mark.xdist_group(group))
