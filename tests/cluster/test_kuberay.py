"""The manifest of a RayJob, against KubeRay's published fields.

The golden file lies in tests/cluster/golden; USWEEP_REFRESH_GOLDEN=1 writes it anew.
"""

import copy
import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cluster.errors import ClusterError
from cluster.kuberay import FILES_FOLDER, MAX_NAME, job_name, render, require_on_volume
from cluster.kuberay_settings import (
    HeadSettings,
    KubeRaySettings,
    PodSettings,
    Toleration,
    WorkerSettings,
)

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parents[1] / "configs" / "cluster" / "kuberay.yaml"
FIELDS = json.loads((HERE / "kuberay_fields.json").read_text())
COMMAND = ["usweep", "run", "/etc/usweep/config.yaml", "grid.seeds=[0,1]", "--address", "auto"]
FILES = {"config.yaml": "name: digits\ngrid: {forget_ratios: [0.05]}\n"}


def settings(**changes: Any) -> KubeRaySettings:
    everything = KubeRaySettings(
        namespace="lab",
        image="registry.example.org/lab/usweep:0.1.0",
        claim="usweep",
        workers=WorkerSettings(
            count=2,
            min=1,
            max=4,
            cpus=8,
            memory_gb=31.5,
            gpus=1,
            node_selector={"pool": "gpu"},
            tolerations=[Toleration(key="nvidia.com/gpu", effect="NoSchedule")],
        ),
        environment={"OMP_NUM_THREADS": "1"},
        wandb_secret="wandb",
        service_account="sweeper",
        fs_group=100,
        active_deadline_s=86_400,
    )
    return replace(everything, **changes)


def job(text: str) -> dict[str, Any]:
    (found,) = [part for part in yaml.safe_load_all(text) if part["kind"] == "RayJob"]
    return found


def pods(text: str) -> dict[str, dict[str, Any]]:
    cluster = job(text)["spec"]["rayClusterSpec"]
    return {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        "workers": cluster["workerGroupSpecs"][0]["template"]["spec"],
    }


def env(pod: dict[str, Any]) -> dict[str, Any]:
    return {
        one["name"]: one.get("value", one.get("valueFrom")) for one in pod["containers"][0]["env"]
    }


def test_the_manifest_stays_as_it_is() -> None:
    text = render(settings(), "digits", COMMAND, {"USWEEP_NOTE": "night"}, FILES)
    path = HERE / "golden" / "rayjob.yaml"
    if os.environ.get("USWEEP_REFRESH_GOLDEN") == "1":
        path.write_text(text)
    assert text == path.read_text(), "USWEEP_REFRESH_GOLDEN=1 writes it anew"


# Against the published fields


