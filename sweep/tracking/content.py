"""What a unit says in Weights & Biases: every name that stands there is made here.

A unit is one W&B run. Its id is the unit's key, so that whoever tracks the same unit into the same
project meets the same run.

    config      where the unit is in the grid, under short names for axes and filters, and its whole
                resolved specification under `spec/`
    history     one row an epoch: `<state>/epoch`, `<state>/loss`, `<state>/<set>/accuracy`, with
                `<state>/epoch` as the step axis of its stage, and what its node was doing under
                `node/`
    summary     what the record says: `<state>/<set>/accuracy` of the finished state, its cost,
                `rebound`, and `outcome`
"""

from collections.abc import Mapping
from typing import Any

from sweep.plan import Plan, PlannedUnit, spec_without_version

Row = dict[str, Any]

NODE = "node"  # what its machine was doing, in the history
OUTCOME, REBOUND, CAUSE = "outcome", "rebound", "cause"
MAX_TAG, MAX_NAME = 64, 128  # what W&B takes
_SETS = {"validation_accuracy": "validation", "forget_accuracy": "forget"}


def accuracy_key(state: str, name: str) -> str:
    """Name of a state's accuracy on a set, in history, summary and records alike."""
    return f"{state}/{name}/accuracy"


def epoch_key(state: str) -> str:
    """Name of the step axis of a state's training."""
    return f"{state}/epoch"


def history_row(event: Mapping[str, Any], node: Mapping[str, Any] | None = None) -> Row:
    """One epoch as a row of the history.

    Args:
        event: a line of the unit's `metrics.jsonl`.
        node: what its machine was doing meanwhile, if that was measured.
    """
    state = event["state"]
    row: Row = {}
    for name, value in event.items():
        if name != "state":
            split = _SETS.get(name)
            row[f"{state}/{name}" if split is None else accuracy_key(state, split)] = value
    return row | {f"{NODE}/{name}": value for name, value in (node or {}).items()}


def summary_of(record: Mapping[str, Any]) -> Row:
    """What a finished unit's record says, flat, for tables and parallel coordinates."""
    row: Row = {OUTCOME: record["outcome"], **record["metrics"]}
    for state, cost in record["training"].items():
        row |= {f"{state}/{name}": value for name, value in cost.items() if value is not None}
        # Of the finished state, not of the last epoch; see also epoch_key.
        row[epoch_key(state)] = cost["epochs"]
    stage_1 = record.get("neutralization") or {}
    for name in ("first_epoch_at_random", "first_epoch_at_zero"):
        if stage_1.get(name) is not None:
            row[f"neutralized/{name}"] = stage_1[name]
    for name in ("samples", "seconds"):
        row[f"total/{name}"] = sum(cost[name] for cost in record["training"].values())
    after = [record["metrics"].get(accuracy_key(s, "forget")) for s in ("neutralized", "retrained")]
    if None not in after:
        row[REBOUND] = after[1] - after[0]
    return row


def config_of(plan: Plan, unit: PlannedUnit) -> Row:
    """Where a unit is in the grid, and everything that decides its numbers.

    The version of a strategy is in its module, which would need torch here; it is known once there
    is a record, whose specification takes the place of this one (see `config_of_record`).
    """
    dataset = plan.datasets[unit.dataset]
    return {
        "kind": unit.kind,
        "dataset": unit.dataset,
        "reader": dataset.reader,
        "model": dataset.settings.model.name,
        "forget_ratio": unit.forget_ratio,
        "strategy": unit.strategy,
        "training_seed": unit.seeds.training,
        "forget_seed": unit.seeds.forget,
        "unlearning_seed": unit.seeds.unlearning,
        "num_classes": dataset.num_classes,
        "chance": 1 / dataset.num_classes if dataset.num_classes else None,
        "num_train": dataset.num_train,
        "unit": unit.key,
        "spec": spec_without_version(dataset, unit).to_json(),
    }


def config_of_record(record: Mapping[str, Any]) -> Row:
    """What a record adds to a unit's configuration."""
    return {"spec": record["spec"], "provenance": record["provenance"], "counts": record["counts"]}


def tags_of(plan: Plan, unit: PlannedUnit) -> list[str]:
    """The sweep and the unit's place on each axis, for filters by a click."""
    seeds = unit.seeds
    tags = [sweep_tag(plan.name), *map(dataset_tag, (unit.dataset, *unit.also_in))]
    if unit.forget_ratio is not None:
        tags.append(f"forget:{100 * unit.forget_ratio:g}%")
    if unit.strategy is not None:
        tags.append(f"strategy:{unit.strategy}")
    if len({seeds.training, seeds.forget, seeds.unlearning}) == 1:
        tags.append(f"seed:{seeds.training}")
    else:
        tags.append(f"seeds:{seeds.training}/{seeds.forget}/{seeds.unlearning}")
    return [tag[:MAX_TAG] for tag in tags]


def sweep_tag(name: str) -> str:
    """The tag of all units of a sweep; a unit that several sweeps share has one of each."""
    return f"sweep:{name}"[:MAX_TAG]


def dataset_tag(name: str) -> str:
    """The tag of all units of a data set."""
    return f"data:{name}"[:MAX_TAG]
