"""How torch computes while a unit runs: threads, determinism, precision; put back afterwards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from unlearning.config import NumericsConfig

NONDETERMINISTIC, ERROR_IF_NONDETERMINISTIC = 0, 2  # torch.set_deterministic_debug_mode


@contextmanager
def numerics(config: NumericsConfig) -> Iterator[None]:
    """Apply `config` to torch's global switches for the length of a `with` block.

    A process that computes many units one after the other must not carry a switch from one to the
    next: all of them are set here, and the former values return at the end.

    Deterministic is the paper's setting: deterministic algorithms only, no cuDNN benchmarking.
    float32 means IEEE float32, without TF32. Deterministic matrix products on a GPU need
    CUBLAS_WORKSPACE_CONFIG before the process's first one; it is set here, which is early enough
    where nothing else has multiplied on the GPU before.
    """
    # Read once a process, so it is set for the units that come after this one as well.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
        tuple(backend.fp32_precision for backend in _float32_backends()),
    )
    mode = ERROR_IF_NONDETERMINISTIC if config.deterministic else NONDETERMINISTIC
    ieee = ("ieee",) * len(_float32_backends())
    try:
        # Nothing here reads memory before writing it; filling it would only cost time.
        _set(config.cpu_threads, mode, False, not config.deterministic, ieee)
        yield
    finally:
        _set(*before)


def _float32_backends() -> tuple[Any, ...]:
    """Where torch may compute float32 in fewer bits, each with an attribute `fp32_precision`.

    Not the older `allow_tf32`: it cannot be read where somebody set the newer attribute, and does
    not cover the CPU, where torch.set_float32_matmul_precision("medium") means bf16.
    """
    cuda = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn  # the attributes of these two are made at import
    mkldnn: Any = torch.backends.mkldnn
    return cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn


def _set(
    threads: int,
    deterministic_mode: int,
    fill_memory: bool,
    cudnn_benchmark: bool,
    float32_precisions: tuple[str, ...],
) -> None:
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    # The debug mode, since it also knows "warn only", which must come back as it was.
    torch.set_deterministic_debug_mode(deterministic_mode)
    torch.utils.deterministic.fill_uninitialized_memory = fill_memory  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = cudnn_benchmark
    for backend, precision in zip(_float32_backends(), float32_precisions, strict=True):
        backend.fp32_precision = precision


def autocast(config: NumericsConfig, device: torch.device) -> torch.autocast:
    """A context in which matrix products run in bf16 where asked for; weights stay float32."""
    return torch.autocast(
        device_type=device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"
    )
