"""A site's file is read like any configuration: what is wrong is named before anything starts."""

from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.kuberay_settings import KubeRaySettings
from cluster.settings import SlurmSettings
from sweep.site import load_site
from unlearning.errors import ConfigError

EXAMPLES = Path("configs/cluster")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "site.yaml"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_can_be_used_as_they_are(path: Path) -> None:
    assert load_site(path, []).kind in ("slurm", "kuberay", "ray_jobs")


def test_the_kind_decides_and_overrides_win(file: Path) -> None:
    file.write_text("kind: slurm\npartition: gpu\nnodes: 3\nsbatch: {exclusive: 'true'}\n")
    site = load_site(file, ["nodes=5", "sbatch.mail-type=END"])
    sbatch = {"exclusive": "true", "mail-type": "END"}
    assert site == SlurmSettings(partition="gpu", nodes=5, sbatch=sbatch)
    file.write_text("kind: kuberay\nimage: lab/usweep:1\nclaim: shared\n")
    assert isinstance(load_site(file, []), KubeRaySettings)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind: pbs", "kuberay, ray_jobs, slurm"),
        ("nodes: 3", "kind"),
        ("kind: slurm\nnodes: 0", "nodes is 0"),
        ("kind: slurm\nnodes: many", "nodes"),
        ("kind: slurm\nnodez: 1", "nodez"),
        ("a: [", "cannot be read"),
        ("- 1", "mapping"),
        ("kind: !!python/object:os.system x", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(file: Path, text: str, named: str) -> None:
    file.write_text(text)
    with pytest.raises((ClusterError, ConfigError), match=named):
        load_site(file, [])


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"site\.yaml does not exist"):
        load_site(file, [])
