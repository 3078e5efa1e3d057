"""unlearning.neutralize: Algorithm 3, its two targets, and its cap."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning import neutralize as neutralize_module
from unlearning.config import ModelConfig, NeutralizationConfig, TrialSettings
from unlearning.contrast import Matching
from unlearning.datasets import PreparedDataset
from unlearning.images import ImageBatches
from unlearning.models import build_model
from unlearning.neutralize import neutralize, record_targets
from unlearning.seeding import generator
from unlearning.training import Event, TrainState
from unlearning.trial import TrialResult

MakeSettings = Callable[..., TrialSettings]
MakeBatches = Callable[[PreparedDataset, TrialSettings], ImageBatches]

FORGET = torch.arange(40)
NEXT = Matching({0: 1, 1: 2, 2: 3, 3: 0})


@pytest.fixture
def run(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_batches: MakeBatches,
) -> Callable[..., tuple[TrainState, list[Event]]]:
    """`run(NeutralizationConfig(...))` neutralizes the trained original on FORGET."""

    def from_original(
        config: NeutralizationConfig, seed: int = 0
    ) -> tuple[TrainState, list[Event]]:
        trial = make_settings(neutralization=config)
        model = build_model(trial.model, (1, 8, 8), 4, 0)
        model.load_state_dict(tiny_trial.original.models["original"])
        state = TrainState.start(model, config.learning_rate)
        events = neutralize(
            state,
            forget=FORGET,
            matching=NEXT,
            seed=seed,
            data=make_batches(patterns, trial),
            settings=trial,
        )
        return state, list(events)

    return from_original


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[TrainState, list[Event]]]
) -> Callable[..., tuple[int, dict[str, int]]]:
    """`script(accuracies, target, cap)` runs with accuracies on the forget set given in advance."""

    def with_accuracies(
        accuracies: list[float], target: str, max_epochs: int = 50
    ) -> tuple[int, dict[str, int]]:
        values = iter(accuracies)
        monkeypatch.setattr(neutralize_module, "accuracy_on", lambda *ignored: next(values))
        config = NeutralizationConfig(target=target, max_epochs=max_epochs)
        state, events = run(config)
        assert [event["epoch"] for event in events] == list(range(state.epoch + 1))
        assert [event["forget_accuracy"] for event in events] == accuracies[: state.epoch + 1]
        return state.epoch, state.first_epoch_at

    return with_accuracies


@pytest.mark.parametrize(
    ("accuracies", "target", "epochs", "hits"),
    [
        ([1.0, 0.6, 0.2, 0.1, 0.0], "zero", 4, {"random": 2, "zero": 4}),
        ([1.0, 0.6, 0.2, 0.1, 0.0], "random", 2, {"random": 2}),
        ([1.0, 0.25, 0.0], "random", 1, {"random": 1}),  # at the target is enough
        ([1.0, 0.26, 0.0], "random", 2, {"random": 2, "zero": 2}),
        ([1.0, 0.2, 0.5, 0.0], "zero", 3, {"random": 1, "zero": 3}),  # the first hit counts
        ([0.0], "zero", 0, {"random": 0, "zero": 0}),  # before any training
        ([0.1], "random", 0, {"random": 0}),
        ([0.1, 0.0], "zero", 1, {"random": 0, "zero": 1}),
    ],
)
def test_training_goes_on_while_accuracy_is_above_the_target(
    script: Callable[..., tuple[int, dict[str, int]]],
    accuracies: list[float],
    target: str,
    epochs: int,
    hits: dict[str, int],
) -> None:
    assert script(accuracies, target) == (epochs, hits)


def test_the_first_hit_of_a_target_is_kept_when_it_is_hit_again() -> None:
    state = TrainState.start(nn.Linear(1, 1), 0.1)
    for state.epoch, accuracy in enumerate([0.5, 0.25, 0.0, 0.3, 0.0, 0.1]):
        record_targets(state, accuracy, chance=0.25)
    assert state.first_epoch_at == {"random": 1, "zero": 2}


def test_training_ends_at_the_cap_without_having_reached_the_target(
    script: Callable[..., tuple[int, dict[str, int]]],
) -> None:
    epochs, hits = script([1.0, 0.9, 0.2, 0.1], "zero", max_epochs=3)
    assert (epochs, hits) == (3, {"random": 2})


def test_reaching_the_target_in_the_last_epoch_counts(
    script: Callable[..., tuple[int, dict[str, int]]],
) -> None:
    epochs, hits = script([1.0, 0.9, 0.0], "zero", max_epochs=2)
    assert epochs == 2 and hits["zero"] == 2


def test_the_original_loses_the_forget_set_in_favour_of_the_contrastive_labels(
    run: Callable[..., tuple[TrainState, list[Event]]],
    patterns: PreparedDataset,
    make_settings: MakeSettings,
    make_batches: MakeBatches,
) -> None:
    state, events = run(NeutralizationConfig(max_epochs=100, learning_rate=0.01))
    assert events[0]["forget_accuracy"] > 0.9
    assert events[-1]["forget_accuracy"] == 0.0
    assert state.first_epoch_at["zero"] == state.epoch == events[-1]["epoch"]
    assert state.samples == state.epoch * len(FORGET)
    with torch.no_grad():
        predicted = state.model(make_batches(patterns, make_settings()).images(FORGET)).argmax(1)
    wrong = (torch.from_numpy(patterns.labels.copy())[FORGET] + 1) % 4
    assert float((predicted == wrong).float().mean()) > 0.9


def test_an_epoch_is_cross_entropy_towards_the_contrastive_labels(
    run: Callable[..., tuple[TrainState, list[Event]]],
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
) -> None:
    _, events = run(NeutralizationConfig(max_epochs=2, batch_size=16, learning_rate=0.002), 7)
    model = build_model(ModelConfig(widths=[4, 8]), (1, 8, 8), 4, 0)
    model.load_state_dict(tiny_trial.original.models["original"])
    model.double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, fused=False, foreach=False)
    losses = []
    for epoch in (1, 2):
        order = torch.randperm(40, generator=generator("order", "neutralize", 7, epoch))
        total = 0.0
        for start in (0, 16, 32):
            rows = FORGET[order[start : start + 16]].numpy()
            images = (torch.tensor(patterns.images[rows]).double() / 255 - 0.5) / 0.5
            wrong = torch.tensor([NEXT.labels[int(patterns.labels[row])] for row in rows])
            loss = functional.cross_entropy(model(images), wrong)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / 40)
    assert [event["loss"] for event in events[1:]] == pytest.approx(losses, rel=1e-5)


class ModeSpy(nn.Module):
    """A network that notes whether it was in training mode at each call."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[tuple[bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append((self.training, torch.is_grad_enabled()))
        logits: Tensor = self.inner(images)
        return logits


