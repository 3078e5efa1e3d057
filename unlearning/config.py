"""Settings of one trial as plain dataclasses; every default here is a documented decision.

The classes are mutable because configuration files are merged into them once, at the edge;
nothing changes them afterwards. Everything in here except `SourceConfig` decides numbers and is
therefore part of a unit's key. docs/paper.md says for each default what the paper leaves open.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from unlearning.errors import ConfigError

TARGETS = ("zero", "random")
OUTPUTS = ("logits", "softmax")
PRECISIONS = ("float32", "bf16")


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Refuse an impossible setting with an error that names it and what is allowed.

    Raises:
        ConfigError: `condition` is false, or the value is infinite or not a number.
    """
    finite = not isinstance(value, float) or math.isfinite(value)
    if not (condition and finite):
        raise ConfigError(f"{key} is {value!r}; allowed: {allowed}")


def require_ratio(ratio: float, key: str = "forget_ratio") -> None:
    """Refuse a forget ratio outside (0, 1]; 0.01 means 1 % of the training set.

    Raises:
        ConfigError: the ratio is not above 0, or is above 1.
    """
    require(0.0 < ratio <= 1.0, key, ratio, "above 0 and at most 1 (0.01 is 1 %)")


@dataclass
class SourceConfig:
    """Where a data set's images come from; its content, not this, is in a unit's key."""

    reader: str = "digits"
    image_size: int | None = None  # pixels a side after resizing; None: the reader's default
    # The reader "arrays" only: .npy files, or one .npz that holds `images` and `labels`.
    train_images: str | None = None
    train_labels: str | None = None
    test_images: str | None = None
    test_labels: str | None = None


@dataclass
class SplitConfig:
    """How the official training split is divided; seeded once for all trials of a sweep."""

    validation_fraction: float = 0.1
    test_fraction: float = 0.1  # used only where a data set has no official test split
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            require(0.0 < value < 0.5, f"split.{name}", value, "between 0 and 0.5, both excluded")


@dataclass
class ModelConfig:
    """A network by name, and the data-independent scaling of its input.

    Pixels in [0, 1] become (pixel - pixel_mean) / pixel_std. The two numbers are fixed, not
    estimated from images, so that no forget image leaves a trace in a scratch model.
    """

    name: str = "two_conv"
    widths: list[int] = field(default_factory=lambda: [32, 64])  # channels of two_conv's layers
    pixel_mean: float = 0.5
    pixel_std: float = 0.5

    def __post_init__(self) -> None:
        ok = len(self.widths) == 2 and all(width >= 1 for width in self.widths)
        require(ok, "model.widths", self.widths, "two positive channel counts")
        finite = math.isfinite(self.pixel_mean)
        require(finite, "model.pixel_mean", self.pixel_mean, "any finite number")
        require(self.pixel_std > 0, "model.pixel_std", self.pixel_std, "above 0")


def _require_positive_training(
    section: str, epochs: int, batch_size: int, lr: float, epochs_key: str = "epochs"
) -> None:
    require(epochs >= 1, f"{section}.{epochs_key}", epochs, "1 or more")
    require(batch_size >= 2, f"{section}.batch_size", batch_size, "2 or more")
    require(lr > 0, f"{section}.learning_rate", lr, "above 0")


@dataclass
class TrainingConfig:
    """Pre-training of the original, and training of the scratch model (paper, section 4.1)."""

    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 1e-3  # Adam

    def __post_init__(self) -> None:
        _require_positive_training("training", self.epochs, self.batch_size, self.learning_rate)


@dataclass
class NeutralizationConfig:
    """Stage 1 (Algorithms 1 to 3)."""

    target: str = "zero"  # accuracy on the forget set at which to stop
    outputs: str = "logits"  # what Algorithm 1 averages
    max_epochs: int = 5000
    batch_size: int | None = None  # None: that of pre-training
    learning_rate: float = 1e-3  # Adam

    def __post_init__(self) -> None:
        require(self.target in TARGETS, "neutralization.target", self.target, ", ".join(TARGETS))
        require(self.outputs in OUTPUTS, "neutralization.outputs", self.outputs, ", ".join(OUTPUTS))
        _require_positive_training(
            "neutralization",
            self.max_epochs,
            2 if self.batch_size is None else self.batch_size,
            self.learning_rate,
            epochs_key="max_epochs",
        )


