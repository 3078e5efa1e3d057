"""The paper's seven claims, each answered by a sweep: holds, fails, or not enough data."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sweep.report import findings
from sweep.report import paper_values as paper
from sweep.report.aggregate import Column, Results
from sweep.report.findings import FAILS, HOLDS, NOT_ENOUGH_DATA, OURS, RIVAL, Finding
from unlearning.config import NeutralizationConfig, RetrainingConfig

VERDICTS = (HOLDS, FAILS, NOT_ENOUGH_DATA)


@dataclass(frozen=True)
class Claim:
    """One claim with everything that its verdict rests on."""

    number: int
    statement: str
    findings: tuple[Finding, ...]
    by_dataset: Mapping[str, str]  # verdict by the label of the data set
    verdict: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Question:
    statement: str
    compare: Callable[[Results, Column], list[Finding]]
    notes: tuple[str, ...] = ()


def _hyper_parameters() -> str:
    sections = {"neutralization": NeutralizationConfig, "retraining": RetrainingConfig}
    names = [
        f"{section}.{field.name}"
        for section, config in sections.items()
        for field in dataclasses.fields(config)
    ]
    return (
        f"As implemented here the method has {len(names)} settings of its own, beside the mislabel "
        f"strategy: {', '.join(names)}. The paper itself fixes values for several of them, such as "
        "alpha, beta and the number of epochs with distillation. The verdict is on computation."
    )


_STAGE_NOTE = (
    "The paper does not say after which stage it measured. The verdict rests on stage 1; the "
    "comparisons after stage 2 are shown beside it."
)
_RANGE_NOTE = "Forget ratios of 1 to 10 % only, as in the paper."
_QUESTIONS = {
    1: _Question(
        "Retrained is at least as accurate as scratch on the test set (Table 2).",
        findings.accuracy_on_test_set,
    ),
    2: _Question(
        "Retrained's test accuracy varies less over the forget ratios than scratch's (Table 2).",
        findings.variance_over_ratios,
    ),
    3: _Question(
        "Retrained reaches its best epoch earlier than scratch (Table 3).",
        findings.best_epoch,
        (_RANGE_NOTE, "Epochs of stage 1 are not in it: see claim 7 and Table 3."),
    ),
    4: _Question(
        f"{OURS} gives lower accuracy on the forget set than {RIVAL} under every augmentation "
        "(Table 4).",
        findings.minimum_against_maximum,
        (_RANGE_NOTE, _STAGE_NOTE),
    ),
    5: _Question(
        f"{OURS} falls below chance under every augmentation, {RIVAL} stays above it (Table 4).",
        findings.against_chance,
        (_RANGE_NOTE, _STAGE_NOTE),
    ),
    6: _Question(
        "The number of epochs of stage 1 does not grow with the forget ratio (Table 5).",
        findings.stage_1_epochs,
    ),
    7: _Question(
        "The method needs no hyper-parameters and less computation than scratch (sections 1 and "
        "5.1).",
        findings.computation,
        (_hyper_parameters(), "Samples do not depend on the machine; seconds do."),
    ),
}


def combined(verdicts: Iterable[str]) -> str:
    """Holds if all hold, fails if any fails, otherwise (and for none) not enough data."""
    found = list(verdicts)
    if FAILS in found:
        return FAILS
    return HOLDS if found and set(found) == {HOLDS} else NOT_ENOUGH_DATA


def answer_claims(results: Results) -> tuple[Claim, ...]:
    """The seven claims in the paper's order, over the data sets of the sweep."""
    present = {column.reader for column in results.columns}
    lacking = [label for reader, label in paper.DISPLAY_NAMES.items() if reader not in present]
    lacking_note = (f"Not in this sweep: {', '.join(lacking)}.",) if lacking else ()
    claims = []
    for number, question in _QUESTIONS.items():
        found: list[Finding] = []
        by_dataset = {}
        for column in results.columns:
            own = question.compare(results, column)
            by_dataset[column.label] = combined(item.verdict for item in own if item.decides)
            found.extend(own)
        notes = (*question.notes, *lacking_note)
        verdict = combined(by_dataset.values())
        claims.append(Claim(number, question.statement, tuple(found), by_dataset, verdict, notes))
    return tuple(claims)
