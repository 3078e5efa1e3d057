"""What befell the units, and where their numbers come from: counts and names, no measurement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from sweep.report.aggregate import OUTCOMES, outcome_counts

if TYPE_CHECKING:
    from sweep.plan import Plan

KIND_WORDS = {"original": "original", "scratch": "scratch", "two_stage": "two-stage"}
_NAMED_UNITS = 5  # of each cause; the others are counted
_WITHOUT_RESULT = ("failed", "blocked", "damaged")
_FINISHED = ("done", "not_converged")


@dataclass(frozen=True)
class StateRow:
    """Units of one kind, or all of them, by outcome."""

    label: str
    counts: Mapping[str, int]  # by outcome, in the order of OUTCOMES

    @property
    def planned(self) -> int:
        """Number of units of the plan, whatever became of them."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class CauseGroup:
    """Units that have no result for the same reason."""

    outcome: str
    cause: str
    keys: tuple[str, ...]
    names: tuple[str, ...]  # of the first units, then how many more there are


def state_rows(frame: pd.DataFrame) -> list[StateRow]:
    """One row a kind of unit, then all of them; together they add up to the plan."""
    rows = [
        StateRow(words, outcome_counts(frame[frame["kind"] == kind]))
        for kind, words in KIND_WORDS.items()
    ]
    return [*rows, StateRow("all", outcome_counts(frame))]


def cause_groups(plan: "Plan", frame: pd.DataFrame) -> list[CauseGroup]:
    """Units that failed, wait for one that failed, or have a damaged record, by cause."""
    units = frame[frame["outcome"].isin(_WITHOUT_RESULT)].drop_duplicates("unit")
    groups = []
    for (outcome, cause), group in units.groupby(["outcome", "cause"], sort=False):
        keys = tuple(group["unit"])
        shown = [f"{plan.units[key].label} ({key[:12]})" for key in keys[:_NAMED_UNITS]]
        if len(keys) > len(shown):
            shown.append(f"and {len(keys) - len(shown)} more")
        groups.append(CauseGroup(str(outcome), str(cause), keys, tuple(shown)))
    return groups


def origins(frame: pd.DataFrame, by: Sequence[str]) -> list[tuple[tuple[str, ...], int]]:
    """Number of units with a record by the columns `by`, such as commit and device."""
    recorded = frame.drop_duplicates("unit")
    recorded = recorded[recorded["outcome"].isin(_FINISHED)]
    groups = recorded.fillna(dict.fromkeys(by, "unknown")).groupby(list(by))
    return [(tuple(map(str, names)), len(group)) for names, group in groups]


def outcome_words(outcomes: Sequence[str] = OUTCOMES) -> list[str]:
    """The outcomes as people read them."""
    return [outcome.replace("_", " ") for outcome in outcomes]