def misfits(value: Any, allowed: Any, path: str) -> list[str]:
    """Paths of the manifest that the published definition does not have, or with another type."""
    name = allowed if isinstance(allowed, str) else ""
    if name == "PodTemplate":
        return misfits(value, FIELDS["PodTemplate"], "PodTemplate")
    if isinstance(allowed, dict):
        if not isinstance(value, dict):
            return [f"{path} is no object"]
        absent = [
            f"{path}.{key} is absent"
            for key in FIELDS["required"].get(path, [])
            if key not in value
        ]
        unknown = [
            f"{path}.{key} is unknown" for key in value if key not in allowed and "*" not in allowed
        ]
        known = [(key, allowed.get(key, allowed.get("*"))) for key in value]
        return (
            absent
            + unknown
            + [
                line
                for key, one in known
                if one
                for line in misfits(value[key], one, f"{path}.{key}")
            ]
        )
    if isinstance(allowed, list) and isinstance(value, str):
        return [] if value in allowed else [f"{path} is none of {allowed}"]
    if isinstance(allowed, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [line for one in value for line in misfits(one, allowed[0], f"{path}[]")]
    return [] if fits(value, name) else [f"{path} is {value!r}, no {name}"]


def fits(value: Any, name: str) -> bool:
    if name == "quantity":
        return type(value) is int or (
            type(value) is str and re.match(FIELDS["quantity"], value) is not None
        )
    types = {"string": str, "integer": int, "boolean": bool, "object": dict}
    return type(value) is types[name]


@pytest.mark.parametrize("files", [None, FILES])
@pytest.mark.parametrize(
    "described",
    [settings(), settings(workers=WorkerSettings(), wandb_secret=None, token=False)],
    ids=["everything", "little"],
)
def test_every_field_of_the_manifest_is_a_published_one_of_that_type(
    described: KubeRaySettings, files: dict[str, str] | None
) -> None:
    manifest = job(render(described, "digits", COMMAND, {}, files))
    assert misfits(manifest, FIELDS["RayJob"], "RayJob") == []


def set_(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            at = at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value

    return change


CLUSTER = "spec.rayClusterSpec"
POD = f"{CLUSTER}.workerGroupSpecs.0.template.spec"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_("spec.backoffLimits", 3), "spec.backoffLimits is unknown"),
        (set_("spec.backoffLimit", "3"), "spec.backoffLimit is '3', no integer"),
        (set_("spec.shutdownAfterJobFinishes", "true"), "no boolean"),
        (set_(f"{CLUSTER}.authOptions.mode", "tokens"), "is none of"),
        (set_(f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus", 0), "is 0, no string"),
        (set_(f"{CLUSTER}.workerGroupSpecs.0.groupName", None), "groupName is absent"),
        (set_(f"{POD}.terminationGracePeriodSecond", 60), "is unknown"),
        (set_(f"{POD}.containers", {}), "PodTemplate.spec.containers is no list"),
        (set_(f"{POD}.containers.0.resources.limits.memory", "32GB"), "no quantity"),
        (set_(f"{POD}.containers.0.env.0.value", 0), "env[].value is 0, no string"),
        (set_(f"{POD}.volumes.0.persistentVolumeClaim.claimName", None), "claimName is absent"),
    ],
)
def test_a_wrong_field_is_found(change: Callable[[dict[str, Any]], None], expected: str) -> None:
    manifest = copy.deepcopy(job(render(settings(), "digits", COMMAND, {})))
    change(manifest)
    (line,) = misfits(manifest, FIELDS["RayJob"], "RayJob")
    assert expected in line


# What the manifest says


def test_the_entrypoint_is_the_command_to_the_letter() -> None:
    command = ["usweep", "run", "a b.yaml", "name=it's", "grid.seeds=[0,1]", "x=$HOME;`id`", ""]
    assert (
        shlex.split(job(render(settings(), "digits", command, {}))["spec"]["entrypoint"]) == command
    )


def test_no_unit_runs_on_the_head_and_only_workers_have_gpus() -> None:
    text = render(settings(), "digits", COMMAND, {})
    start = job(text)["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
    assert start["num-cpus"] == start["num-gpus"] == "0"
    limits = {name: pod["containers"][0]["resources"]["limits"] for name, pod in pods(text).items()}
    assert limits["workers"] == {"cpu": "8", "memory": "32256Mi", "nvidia.com/gpu": "1"}
    assert limits["head"] == {"cpu": "2", "memory": "8192Mi"}


def test_a_lost_driver_is_started_again_and_everything_goes_at_the_end() -> None:
    spec = job(render(settings(), "digits", COMMAND, {}))["spec"]
    assert spec["backoffLimit"] == 3 and spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] == 0
    for pod in pods(render(settings(), "digits", COMMAND, {})).values():
        assert pod["restartPolicy"] == "Never"


def test_a_stopped_driver_has_time_for_checkpoints() -> None:
    text = render(settings(grace_s=90), "digits", COMMAND, {})
    assert {pod["terminationGracePeriodSeconds"] for pod in pods(text).values()} == {90}
    assert env(pods(text)["head"])["RAY_JOB_STOP_WAIT_TIME_S"] == "90"


def test_all_pods_share_the_volume_and_have_memory_for_ray() -> None:
    for pod in pods(render(settings(), "digits", COMMAND, {}, FILES)).values():
        places = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        assert places == {"shared": "/shared", "shared-mem": "/dev/shm", "files": FILES_FOLDER}
        assert [one["name"] for one in pod["volumes"]] == list(places)
        assert pod["containers"][0]["workingDir"] == "/shared"
        assert env(pod)["MALLOC_ARENA_MAX"] == "1" and env(pod)["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_key_of_wandb_is_named_on_the_head_and_its_value_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    text = render(settings(), "digits", COMMAND, {})
    assert "0123456789abcdef" not in text
    reference = {"secretKeyRef": {"name": "wandb", "key": "WANDB_API_KEY"}}
    assert env(pods(text)["head"])["WANDB_API_KEY"] == reference
    assert "WANDB_API_KEY" not in env(pods(text)["workers"])


def test_texts_travel_in_a_config_map_of_the_same_name() -> None:
    first, _ = yaml.safe_load_all(render(settings(), "digits", COMMAND, {}, FILES))
    assert (first["kind"], first["metadata"]["name"], first["data"]) == (
        "ConfigMap",
        "digits",
        FILES,
    )


def test_variables_of_the_call_take_precedence() -> None:
    ours = {"OMP_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "4", "RAY_JOB_STOP_WAIT_TIME_S": "7"}
    for pod in pods(render(settings(), "digits", COMMAND, ours)).values():
        assert {name: env(pod)[name] for name in ours} == ours
        # Kubernetes refuses a variable that is there twice.
        assert len(pod["containers"][0]["env"]) == len(env(pod))


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "slurm"}, "kind is 'slurm'; allowed: kuberay"),
        ({"image": ""}, "image is ''"),
        ({"image": "a b"}, "image is 'a b'"),
        ({"claim": ""}, "claim is ''"),
        ({"claim": "My_Claim"}, "claim is 'My_Claim'"),
        ({"namespace": "x" * 64}, "at most 63"),
        ({"ray_version": "latest"}, "such as 2.60.0"),
        ({"ray_version": "2.51.1"}, "2.52.0 or newer, or token: false"),
        ({"mount_path": "shared"}, "an absolute path"),
        ({"mount_path": "/a/../b"}, "an absolute path"),
        ({"grace_s": 5}, "30 or more seconds"),
        ({"backoff_limit": -1}, "backoff_limit is -1"),
        ({"active_deadline_s": 0}, "1 or more"),
        ({"usweep": []}, "a command"),
        ({"gpu_resource": "gpu"}, "such as nvidia.com/gpu"),
        ({"environment": {"WANDB_API_KEY": "hidden-value"}}, "WANDB_API_KEY would be written down"),
        ({"environment": {"1X": "a"}}, "a variable's name is '1X'"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(words)) as refusal:
        settings(**changes)
    assert "\n" not in str(refusal.value) and "hidden-value" not in str(refusal.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PodSettings(cpus=0),
        lambda: PodSettings(memory_gb=1),
        lambda: PodSettings(gpus=-1),
        lambda: HeadSettings(gpus=1),
        lambda: WorkerSettings(count=0),
        lambda: WorkerSettings(count=2, min=3),
        lambda: WorkerSettings(count=2, max=1),
        lambda: Toleration(operator="Equal", value="x"),
        lambda: Toleration(key="a", value="x"),
        lambda: Toleration(effect="Never"),
    ],
)
def test_impossible_pods_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ClusterError, match="allowed"):
        make()