def test_accuracy_is_measured_in_evaluation_mode_and_training_is_in_training_mode(
    patterns: PreparedDataset, make_settings: MakeSettings, make_batches: MakeBatches
) -> None:
    trial = make_settings(neutralization=NeutralizationConfig(max_epochs=2, batch_size=64))
    spy = ModeSpy(build_model(trial.model, (1, 8, 8), 4, 0))
    events = neutralize(
        TrainState.start(spy, 1e-9),
        forget=FORGET,
        matching=NEXT,
        seed=0,
        data=make_batches(patterns, trial),
        settings=trial,
    )
    assert len(list(events)) == 3
    measure, train = (False, False), (True, True)
    assert spy.calls == [measure, train, measure, train, measure]


def test_a_forget_set_of_one_image_is_lost(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_batches: MakeBatches,
) -> None:
    trial = make_settings()
    model = build_model(trial.model, (1, 8, 8), 4, 0)
    model.load_state_dict(tiny_trial.original.models["original"])
    label = int(patterns.labels[5])
    state = TrainState.start(model, 0.01)
    events = neutralize(
        state,
        forget=torch.tensor([5]),
        matching=Matching({label: (label + 1) % 4}),
        seed=0,
        data=make_batches(patterns, trial),
        settings=trial,
    )
    assert list(events)[-1]["forget_accuracy"] == 0.0
    assert state.first_epoch_at["zero"] > 0
