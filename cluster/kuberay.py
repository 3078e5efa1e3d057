"""A sweep as a RayJob of KubeRay: its manifest, and handing it to Kubernetes."""

import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from cluster.errors import ClusterError
from cluster.kuberay_settings import SECRETS_BELONG, KubeRaySettings, PodSettings
from cluster.validation import one_line, require, require_open_environment

FILES_FOLDER = "/etc/usweep"  # where the texts that travel in the manifest are found
MAX_NAME = 47  # of a RayJob: KubeRay adds 6 for the cluster's name and 10 for its service's
MAX_FILES_BYTES = 900_000  # Kubernetes refuses a ConfigMap of more than 1 MiB
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_FILE_NAME = re.compile(r"[-._A-Za-z0-9]{1,253}")
_INSTANCE = "app.kubernetes.io/instance"  # label by which the pods of a job are found
_OBJECT_STORE_BYTES = 512 * 1024**2  # results go through the volume, not through Ray
_SHARED_MEMORY = "1Gi"  # counts as memory of its container
_KUBECTL_S = 60

Manifest = dict[str, Any]


def job_name(name: str) -> str:
    """The name as one that Kubernetes and KubeRay accept: equal for equal names, else not.

    A name that has to be changed gets a digest of what it was.
    """
    plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"usweep-{plain}".strip("-")
    if plain == name and len(plain) <= MAX_NAME:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{plain[: MAX_NAME - 7].rstrip('-')}-{digest}"


def require_on_volume(settings: KubeRaySettings, folders: Mapping[str, str]) -> None:
    """Refuse folders that the pods would not share, or would lose.

    Args:
        folders: paths by the name of the setting that says them.

    Raises:
        ClusterError: names the first that is not below the volume's mount.
    """
    for setting, folder in folders.items():
        path = PurePosixPath(folder)
        is_below = path.is_relative_to(settings.mount_path) and ".." not in path.parts
        require(is_below, setting, folder, f"a folder below the volume, {settings.mount_path}")


def render(
    settings: KubeRaySettings,
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    files: Mapping[str, str] | None = None,
) -> str:
    """The manifest that runs a command as a RayJob, as YAML.

    The command runs in the head's container, whose Ray it finds as `auto`, with the volume's mount
    as working folder; units run on the workers alone. If the head is lost, KubeRay makes a new
    cluster and runs the command again, up to `backoff_limit` times.

    Args:
        name: of the RayJob; see `job_name`.
        command: program and arguments, as in the image.
        environment: further variables, which take precedence over those of the settings.
        files: texts by file name that the command finds in FILES_FOLDER.

    Raises:
        ClusterError: a name that Kubernetes or KubeRay refuses, a secret among the variables, or
            more text than a manifest holds.
    """
    is_name = _NAME.fullmatch(name) is not None and len(name) <= MAX_NAME
    allowed = f"at most {MAX_NAME} lower-case letters, digits and '-', a letter first"
    require(is_name, "name", name, allowed)
    require_open_environment(environment, SECRETS_BELONG)
    for file in files or {}:
        is_key = _FILE_NAME.fullmatch(file) is not None
        require(is_key, "a file's name", file, "letters, digits, '-', '_' and '.'")
    size = sum(len(text.encode()) for text in (files or {}).values())
    allowed = f"{MAX_FILES_BYTES} bytes; put the rest on the volume"
    require(size <= MAX_FILES_BYTES, "the size of the files", size, allowed)
    job = _Job(settings, name, command, environment, files or {})
    return yaml.dump_all(job.manifests(), Dumper=_Dumper, sort_keys=False, width=100)


def apply(text: str, settings: KubeRaySettings) -> list[str]:
    """Hand a manifest to Kubernetes; returns the commands to follow its job, and to remove it.

    Raises:
        ClusterError: there is no kubectl, it refuses, or there is a RayJob of this name already,
            which Kubernetes would leave as it is instead of running it again.
    """
    parts = [part for part in yaml.safe_load_all(text) if part]
    names = [part["metadata"]["name"] for part in parts if part["kind"] == "RayJob"]
    in_namespace = ["--namespace", settings.namespace]
    commands = _commands(settings, names[0])
    if _kubectl(["get", "rayjob", names[0], *in_namespace, "--ignore-not-found", "-o", "name"]):
        raise ClusterError(
            f"there is a RayJob {names[0]} already; follow it ({commands[1]}), or remove it to run "
            f"it again ({commands[-1]})"
        )
    _kubectl(["apply", *in_namespace, "--filename", "-"], text)
    return commands


def _commands(settings: KubeRaySettings, name: str) -> list[str]:
    kubectl = f"kubectl --namespace {settings.namespace}"
    return [
        f"{kubectl} get rayjob {name}",
        f"{kubectl} logs --follow job/{name}",
        f"{kubectl} get pods --selector {_INSTANCE}={name}",
        f"{kubectl} delete rayjob,configmap {name} --ignore-not-found",
    ]


def _kubectl(arguments: list[str], text: str = "") -> str:
    program = shutil.which("kubectl")
    if program is None:
        raise ClusterError(
            "kubectl is not on the PATH here; print the manifest with --dry-run and apply it where "
            "kubectl is"
        )
    try:
        done = subprocess.run(
            [program, *arguments], input=text, capture_output=True, text=True, timeout=_KUBECTL_S
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"kubectl {arguments[0]} took more than {_KUBECTL_S} s; is the Kubernetes of "
            "`kubectl config current-context` within reach?"
        ) from error
    if done.returncode != 0:
        reason = one_line(done.stderr or done.stdout)
        hint = "; is KubeRay installed there?" if "resource type" in reason else ""
        raise ClusterError(f"kubectl {arguments[0]}: {reason}{hint}")
    return done.stdout.strip()


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


