"""A unit in the middle of its work, as plain data, from which it continues bit for bit.

The order of a batch depends on named draws alone and no other random number is drawn while a unit
runs, so weights, optimiser and counters after an epoch are all that the next epoch needs. What
costs little is not kept but done again: contrastive labels, and measurements of a model state.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearning.training import TrainState

# Called after each epoch with a function that makes the checkpoint, which the caller may write
# or not; an exception that it raises ends the unit there.
AfterEpoch = Callable[[Callable[[], "Checkpoint"]], None]

_COUNTERS = ("epoch", "samples", "seconds", "best_epoch", "first_epoch_at")


@dataclass(frozen=True)
class Checkpoint:
    """What a unit has done so far. The tensors are those of the running models, not copies."""

    tensors: dict[str, Tensor]  # `state/part/name`
    facts: dict[str, Any]  # JSON-ready: counters by state, in the order of the stages; history

    def part(self, state: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and counters of one model state."""
        return under(f"{state}/", self.tensors), self.facts["states"][state]


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    """Every tensor that changes from epoch to epoch, where it is."""
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best_weights.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
    return tensors if state.seen is None else tensors | {"seen": state.seen}


def counters_of(state: TrainState) -> dict[str, Any]:
    """Everything else that changes from epoch to epoch, JSON-ready."""
    counters = {name: getattr(state, name) for name in _COUNTERS}
    best = None if state.best_epoch is None else state.best_accuracy
    return counters | {"best_accuracy": best}


def restore(state: TrainState, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
    """Put a fresh state where the other one was when its tensors and counters were taken.

    A state that is finished may come without optimiser and best weights.

    Raises:
        RuntimeError, KeyError: the tensors are not those of this model.
    """
    state.model.load_state_dict(under("model/", tensors))
    device = next(state.model.parameters()).device
    state.best_weights = {n: t.to(device) for n, t in under("best/", tensors).items()}
    moments = under("optimizer/", tensors)
    if moments:
        _restore_optimizer(state.optimizer, moments)
    state.seen = tensors.get("seen")
    for name in _COUNTERS:
        setattr(state, name, counters[name])
    best = counters["best_accuracy"]
    state.best_accuracy = -math.inf if best is None else best


def _restore_optimizer(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        index, _, moment = name.partition("/")
        parameter = parameters[int(index)]
        if tensor.ndim:
            # In the parameter's memory format, as the optimiser itself would have made it.
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[moment] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
