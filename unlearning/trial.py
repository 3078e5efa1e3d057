"""One whole trial for a notebook: original, scratch and the two stages, without a sweep."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unlearning.config import Seeds, SourceConfig, TrialSettings
from unlearning.contrast import get_strategy
from unlearning.datasets import PreparedDataset, prepare
from unlearning.pipeline import run_unit
from unlearning.splits import draw_split, num_forgotten
from unlearning.training import Event
from unlearning.unit import UnitSpec
from unlearning.workspace import UnitResult


@dataclass(frozen=True)
class TrialResult:
    """The three units of one trial."""

    original: UnitResult
    scratch: UnitResult
    two_stage: UnitResult

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracies in [0, 1] under `state/set/accuracy`, for all four model states."""
        return self.original.metrics | self.scratch.metrics | self.two_stage.metrics


def load_dataset(
    reader: str = "digits", data_root: str | Path = "data", *, download: bool = False
) -> PreparedDataset:
    """A named data set, prepared under `data_root/prepared` at its first use.

    Raises:
        ConfigError: the name is unknown.
        DatasetError: files are missing or damaged; says which, and what to do.
    """
    root = Path(data_root)
    return prepare(SourceConfig(reader=reader), root, root / "prepared", download=download)


def run_trial(
    dataset: PreparedDataset,
    forget_ratio: float = 0.05,
    strategy: str = "minimum",
    seed: int | Seeds = 0,
    settings: TrialSettings | None = None,
    device: str = "cpu",
    log: Callable[[Event], None] = lambda event: None,
) -> TrialResult:
    """Train the original and the scratch model, neutralize, retrain, and measure all of them.

    Args:
        forget_ratio: share of the training set to forget; 0.05 is 5 %.
        strategy: how contrastive labels are picked; `known_strategies()` lists them.
        seed: one seed for everything, or three.
        settings: the paper's defaults if None.

    Raises:
        ConfigError: an impossible or unknown setting.
        UnlearningError: see unlearning.errors.
    """
    settings = settings or TrialSettings()
    seeds = seed if isinstance(seed, Seeds) else Seeds.all(int(seed))
    version = get_strategy(strategy).version
    # All that can be refused is refused before the first, long training.
    num_forgotten(forget_ratio, len(draw_split(dataset, settings.split).train))

    original_spec = UnitSpec("original", dataset.fingerprint, settings, seeds)
    scratch_spec = UnitSpec("scratch", dataset.fingerprint, settings, seeds, forget_ratio)
    two_stage_spec = UnitSpec(
        "two_stage",
        dataset.fingerprint,
        settings,
        seeds,
        forget_ratio,
        strategy,
        version,
        original=original_spec.key,
    )
    original = run_unit(original_spec, dataset, device=device, log=log)
    scratch = run_unit(scratch_spec, dataset, device=device, log=log)
    weights = original.models["original"]
    two_stage = run_unit(two_stage_spec, dataset, original=weights, device=device, log=log)
    return TrialResult(original, scratch, two_stage)
