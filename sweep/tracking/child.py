"""Processes of this package's own: what they run does not depend on where they start."""

import os
import sys


def command(module: str, *arguments: str) -> list[str]:
    """Runs a module; what lies in the folder where it starts is not taken for a package."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This process's environment, in which a module is found where this process finds it."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
