"""Code from outside this package that adds strategies or data-set readers by registering them.

Two ways, both chosen by whoever installs or starts the program, never by a file that is read:

- an installed package names a module under the entry-point group `unlearning.plugins`;
- the environment variable UNLEARNING_PLUGINS lists modules or paths of .py files, separated as in
  PATH. It is how `usweep --plugin FILE` reaches the worker processes.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from unlearning.errors import ConfigError

GROUP = "unlearning.plugins"
VARIABLE = "UNLEARNING_PLUGINS"

_loaded: set[str] = set()


def load_plugins() -> None:
    """Import every plug-in that was not imported before.

    An installed plug-in that cannot be imported is reported by a warning, since it may belong to
    another project; one that was asked for by name is an error.

    Raises:
        ConfigError: a plug-in named in UNLEARNING_PLUGINS cannot be imported.
    """
    _load_installed()
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if name not in _loaded:
            try:
                _import(name)
            except Exception as error:
                raise ConfigError(f"plug-in {name} cannot be imported: {error}") from error
            _loaded.add(name)


@cache
def _load_installed() -> None:
    # Once a process: looking through all installed packages takes tens of milliseconds.
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            warnings.warn(f"plug-in {point.value} cannot be imported: {error}", stacklevel=3)


def _import(name: str) -> None:
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = Path(name)
    module_name = f"unlearning_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
