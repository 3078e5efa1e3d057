"""The paper's pipeline from top to bottom; start reading here.

original ──► neutralized (stage 1) ──► retrained (stage 2)          scratch, the reference
"""

import copy

import torch

from unlearning.checkpoint import AfterEpoch, Checkpoint
from unlearning.contrast import contrastive_labels
from unlearning.datasets.prepared import PreparedDataset
from unlearning.errors import DatasetError
from unlearning.images import ResidentImages
from unlearning.neutralize import neutralize
from unlearning.numerics import numerics
from unlearning.pretrain import pretrain
from unlearning.retrain import retrain_neutralized
from unlearning.seeding import generator
from unlearning.training import Log, TrainState, Weights
from unlearning.unit import UnitSpec
from unlearning.workspace import UnitResult, Workspace


def train_from_fresh_weights(work: Workspace, name: str) -> None:
    """The original on the whole training set, or scratch on the retain set (section 4.1)."""
    rows = work.split.train if work.draw is None else work.draw.retain
    settings, seed = work.spec.settings, work.spec.seeds.training
    state = TrainState.start(work.model(), settings.training.learning_rate)
    epochs = pretrain(
        state,
        role=name,
        rows=rows,
        validation=work.split.validation,
        seed=seed,
        data=work.data,
        settings=settings,
    )
    work.train(name, state, epochs)
    work.measure(name, state.model)


def neutralize_and_retrain(work: Workspace, original: Weights) -> None:
    """Both stages of the method; ends after stage 1 if that does not converge (section 3.2)."""
    assert work.draw is not None and work.spec.strategy is not None
    config, seed = work.spec.settings, work.spec.seeds.unlearning
    forget, result = work.draw.forget, work.result
    teacher = work.model(original)
    work.measure("original", teacher, drop=("test", "validation", "retain"))

    matching = contrastive_labels(
        work.spec.strategy,
        result.evaluation.outputs["original/forget"],
        work.labels(forget),
        generator("strategy", work.spec.strategy, seed, f"{work.spec.forget_ratio:.6f}"),
        config.neutralization.outputs,
    )
    state = TrainState.start(copy.deepcopy(teacher), config.neutralization.learning_rate)
    stage_1 = neutralize(
        state, forget=forget, matching=matching, seed=seed, data=work.data, settings=config
    )
    work.train("neutralized", state, stage_1)
    work.measure("neutralized", state.model)
    result.neutralization = {
        "converged": config.neutralization.target in state.first_epoch_at,
        "first_epoch_at_random": state.first_epoch_at.get("random"),
        "first_epoch_at_zero": state.first_epoch_at.get("zero"),
        "contrastive_labels": {str(k): v for k, v in sorted(matching.labels.items())},
        "completed_classes": list(matching.completed),
    }
    if not result.neutralization["converged"]:
        result.outcome = "not_converged"
        return

    state = TrainState.start(state.model, config.retraining.learning_rate)
    stage_2 = retrain_neutralized(
        state,
        teacher,
        retain=work.draw.retain,
        validation=work.split.validation,
        seed=seed,
        data=work.data,
        settings=config,
    )
    work.train("retrained", state, stage_2)
    work.measure("retrained", state.model)


def run_unit(
    spec: UnitSpec,
    dataset: PreparedDataset,
    *,
    original: Weights | None = None,
    resident: ResidentImages | None = None,
    device: str = "cpu",
    log: Log = lambda event: None,
    after_epoch: AfterEpoch = lambda make_checkpoint: None,
    resume: Checkpoint | None = None,
) -> UnitResult:
    """Compute one unit from its specification.

    Args:
        spec: what to compute.
        dataset: the images; their fingerprint must be the specification's.
        original: the parent's weights, for a `two_stage` unit.
        resident: the images on their device, if they are there already; overrides `device`.
        device: "cpu", "cuda" or "cuda:0".
        log: called with a JSON-ready mapping after every epoch.
        after_epoch: called with a function that makes a checkpoint; may raise to end the unit.
        resume: a checkpoint of this unit, to go on from.

    Raises:
        DatasetError: the data set is not the specification's.
        UnlearningError: see unlearning.errors.
    """
    if spec.fingerprint != dataset.fingerprint:
        raise DatasetError(
            f"data set {dataset.name} has fingerprint {dataset.fingerprint[:12]}, the unit was "
            f"planned for {spec.fingerprint[:12]}: its files have changed; plan the sweep again"
        )
    with numerics(spec.settings.numerics):
        resident = resident or ResidentImages.load(dataset, torch.device(device))
        work = Workspace.open(spec, dataset, resident, log, after_epoch, resume)
        if spec.kind == "two_stage":
            assert original is not None, "a two_stage unit starts from an original"
            neutralize_and_retrain(work, original)
        else:
            train_from_fresh_weights(work, spec.kind)
    return work.result
