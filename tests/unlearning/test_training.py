"""unlearning.training and unlearning.pretrain: batches, epochs, and the choice of the best one."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from unlearning.config import ModelConfig, NumericsConfig, TrainingConfig, TrialSettings
from unlearning.datasets import PreparedDataset
from unlearning.errors import DivergedError
from unlearning.images import ImageBatches, ResidentImages
from unlearning.models import build_model
from unlearning.pretrain import pretrain
from unlearning.seeding import generator
from unlearning.training import (
    Event,
    TrainState,
    copy_weights,
    shuffled_batches,
    train_epoch,
    train_with_selection,
)

MakeSettings = Callable[..., TrialSettings]
MakeBatches = Callable[[PreparedDataset, TrialSettings], ImageBatches]
NUMERICS = NumericsConfig()


@pytest.fixture
def data(patterns: PreparedDataset) -> ImageBatches:
    resident = ResidentImages.load(patterns, torch.device("cpu"))
    return ImageBatches(resident, ModelConfig(), NUMERICS)


def fresh_state(learning_rate: float = 0.01) -> TrainState:
    model = build_model(ModelConfig(widths=[4, 8]), (1, 8, 8), 4, seed=0)
    return TrainState.start(model, learning_rate)


@given(
    num_rows=st.integers(1, 90),
    batch_size=st.integers(2, 40),
    fraction=st.sampled_from([1.0, 0.5, 0.01]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_an_epoch_sees_each_row_once_and_no_batch_of_one(
    num_rows: int, batch_size: int, fraction: float
) -> None:
    rows = torch.arange(100, 100 + num_rows)
    batches = shuffled_batches(rows, batch_size, "order", 0, fraction=fraction)
    seen = torch.cat(batches).tolist()
    count = max(1, round(fraction * num_rows))
    assert len(seen) == len(set(seen)) == count
    assert set(seen) <= set(rows.tolist())
    if count > 1:
        assert min(len(batch) for batch in batches) >= 2
    assert max(len(batch) for batch in batches) <= batch_size + 1
    assert len(batches) <= math.ceil(count / batch_size)


def test_a_trailing_batch_of_one_is_joined_to_the_batch_before_it() -> None:
    sizes = [len(batch) for batch in shuffled_batches(torch.arange(33), 16, "order")]
    assert sizes == [16, 17]


def test_the_order_depends_on_its_name_alone_and_changes_each_epoch() -> None:
    rows = torch.arange(50)
    torch.manual_seed(1)
    first = torch.cat(shuffled_batches(rows, 8, "order", "original", 0, 1))
    torch.manual_seed(2)
    again = torch.cat(shuffled_batches(rows, 8, "order", "original", 0, 1))
    assert torch.equal(first, again)
    for other in (("original", 0, 2), ("original", 1, 1), ("scratch", 0, 1)):
        assert not torch.equal(first, torch.cat(shuffled_batches(rows, 8, "order", *other)))


def test_an_epochs_loss_is_the_mean_over_images_not_over_batches(data: ImageBatches) -> None:
    state = fresh_state(learning_rate=1e-12)  # so that all batches meet the same weights
    rows = torch.arange(41)
    batches = list(torch.split(rows, 32))

    def loss(images: Tensor, batch: Tensor) -> Tensor:
        return functional.cross_entropy(state.model(images), data.labels(batch))

    with torch.no_grad():
        logits = state.model(data.images(rows)).double()
    expected = float(functional.cross_entropy(logits, data.labels(rows)))
    assert train_epoch(state, batches, loss, data, NUMERICS) == pytest.approx(expected, rel=1e-5)
    assert (state.epoch, state.samples) == (1, 41)


def test_training_agrees_with_the_obvious_loop(patterns: PreparedDataset) -> None:
    """Adam and cross-entropy in float64, image by image scaled, against two epochs of ours."""
    rows, validation = torch.arange(0, 200), torch.arange(200, 220)
    trial = TrialSettings(
        model=ModelConfig(widths=[4, 8]), training=TrainingConfig(2, 32, learning_rate=0.003)
    )
    data = ImageBatches(
        ResidentImages.load(patterns, torch.device("cpu")), trial.model, trial.numerics
    )
    state = fresh_state(0.003)
    events = list(
        pretrain(
            state,
            role="original",
            rows=rows,
            validation=validation,
            seed=5,
            data=data,
            settings=trial,
        )
    )
    model = build_model(ModelConfig(widths=[4, 8]), (1, 8, 8), 4, seed=0).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003, fused=False, foreach=False)
    losses = []
    for epoch in (1, 2):
        order = torch.randperm(200, generator=generator("order", "original", 5, epoch))
        total = 0.0
        for start in range(0, 200, 32):
            batch = rows[order[start : start + 32]].numpy()
            images = (torch.tensor(patterns.images[batch]).double() / 255 - 0.5) / 0.5
            loss = functional.cross_entropy(model(images), torch.tensor(patterns.labels[batch]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / 200)
    assert [event["loss"] for event in events] == pytest.approx(losses, rel=1e-5)


class ScriptedModel(nn.Module):
    """Its one weight counts the training steps, so that weights say which epoch they are from."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.steps.expand(len(images))


def scripted_training(
    data: ImageBatches, accuracies: list[float]
) -> tuple[TrainState, list[Event]]:
    """One step an epoch, and validation accuracies that are given in advance."""
    model = ScriptedModel()
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=1.0))
    validation: Iterator[float] = iter(accuracies)
    events = train_with_selection(
        state,
        epochs=len(accuracies),
        epoch_batches=lambda epoch: [torch.arange(4)],
        epoch_loss=lambda epoch: lambda images, rows: -model(images).mean(),
        validate=lambda: next(validation),
        data=data,
        numerics=NUMERICS,
    )
    return state, list(events)


