"""What a site's file under `configs/cluster/` can say of a Kubernetes with KubeRay."""

import re
from dataclasses import dataclass, field

from cluster.validation import require, require_open_environment

SECRETS_BELONG = "put it into a Kubernetes Secret; wandb_secret names the one of W&B's key"
EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")
OPERATORS = ("Exists", "Equal")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # DNS-1123, at most 63
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_VERSION = re.compile(r"\d+\.\d+\.\d+\S*")
_TOKENS_SINCE = (2, 52)  # Ray's token authentication, which KubeRay checks


@dataclass
class Toleration:
    """A taint of nodes that pods may be placed on."""

    key: str = ""  # empty, with Exists: every taint
    operator: str = "Exists"
    value: str = ""  # for Equal
    effect: str = ""  # empty: all

    def __post_init__(self) -> None:
        known = " or ".join(OPERATORS)
        require(self.operator in OPERATORS, "tolerations.operator", self.operator, known)
        known = ", ".join(EFFECTS[1:]) + ", or nothing for all"
        require(self.effect in EFFECTS, "tolerations.effect", self.effect, known)
        fits = bool(self.key) if self.operator == "Equal" else not self.value
        require(fits, "tolerations", self, "a key for Equal, and a value for Equal alone")


@dataclass
class PodSettings:
    """What a pod gets, and where it may run."""

    cpus: int = 4
    memory_gb: float = 16.0
    gpus: int = 0
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[Toleration] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.cpus >= 1, "cpus", self.cpus, "1 or more")
        # 1 GB of it is for /dev/shm, and Ray itself takes another.
        require(self.memory_gb >= 4, "memory_gb", self.memory_gb, "4 or more")
        require(self.gpus >= 0, "gpus", self.gpus, "0 or more")


@dataclass
class HeadSettings(PodSettings):
    """The pod of Ray's head and of the sweep's driver; no unit runs there."""

    cpus: int = 2
    memory_gb: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gpus == 0, "head.gpus", self.gpus, "0: no unit runs there")


@dataclass
class WorkerSettings(PodSettings):
    """The pods that compute units."""

    count: int = 1
    # Bounds for whoever scales the group by hand; None: the count. A sweep counts its workers when
    # it starts, and uses those that join later only in the place of lost ones.
    min: int | None = None
    max: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.count >= 1, "workers.count", self.count, "1 or more")
        if self.min is not None:
            fits = 0 <= self.min <= self.count
            require(fits, "workers.min", self.min, f"from 0 to workers.count ({self.count})")
        if self.max is not None:
            fits = self.max >= self.count
            require(fits, "workers.max", self.max, f"workers.count ({self.count}) or more")


@dataclass
class KubeRaySettings:
    """One RayJob: a Ray cluster that is made for a sweep and goes with it."""

    kind: str = "kuberay"
    namespace: str = "default"
    image: str = ""  # has this project and ray[default]; the same for all pods
    ray_version: str = "2.60.0"  # the image's
    usweep: list[str] = field(default_factory=lambda: ["usweep"])  # how it is called in the image
    claim: str = ""  # of a volume that all pods can write (ReadWriteMany)
    mount_path: str = "/shared"  # store, run's folder and prepared data lie below it
    head: HeadSettings = field(default_factory=HeadSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    gpu_resource: str = "nvidia.com/gpu"
    environment: dict[str, str] = field(default_factory=dict)  # of all pods; no secrets
    wandb_secret: str | None = None  # a Secret of the namespace with W&B's key
    wandb_secret_key: str = "WANDB_API_KEY"  # its entry
    service_account: str | None = None
    fs_group: int | None = None  # group that may write the volume, where the image is not root
    token: bool = True  # Ray asks each connection for a token; needs KubeRay 1.5.1
    ttl_after_finish_s: int = 0  # how long the pods, GPUs included, stay after the end
    backoff_limit: int = 3  # how often a new cluster is made and the sweep continued
    active_deadline_s: int | None = None  # of everything, waiting for nodes included
    grace_s: int = 60  # from SIGTERM to SIGKILL; more than the sweep's resources.grace_s

    def __post_init__(self) -> None:
        require(self.kind == "kuberay", "kind", self.kind, "kuberay")
        self._check_names()
        is_image = re.fullmatch(r"\S+", self.image) is not None
        require(is_image, "image", self.image, "an image's name, such as registry/usweep:1")
        is_version = _VERSION.fullmatch(self.ray_version) is not None
        require(is_version, "ray_version", self.ray_version, "the image's, such as 2.60.0")
        major, minor = (int(part) for part in self.ray_version.split(".")[:2])
        has_tokens = not self.token or (major, minor) >= _TOKENS_SINCE
        require(has_tokens, "ray_version", self.ray_version, "2.52.0 or newer, or token: false")
        require(len(self.usweep) > 0, "usweep", self.usweep, "a command, such as [usweep]")
        is_path = re.fullmatch(r"(/[\w-][\w.-]*)+", self.mount_path) is not None
        require(is_path, "mount_path", self.mount_path, "an absolute path, such as /shared")
        for name in ("ttl_after_finish_s", "backoff_limit", "fs_group"):
            value = getattr(self, name)
            require(value is None or value >= 0, name, value, "0 or more")
        deadline = self.active_deadline_s
        require(deadline is None or deadline >= 1, "active_deadline_s", deadline, "1 or more")
        require(self.grace_s >= 30, "grace_s", self.grace_s, "30 or more seconds")
        require_open_environment(self.environment, SECRETS_BELONG)

    def _check_names(self) -> None:
        label = "lower-case letters, digits and '-', at most 63"
        is_label = _LABEL.fullmatch(self.namespace) is not None
        require(is_label, "namespace", self.namespace, label)
        for name in ("claim", "wandb_secret", "service_account"):
            value = getattr(self, name)
            fits = value is None or _SUBDOMAIN.fullmatch(value) is not None
            require(fits, name, value, "lower-case letters, digits, '-' and '.', at most 253")
        is_key = re.fullmatch(r"[-._A-Za-z0-9]{1,253}", self.wandb_secret_key) is not None
        allowed = "letters, digits, '-', '_' and '.'"
        require(is_key, "wandb_secret_key", self.wandb_secret_key, allowed)
        is_resource = re.fullmatch(r"[a-z0-9.-]+/gpu", self.gpu_resource) is not None
        require(is_resource, "gpu_resource", self.gpu_resource, "such as nvidia.com/gpu")
