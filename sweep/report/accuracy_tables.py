"""The report's tables as plain data; Tables 2 and 4 of the paper are made here.

Means and spreads are over finished trials of one strategy. Accuracies become per cent here.
"""

from collections.abc import Mapping, Sequence

from sweep.report import paper_values as paper
from sweep.report.aggregate import OUTCOMES, SEEDS, STAGES, Column, Results, Trials, select
from sweep.report.cells import (
    PERCENT,
    RANGE_ABSENT,
    SPREAD_NOTE,
    Cell,
    Row,
    Section,
    Style,
    Table,
    Value,
    cell_keys,
    labels_of,
    measured,
    number,
    strategy_label,
)
from sweep.report.epoch_tables import table3, table5
from sweep.report.forgetting_table import forgetting_table
from sweep.report.statistics import Variance, summarize, variance_within


def report_tables(results: Results) -> tuple[Table, ...]:
    """All tables of the report, in its order."""
    return (
        table2(results),
        table3(results),
        table4(results),
        table5(results),
        forgetting_table(results),
    )


def table2(results: Results) -> Table:
    """Mean test accuracy, with the variance over ratios apart from the variance over seeds."""
    rows = [_table2_row(results, "original", "original", None)]
    for name in results.strategies:
        rows.append(_table2_row(results, "two_stage", "retrained", name))
    rows.append(_table2_row(results, "scratch", "scratch", None))
    notes = (
        "Mean test accuracy in %. In brackets, in squared percentage points: the variance over "
        "forget ratios (of the ratios of each seed, averaged over seeds) and the variance over "
        "seeds (of the seeds of each ratio, averaged over ratios). The paper's brackets hold the "
        "first of the two.",
        "One original model serves all ratios of its seed, so it has no variance over ratios.",
        "Where the text of the paper's section 5 contradicts its Table 2, both values are shown.",
    )
    section = Section("", "model", labels_of(results), tuple(rows))
    return Table("table2", "Table 2: test accuracy", (section,), notes)


def _table2_row(results: Results, kind: str, state: str, strategy: str | None) -> Row:
    label = state if strategy is None else f"{state}, {strategy_label(strategy)}"
    cells = []
    for column in results.columns:
        trials = select(results.frame, column.dataset, kind, state, strategy)
        cells.append(_table2_cell(column, trials, kind, state, strategy))
    return Row(label, tuple(cells))


def _table2_cell(
    column: Column, trials: Trials, kind: str, state: str, strategy: str | None
) -> Cell:
    rows = trials.rows.assign(percent=100 * trials.rows["test_accuracy"])
    variances = {
        "ratios": variance_within(rows, "percent", SEEDS[kind]),
        "seeds": variance_within(rows, "percent", ["forget_ratio"]),
    }
    extras: dict[str, Value] = {}
    for name, variance in variances.items():
        extras[f"variance_over_{name}"] = variance.value
        extras[f"variance_over_{name}_n"] = variance.n
        extras[f"variance_over_{name}_groups"] = variance.groups
    if kind == "original":
        del variances["ratios"]
    reported = _paper_test_accuracy(column, state, strategy)
    extras |= {name: reported.get(name) for name in ("paper_variance", "paper_text")}
    summary = summarize(rows["percent"])
    spreads = [f"{number(variance.value)} over {name}" for name, variance in variances.items()]
    return measured(
        summary,
        trials.counts,
        cell_keys(column, state, "test accuracy", strategy),
        headline=f"{number(summary.mean)} ({', '.join(spreads)})",
        details=_variance_counts(kind, variances),
        paper=reported.get("paper"),
        paper_words=_table2_paper_words(reported),
        extras=extras,
    )


def _variance_counts(kind: str, variances: Mapping[str, Variance]) -> tuple[str, ...]:
    """What each variance stands on; nothing where there is none."""
    within = {"ratios": "seeds", "seeds": "ratios"}
    words = []
    for name, variance in variances.items():
        if variance.groups and kind == "original":
            words.append(f"{variance.n} seeds")
        elif variance.groups:
            groups = within[name] if variance.groups > 1 else within[name].removesuffix("s")
            words.append(f"over {name} {variance.n} in {variance.groups} {groups}")
    return (f"variance n: {', '.join(words)}",) if words else ()


