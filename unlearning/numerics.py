"""How torch computes while a unit runs: threads, determinism, precision; put back afterwards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unlearning.config import NumericsConfig


@contextmanager
def numerics(config: NumericsConfig) -> Iterator[None]:
    """Apply `config` to torch's global switches for the length of a `with` block.

    A process that computes many units one after the other must not carry a switch from one to the
    next: all of them are set here, and the former values return at the end.

    Deterministic is the paper's setting: deterministic algorithms only, no cuDNN benchmarking.
    float32 means IEEE float32, without TF32. Before torch's first use of CUDA in the process
    CUBLAS_WORKSPACE_CONFIG must be set for deterministic matrix products; it is set here too,
    which is early enough for a process whose first CUDA call comes later.
    """
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )
    try:
        # Nothing here reads memory before writing it; filling it would only cost time.
        _set(config.cpu_threads, config.deterministic, False, not config.deterministic, False, False)
        yield
    finally:
        _set(*before)


def _set(
    threads: int,
    deterministic: bool,
    fill_memory: bool,
    cudnn_benchmark: bool,
    cudnn_tf32: bool,
    matmul_tf32: bool,
) -> None:
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill_memory
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.backends.cudnn.allow_tf32 = cudnn_tf32
    torch.backends.cuda.matmul.allow_tf32 = matmul_tf32


def autocast(config: NumericsConfig, device: torch.device) -> torch.autocast:
    """A context in which matrix products run in bf16 where asked for; weights stay float32."""
    return torch.autocast(
        device_type=device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"
    )
