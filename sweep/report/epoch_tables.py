"""Tables 3 and 5 of the paper: how many epochs each stage takes, and what they cost."""

from collections.abc import Mapping

import pandas as pd

from sweep.report import paper_values as paper
from sweep.report.aggregate import (
    PAIR,
    Column,
    Results,
    Trials,
    outcome_counts,
    paired,
    select,
    two_stage_cost,
)
from sweep.report.cells import (
    EPOCHS,
    RANGE_ABSENT,
    SAMPLES,
    SECONDS,
    SPREAD_NOTE,
    Cell,
    Row,
    Section,
    Style,
    Table,
    cell_keys,
    labels_of,
    measured,
    number,
    strategy_label,
    unfinished,
    with_spread,
)
from sweep.report.statistics import summarize

MAX_RATIO_ROWS = 20
_TABLE5_COLUMNS = (
    *("unit", "dataset", "strategy", "forget_ratio", "state", "outcome", "epochs"),
    *("first_epoch_at_random", "first_epoch_at_zero"),
)
_COSTS = {"samples": SAMPLES, "seconds": SECONDS}


def table3(results: Results) -> Table:
    """Mean best epoch of retrained and scratch, and what stage 1 adds to it."""
    epochs, stage_1, totals = [], [], []
    for name in results.strategies:
        label = strategy_label(name)
        cells = tuple(_retrained_epoch_cell(results, column, name) for column in results.columns)
        epochs.append(Row(f"retrained, {label}", cells))
        for quantity, style in {"epochs": EPOCHS, **_COSTS}.items():
            row = _row(results, "neutralized", name, quantity, style)
            stage_1.append(Row(f"{quantity}, {label}", row))
    epochs.append(Row("scratch", _row(results, "scratch", None, "best_epoch", EPOCHS)))
    for quantity, style in _COSTS.items():
        for name in results.strategies:
            row = _row(results, "retrained", name, quantity, style)
            totals.append(Row(f"{quantity}, stage 1 + stage 2, {strategy_label(name)}", row))
        row = _row(results, "scratch", None, quantity, style)
        totals.append(Row(f"{quantity}, scratch", row))
    labels = labels_of(results)
    sections = (
        Section("Best epoch", "model", labels, tuple(epochs)),
        Section("Stage 1, not in the paper's table", "stage 1", labels, tuple(stage_1)),
        Section("Both stages against scratch", "cost", labels, tuple(totals)),
    )
    notes = (
        "Forget ratios of 1 to 10 % only, as in the paper. gap = scratch minus retrained, the "
        "mean over pairs of the same ratio, training seed and forget draw.",
        "Stage 1 is not in the best epoch, which is an epoch of stage 2; its epochs come on top, "
        "each of them a pass over the forget set alone.",
        "Samples are images passed through training, of both stages or of scratch to its end. "
        "Training the original model is in neither.",
        SPREAD_NOTE,
    )
    return Table("table3", "Table 3: best epoch", sections, notes)


def _trials(results: Results, column: Column, state: str, strategy: str | None) -> Trials:
    kind = "scratch" if strategy is None else "two_stage"
    return select(results.frame, column.dataset, kind, state, strategy, paper.in_ratio_range)


def _row(
    results: Results, state: str, strategy: str | None, quantity: str, style: Style
) -> tuple[Cell, ...]:
    """One quantity in all data sets; with state "retrained", the cost of both stages."""
    cells = []
    for column in results.columns:
        trials = _trials(results, column, state, strategy)
        rows = trials.rows
        if state == "retrained":
            units = results.frame["unit"].isin(rows["unit"])
            rows = two_stage_cost(results.frame[units])
        known = paper.BEST_EPOCH["scratch"] if quantity == "best_epoch" else {}
        cells.append(
            measured(
                summarize(rows[quantity].astype("float64")),
                trials.counts,
                cell_keys(column, state, quantity.replace("_", " "), strategy),
                style,
                paper=known.get(column.reader),
                absent=RANGE_ABSENT,
            )
        )
    return tuple(cells)


