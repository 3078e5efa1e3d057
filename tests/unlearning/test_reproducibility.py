"""Same unit, same bits: again, in another process, and whatever ran before."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearning.config import (
    NeutralizationConfig,
    NumericsConfig,
    Seeds,
    TrainingConfig,
    TrialSettings,
)
from unlearning.datasets import PreparedDataset
from unlearning.pipeline import run_unit
from unlearning.training import Event, Weights
from unlearning.trial import TrialResult, run_trial
from unlearning.unit import UnitSpec

MakeSettings = Callable[..., TrialSettings]
MakeSpec = Callable[..., UnitSpec]


def digest(trial: TrialResult) -> dict[str, str]:
    """SHA-256 over all bytes of each state's weights."""
    models = trial.original.models | trial.scratch.models | trial.two_stage.models
    return {state: weights_digest(weights) for state, weights in models.items()}


def weights_digest(weights: Weights) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        content.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return content.hexdigest()


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(
    patterns: PreparedDataset, tiny_trial: TrialResult, make_settings: MakeSettings
) -> None:
    first = digest(tiny_trial)
    again = digest(run_trial(patterns, 0.1, "minimum", 0, make_settings()))
    other = digest(run_trial(patterns, 0.1, "minimum", 1, make_settings()))
    assert set(first) == {"original", "scratch", "neutralized", "retrained"}
    assert again == first
    assert all(other[state] != first[state] for state in first)


IN_ANOTHER_PROCESS = """
import json, sys
import numpy as np
from unlearning.datasets import PreparedDataset
from unlearning.datasets.prepared import content_fingerprint
from unlearning.pipeline import run_unit
from unlearning.unit import UnitSpec

sys.path.insert(0, sys.argv[2])
arrays = np.load(sys.argv[1])
specs = [UnitSpec.from_json(spec) for spec in json.loads(sys.argv[3])]
data = PreparedDataset(
    "patterns", specs[0].fingerprint, arrays["images"], arrays["labels"], tuple("abcd"), 0, None
)
original = run_unit(specs[0], data)
results = [original, run_unit(specs[1], data)]
results.append(run_unit(specs[2], data, original=original.models["original"]))
metrics, weights = {}, {}
for result in results:
    metrics |= result.metrics
    weights |= result.models
import hashlib
digests = {}
for state, tensors in weights.items():
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(name.encode() + tensor.contiguous().numpy().tobytes())
    digests[state] = content.hexdigest()
print(json.dumps({"metrics": metrics, "digests": digests}))
"""


def test_another_process_computes_the_same_from_the_json_specification(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "patterns.npz", images=patterns.images, labels=patterns.labels)
    kinds = ("original", "scratch", "two_stage")
    specs = [make_spec(kind, patterns, make_settings()).to_json() for kind in kinds]
    arguments = [str(tmp_path / "patterns.npz"), str(tmp_path), json.dumps(specs)]
    ran = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"},
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["digests"] == digest(tiny_trial)
    assert found["metrics"] == tiny_trial.metrics


def test_what_ran_before_in_the_process_does_not_matter(
    patterns: PreparedDataset,
    tiny_trial: TrialResult,
    make_settings: MakeSettings,
    make_spec: MakeSpec,
) -> None:
    """Other seeds, threads and switches of the process, another unit, and one that failed."""
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    unusual = make_settings(
        numerics=NumericsConfig(precision="bf16", deterministic=False, cpu_threads=2)
    )

    def interrupt(event: Event) -> None:
        raise InterruptedError

    try:
        run_unit(make_spec("scratch", patterns, unusual, Seeds.all(8)), patterns)
        with pytest.raises(InterruptedError):
            run_unit(make_spec("original", patterns, unusual), patterns, log=interrupt)
        again = digest(run_trial(patterns, 0.1, "minimum", 0, make_settings()))
    finally:
        torch.set_num_threads(1)
    assert again == digest(tiny_trial)


def test_a_unit_moves_no_global_random_state(
    patterns: PreparedDataset, make_settings: MakeSettings
) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    run_trial(patterns, 0.1, "random", 0, make_settings())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert random.getstate() == before[2]


def events_of(
    patterns: PreparedDataset, settings: TrialSettings
) -> tuple[list[Event], TrialResult]:
    events: list[Event] = []
    result = run_trial(patterns, 0.1, "minimum", 0, settings, log=events.append)
    return events, result


@pytest.fixture(scope="module")
def reference(
    patterns: PreparedDataset, make_settings: MakeSettings
) -> tuple[list[Event], TrialResult]:
    return events_of(patterns, gentle(make_settings))


def gentle(make_settings: MakeSettings, **numerics: Any) -> TrialSettings:
    """Small steps, so that differences in the last bits stay small."""
    return make_settings(
        training=TrainingConfig(4, 32, 0.002),
        neutralization=NeutralizationConfig(max_epochs=200, learning_rate=0.002),
        numerics=NumericsConfig(**numerics),
    )


@pytest.mark.parametrize("numerics", [{"channels_last": False}, {"cpu_threads": 2}])
def test_memory_layout_and_threads_agree_up_to_rounding(
    patterns: PreparedDataset,
    make_settings: MakeSettings,
    reference: tuple[list[Event], TrialResult],
    numerics: dict[str, Any],
) -> None:
    events, result = events_of(patterns, gentle(make_settings, **numerics))
    losses, expected = (
        [event["loss"] for event in run if "loss" in event] for run in (events, reference[0])
    )
    assert losses == pytest.approx(expected, rel=1e-3)
    assert result.metrics == pytest.approx(reference[1].metrics, abs=0.02)


def test_bf16_trains_on_the_cpu_close_to_float32_with_float32_weights(
    patterns: PreparedDataset,
    make_settings: MakeSettings,
    reference: tuple[list[Event], TrialResult],
) -> None:
    events, result = events_of(patterns, gentle(make_settings, precision="bf16"))
    losses, expected = (
        [event["loss"] for event in run if event["state"] == "original"]
        for run in (events, reference[0])
    )
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.05)
    for unit in (result.original, result.scratch, result.two_stage):
        for weights in unit.models.values():
            assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        for logits in unit.evaluation.outputs.values():
            assert logits.dtype == torch.float32 and torch.isfinite(logits).all()
    bits = result.original.evaluation.outputs["original/test"]
    assert torch.equal(bits, bits.bfloat16().float())  # the last product was made in bf16
