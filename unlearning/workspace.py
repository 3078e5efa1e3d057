"""What a unit's stages share while it runs: its data, its model builder, and its growing result."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.checkpoint import AfterEpoch, Checkpoint, counters_of, restore, tensors_of
from unlearning.datasets.prepared import PreparedDataset
from unlearning.evaluate import Evaluation, evaluate_state
from unlearning.images import ImageBatches, ResidentImages
from unlearning.models import build_model
from unlearning.splits import ForgetDraw, Rows, Split, draw_forget_set, draw_split
from unlearning.training import Event, Log, TrainState, Weights, copy_weights
from unlearning.unit import UnitSpec


@dataclass(frozen=True)
class TrainingSummary:
    """What one training cost, and where it was best."""

    epochs: int
    best_epoch: int | None  # counted from 1; None where none is selected (stage 1)
    samples: int  # images seen, each pass counted
    seconds: float  # wall time, measurements between epochs included

    @classmethod
    def of(cls, state: TrainState) -> "TrainingSummary":
        """The summary of a training that has ended."""
        return cls(state.epoch, state.best_epoch, state.samples, state.seconds)


@dataclass
class UnitResult:
    """Everything that a unit found out; plain data and CPU tensors."""

    outcome: str  # "done" or "not_converged"
    num_classes: int
    sets: dict[str, Rows]  # row numbers of each named set
    evaluation: Evaluation = field(default_factory=Evaluation)
    training: dict[str, TrainingSummary] = field(default_factory=dict)  # by state
    neutralization: dict[str, Any] | None = None  # two_stage only
    models: dict[str, Weights] = field(default_factory=dict)  # by state, on the CPU
    trained_on: dict[str, Tensor] = field(default_factory=dict)  # bool [N] by state: images seen
    history: list[Event] = field(default_factory=list)  # every epoch of every stage, once

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracies in [0, 1] under `state/set/accuracy`."""
        return self.evaluation.metrics


@dataclass
class Workspace:
    """One unit being computed."""

    spec: UnitSpec
    data: ImageBatches
    split: Split
    draw: ForgetDraw | None  # None for an original
    log: Log
    after_epoch: AfterEpoch
    resume: Checkpoint | None  # where an earlier attempt was interrupted
    result: UnitResult
    _finished: dict[str, TrainState] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        spec: UnitSpec,
        dataset: PreparedDataset,
        resident: ResidentImages,
        log: Log,
        after_epoch: AfterEpoch,
        resume: Checkpoint | None,
    ) -> "Workspace":
        """Draw the unit's sets and lay out an empty result.

        Raises:
            ConfigError: the forget ratio leaves an empty set.
            DatasetError: too few images.
        """
        settings = spec.settings
        split = draw_split(dataset, settings.split)
        sets = {"train": split.train, "validation": split.validation, "test": split.test}
        draw = None
        if spec.forget_ratio is not None:
            draw = draw_forget_set(split.train, spec.forget_ratio, spec.seeds.forget)
            del sets["train"]
            sets |= {"retain": draw.retain, "forget": draw.forget}
        return cls(
            spec=spec,
            data=ImageBatches(resident, settings.model, settings.numerics),
            split=split,
            draw=draw,
            log=log,
            after_epoch=after_epoch,
            resume=resume,
            result=UnitResult(
                "done",
                dataset.num_classes,
                sets,
                history=[] if resume is None else list(resume.facts["history"]),
            ),
        )

    def model(self, weights: Weights | None = None) -> nn.Module:
        """The unit's network on its device: with fresh seeded weights, or with those given."""
        settings, resident = self.spec.settings, self.data.resident
        model = build_model(
            settings.model, resident.shape, resident.num_classes, self.spec.seeds.training
        )
        if weights is not None:
            model.load_state_dict(weights)
        memory = torch.channels_last if settings.numerics.channels_last else torch.contiguous_format
        return model.to(device=resident.device, memory_format=memory)  # type: ignore[call-overload, no-any-return]

    def train(self, name: str, state: TrainState, events: Iterable[Event]) -> None:
        """Run a stage to its end, log each epoch, and keep the resulting weights as `name`.

        A stage that an earlier attempt has begun goes on where it was; one that it had finished is
        taken as it ended. `events` must do nothing before it is iterated.
        """
        saved = [] if self.resume is None else list(self.resume.facts["states"])
        if self.resume is not None and name in saved:
            restore(state, *self.resume.part(name))
        if name not in saved[:-1]:
            for event in events:
                entry = {"state": name, **event, "samples": state.samples}
                self.result.history.append(entry)
                self.log(entry)
                if state.epoch:  # before the first epoch there is nothing to keep
                    self.after_epoch(partial(self._checkpoint, name, state))
        self.result.training[name] = TrainingSummary.of(state)
        weights = copy_weights(state.model)
        self.result.models[name] = {key: tensor.cpu() for key, tensor in weights.items()}
        if state.seen is not None:
            self.result.trained_on[name] = state.seen
        self._finished[name] = state

    def _checkpoint(self, name: str, state: TrainState) -> Checkpoint:
        """The stages finished so far, and the one under way."""
        tensors: dict[str, Tensor] = {}
        states: dict[str, Any] = {}
        for finished, past in self._finished.items():
            states[finished] = counters_of(past)
            parts = {f"model/{key}": t for key, t in self.result.models[finished].items()}
            if finished in self.result.trained_on:
                parts["seen"] = self.result.trained_on[finished]
            tensors |= {f"{finished}/{key}": tensor for key, tensor in parts.items()}
        states[name] = counters_of(state)
        tensors |= {f"{name}/{key}": tensor for key, tensor in tensors_of(state).items()}
        return Checkpoint(tensors, {"states": states, "history": list(self.result.history)})

    def measure(self, name: str, model: nn.Module, drop: Collection[str] = ("retain",)) -> None:
        """Evaluate a model state on all sets of the unit; logits on `drop` sets are not kept."""
        numerics = self.spec.settings.numerics
        evaluate_state(
            self.result.evaluation, name, model, self.result.sets, self.data, numerics, drop
        )

    def labels(self, rows: Rows) -> Tensor:
        """Class numbers of rows, on the CPU."""
        return self.data.labels(rows.to(self.data.resident.device)).cpu()
