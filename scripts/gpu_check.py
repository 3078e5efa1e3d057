"""Check and time the GPU path on a real GPU, with nothing but torch and torchvision installed.

Run it in a checkout; nothing needs to be installed from it:

    python scripts/gpu_check.py            # checks, then times
    python scripts/gpu_check.py --cpu      # the same checks on the CPU, to try the script

Checks, on seeded random images: a whole trial runs on the device; the same seed gives the same
weights bit for bit, with ResNet-50 too; the device agrees with the CPU to within rounding for one
step; bf16 and channels-last run and stay finite; a process limited to a fraction of the memory is
held to it; reusing the process leaves no setting behind. Then times training in images a second,
by precision and memory layout, as ratios to plain float32 in one run.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.nn import functional

from unlearning.config import ModelConfig, NumericsConfig, Seeds, TrainingConfig, TrialSettings
from unlearning.datasets.prepared import PreparedDataset
from unlearning.images import ImageBatches, ResidentImages
from unlearning.models import build_model
from unlearning.numerics import numerics
from unlearning.pipeline import run_unit
from unlearning.training import TrainState, shuffled_batches, train_epoch
from unlearning.unit import UnitSpec


def random_images(count: int, side: int, channels: int, classes: int) -> PreparedDataset:
    """Seeded images whose class shows in their brightness, so that a network can learn it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count, dtype=np.int64)
    noise = rng.integers(0, 64, (count, channels, side, side))
    images = (noise + (labels * (191 // classes))[:, None, None, None]).astype(np.uint8)
    names = tuple(str(label) for label in range(classes))
    return PreparedDataset("noise", "0" * 64, images, labels, names, count // 6, None)


def trial_weights(
    data: PreparedDataset, settings: TrialSettings, device: str
) -> list[torch.Tensor]:
    """Weights of original, scratch, neutralized and retrained model of one trial."""
    seeds = Seeds.all(0)
    original_spec = UnitSpec("original", data.fingerprint, settings, seeds)
    original = run_unit(original_spec, data, device=device)
    scratch_spec = UnitSpec("scratch", data.fingerprint, settings, seeds, 0.1)
    scratch = run_unit(scratch_spec, data, device=device)
    spec = UnitSpec(
        "two_stage", data.fingerprint, settings, seeds, 0.1, "minimum", 1, original_spec.key
    )
    two_stage = run_unit(spec, data, original=original.models["original"], device=device)
    assert two_stage.outcome == "done", "stage 1 did not converge"
    models = original.models | scratch.models | two_stage.models
    return [tensor for weights in models.values() for tensor in weights.values()]


def settings_for(
    model: str, precision: str = "float32", channels_last: bool = True
) -> TrialSettings:
    return TrialSettings(
        model=ModelConfig(name=model),
        training=TrainingConfig(epochs=2, batch_size=64),
        numerics=NumericsConfig(precision=precision, channels_last=channels_last),
    )


def check_repeats(device: str, model: str, data: PreparedDataset, precision: str) -> None:
    settings = settings_for(model, precision)
    first, second = (trial_weights(data, settings, device) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "runs differ"
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in first), "not finite"


def check_against_cpu(device: str, data: PreparedDataset) -> float:
    """Largest difference of the loss of a first batch between device and CPU, relative."""
    losses = []
    for place in ("cpu", device):
        config = NumericsConfig()
        with numerics(config):
            resident = ResidentImages.load(data, torch.device(place))
            batches = ImageBatches(resident, ModelConfig(), config)
            model = build_model(ModelConfig(), resident.shape, resident.num_classes, 0).to(place)
            rows = torch.arange(256, device=place)
            losses.append(
                functional.cross_entropy(model(batches.images(rows)), batches.labels(rows)).item()
            )
    difference = abs(losses[0] - losses[1]) / losses[0]
    assert difference < 1e-4, f"loss on the device differs by {difference:.1e}"
    return difference


def check_memory_fraction() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.25)
    try:
        torch.empty(total // 2, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        pass
    else:
        raise AssertionError("half of the memory was given to a process limited to a quarter")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def epoch_timer(device: str, model: str, data: PreparedDataset, config: NumericsConfig,
                batch_size: int) -> Callable[[], float]:  # fmt: skip
    """A function that trains one epoch and returns images a second."""
    settings = ModelConfig(name=model)
    resident = ResidentImages.load(data, torch.device(device))
    batches = ImageBatches(resident, settings, config)
    memory = torch.channels_last if config.channels_last else torch.contiguous_format
    network = build_model(settings, resident.shape, resident.num_classes, 0)
    state = TrainState.start(network.to(device=device, memory_format=memory), 1e-3)
    rows = torch.arange(len(data.labels))

    def loss(images: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(network(images), batches.labels(batch))

    def epoch() -> float:
        with numerics(config):
            order = shuffled_batches(rows, batch_size, "time", state.epoch)
            started = time.perf_counter()
            train_epoch(state, order, loss, batches, config)
            return len(rows) / (time.perf_counter() - started)

    return epoch


def time_training(device: str, model: str, data: PreparedDataset, rounds: int, batch: int) -> None:
    variants = {
        "float32, contiguous": NumericsConfig(channels_last=False),
        "float32, channels-last (default)": NumericsConfig(),
        "bf16, channels-last": NumericsConfig(precision="bf16"),
        "float32, channels-last, not deterministic": NumericsConfig(deterministic=False),
    }
    timers = {n: epoch_timer(device, model, data, c, batch) for n, c in variants.items()}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, timer in timers.items():
            rate = timer()
            if turn:  # the first warms up
                rates[name].append(rate)
    base = rates["float32, contiguous"]
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
        print(f"  {model}, {name}: {statistics.median(found):,.0f} images/s, ratio {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cpu", action="store_true", help="try the script without a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = "cpu" if arguments.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU; --cpu tries the script without one")
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")

    grey, colour = random_images(1200, 28, 1, 10), random_images(360, 32, 3, 10)
    print(f"loss against the CPU: relative difference {check_against_cpu(device, grey):.1e}")
    for model, data in (("two_conv", grey), ("resnet50", colour)):
        for precision in ("float32", "bf16"):
            check_repeats(device, model, data, precision)
            print(f"{model}, {precision}: a whole trial twice, weights equal bit for bit")
    assert not torch.are_deterministic_algorithms_enabled(), "a setting was left behind"
    if device == "cuda":
        check_memory_fraction()
        print("memory fraction: held")
    print("training throughput, ratios to float32 contiguous, round by round:")
    sizes = (12_000, 2_000) if device == "cuda" else (1_000, 100)
    time_training(device, "two_conv", random_images(sizes[0], 28, 1, 10), arguments.rounds, 128)
    time_training(device, "resnet50", random_images(sizes[1], 32, 3, 10), arguments.rounds, 128)
    print("all checks passed")


if __name__ == "__main__":
    main()