@dataclass
class RetrainingConfig:
    """Stage 2: alpha * CE + beta * KD, then CE alone (paper, equations 1 to 4)."""

    epochs: int | None = None  # None: half the pre-training epochs
    batch_size: int | None = None  # None: that of pre-training
    learning_rate: float = 1e-3  # Adam
    alpha: float = 1.1
    beta: float = 0.9
    distillation_epochs: int = 10
    temperature: float = 4.0
    temperature_squared: bool = True  # multiply KD by T^2, as Hinton et al. do
    data_fraction: float = 1.0  # share of the retain set seen in each epoch

    def __post_init__(self) -> None:
        _require_positive_training(
            "retraining",
            1 if self.epochs is None else self.epochs,
            2 if self.batch_size is None else self.batch_size,
            self.learning_rate,
        )
        require(self.temperature > 0, "retraining.temperature", self.temperature, "above 0")
        require(self.alpha >= 0, "retraining.alpha", self.alpha, "0 or more")
        require(self.beta >= 0, "retraining.beta", self.beta, "0 or more")
        require(
            self.distillation_epochs >= 0,
            "retraining.distillation_epochs",
            self.distillation_epochs,
            "0 or more",
        )
        require(
            0 < self.data_fraction <= 1,
            "retraining.data_fraction",
            self.data_fraction,
            "above 0 and at most 1",
        )


@dataclass
class NumericsConfig:
    """How numbers are computed; all of it can move the last bits, so all of it is in the key."""

    precision: str = "float32"
    deterministic: bool = True
    channels_last: bool = True
    cpu_threads: int = 1

    def __post_init__(self) -> None:
        require(
            self.precision in PRECISIONS,
            "numerics.precision",
            self.precision,
            ", ".join(PRECISIONS),
        )
        require(self.cpu_threads >= 1, "numerics.cpu_threads", self.cpu_threads, "1 or more")


SECTIONS: dict[str, type[Any]] = {
    "source": SourceConfig,
    "split": SplitConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "neutralization": NeutralizationConfig,
    "retraining": RetrainingConfig,
    "numerics": NumericsConfig,
}


@dataclass
class TrialSettings:
    """All scientific settings of the trials of one data set, fully resolved."""

    source: SourceConfig = field(default_factory=SourceConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    neutralization: NeutralizationConfig = field(default_factory=NeutralizationConfig)
    retraining: RetrainingConfig = field(default_factory=RetrainingConfig)
    numerics: NumericsConfig = field(default_factory=NumericsConfig)

    def __post_init__(self) -> None:
        # Copies, since a section may be shared by settings that resolve it differently.
        self.neutralization = replace(self.neutralization)
        self.retraining = replace(self.retraining)
        if self.neutralization.batch_size is None:
            self.neutralization.batch_size = self.training.batch_size
        if self.retraining.batch_size is None:
            self.retraining.batch_size = self.training.batch_size
        if self.retraining.epochs is None:
            self.retraining.epochs = max(1, self.training.epochs // 2)

    @classmethod
    def from_json(cls, sections: dict[str, Any]) -> "TrialSettings":
        """The settings that `dataclasses.asdict` wrote; missing sections get defaults."""
        return cls(
            **{name: make(**sections[name]) for name, make in SECTIONS.items() if name in sections}
        )


@dataclass(frozen=True)
class Seeds:
    """The three named seeds of a trial; one number usually sets all three."""

    training: int = 0
    forget: int = 0
    unlearning: int = 0

    @classmethod
    def all(cls, seed: int) -> "Seeds":
        """One seed for training, forget draw and unlearning."""
        return cls(seed, seed, seed)