@dataclass(frozen=True)
class _Job:
    """What a manifest is made from."""

    settings: KubeRaySettings
    name: str
    command: list[str]
    environment: Mapping[str, str]
    files: Mapping[str, str]

    def manifests(self) -> list[Manifest]:
        metadata = self._labels() | {"name": self.name, "namespace": self.settings.namespace}
        job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata}
        parts: list[Manifest] = [job | {"spec": self._spec()}]
        if self.files:
            config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
            parts.insert(0, config_map | {"data": dict(self.files)})
        return parts

    def _labels(self) -> Manifest:
        return {"labels": {"app.kubernetes.io/name": "usweep", _INSTANCE: self.name}}

    def _spec(self) -> Manifest:
        settings = self.settings
        spec: Manifest = {
            "entrypoint": shlex.join(self.command),
            # The job that submits has the log, and fails when the head is lost; with HTTPMode the
            # operator may wait for ever.
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": settings.ttl_after_finish_s,
            "backoffLimit": settings.backoff_limit,
        }
        if settings.active_deadline_s is not None:
            spec["activeDeadlineSeconds"] = settings.active_deadline_s
        return spec | {"rayClusterSpec": self._cluster()}

    def _cluster(self) -> Manifest:
        settings, workers = self.settings, self.settings.workers
        start = {"object-store-memory": str(_OBJECT_STORE_BYTES)}
        cluster: Manifest = {"rayVersion": settings.ray_version}
        if settings.token:
            cluster["authOptions"] = {"mode": "token"}  # KubeRay makes it and hands it to the pods
        # Without CPUs no unit is placed on the head; Ray Jobs start the driver there nevertheless.
        alone = {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"}
        cluster["headGroupSpec"] = {
            "rayStartParams": start | alone,
            "template": self._template(settings.head, "ray-head", self._head_env()),
        }
        group = {
            "groupName": "workers",
            "replicas": workers.count,
            "minReplicas": workers.count if workers.min is None else workers.min,
            "maxReplicas": workers.count if workers.max is None else workers.max,
            "rayStartParams": dict(start),
            "template": self._template(workers, "ray-worker", self._env({})),
        }
        return cluster | {"workerGroupSpecs": [group]}

    def _env(self, first: Mapping[str, str]) -> list[Manifest]:
        variables = {
            **first,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "MALLOC_ARENA_MAX": "1",  # see cluster.local
            **self.settings.environment,
            **self.environment,
        }
        return [{"name": name, "value": value} for name, value in variables.items()]

    def _head_env(self) -> list[Manifest]:
        settings = self.settings
        # Ray would kill the driver 3 s after SIGTERM, before units have reached a checkpoint.
        env = self._env({"RAY_JOB_STOP_WAIT_TIME_S": str(settings.grace_s)})
        if settings.wandb_secret is not None:
            reference = {"name": settings.wandb_secret, "key": settings.wandb_secret_key}
            env.append({"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": reference}})
        return env

    def _template(self, pod: PodSettings, container: str, env: list[Manifest]) -> Manifest:
        settings = self.settings
        memory = {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}
        volumes: list[tuple[str, str, Manifest]] = [
            (
                "shared",
                settings.mount_path,
                {"persistentVolumeClaim": {"claimName": settings.claim}},
            ),
            ("shared-mem", "/dev/shm", {"emptyDir": memory}),
        ]
        if self.files:
            volumes.append(("files", FILES_FOLDER, {"configMap": {"name": self.name}}))
        main = {
            "name": container,
            "image": settings.image,
            "workingDir": settings.mount_path,
            "env": env,
            "resources": _resources(settings, pod),
            "volumeMounts": [{"name": name, "mountPath": path} for name, path, _ in volumes],
        }
        spec: Manifest = {
            "containers": [main],
            "volumes": [{"name": name} | source for name, _, source in volumes],
            # A head that came back would know of no job; KubeRay is to see that it is gone.
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": settings.grace_s,
        }
        return {"metadata": self._labels(), "spec": spec | _placement(settings, pod)}


def _resources(settings: KubeRaySettings, pod: PodSettings) -> Manifest:
    """Requests equal limits, so that a pod is not evicted for memory that it was promised."""
    amounts: Manifest = {"cpu": str(pod.cpus), "memory": f"{round(pod.memory_gb * 1024)}Mi"}
    limits = amounts | ({settings.gpu_resource: str(pod.gpus)} if pod.gpus else {})
    return {"limits": limits, "requests": amounts}


def _placement(settings: KubeRaySettings, pod: PodSettings) -> Manifest:
    spec: Manifest = {}
    if pod.node_selector:
        spec["nodeSelector"] = dict(pod.node_selector)
    if pod.tolerations:
        spec["tolerations"] = [
            {key: value for key, value in asdict(one).items() if value} for one in pod.tolerations
        ]
    if settings.service_account is not None:
        spec["serviceAccountName"] = settings.service_account
    if settings.fs_group is not None:
        spec["securityContext"] = {"fsGroup": settings.fs_group}
    return spec
