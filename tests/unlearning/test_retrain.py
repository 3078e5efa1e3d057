"""unlearning.retrain: distillation against a float64 oracle, and when it is used."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning import retrain
from unlearning.config import ModelConfig, RetrainingConfig, TrainingConfig, TrialSettings
from unlearning.datasets import PreparedDataset
from unlearning.images import ImageBatches
from unlearning.models import build_model
from unlearning.retrain import distillation_loss, retrain_neutralized
from unlearning.seeding import generator
from unlearning.training import Event, TrainState, copy_weights

MakeSettings = Callable[..., TrialSettings]
MakeBatches = Callable[[PreparedDataset, TrialSettings], ImageBatches]

RETAIN, VALIDATION = torch.arange(0, 120), torch.arange(120, 150)


def probabilities(logits: list[float], temperature: float) -> list[float]:
    """Equation 1."""
    powers = [math.exp(value / temperature) for value in logits]
    return [power / math.fsum(powers) for power in powers]


def oracle(
    student: list[list[float]], teacher: list[list[float]], temperature: float, squared: bool
) -> float:
    """KL(teacher || student) of each image written out, averaged over images."""
    total = 0.0
    for student_row, teacher_row in zip(student, teacher, strict=True):
        p = probabilities(teacher_row, temperature)
        q = probabilities(student_row, temperature)
        total += math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(student) * (temperature**2 if squared else 1)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (3, 100)])
def test_distillation_agrees_with_the_divergence_written_out(
    shape: tuple[int, int], temperature: float, squared: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (5 * torch.randn(shape, generator=draw) for _ in "st")
    expected = oracle(student.tolist(), teacher.tolist(), temperature, squared)
    found = distillation_loss(student, teacher, temperature, squared)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_distillation_is_zero_for_equal_distributions() -> None:
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    assert float(distillation_loss(logits, logits, 4.0, True)) == pytest.approx(0, abs=1e-6)
    assert float(distillation_loss(logits, logits + 3, 4.0, True)) == pytest.approx(0, abs=1e-6)


def test_the_teachers_distribution_comes_first_in_the_divergence() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    p = 1 / (1 + math.exp(-2))
    forward = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    reverse = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    assert abs(forward - reverse) > 0.1
    assert float(distillation_loss(student, teacher, 1.0, True)) == pytest.approx(forward)


def test_the_squared_temperature_keeps_the_gradients_size() -> None:
    teacher = torch.tensor([[0.02, 0.0, -0.01]], dtype=torch.float64)
    sizes = {}
    for squared in (True, False):
        for temperature in (1.0, 8.0):
            student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
            loss = distillation_loss(student, teacher, temperature, squared)
            loss.backward()  # type: ignore[no-untyped-call]
            assert student.grad is not None
            sizes[squared, temperature] = float(student.grad.norm())
    assert sizes[True, 8.0] == pytest.approx(sizes[True, 1.0], rel=0.05)
    assert sizes[False, 8.0] == pytest.approx(sizes[False, 1.0] / 64, rel=0.05)


def test_low_precision_logits_are_compared_in_float32() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 10, generator=draw).bfloat16() for _ in "st")
    expected = oracle(student.tolist(), teacher.tolist(), 4.0, True)
    found = distillation_loss(student, teacher, 4.0, True)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def stage_2(
    patterns: PreparedDataset, make_settings: MakeSettings, make_batches: MakeBatches
) -> Callable[..., tuple[TrainState, TrainState, list[Event]]]:
    """`stage_2(RetrainingConfig(...))`: student and teacher, of other weights each, and events."""

    def retrained(
        config: RetrainingConfig,
        data: PreparedDataset = patterns,
        training: TrainingConfig | None = None,
        seed: int = 3,
    ) -> tuple[TrainState, TrainState, list[Event]]:
        sections: dict[str, Any] = {"retraining": config}
        if training is not None:
            sections["training"] = training
        trial = make_settings(**sections)
        student, teacher = (
            TrainState.start(build_model(trial.model, (1, 8, 8), 4, number), 0.003)
            for number in (0, 1)
        )
        events = retrain_neutralized(
            student,
            teacher.model,
            retain=RETAIN,
            validation=VALIDATION,
            seed=seed,
            data=make_batches(data, trial),
            settings=trial,
        )
        return student, teacher, list(events)

    return retrained


Stage2 = Callable[..., tuple[TrainState, TrainState, list[Event]]]


@pytest.mark.parametrize(
    ("config", "distilled"),
    [
        (RetrainingConfig(epochs=3, distillation_epochs=2), 2),
        (RetrainingConfig(epochs=3, distillation_epochs=0), 0),
        (RetrainingConfig(epochs=3, distillation_epochs=10), 3),
        (RetrainingConfig(epochs=2, distillation_epochs=1, temperature_squared=False), 1),
        (RetrainingConfig(epochs=2, distillation_epochs=1, alpha=0.3, beta=2.0), 1),
        (RetrainingConfig(epochs=2, distillation_epochs=2, temperature=1.5), 2),
    ],
)
def test_the_mixture_is_used_for_the_first_epochs_and_plain_cross_entropy_after_them(
    stage_2: Stage2, patterns: PreparedDataset, config: RetrainingConfig, distilled: int
) -> None:
    _, _, events = stage_2(config)
    student = build_model(ModelConfig(widths=[4, 8]), (1, 8, 8), 4, 0).double()
    teacher = build_model(ModelConfig(widths=[4, 8]), (1, 8, 8), 4, 1).double()
    optimizer = torch.optim.Adam(student.parameters(), lr=0.003, fused=False, foreach=False)
    losses = []
    for epoch in range(1, len(events) + 1):
        order = torch.randperm(120, generator=generator("order", "retrain", 3, epoch))
        total = 0.0
        for start in range(0, 120, 32):
            rows = RETAIN[order[start : start + 32]].numpy()
            images = (torch.tensor(patterns.images[rows]).double() / 255 - 0.5) / 0.5
            logits = student(images)
            loss = functional.cross_entropy(logits, torch.tensor(patterns.labels[rows]))
            if epoch <= distilled:
                p = (teacher(images).detach() / config.temperature).softmax(1)
                q = (logits / config.temperature).softmax(1)
                divergence = (p * (p / q).log()).sum() / len(rows)
                factor = config.temperature**2 if config.temperature_squared else 1
                loss = config.alpha * loss + config.beta * factor * divergence
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / 120)
    assert [event["loss"] for event in events] == pytest.approx(losses, rel=1e-4)


def test_the_teacher_runs_in_the_distilling_epochs_only(
    stage_2: Stage2, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return distillation_loss(*arguments)

    monkeypatch.setattr(retrain, "distillation_loss", counted)
    stage_2(RetrainingConfig(epochs=5, distillation_epochs=3))
    assert len(calls) == 3 * 4  # epochs times batches
    assert all(call[2:] == (4.0, True) for call in calls)


def test_the_teacher_gets_no_gradient_and_stays_as_it_was(stage_2: Stage2) -> None:
    _, teacher, _ = stage_2(RetrainingConfig(epochs=2, distillation_epochs=2))
    fresh = build_model(ModelConfig(widths=[4, 8]), (1, 8, 8), 4, 1).state_dict()
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    after = teacher.model.state_dict()
    assert all(torch.equal(fresh[name], after[name]) for name in fresh)


def test_a_teacher_with_batch_normalisation_is_used_in_evaluation_mode_and_not_changed(
    patterns: PreparedDataset, make_settings: MakeSettings, make_batches: MakeBatches
) -> None:
    trial = make_settings(retraining=RetrainingConfig(epochs=2, distillation_epochs=2))
    teacher = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 4)).train()
    before = copy_weights(teacher)
    events = retrain_neutralized(
        TrainState.start(build_model(trial.model, (1, 8, 8), 4, 0), 0.001),
        teacher,
        retain=RETAIN,
        validation=VALIDATION,
        seed=0,
        data=make_batches(patterns, trial),
        settings=trial,
    )
    assert len(list(events)) == 2
    after = teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_but_the_retain_set_is_trained_on(
    stage_2: Stage2, patterns: PreparedDataset
) -> None:
    """Rows from 150 on are neither retained nor validated; here they are other images."""
    images, labels = patterns.images.copy(), patterns.labels.copy()
    images[150:], labels[150:] = 0, (labels[150:] + 1) % 4
    config = RetrainingConfig(epochs=3, distillation_epochs=2)
    clean, _, clean_events = stage_2(config)
    other, _, other_events = stage_2(config, replace(patterns, images=images, labels=labels))
    assert clean_events == other_events
    first, second = clean.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_retraining_lasts_half_the_pretraining_by_default(stage_2: Stage2) -> None:
    _, _, events = stage_2(RetrainingConfig(), training=TrainingConfig(epochs=7, batch_size=64))
    assert len(events) == 3


@pytest.mark.parametrize(("fraction", "seen"), [(1.0, 120), (0.5, 60), (0.25, 30), (0.001, 1)])
def test_an_epoch_sees_the_configured_share_of_the_retain_set(
    stage_2: Stage2, fraction: float, seen: int
) -> None:
    config = RetrainingConfig(epochs=2, distillation_epochs=1, data_fraction=fraction)
    student, _, _ = stage_2(config)
    assert student.samples == 2 * seen


def test_another_unlearning_seed_orders_the_batches_differently(stage_2: Stage2) -> None:
    config = RetrainingConfig(epochs=1, distillation_epochs=1)
    losses = {seed: stage_2(config, seed=seed)[2][0]["loss"] for seed in (0, 1)}
    assert losses[0] != losses[1]
    assert stage_2(config, seed=0)[2][0]["loss"] == losses[0]