def _retrained_epoch_cell(results: Results, column: Column, strategy: str) -> Cell:
    trials = _trials(results, column, "retrained", strategy)
    scratch = _trials(results, column, "scratch", None)
    pairs = paired(scratch.rows, trials.rows, "best_epoch", PAIR)
    gap = summarize((pairs["first"] - pairs["second"]).astype("float64"))
    own = strategy == paper.PAPER_STRATEGY
    value = paper.BEST_EPOCH["retrained"].get(column.reader) if own else None
    paper_gap = paper.BEST_EPOCH_GAP.get(column.reader) if own else None
    details = [f"gap {number(gap.mean, Style(signed=True))}, n = {gap.n}"] if gap.n else []
    details += [f"scratch: {unfinished(scratch.counts)}"] if unfinished(scratch.counts) else []
    words = None
    if value is not None and paper_gap is not None:
        words = f"{number(value)} (gap {number(paper_gap, Style(signed=True))})"
    return measured(
        summarize(trials.rows["best_epoch"].astype("float64")),
        trials.counts,
        cell_keys(column, "retrained", "best epoch", strategy),
        EPOCHS,
        details=tuple(details),
        paper=value,
        paper_words=words,
        extras={"gap": gap.mean, "gap_n": gap.n, "gap_spread": gap.sd, "paper_gap": paper_gap},
        absent=RANGE_ABSENT,
    )


def table5(results: Results) -> Table:
    """Epochs of stage 1 until accuracy on the forget set is zero, ratio by ratio."""
    rows = results.frame.loc[results.frame["kind"] == "two_stage", list(_TABLE5_COLUMNS)]
    ratios = sorted(set(rows["forget_ratio"].dropna()))
    groups = dict(iter(rows.groupby(["dataset", "strategy", "forget_ratio"])))
    nothing = rows.iloc[:0]
    whole = [ratio for ratio in ratios if paper.whole_percent(ratio) is not None]
    long = len(ratios) > MAX_RATIO_ROWS and bool(whole)
    sections = []
    for strategy in results.strategies:
        section_rows = []
        for ratio in ratios:
            cells = tuple(
                _epochs_cell(column, strategy, ratio, groups.get(key, nothing))
                for column in results.columns
                for key in [(column.dataset, strategy, ratio)]
            )
            csv_only = long and ratio not in whole
            section_rows.append(Row(f"{100 * ratio:g}", cells, csv_only))
        title, heads = strategy_label(strategy), labels_of(results)
        sections.append(Section(title, "ratio of data (%)", heads, tuple(section_rows)))
    notes = [
        "Mean epoch of stage 1 at whose end accuracy on the forget set was zero; at chance: the "
        "first at whose end it was at or below chance. 0 means before the first epoch.",
        "> N stands for trials still above zero after N epochs; they are in no mean.",
        "± is the sample standard deviation over seeds.",
    ]
    if long:
        notes.append(f"{len(ratios)} ratios: only whole per cents are shown, table5.csv has all.")
    return Table("table5", "Table 5: epochs of stage 1", tuple(sections), tuple(notes))


def _epochs_cell(column: Column, strategy: str, ratio: float, rows: pd.DataFrame) -> Cell:
    """One ratio of Table 5; `rows` are all states of its units, none where it is not planned."""
    stage_1 = rows[rows["state"] == "neutralized"]
    done = stage_1[stage_1["outcome"] == "done"]
    at_zero = summarize(done["first_epoch_at_zero"].astype("float64"))
    at_chance = summarize(done["first_epoch_at_random"].astype("float64"))
    capped = stage_1.loc[stage_1["outcome"] == "not_converged", "epochs"]
    stopped = int(done["first_epoch_at_zero"].isna().sum())
    details = [f"at chance {with_spread(at_chance, EPOCHS)}"] if at_chance.n else []
    if stopped:
        details.append(f"{stopped} stopped at chance, before zero")
    if len(capped):
        details.append(f"> {int(capped.min()):,} ({len(capped)} not converged)")
    known: Mapping[str, float] = paper.EPOCHS_TO_ZERO.get(paper.whole_percent(ratio) or 0, {})
    value = known.get(column.reader) if strategy == paper.PAPER_STRATEGY else None
    keys = cell_keys(column, "neutralized", "first epoch at zero", strategy)
    return measured(
        at_zero,
        outcome_counts(rows),
        {**keys, "forget_ratio": ratio},
        EPOCHS,
        details=tuple(details),
        paper=value,
        paper_words=None if value is None else f"{value:,.0f}",
        extras={
            "first_epoch_at_random": at_chance.mean,
            "first_epoch_at_random_n": at_chance.n,
            "first_epoch_at_random_spread": at_chance.sd,
            "stopped_at_chance": stopped,
            "epochs_when_not_converged": int(capped.min()) if len(capped) else None,
        },
        said=("not_converged",),
    )
