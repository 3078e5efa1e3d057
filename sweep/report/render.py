"""Tables and claims as text: csv for machines, Markdown for the page, LaTeX for a paper.

Every format is made from the same structure. No function here computes a number.
"""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence

from sweep.report.cells import DASH, Section, Table, Value
from sweep.report.claims import Claim
from sweep.report.findings import Finding

_TEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "[": "{[}",  # after a line break, [ and * would be read as its options
    "*": "{*}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
}


def _plain(value: Value) -> str:
    """A value for csv: ten significant digits, and nothing where there is no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _csv(first: Sequence[str], rows: Sequence[Mapping[str, Value]]) -> str:
    """The rows under the columns `first` and whatever others they have, as these appear."""
    names = list(dict.fromkeys([*first, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def table_csv(table: Table) -> str:
    """One line a cell, all rows of the table, with every number that the cell shows."""
    rows: list[dict[str, Value]] = []
    for section in table.sections:
        for row in section.rows:
            for column, cell in zip(section.columns, row.cells, strict=True):
                place: dict[str, Value] = {
                    "table": table.name,
                    "section": section.title,
                    "row": row.label,
                    "column": column,
                }
                rows.append(place | dict(cell.values))
    return _csv(("table", "section", "row", "column"), rows)


def _markdown_text(text: str) -> str:
    flat = " ".join(text.split())
    return flat.replace("\\", "\\\\").replace("](", "]\\(").replace("|", "\\|").replace("<", "&lt;")


def markdown_grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells' lines are separated by newlines."""
    lines = ["| " + " | ".join(map(_markdown_text, head)) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = ("<br>".join(map(_markdown_text, cell.split("\n"))) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _section_markdown(section: Section) -> str:
    rows = (
        [row.label, *("\n".join(cell.lines) for cell in row.cells)]
        for row in section.rows
        if not row.csv_only
    )
    title = f"### {_markdown_text(section.title)}\n\n" if section.title else ""
    return title + markdown_grid([section.corner, *section.columns], rows)


def _bullets(notes: Iterable[str]) -> str:
    return "".join(f"- {_markdown_text(note)}\n" for note in notes)


def table_markdown(table: Table) -> str:
    """The table with its notes, for the page."""
    sections = [_section_markdown(section) for section in table.sections]
    parts = [f"## {table.title}\n", *(sections or ["No two-stage unit in this sweep.\n"])]
    return "\n".join([*parts, _bullets(table.notes)])


def tex_text(text: str) -> str:
    """The text with everything escaped that LaTeX would read as a command."""
    return "".join(_TEX.get(letter, letter) for letter in " ".join(text.split()))


def _tex_cell(lines: Sequence[str]) -> str:
    stacked = r" \\ ".join(map(tex_text, lines))
    return stacked if len(lines) == 1 else rf"\shortstack[l]{{{stacked}}}"


def _section_tex(table: Table, section: Section, number: int) -> str:
    title = f"{table.title}; {section.title}" if section.title else table.title
    rows = [
        " & ".join([tex_text(row.label), *(_tex_cell(cell.lines) for cell in row.cells)])
        for row in section.rows
        if not row.csv_only
    ]
    head = " & ".join(map(tex_text, [section.corner, *section.columns]))
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize",
        rf"\caption{{{tex_text(title)}}}",
        rf"\label{{tab:{table.name}-{number}}}",
        rf"\begin{{tabular}}{{{'l' * (1 + len(section.columns))}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *(rf"{row} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def table_tex(table: Table) -> str:
    """The table for a LaTeX paper that loads booktabs: one float a section, notes as comments."""
    head = [r"% Needs \usepackage{booktabs} and UTF-8 input."]
    head += [f"% {' '.join(note.split())}" for note in table.notes]
    sections = (
        _section_tex(table, section, number) for number, section in enumerate(table.sections, 1)
    )
    return "\n".join(["\n".join(head) + "\n", *sections])


def _short(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:.4g}"


def _interval_words(finding: Finding) -> str:
    interval = finding.interval
    if not interval.known:
        return interval.reason or "no value"
    return f"{_short(interval.low)} to {_short(interval.high)} ({interval.method})"


FINDING_HEAD = (
    *("data set", "comparison", "estimate", "n", "95 % interval", "claim asks for"),
    *("paper", "verdict", "decides", "note"),
)


def finding_row(finding: Finding) -> list[str]:
    """A comparison as text, in the order of `FINDING_HEAD`."""
    return [
        finding.label,
        f"{finding.aspect} [{finding.unit}]",
        _short(finding.interval.estimate),
        str(finding.interval.n),
        _interval_words(finding),
        finding.supports,
        finding.paper or DASH,
        finding.verdict,
        "yes" if finding.decides else "no, shown beside",
        finding.note or DASH,
    ]


def claims_overview(claims: Sequence[Claim]) -> str:
    """One line a claim: the verdict, overall and by data set."""
    labels = list(dict.fromkeys(label for claim in claims for label in claim.by_dataset))
    rows = [
        [f"{claim.number}. {claim.statement}", claim.verdict]
        + [claim.by_dataset[label] for label in labels]
        for claim in claims
    ]
    return markdown_grid(["claim", "verdict", *labels], rows)


def claims_markdown(claims: Sequence[Claim]) -> str:
    """All claims with the comparisons that their verdicts rest on."""
    parts = ["# The paper's claims\n", claims_overview(claims)]
    parts.append(
        "A comparison holds where its whole 95 % interval lies where the claim puts it, fails "
        "where the whole of it lies elsewhere, and is undecided in between. A claim holds where "
        "every comparison that decides it holds, on every data set of the sweep, and fails where "
        "any fails. The intervals are not corrected for their number.\n"
    )
    for claim in claims:
        parts.append(f"## {claim.number}. {_markdown_text(claim.statement)}\n")
        parts.append(f"Verdict: **{claim.verdict}**\n")
        parts.append(markdown_grid(FINDING_HEAD, map(finding_row, claim.findings)))
        parts.append(_bullets(claim.notes))
    return "\n".join(parts)


def claims_csv(claims: Sequence[Claim]) -> str:
    """One line a comparison, then each claim's verdict by data set and overall."""
    rows: list[dict[str, Value]] = []
    for claim in claims:
        for finding in claim.findings:
            values: dict[str, Value] = {"claim": claim.number, "level": "comparison"}
            values |= dataclasses.asdict(finding)
            del values["interval"]
            rows.append(values | dataclasses.asdict(finding.interval))
        for label, verdict in claim.by_dataset.items():
            place: dict[str, Value] = {"claim": claim.number, "level": "data set", "label": label}
            rows.append(place | {"verdict": verdict})
        rows.append({"claim": claim.number, "level": "overall", "verdict": claim.verdict})
    return _csv(("claim", "level"), rows)


def _without_nan(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return value


def claims_json(claims: Sequence[Claim]) -> str:
    """Everything about the claims; numbers that do not exist are null."""
    content = [_without_nan(dataclasses.asdict(claim)) for claim in claims]
    return json.dumps({"claims": content}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
