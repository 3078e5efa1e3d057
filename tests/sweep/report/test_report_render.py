"""Golden files lie under tests/sweep/golden; USWEEP_REFRESH_GOLDEN=1 writes them anew."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sweep.report.accuracy_tables import report_tables
from sweep.report.cells import Cell, Row, Section, Table
from sweep.report.claims import answer_claims
from sweep.report.render import (
    claims_csv,
    claims_json,
    claims_markdown,
    markdown_grid,
    table_csv,
    table_markdown,
    table_tex,
    tex_text,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TABLES = ("table2", "table3", "table4", "table5", "forgetting")


def same_as_golden(name, text):
    path = GOLDEN / name
    if os.environ.get("USWEEP_REFRESH_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.is_file(), f"{path} is absent; USWEEP_REFRESH_GOLDEN=1 writes it"
    assert text == path.read_text()


@pytest.fixture(scope="module")
def tables(accident):
    return {table.name: table for table in report_tables(accident.results())}


@pytest.fixture(scope="module")
def claims(accident):
    return answer_claims(accident.results())


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_a_sweep_with_accidents_stay_as_they_are(tables, name):
    same_as_golden(f"{name}.csv", table_csv(tables[name]))
    same_as_golden(f"{name}.md", table_markdown(tables[name]))
    same_as_golden(f"{name}.tex", table_tex(tables[name]))


def test_claims_of_a_sweep_with_accidents_stay_as_they_are(claims):
    same_as_golden("claims.csv", claims_csv(claims))
    same_as_golden("claims.md", claims_markdown(claims))


@pytest.mark.parametrize("name", TABLES)
def test_the_csv_has_every_cell_with_the_numbers_that_it_shows(tables, name):
    table = tables[name]
    rows = list(csv.DictReader(io.StringIO(table_csv(table))))
    cells = [cell for part in table.sections for row in part.rows for cell in row.cells]
    assert len(rows) == len(cells)
    for row, cell in zip(rows, cells, strict=True):
        assert {"value", "n", "spread", "paper", "missing", "not_converged"} <= row.keys()
        shown = re.match(r"\+?(-?[\d,.]+)", cell.lines[0])
        if shown and " of " not in cell.lines[0]:
            decimals = len(shown[1].partition(".")[2])
            value = float(shown[1].replace(",", ""))
            assert value == pytest.approx(float(row["value"]), abs=0.51 * 10**-decimals)
        else:
            assert row["value"] == "" or cell.lines[0] != "–"


def grids(markdown):
    """The Markdown tables as lists of rows of cells, headings included."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", markdown, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines()] for part in found]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_markdown_table_has_all_its_columns(tables, name):
    for grid in grids(table_markdown(tables[name])):
        assert len(grid) > 2 and len({len(row) for row in grid}) == 1


def test_markdown_keeps_strange_names_in_their_cell():
    text = markdown_grid(["a|b", "c"], [["x\ny|z", "<script>\\"]])
    assert [len(row) for row in grids(text)[0]] == [2, 2, 2]
    assert "<script>" not in text and "x<br>y\\|z" in text
    assert r"[name]\(https://x)" in markdown_grid(["a"], [["[name](https://x)"]])


def test_tex_escapes_everything_that_is_a_command():
    assert tex_text("50_% & {x} #1 $a ^~\\") == (
        r"50\_\% \& \{x\} \#1 \$a \textasciicircum{}\textasciitilde{}\textbackslash{}"
    )
    assert tex_text("> 5 ± 1 –") == r"$>$ 5 $\pm$ 1 --"


@pytest.mark.parametrize("name", TABLES)
def test_tex_tables_are_balanced(tables, name):
    text = table_tex(tables[name])
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for environment in ("table", "tabular"):
        assert body.count(rf"\begin{{{environment}}}") == len(tables[name].sections)
        assert body.count(rf"\end{{{environment}}}") == len(tables[name].sections)
    bare = re.sub(r"\\[{}]", "", body)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[%#_^~]", body)
    for block in re.findall(r"\\begin\{tabular\}\{(l+)\}\n(.*?)\\end\{tabular\}", body, re.DOTALL):
        lines = [line for line in block[1].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(block[0])}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_tex_tables_compile(tables, tmp_path):
    parts = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}"]
    parts += [table_tex(table) for table in tables.values()] + [r"\end{document}"]
    (tmp_path / "report.tex").write_text("\n".join(parts))
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_all_formats_are_made_of_one_structure():
    cells = (Cell(("1.5 ± 0.5", "n = 3"), {"value": 1.5, "n": 3, "note": None}),)
    sections = (Section("part", "row", ("A_B",), (Row("first", cells), Row("rest", cells, True))),)
    table = Table("tableX", "Table X", sections, ("a note",))
    assert table_csv(table).splitlines() == [
        "table,section,row,column,value,n,note",
        "tableX,part,first,A_B,1.5,3,",
        "tableX,part,rest,A_B,1.5,3,",
    ]
    assert "| first | 1.5 ± 0.5<br>n = 3 |" in table_markdown(table)
    assert r"first & \shortstack[l]{1.5 $\pm$ 0.5 \\ n = 3} \\" in table_tex(table)
    for text in (table_markdown(table), table_tex(table)):
        assert "rest" not in text and "a note" in text


def test_claims_as_json_have_null_for_numbers_that_do_not_exist(made_up_sweep):
    claims = answer_claims(made_up_sweep().results())
    content = json.loads(claims_json(claims), parse_constant=pytest.fail)
    assert [entry["number"] for entry in content["claims"]] == [1, 2, 3, 4, 5, 6, 7]
    assert content["claims"][0]["findings"][0]["interval"]["low"] is None


def test_claims_as_csv_have_every_comparison_and_every_verdict(claims):
    rows = list(csv.DictReader(io.StringIO(claims_csv(claims))))
    levels = {
        name: [row for row in rows if row["level"] == name] for name in ("overall", "data set")
    }
    assert [row["verdict"] for row in levels["overall"]] == [claim.verdict for claim in claims]
    assert len(levels["data set"]) == 2 * 7
    comparisons = [row for row in rows if row["level"] == "comparison"]
    assert len(comparisons) == sum(len(claim.findings) for claim in claims)
    assert {row["decides"] for row in comparisons} == {"yes", "no"}


def test_every_claim_on_the_page_says_its_interval_and_rule(claims):
    text = claims_markdown(claims)
    for claim in claims:
        assert f"## {claim.number}. " in text and f"Verdict: **{claim.verdict}**" in text
    assert "(t over 3 cells)" in text
    assert "at least 5 are needed" in text
