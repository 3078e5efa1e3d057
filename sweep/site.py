"""Reads the file that describes a site, such as `configs/cluster/slurm.yaml`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cluster.errors import ClusterError
from cluster.kuberay_settings import KubeRaySettings
from cluster.ray_jobs import RayJobsSettings
from cluster.settings import SlurmSettings
from sweep.config import to_dataclass
from unlearning.errors import ConfigError

PREFIX = "cluster."  # of overrides that are meant for the site's file
KINDS: Mapping[str, type[Any]] = {
    "slurm": SlurmSettings,
    "kuberay": KubeRaySettings,
    "ray_jobs": RayJobsSettings,
}


def load_site(path: Path, overrides: list[str]) -> Any:
    """The settings of a site, of the class that its `kind` names.

    Args:
        overrides: `key=value`, without the prefix.

    Raises:
        ConfigError: the file cannot be read, or names what is not known.
        ClusterError: a value that cannot be.
    """
    try:
        loaded = OmegaConf.load(path)
        if not isinstance(loaded, DictConfig):
            raise ConfigError(f"{path} is not a mapping of keys to values")
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(overrides))
        kind = str(OmegaConf.select(merged, "kind"))
    except FileNotFoundError as error:
        raise ConfigError(f"the site's file {path} does not exist") from error
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"the site's file {path} cannot be read: {error}") from error
    if kind not in KINDS:
        raise ConfigError(f"{path}: kind is {kind!r}; allowed: {', '.join(sorted(KINDS))}")
    try:
        return to_dataclass(KINDS[kind], "cluster", merged)
    except ClusterError as error:
        raise ClusterError(f"{path}: {error}") from error