@pytest.mark.parametrize("name", ["", "Digits", "1st", "a_b", "a-", "x" * (MAX_NAME + 1)])
def test_a_name_that_kubernetes_refuses_is_refused_here(name: str) -> None:
    with pytest.raises(ClusterError, match="at most 47"):
        render(settings(), name, COMMAND, {})


@given(st.text(max_size=80))
def test_every_name_of_a_sweep_becomes_one_that_kubernetes_takes(name: str) -> None:
    render(settings(), job_name(name), COMMAND, {})
    assert job_name(job_name(name)) == job_name(name) == job_name(name)


def test_names_of_different_sweeps_stay_different() -> None:
    names = ["mnist", "MNIST", "mnist_", "m-nist", "1", "usweep-1", "x" * 60, "x" * 61]
    assert len({job_name(name) for name in names}) == len(names)


def test_a_secret_among_the_variables_is_refused_without_its_value() -> None:
    with pytest.raises(ClusterError, match=r"RAY_AUTH_TOKEN.*Kubernetes Secret") as refusal:
        render(settings(), "digits", COMMAND, {"RAY_AUTH_TOKEN": "hidden-value"})
    assert "hidden-value" not in str(refusal.value)


def test_files_that_a_manifest_cannot_hold_are_refused() -> None:
    with pytest.raises(ClusterError, match="900000 bytes"):
        render(settings(), "digits", COMMAND, {}, {"config.yaml": "x" * 900_001})
    with pytest.raises(ClusterError, match="a file's name is 'a/b'"):
        render(settings(), "digits", COMMAND, {}, {"a/b": ""})


@pytest.mark.parametrize("folder", ["/home/me/store", "store", "/shared/../etc", "/sharedstore"])
def test_a_folder_that_is_not_on_the_volume_is_refused(folder: str) -> None:
    require_on_volume(settings(), {"output.store": "/shared/store", "output.runs": "/shared"})
    with pytest.raises(ClusterError, match=r"output\.store.*below the volume, /shared"):
        require_on_volume(settings(), {"output.runs": "/shared/runs", "output.store": folder})


def test_the_example_is_read_and_shows_the_defaults() -> None:
    text = EXAMPLE.read_text()
    schema = OmegaConf.structured(KubeRaySettings)
    read = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(text)))
    assert isinstance(read, KubeRaySettings) and isinstance(read.workers, WorkerSettings)
    assert read.workers.gpus == 1 and read.workers.tolerations[0].key == "nvidia.com/gpu"
    shown = re.sub(r"^(\s*)# ([a-z_]+: )", r"\1\2", text, flags=re.MULTILINE)
    merged = OmegaConf.merge(schema, OmegaConf.create(shown))
    assert OmegaConf.to_object(merged) == read
    misses = misfits(job(render(read, "digits", COMMAND, {})), FIELDS["RayJob"], "RayJob")
    assert misses == []