@pytest.mark.parametrize(
    ("accuracies", "best_epoch"),
    [
        ([0.1, 0.5, 0.9], 3),
        ([0.9, 0.5, 0.1], 1),
        ([0.2, 0.7, 0.7, 0.3, 0.7], 2),
        ([0.0, 0.0], 1),
    ],
)
def test_the_best_epoch_is_the_earliest_of_the_highest_validation_accuracy(
    data: ImageBatches, accuracies: list[float], best_epoch: int
) -> None:
    state, events = scripted_training(data, accuracies)
    assert state.best_epoch == best_epoch
    assert state.best_accuracy == max(accuracies)
    assert state.model.state_dict()["steps"].item() == best_epoch
    assert [event["epoch"] for event in events] == list(range(1, len(accuracies) + 1))
    assert [event["validation_accuracy"] for event in events] == accuracies


def test_best_weights_are_copies_that_later_epochs_do_not_change(data: ImageBatches) -> None:
    state = fresh_state()
    copied = copy_weights(state.model)
    before = {name: tensor.clone() for name, tensor in copied.items()}

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(state.model(images), data.labels(rows))

    train_epoch(state, [torch.arange(32)], loss, data, NUMERICS)
    assert all(torch.equal(copied[name], before[name]) for name in copied)
    assert not torch.equal(copied["fc.weight"], state.model.state_dict()["fc.weight"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training_with_its_epoch(
    data: ImageBatches, value: float
) -> None:
    state = fresh_state()

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        weight = value if state.epoch == 1 and 0 in rows else 1.0
        return functional.cross_entropy(state.model(images), data.labels(rows)) * weight

    batches = list(torch.split(torch.arange(64), 32))
    train_epoch(state, batches, loss, data, NUMERICS)
    with pytest.raises(DivergedError, match="epoch 2"):
        train_epoch(state, batches, loss, data, NUMERICS)
    assert state.epoch == 1


def test_a_learning_rate_far_too_high_diverges(
    patterns: PreparedDataset, make_settings: MakeSettings, make_batches: MakeBatches
) -> None:
    trial = make_settings(training=TrainingConfig(5, 32, learning_rate=1e30))
    events = pretrain(
        fresh_state(1e30),
        role="original",
        rows=torch.arange(200),
        validation=torch.arange(200, 240),
        seed=0,
        data=make_batches(patterns, trial),
        settings=trial,
    )
    with pytest.raises(DivergedError):
        list(events)


def test_a_training_continued_after_any_epoch_ends_as_if_it_had_not_stopped(
    patterns: PreparedDataset, make_settings: MakeSettings, make_batches: MakeBatches
) -> None:
    trial = make_settings()
    data = make_batches(patterns, trial)
    states = [fresh_state(), fresh_state()]
    events = []
    for state in states:
        epochs = pretrain(
            state,
            role="original",
            rows=torch.arange(150),
            validation=torch.arange(150, 200),
            seed=0,
            data=data,
            settings=trial,
        )
        seen = [next(epochs)]
        if state is states[1]:  # leave the generator, and start a new one on the same state
            torch.rand(5)
            epochs = pretrain(
                state,
                role="original",
                rows=torch.arange(150),
                validation=torch.arange(150, 200),
                seed=0,
                data=data,
                settings=trial,
            )
        events.append(seen + list(epochs))
    assert events[0] == events[1]
    whole, continued = (state.model.state_dict() for state in states)
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    assert states[0].samples == states[1].samples == 150 * trial.training.epochs


def test_one_image_can_train_a_network_with_batch_normalisation(data: ImageBatches) -> None:
    # 1x1 maps, as in a ResNet's last layers: torch refuses to normalise one value by itself.
    model = nn.Sequential(
        nn.Conv2d(1, 3, kernel_size=8), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4)
    )
    state = TrainState.start(model, 0.001)
    before = copy_weights(model)

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(state.model(images), data.labels(rows))

    train_epoch(state, shuffled_batches(torch.tensor([3]), 16, "one"), loss, data, NUMERICS)
    after = copy_weights(model)
    assert not torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["3.weight"], after["3.weight"])
    # A single image says nothing about a batch: the running statistics are used, and stay.
    assert torch.equal(before["1.running_mean"], after["1.running_mean"])
    # The next batch of several images is normalised by itself again.
    train_epoch(state, [torch.arange(2)], loss, data, NUMERICS)
    assert not torch.equal(after["1.running_mean"], model.state_dict()["1.running_mean"])


def test_only_the_training_set_is_trained_on(
    patterns: PreparedDataset, make_settings: MakeSettings, make_batches: MakeBatches
) -> None:
    """Every image outside the training and validation rows, pixels and label, is another one."""
    trial = make_settings()
    images, labels = patterns.images.copy(), patterns.labels.copy()
    images[180:], labels[180:] = 0, (labels[180:] + 1) % 4
    poisoned = replace(patterns, images=images, labels=labels)
    ends = []
    for dataset in (patterns, poisoned):
        state = fresh_state()
        epochs = pretrain(
            state,
            role="scratch",
            rows=torch.arange(150),
            validation=torch.arange(150, 180),
            seed=0,
            data=make_batches(dataset, trial),
            settings=trial,
        )
        ends.append((list(epochs), state.model.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])
