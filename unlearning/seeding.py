"""Every random draw comes from a generator with a name; no global random state is read."""

import hashlib

import torch


def derive_seed(*names: object) -> int:
    """A seed in [0, 2**63) that is fixed by the names, on every machine and Python version.

    Args:
        names: what the draw is for, such as ("order", "scratch", seed, epoch). Floats are refused
            since their text form is a trap; pass a formatted string.
    """
    assert not any(isinstance(name, float) for name in names), names
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*names: object) -> torch.Generator:
    """A fresh CPU generator seeded by `derive_seed(*names)`.

    Draws are made on the CPU also for work on a GPU, so that both see the same order and subsets.
    """
    return torch.Generator().manual_seed(derive_seed(*names))
