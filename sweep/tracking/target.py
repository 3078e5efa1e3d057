"""Where in Weights & Biases a sweep stands, as its configuration says."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from sweep.run import CONFIG_FILE
from unlearning.errors import ConfigError


@dataclass(frozen=True)
class Target:
    """A project, and whose it is."""

    project: str = "usweep"
    entity: str | None = None  # None: the key's own


def read_target(run_folder: Path) -> Target:
    """Section `tracking` of a run's resolved configuration; what it lacks is the default.

    Raises:
        ConfigError: the file is damaged.
    """
    path = run_folder / CONFIG_FILE
    try:
        # Read as plain YAML: this file is resolved, and asks for nothing of the environment.
        section = yaml.safe_load(path.read_text(encoding="utf-8")).get("tracking") or {}
        known = {name: section[name] for name in ("project", "entity") if section.get(name)}
        if not all(isinstance(value, str) for value in known.values()):
            raise ValueError(f"tracking is {section!r}")
    except (
        OSError,
        yaml.YAMLError,
        AttributeError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise ConfigError(f"{path} is damaged; the same `usweep run` writes it again") from error
    return Target(**known)
