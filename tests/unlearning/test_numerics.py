"""unlearning.numerics: torch's switches are set for a unit, and put back after it."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from unlearning.config import NumericsConfig
from unlearning.numerics import autocast, numerics

CPU = torch.device("cpu")


def switches() -> dict[str, Any]:
    backends: Any = torch.backends
    deterministic: Any = torch.utils.deterministic
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": deterministic.fill_uninitialized_memory,
        "benchmark": backends.cudnn.benchmark,
        "cuda matmul": backends.cuda.matmul.fp32_precision,
        "cudnn conv": backends.cudnn.conv.fp32_precision,
        "cpu matmul": backends.mkldnn.matmul.fp32_precision,
        "cpu conv": backends.mkldnn.conv.fp32_precision,
    }


@pytest.fixture
def unusual_switches() -> Iterator[dict[str, Any]]:
    """All switches away from both torch's defaults and what a unit sets."""
    backends: Any = torch.backends
    deterministic: Any = torch.utils.deterministic
    before = switches(), torch.get_float32_matmul_precision()
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    yield switches()
    torch.set_float32_matmul_precision(before[1])
    backends.cuda.matmul.fp32_precision = before[0]["cuda matmul"]
    backends.mkldnn.matmul.fp32_precision = before[0]["cpu matmul"]
    torch.set_num_threads(before[0]["threads"])
    torch.use_deterministic_algorithms(before[0]["deterministic"])
    deterministic.fill_uninitialized_memory = before[0]["fill"]
    torch.backends.cudnn.benchmark = before[0]["benchmark"]
    assert switches() == before[0]


@pytest.mark.parametrize("deterministic", [True, False])
def test_switches_are_set_inside(unusual_switches: dict[str, Any], deterministic: bool) -> None:
    with numerics(NumericsConfig(deterministic=deterministic, cpu_threads=1)):
        assert switches() == {
            "threads": 1,
            "deterministic": deterministic,
            "warn only": False,
            "fill": False,
            "benchmark": not deterministic,
            "cuda matmul": "ieee",
            "cudnn conv": "ieee",
            "cpu matmul": "ieee",
            "cpu conv": "ieee",
        }


def test_switches_return_after_the_block_and_after_an_error(
    unusual_switches: dict[str, Any],
) -> None:
    with numerics(NumericsConfig()):
        assert switches() != unusual_switches
    assert switches() == unusual_switches
    with pytest.raises(ZeroDivisionError), numerics(NumericsConfig(deterministic=False)):
        raise ZeroDivisionError
    assert switches() == unusual_switches
    assert torch.get_float32_matmul_precision() == "medium"  # torch's own check of consistency


def test_a_process_that_uses_the_newer_precision_switch_can_compute_a_unit() -> None:
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        with numerics(NumericsConfig()):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_float32_means_ieee_on_the_cpu_whatever_the_process_had_set(
    unusual_switches: dict[str, Any],
) -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=draw) for _ in range(2))
    exact = left.double() @ right.double()
    with numerics(NumericsConfig()):
        product = left @ right
    # bf16 would be off by about 0.1.
    assert float((product.double() - exact).abs().max()) < 1e-3


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_products_on_a_gpu_are_made_possible_and_a_given_setting_is_kept(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    # Also by a unit that does not need it: CUDA reads it once, and the next unit may need it.
    config = NumericsConfig(deterministic=deterministic)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with numerics(config):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with numerics(config):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_bf16_is_computed_in_only_where_asked_for_and_weights_stay_float32() -> None:
    layer = nn.Linear(16, 4)
    images = torch.rand(3, 16)
    with autocast(NumericsConfig(precision="bf16"), CPU):
        low = layer(images)
    with autocast(NumericsConfig(precision="float32"), CPU):
        full = layer(images)
    assert (low.dtype, full.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(full, layer(images))
    assert layer.weight.dtype == torch.float32
    low.float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
