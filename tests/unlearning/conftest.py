"""Tiny data sets made on the spot, settings to match, and the units that several tests look at."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearning import contrast
from unlearning.config import (
    ModelConfig,
    NeutralizationConfig,
    NumericsConfig,
    RetrainingConfig,
    Seeds,
    TrainingConfig,
    TrialSettings,
)
from unlearning.datasets import PreparedDataset
from unlearning.datasets.prepared import content_fingerprint
from unlearning.images import ImageBatches, ResidentImages
from unlearning.trial import TrialResult, load_dataset, run_trial
from unlearning.unit import UnitSpec

GOLDEN = Path(__file__).parent / "golden"


def build_dataset(
    num_images: int = 240,
    num_classes: int = 4,
    channels: int = 1,
    side: int = 8,
    num_official_test: int = 0,
    num_groups: int | None = None,
    seed: int = 0,
) -> PreparedDataset:
    """Noisy copies of one pattern a class, read-only as a memory map is; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_images) % num_classes).astype(np.int64)
    patterns = rng.integers(0, 256, (num_classes, channels, side, side))
    noise = rng.normal(0, 40, (num_images, channels, side, side))
    images = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
    groups = None
    if num_groups is not None:
        groups = rng.permutation(np.arange(num_images) % num_groups).astype(np.int64)
    for array in (images, labels):
        array.flags.writeable = False
    return PreparedDataset(
        name="patterns",
        fingerprint=content_fingerprint(images, labels, groups, num_official_test, num_classes),
        images=images,
        labels=labels,
        class_names=tuple(f"pattern {number}" for number in range(num_classes)),
        num_official_test=num_official_test,
        groups=groups,
    )


def build_settings(**sections: Any) -> TrialSettings:
    """Settings of a trial that takes a fraction of a second; sections given here replace them."""
    tiny: dict[str, Any] = {
        "model": ModelConfig(widths=[4, 8]),
        "training": TrainingConfig(epochs=6, batch_size=32, learning_rate=0.01),
        "neutralization": NeutralizationConfig(max_epochs=100, learning_rate=0.01),
        "retraining": RetrainingConfig(epochs=3, learning_rate=0.02, distillation_epochs=2),
        "numerics": NumericsConfig(),
    }
    return TrialSettings(**(tiny | sections))


def build_spec(
    kind: str,
    data: PreparedDataset,
    settings: TrialSettings,
    seeds: Seeds | None = None,
    forget_ratio: float = 0.1,
    strategy: str = "minimum",
) -> UnitSpec:
    """A unit of a kind, with what that kind takes."""
    spec = UnitSpec(kind, data.fingerprint, settings, seeds or Seeds())
    values: dict[str, Any] = {}
    if kind != "original":
        values["forget_ratio"] = forget_ratio
    if kind == "two_stage":
        parent = UnitSpec("original", data.fingerprint, settings, spec.seeds)
        values |= {"strategy": strategy, "strategy_version": 1, "original": parent.key}
    return UnitSpec(kind, data.fingerprint, settings, spec.seeds, **values)


def build_batches(data: PreparedDataset, settings: TrialSettings) -> ImageBatches:
    """A data set on the CPU, ready for a network."""
    resident = ResidentImages.load(data, torch.device("cpu"))
    return ImageBatches(resident, settings.model, settings.numerics)


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    """So that tests which train outside of a unit do not wait for a busy second core."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., PreparedDataset]:
    """`make_dataset(num_images=240, num_official_test=0, num_groups=None, ...)`."""
    return build_dataset


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., TrialSettings]:
    """`make_settings(training=TrainingConfig(...), ...)`."""
    return build_settings


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., UnitSpec]:
    """`make_spec(kind, data, settings, seeds=Seeds(), forget_ratio=0.1, strategy="minimum")`."""
    return build_spec


@pytest.fixture(scope="session")
def make_batches() -> Callable[[PreparedDataset, TrialSettings], ImageBatches]:
    """`make_batches(data, settings)`."""
    return build_batches


@pytest.fixture(scope="session")
def patterns() -> PreparedDataset:
    """240 images of 4 classes, [240, 1, 8, 8], without an official test split."""
    return build_dataset()


@pytest.fixture(scope="session")
def tiny_trial(patterns: PreparedDataset) -> TrialResult:
    """A whole trial on `patterns` with the tiny settings; not to be changed."""
    return run_trial(patterns, 0.1, "minimum", 0, build_settings())


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """scikit-learn's digits, prepared once."""
    return load_dataset("digits", tmp_path_factory.mktemp("data"))


@pytest.fixture
def own_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategies that the test registers are gone after it."""
    monkeypatch.setattr(contrast, "_strategies", dict(contrast._strategies))


@dataclass(frozen=True)
class Golden:
    """JSON files under golden/, which scripts/refresh_golden.py writes anew."""

    refreshing: bool

    def read(self, name: str) -> dict[str, Any]:
        """What a file holds; nothing where it is about to be written for the first time."""
        path = GOLDEN / name
        if self.refreshing and not path.exists():
            return {}
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def write(self, name: str, content: dict[str, Any]) -> None:
        (GOLDEN / name).write_text(json.dumps(content, indent=1) + "\n")


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(refreshing=os.environ.get("USWEEP_REFRESH_GOLDEN") == "1")