def _paper_test_accuracy(
    column: Column, state: str, strategy: str | None
) -> dict[str, float | None]:
    if strategy not in (None, paper.PAPER_STRATEGY):
        return {}
    return {
        "paper": paper.TEST_ACCURACY[state].get(column.reader),
        "paper_variance": paper.TEST_ACCURACY_VARIANCE[state].get(column.reader),
        "paper_text": paper.TEST_ACCURACY_IN_TEXT[state].get(column.reader),
    }


def _table2_paper_words(reported: Mapping[str, float | None]) -> str | None:
    value, variance = reported.get("paper"), reported.get("paper_variance")
    text = reported.get("paper_text")
    if value is None:
        return None
    words = number(value) if variance is None else f"{number(value)} ({number(variance)})"
    return words if text is None or text == value else f"{words}, its text {number(text)}"


def table4(results: Results) -> Table:
    """Accuracy on the forget set under augmentation, after stage 1 and after stage 2."""
    # Two strategies side by side, as in the paper; further ones in sections of their own.
    pairs = [results.strategies[at : at + 2] for at in range(0, len(results.strategies), 2)]
    sections = [_table4_section(results, state, pair) for state in STAGES for pair in pairs]
    notes = (
        "Mean accuracy in % on the forget set, its images changed at test time. Forget ratios of "
        "1 to 10 % only, as in the paper; chance stands beside each data set's name.",
        "The paper does not say after which stage it measured: its value stands beside both.",
        "The average is over the data sets of this sweep that have a value, which its n counts; "
        "the paper's is over its own six.",
        SPREAD_NOTE,
    )
    title = "Table 4: accuracy on the forget set under augmentation"
    return Table("table4", title, tuple(sections), notes)


def _table4_section(results: Results, state: str, strategies: Sequence[str]) -> Section:
    heads = [(strategy, name) for strategy in strategies for name in paper.AUGMENTATIONS]
    rows = []
    for column in results.columns:
        chance = number(100 * column.chance, Style(decimals=1))
        cells = tuple(_table4_cell(results, column, state, *head) for head in heads)
        rows.append(Row(f"{column.label} ({chance} %)", cells))
    comparable = any(column.reader in paper.CHANCE for column in results.columns)
    averages = [
        _average_cell(state, *head, [row.cells[index] for row in rows], comparable)
        for index, head in enumerate(heads)
    ]
    columns = tuple(f"{strategy}: {paper.AUGMENTATIONS[name]}" for strategy, name in heads)
    rows.append(Row("average", tuple(averages)))
    title = f"{STAGES[state]} ({state}): {', '.join(strategies)}"
    return Section(title, "data set (chance)", columns, tuple(rows))


def _table4_cell(
    results: Results, column: Column, state: str, strategy: str, augmentation: str
) -> Cell:
    in_range = paper.in_ratio_range
    trials = select(results.frame, column.dataset, "two_stage", state, strategy, in_range)
    known: Mapping[str, float] = paper.AUGMENTED_FORGET_ACCURACY.get((strategy, augmentation), {})
    return measured(
        summarize(100 * trials.rows[f"forget_{augmentation}_accuracy"]),
        trials.counts,
        cell_keys(column, state, f"forget_{augmentation} accuracy", strategy),
        PERCENT,
        paper=known.get(column.reader),
        extras={"chance": 100 * column.chance},
        absent=RANGE_ABSENT,
    )


def _average_cell(
    state: str, strategy: str, augmentation: str, cells: Sequence[Cell], comparable: bool
) -> Cell:
    """The mean over data sets of their cells' means; n counts data sets."""
    values = [cell.values for cell in cells]
    counts = {name: sum(int(value.get(name) or 0) for value in values) for name in OUTCOMES}
    counts["done"] = sum(int(value["planned"] or 0) for value in values) - sum(counts.values())
    means = [float(value["value"]) for value in values if value["n"]]  # type: ignore[arg-type]
    known = paper.AUGMENTED_FORGET_AVERAGE.get((strategy, augmentation))
    return measured(
        summarize(means),
        counts,
        cell_keys(None, state, f"forget_{augmentation} accuracy", strategy),
        paper=known if comparable else None,
        absent=RANGE_ABSENT,
    )
