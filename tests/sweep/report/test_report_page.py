"""What the page says and what it must never do; how it behaves in a browser is tested apart."""

import base64
import csv
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest

from sweep.failures import Failure
from sweep.report.accuracy_tables import report_tables
from sweep.report.aggregate import OUTCOMES, results_frame, results_of
from sweep.report.cells import DASH
from sweep.report.claims import answer_claims
from sweep.report.page import page_html
from sweep.report.page.intervals import interval_drawings
from sweep.report.page.looks import look_of
from sweep.report.page.panels import decades_axis, fitted_axis
from sweep.report.page.units import COLUMNS, way
from sweep.report.write import write_report

TABLES = ("table2", "table3", "table4", "table5", "forgetting")
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\u2028"
VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """A page taken apart: elements with attributes, texts by element, and cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], {}
        self.table, self.cells = "", {name: [] for name in TABLES}
        self.feed(text)
        assert self.open == [], "an element is not closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.table = attributes["id"]
        if tag == "td" and self.table in TABLES:
            self.cells[self.table].append([])

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(text)
        if self.table in TABLES and "td" in self.open:
            self.cells[self.table][-1].append(text.replace("\xa0", " "))

    @property
    def units(self):
        data = json.loads(self.texts["script"][1])
        names = [column["name"] for column in data["columns"]]
        numeric = {column["name"] for column in data["columns"] if column["numeric"]}
        rows = []
        for row in data["rows"]:
            entry = {
                name: value if name in numeric else data["words"][value]
                for name, value in zip(names, row, strict=False)
            }
            rows.append(entry | {"key": row[-2], "cause": data["words"][row[-1]]})
        return rows


def written(sweep, folder):
    """The page alone, as `write_report` makes it, without the other files."""
    plan, store, run_folder = sweep.write(folder)
    results = results_of(plan, results_frame(plan, store, sweep.failures))
    tables, claims = report_tables(results), answer_claims(results)
    target = run_folder / "report"
    return page_html(plan, store, results, tables, claims, sweep.failures, target)


@pytest.fixture(scope="module")
def text(accident, tmp_path_factory):
    return written(accident, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_asks_for_nothing_from_elsewhere(page, text):
    assert "http:" not in text and "https:" not in text and "@import" not in text
    for tag, attributes in page.elements:
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        assert "style" not in attributes  # the policy would ignore it
        if tag == "link":
            assert attributes == {"rel": "icon", "href": "data:,"}
    assert "url(" not in text


def test_the_policy_allows_this_style_and_these_scripts_and_nothing_else(page):
    policy = next(e["content"] for tag, e in page.elements if e.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    style, (theme, _, script) = page.texts["style"][0], page.texts["script"]
    for content in (style, theme, script):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == 3


def test_the_same_store_gives_the_same_page(accident, tmp_path, text):
    assert written(accident, tmp_path) == text


def test_cells_show_what_the_csv_files_hold(accident, tmp_path):
    folder = write_report(*accident.write(tmp_path)).folder
    page = Page((folder / "index.html").read_text())
    for name in TABLES:
        with (folder / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row, cell in zip(rows, page.cells[name], strict=True):
            first = cell[0].split()[0]
            if not row["value"]:
                assert first == DASH, row
                continue
            assert f"n = {row['n']}" in cell
            if row["unit"] == "% of trials":
                assert first == row["trials_that_meet_it"]
                continue
            shown = first.replace(",", "").removeprefix("+")
            half = 0.5 * 10 ** -len(shown.partition(".")[2])
            assert math.isclose(float(shown), float(row["value"]), abs_tol=half * 1.001), row
            assert any(line.startswith("paper ") for line in cell) == bool(row["paper"])


def test_every_outcome_is_on_the_page_and_adds_up_to_the_plan(accident, page):
    units = page.units
    assert [unit["label"] for unit in units] == [unit.label for unit in accident.units.values()]
    outcomes = [unit["outcome"].replace(" ", "_") for unit in units]
    assert set(outcomes) == set(OUTCOMES)
    assert "of 52 units done, 1 not converged, 2 failed, 9 blocked" in "".join(page.texts["p"])
    failed = {unit["label"]: unit["cause"] for unit in units if unit["outcome"] == "failed"}
    assert failed["original digits seed 1"] == "images are gone"


def test_units_show_their_record(accident, page):
    for shown, unit in zip(page.units, accident.units.values(), strict=True):
        record = accident.records.get(unit.key)
        assert shown["key"] == (unit.key if record else None)
        if shown["outcome"] != "done":
            continue
        final = {"original": "original"}.get(unit.kind, "final")
        state = {"original": "original", "scratch": "scratch"}.get(unit.kind, "retrained")
        for split in ("test", "forget"):
            expected = 100 * record["metrics"][f"{state}/{split}/accuracy"]
            assert math.isclose(shown[f"{split}_{final}"], expected, abs_tol=0.005)
        assert shown["best_epoch"] == record["training"][state]["best_epoch"]
        assert shown["samples"] == sum(cost["samples"] for cost in record["training"].values())


def test_links_to_records_lead_there_wherever_run_and_store_are(accident, tmp_path):
    plan, store, run_folder = accident.write(tmp_path / "a b" / "100%")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(run_folder)
    folder = write_report(plan, store, tmp_path / "elsewhere" / "link").folder
    text = (folder / "index.html").read_text()
    address = json.loads(Page(text).texts["script"][1])["records"]
    assert address == "../../store"
    assert (folder.resolve() / address).resolve() == store.root.resolve()
    assert "100%" not in address


def test_no_folder_name_can_pass_for_a_scheme(tmp_path):
    assert way(tmp_path, tmp_path / "javascript:alert(1)") == "javascript%3Aalert%281%29"


def hostile_sweep(made_up_sweep, varied):
    sweep = made_up_sweep({HOSTILE: ("arrays", 3)}, strategies=("minimum", HOSTILE))
    sweep.finish_all(varied)
    failing, damaged = sweep.find(kind="two_stage")[:2]
    sweep.fail(failing, HOSTILE)
    known = sweep.failures[failing.key]
    sweep.failures[failing.key] = Failure(failing.key, HOSTILE, HOSTILE * 2, known.when, HOSTILE)
    sweep.records[damaged.key]["outcome"] = HOSTILE
    for record in sweep.records.values():
        record["provenance"] |= {"commit": HOSTILE, "device": HOSTILE, "host": HOSTILE}
        record["provenance"]["versions"] = {HOSTILE: HOSTILE}
    return sweep


def test_nothing_hostile_becomes_markup(made_up_sweep, varied, tmp_path):
    text = written(hostile_sweep(made_up_sweep, varied), tmp_path)
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert "img" not in tags and text.count("<script") == 3 and text.count("</script>") == 3
    assert "<img" not in text and "onerror=alert(1)>" not in text
    assert "\u2028" not in page.texts["script"][1]
    assert any(HOSTILE.strip() in unit["cause"] for unit in page.units)


def test_a_long_cause_and_a_long_traceback_are_cut(made_up_sweep, tmp_path):
    sweep = made_up_sweep()
    for unit in sweep.find(kind="original"):
        sweep.failures[unit.key] = Failure(unit.key, "x" * 500_000, "y" * 500_000 + "end", "", "")
    text = written(sweep, tmp_path)
    assert len(text) < 400_000 and "yyyend" in text


def test_half_a_character_from_a_file_name_does_no_harm(made_up_sweep, varied, tmp_path):
    sweep = made_up_sweep({"digits": ("digits", 10)})
    sweep.finish_all(varied)
    sweep.fail(sweep.find(kind="scratch")[0], "no such file: \udcff.npy")
    sweep.records[sweep.find(kind="original")[0].key]["provenance"]["device"] = "\udcff"
    folder = write_report(*sweep.write(tmp_path)).folder
    assert "no such file: ?.npy" in (folder / "index.html").read_text()
    assert "no such file: ?.npy" in (folder / "report.md").read_text()


def test_a_thousand_causes_are_cut_and_counted(made_up_sweep, tmp_path):
    sweep = made_up_sweep(ratios=[step / 1000 for step in range(1, 101)])
    for number, unit in enumerate(sweep.find(kind="scratch")):
        sweep.fail(unit, f"cause {number}")
    text = written(sweep, tmp_path)
    assert "And 150 more causes" in text


@pytest.mark.parametrize(
    "grid",
    [
        {"strategies": ()},
        {"seeds": (0,), "ratios": (0.05,), "strategies": ("minimum",)},
        {"strategies": tuple(f"mine_{index}" for index in range(9)), "seeds": (0,)},
        {"strategies": ("minimum", "scratch", "original")},
        {"ratios": [n / 1000 for n in range(1, 101)], "strategies": ("minimum",), "seeds": (0,)},
        {"ratios": (0.5, 1.0)},
        {"datasets": {f"set_{index}": ("arrays", None) for index in range(3)}, "seeds": (0,)},
    ],
)
def test_any_grid_has_a_page_that_is_whole(made_up_sweep, varied, tmp_path, grid):
    sweep = made_up_sweep(**grid)
    sweep.finish_all(varied)
    page = Page(written(sweep, tmp_path))
    assert len(page.units) == len(sweep.units)
    assert "nan" not in " ".join(page.texts.get("text", ())).split()


def test_a_sweep_with_nothing_finished_has_a_page_that_is_whole(made_up_sweep, tmp_path):
    sweep = made_up_sweep({"mnist": ("mnist", 10), "mine": ("arrays", None)})
    page = Page(written(sweep, tmp_path))
    assert {unit["outcome"] for unit in page.units} == {"missing"}
    assert "no finished unit" in page.texts["text"]


def test_every_claim_and_a_figure_for_each_data_set_is_there(page, text):
    assert text.count('<details class="claim"') == 7
    assert sum(attributes.get("role") == "img" for _, attributes in page.elements) >= 11


def test_axes_have_round_ticks_inside_their_range():
    axis = fitted_axis("accuracy", [93.2, 97.1], limits=(0, 100))
    assert [text for _, text in axis.ticks] == ["93", "94", "95", "96", "97"]
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)
    assert fitted_axis("accuracy", [100.0], limits=(0, 100)).high == 100
    assert [text for _, text in decades_axis("epoch", 4208).ticks] == [
        *("0", "1", "10", "100", "1,000"),
    ]


def test_no_two_of_many_strategies_look_alike():
    looks = [look_of(index) for index in (None, *range(36))]
    assert len(set(looks)) == len(looks)
    assert {look.style for look in looks[1:]} == {f"s{index}" for index in range(6)}


def test_intervals_are_drawn_where_there_are_any(accident):
    for claim in answer_claims(accident.results()):
        drawings = interval_drawings(claim.findings)
        known = [finding.interval.known for finding in claim.findings]
        assert [bool(drawing) for drawing in drawings] == known
        for finding, drawing in zip(claim.findings, drawings, strict=True):
            style = finding.verdict if finding.verdict in ("holds", "fails") else "open"
            assert all(shape.style.split()[1] == style for shape in drawing[1:])


def test_columns_of_the_table_of_units_have_names_of_their_own():
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert not re.search(DASH, " ".join(column.title for column in COLUMNS))
