"""Accuracy on the forget set by stage, which the paper does not show.

Stage 1 drives it down, and stage 2 can bring it back: the teacher and the retain set both know
the classes. Whether that is forgetting depends on the reference, so both stand side by side.
"""

from collections.abc import Sequence

import pandas as pd

from sweep.report.aggregate import PAIR, SEEDS, Column, Results, Trials, paired, select
from sweep.report.cells import (
    PERCENT,
    POINTS,
    SPREAD_NOTE,
    Cell,
    Row,
    Section,
    Style,
    Table,
    cell_keys,
    labels_of,
    measured,
    strategy_label,
    unfinished,
)
from sweep.report.statistics import summarize

# The project's convention, not the paper's: how near to scratch counts as like scratch.
CLOSE_TO_SCRATCH = 0.05
_VALUE = "forget_accuracy"
_ROUNDING = 1e-9  # 0.1 as a mean of tenths may be the next number above 0.1
_ROWS = (
    *("original", "neutralized", "retrained", "scratch"),
    "rebound",
    "gap to scratch",
    "at or below chance: neutralized",
    "at or below chance: retrained",
    "at or below chance: scratch",
    "like scratch: neutralized",
    "like scratch: retrained",
)


def forgetting_table(results: Results) -> Table:
    """Accuracy on the forget set by state, the rebound of stage 2, and the two criteria."""
    sections = []
    for strategy in results.strategies:
        cells = [_cells(results, column, strategy) for column in results.columns]
        rows = tuple(
            Row(label, tuple(column[index] for column in cells))
            for index, label in enumerate(_ROWS)
        )
        sections.append(Section(strategy_label(strategy), "state", labels_of(results), rows))
    notes = (
        "Mean accuracy in % on the forget set itself, over all forget ratios of the sweep.",
        "rebound = retrained minus neutralized in the same trial; gap to scratch = retrained "
        "minus scratch of the same ratio, training seed and forget draw; in percentage points.",
        "Two criteria side by side, as the share of trials that meet them. The paper's: at or "
        "below chance, 1 / number of classes. The field's: like scratch, which never saw the "
        f"forget set; here within {100 * CLOSE_TO_SCRATCH:g} percentage points of it, a "
        "convention of this project.",
        SPREAD_NOTE,
    )
    return Table("forgetting", "Accuracy on the forget set by stage", tuple(sections), notes)


def _cells(results: Results, column: Column, strategy: str) -> list[Cell]:
    """One data set's cells in the order of `_ROWS`."""
    trials = {
        state: select(results.frame, column.dataset, "two_stage", state, strategy)
        for state in ("original", "neutralized", "retrained")
    }
    trials["scratch"] = select(results.frame, column.dataset, "scratch", "scratch")
    cells = [_state_cell(column, strategy, state, found) for state, found in trials.items()]
    own_seeds = SEEDS["two_stage"]
    neutralized, retrained = trials["neutralized"], trials["retrained"]
    scratch = trials["scratch"]
    rebound = paired(retrained.rows, neutralized.rows, _VALUE, own_seeds)
    gaps = {
        state: paired(trials[state].rows, scratch.rows, _VALUE, PAIR)
        for state in ("neutralized", "retrained")
    }
    cells.append(_difference_cell(column, strategy, "rebound", rebound, retrained))
    gap = gaps["retrained"]
    cells.append(_difference_cell(column, strategy, "gap to scratch", gap, retrained, scratch))
    for state in ("neutralized", "retrained", "scratch"):
        accuracies = trials[state].rows[_VALUE].dropna()
        met = list(accuracies <= column.chance + _ROUNDING)
        cells.append(_share_cell(column, strategy, state, "at or below chance", met, trials[state]))
    for state, pairs in gaps.items():
        apart = (pairs["first"] - pairs["second"]).abs()
        met = list(apart <= CLOSE_TO_SCRATCH + _ROUNDING)
        cells.append(_share_cell(column, strategy, state, "like scratch", met, retrained, scratch))
    return cells


def _state_cell(column: Column, strategy: str, state: str, trials: Trials) -> Cell:
    # The scratch model has no strategy; it stands in every strategy's section as the reference.
    keys = cell_keys(column, state, "forget accuracy", strategy)
    return measured(summarize(100 * trials.rows[_VALUE]), trials.counts, keys, PERCENT)


def _scratch_details(scratch: Trials | None) -> tuple[str, ...]:
    words = "" if scratch is None else unfinished(scratch.counts)
    return (f"scratch: {words}",) if words else ()


def _difference_cell(
    column: Column,
    strategy: str,
    quantity: str,
    pairs: pd.DataFrame,
    trials: Trials,
    scratch: Trials | None = None,
) -> Cell:
    return measured(
        summarize(100 * (pairs["first"] - pairs["second"])),
        trials.counts,
        cell_keys(column, "retrained", quantity, strategy),
        POINTS,
        details=_scratch_details(scratch),
    )


def _share_cell(
    column: Column,
    strategy: str,
    state: str,
    quantity: str,
    met: Sequence[bool],
    trials: Trials,
    scratch: Trials | None = None,
) -> Cell:
    """The share of trials that meet a criterion; nothing where the criterion is unknown."""
    known = quantity != "at or below chance" or column.chance == column.chance
    summary = summarize([100.0 * value for value in met] if known else [])
    return measured(
        summary,
        trials.counts,
        cell_keys(column, state, quantity, strategy),
        Style(decimals=0, unit="% of trials"),
        headline=f"{sum(met)} of {len(met)}",
        details=_scratch_details(scratch),
        extras={"trials_that_meet_it": sum(met) if known else None},
    )
