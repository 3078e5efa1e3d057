"""Everything that a sweep has to say, written into its folder; works on any part of a sweep."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sweep.failures import read_failures
from sweep.files import write_atomically
from sweep.report.accuracy_tables import report_tables
from sweep.report.aggregate import Results, outcome_counts, results_frame, results_of
from sweep.report.cells import Table
from sweep.report.claims import Claim, answer_claims
from sweep.report.figures import figure2
from sweep.report.overview import cause_groups, origins, outcome_words, state_rows
from sweep.report.page import page_html
from sweep.report.render import (
    claims_csv,
    claims_json,
    claims_markdown,
    claims_overview,
    markdown_grid,
    table_csv,
    table_markdown,
    table_tex,
)

if TYPE_CHECKING:
    from sweep.plan import Plan
    from sweep.store import Store

FOLDER, PAGE = "report", "index.html"


@dataclass(frozen=True)
class ReportSummary:
    """What was written where, and what it says in short."""

    folder: Path
    units: Mapping[str, int]  # by outcome: done, not_converged, failed, blocked, missing, damaged
    verdicts: Mapping[int, str]  # by the number of the claim
    results: Results
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]

    @property
    def page(self) -> Path:
        """What to open first."""
        return self.folder / PAGE


def write_report(plan: "Plan", store: "Store", run_folder: Path) -> ReportSummary:
    """Write tables, claims, figures, frame and pages into `run_folder/report/`.

    A file is either the old one or the whole new one, so a report can be read while it is being
    renewed. Units without a usable record are counted and named, with their causes.

    Raises:
        OSError: the folder cannot be written.
    """
    failures = read_failures(run_folder)
    frame = results_frame(plan, store, failures)
    results = results_of(plan, frame)
    tables, claims = report_tables(results), answer_claims(results)
    files: dict[str, str | bytes] = {"results.parquet": _parquet(frame)}
    for table in tables:
        files[f"{table.name}.csv"] = table_csv(table)
        files[f"{table.name}.md"] = table_markdown(table)
        files[f"{table.name}.tex"] = table_tex(table)
    files["claims.md"] = claims_markdown(claims)
    files["claims.json"] = claims_json(claims)
    files["claims.csv"] = claims_csv(claims)
    files |= {f"figure2.{kind}": content for kind, content in figure2(results).items()}
    # The pages last: what they link to is there by then.
    files["report.md"] = _markdown(plan, frame, claims, [table_markdown(table) for table in tables])
    files[PAGE] = page_html(plan, store, results, tables, claims, failures, run_folder / FOLDER)
    for name, content in files.items():
        data = content.encode(errors="replace") if isinstance(content, str) else content
        write_atomically(run_folder / FOLDER / name, data)
    verdicts = {claim.number: claim.verdict for claim in claims}
    counts = outcome_counts(frame)
    return ReportSummary(run_folder / FOLDER, counts, verdicts, results, tables, claims)


def _parquet(frame: pd.DataFrame) -> bytes:
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    return content.getvalue()


def _markdown(
    plan: "Plan", frame: pd.DataFrame, claims: tuple[Claim, ...], tables: list[str]
) -> str:
    parts = [
        f"# Report of the sweep {plan.name}\n",
        "Kim & Woo (2022), two-stage unlearning. What the files and columns mean, and how the "
        "verdicts are decided, is in docs/report.md of the project.\n",
        "## State\n",
        _state(frame),
        _causes(plan, frame),
        "## The paper's claims\n",
        claims_overview(claims),
        "The comparisons with their intervals are in [claims.md](claims.md).\n",
        *tables,
        "## Figure 2: test accuracy against the forget ratio\n",
        "![test accuracy against the forget ratio](figure2.png)\n",
        "## Where the numbers come from\n",
        _origin(frame),
    ]
    return "\n".join(parts)


def _state(frame: pd.DataFrame) -> str:
    rows = [
        [row.label, *map(str, row.counts.values()), str(row.planned)] for row in state_rows(frame)
    ]
    return markdown_grid(["units", *outcome_words(), "planned"], rows)


def _causes(plan: "Plan", frame: pd.DataFrame) -> str:
    groups = cause_groups(plan, frame)
    if not groups:
        return "No unit failed.\n"
    rows = [[group.outcome, group.cause, "\n".join(group.names)] for group in groups]
    return markdown_grid(["outcome", "cause", "units"], rows)


def _origin(frame: pd.DataFrame) -> str:
    rows = [[*names, str(count)] for names, count in origins(frame, ("commit", "device"))]
    grid = markdown_grid(["commit", "device", "units"], rows) if rows else "No finished unit yet.\n"
    return grid + "\n[results.parquet](results.parquet) has one row a unit and model state.\n"
