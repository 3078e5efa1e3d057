"""How the page behaves in a real browser; skipped where there is none."""

import os
import shutil
from itertools import pairwise

import pytest

from sweep.failures import Failure
from sweep.report.write import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
HOSTILE = "</script><img src=x onerror=document.title='broken'>"

# Every element with text of its own: its colour on what lies under it, as WCAG 2 defines contrast.
CONTRASTS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) {
      context.fillStyle = color;
      context.fillRect(0, 0, 1, 1);
    }
    return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((value) => value / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const under = (element) => {
    const colors = [];
    for (let e = element; e; e = e.parentElement) {
      colors.unshift(getComputedStyle(e).backgroundColor);
    }
    return colors;
  };
  const poor = [];
  let count = 0;
  const cache = new Map();
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || ["SCRIPT", "NOSCRIPT", "OPTION"].includes(element.tagName)) continue;
    if (!element.checkVisibility() || element.closest(":disabled")) continue;
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const backs = under(element);
    const key = [ink, ...backs].join();
    if (!cache.has(key)) {
      const [a, b] = [paint(backs), paint([...backs, ink])].map(luminance);
      cache.set(key, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
    }
    count += 1;
    if (cache.get(key) < 4.5) {
      poor.push([element.tagName, element.textContent.trim().slice(0, 40), cache.get(key)]);
    }
  }
  return { count, poor };
}"""


@pytest.fixture(scope="module")
def browser():
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium found; install one, or name it in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(accident, tmp_path_factory):
    """The page of a sweep with every outcome, to which failures with tracebacks are added."""
    plan, store, run_folder = accident.write(tmp_path_factory.mktemp("browser"))
    return (write_report(plan, store, run_folder).folder / "index.html").as_uri()


class Opened:
    """A page that was opened, and all that it asked for or complained about."""

    def __init__(self, browser, address, **settings):
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)

    def labels(self):
        return self.page.locator("#unit-table tbody th").all_inner_texts()

    def column(self, index):
        cells = self.page.locator(f"#unit-table tbody tr > :nth-child({index + 1})")
        return cells.all_inner_texts()

    def head(self, index):
        return self.page.locator(f"#unit-table th[data-column='{index}']")


@pytest.fixture
def opened(browser, address):
    """Opens the page with settings of the browser; at the end nobody may have complained."""
    pages = []

    def open_page(where=address, **settings):
        pages.append(Opened(browser, where, **settings))
        return pages[-1]

    yield open_page
    for one in pages:
        one.context.close()
        assert one.complaints == []
        assert {url.partition("#")[0] for url in one.requests} == {one.requests[0]}
        assert one.requests[0].startswith("file://")


def numbers(texts):
    return [float(text.replace(",", "")) for text in texts if text not in ("–", "")]


def test_the_page_opens_without_a_word_and_asks_for_nothing(opened):
    page = opened().page
    assert page.title() == "made-up – report of a sweep"
    assert page.locator("#count").inner_text() == "52 units"
    assert page.locator("#unit-table tbody tr").count() == 50


def test_columns_sort_by_pointer_and_by_keyboard(opened):
    one = opened()
    index = 9  # test accuracy, retrained or scratch
    button = one.head(index).locator("button")
    button.click()
    assert one.head(index).get_attribute("aria-sort") == "ascending"
    values = numbers(one.column(index))
    assert values == sorted(values) and len(values) > 30
    button.focus()
    one.page.keyboard.press("Enter")
    assert one.head(index).get_attribute("aria-sort") == "descending"
    values = numbers(one.column(index))
    assert values == sorted(values, reverse=True)
    one.head(0).locator("button").focus()
    one.page.keyboard.press("Space")
    assert one.page.locator("[aria-sort]").count() == 1
    labels = one.labels()
    assert labels[0].startswith("original") and labels[-1].startswith("two_stage")


def test_what_was_not_measured_comes_last_in_both_directions(opened):
    one = opened()
    button = one.head(13).locator("button")  # best epoch
    for _ in range(2):
        button.click()
        texts = one.column(13)
        assert texts.index("–") == len(numbers(texts))


def test_filters_narrow_the_table_and_say_how_far(opened):
    one = opened()
    one.page.get_by_label("outcome", exact=True).select_option("blocked")
    assert one.page.locator("#count").inner_text() == "9 of 52 units"
    assert len(one.labels()) == 9
    one.page.get_by_label("strategy", exact=True).select_option("random")
    assert one.page.locator("#count").inner_text() == "3 of 52 units"
    one.page.get_by_role("button", name="Reset").click()
    one.page.get_by_text("52 units", exact=True).wait_for()
    one.page.get_by_label("Search").fill("MEMORY 5 %")
    assert one.labels() == ["two_stage mnist 5 % minimum seed 1"]
    one.page.get_by_label("Search").fill("nothing of the kind")
    assert one.page.locator("#unit-table tbody").inner_text() == "No unit matches."


def test_pages_of_the_table_turn(opened):
    one = opened()
    first = one.labels()
    one.page.get_by_role("button", name="Next").click()
    assert len(one.labels()) == 2 and one.page.locator("#page").inner_text() == "page 2 of 2"
    assert one.page.get_by_role("button", name="Next").is_disabled()
    one.page.get_by_role("button", name="Previous").click()
    assert one.labels() == first


def test_links_of_units_lead_to_records_that_are_there(opened):
    one = opened()
    links = one.page.locator("#unit-table tbody a")
    address = links.first.evaluate("link => link.href")
    assert address.startswith("file://") and address.endswith("/record.json")
    assert os.path.isfile(address.removeprefix("file://"))
    assert links.count() < len(one.labels())  # what has no record has no link


def test_the_theme_follows_the_system_until_the_button_is_pressed_and_is_kept(opened):
    one = opened(color_scheme="dark")
    button = one.page.get_by_role("button", name="Dark")
    back = "getComputedStyle(document.body).backgroundColor"
    dark = one.page.evaluate(back)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    light = one.page.evaluate(back)
    assert button.get_attribute("aria-pressed") == "false" and light != dark
    one.page.reload()
    assert one.page.evaluate(back) == light


@pytest.mark.parametrize("width", [390, 1280])
def test_only_tables_scroll_sideways(opened, width):
    page = opened(viewport={"width": width, "height": 800}).page
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_under_it(opened, scheme):
    page = opened(color_scheme=scheme).page
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    found = page.evaluate(CONTRASTS)
    assert found["poor"] == [] and found["count"] > 500


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_line_and_marker_stands_out_from_the_page(opened, scheme):
    page = opened(color_scheme=scheme).page
    styles = page.evaluate(
        """() => [...document.querySelectorAll("svg .line, svg .mark, svg .bar")].map((path) => {
          const style = getComputedStyle(path);
          return path.matches(".line") ? style.stroke : style.fill;
        })"""
    )
    back = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    for color in set(styles):
        lighter, darker = sorted([luminance(color), back], reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, color


def luminance(color):
    values = [int(part) / 255 for part in color[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in values]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_drawings_have_alternatives_and_headings_are_in_order(opened):
    page = opened().page
    silent = page.evaluate(
        """[...document.querySelectorAll("svg, img")].filter((drawing) =>
          drawing.getAttribute("aria-hidden") !== "true" &&
          !(drawing.getAttribute("role") === "img" && drawing.getAttribute("aria-label"))).length"""
    )
    assert silent == 0
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_have_captions_and_scopes_and_controls_have_names(opened):
    page = opened().page
    assert page.locator("table:not(:has(> caption))").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    nameless = page.evaluate(
        """[...document.querySelectorAll("input, select, button")].filter((control) =>
          !control.textContent.trim() && !control.labels?.length ||
          control.tagName === "SELECT" && !control.labels.length).length"""
    )
    assert nameless == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    scrolling = "[...document.querySelectorAll('.scroll')].every((e) => e.tabIndex === 0)"
    assert page.evaluate(scrolling)


def test_ids_are_unique_and_links_inside_the_page_lead_somewhere(opened):
    page = opened().page
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    targets = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map((a) => a.hash.slice(1))"
    )
    assert set(targets) <= set(ids)


def test_a_link_to_a_claim_opens_it(opened):
    page = opened().page
    page.get_by_role("link", name="Claim 3", exact=True).click()
    page.wait_for_selector("#claim-3[open]")
    assert page.locator("#claim-3 .findings").is_visible()


def test_paper_shows_what_the_screen_hides_and_no_controls(opened):
    page = opened().page
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("#unit-table tbody tr").count() == 52
    for hidden in ("#filters", "#theme", "#next", ".skip"):
        assert not page.locator(hidden).is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.locator("#unit-table tbody tr").count() == 50


def test_without_scripts_tables_claims_and_figures_are_there(opened):
    page = opened(java_script_enabled=False).page
    assert page.get_by_text("This table needs JavaScript.").is_visible()
    assert not page.locator("#filters").is_visible() and not page.locator("#theme").is_visible()
    assert page.locator("#table2 table").is_visible() and page.locator("#figure2 svg").count() > 1
    page.locator("#claim-1 summary").click()
    assert page.locator("#claim-1 .findings").is_visible()


def test_hostile_names_causes_and_tracebacks_stay_text(opened, made_up_sweep, varied, tmp_path):
    sweep = made_up_sweep({HOSTILE: ("arrays", 3)}, strategies=("minimum", HOSTILE))
    sweep.finish_all(varied)
    unit = sweep.find(kind="two_stage")[0]
    sweep.fail(unit, HOSTILE)
    sweep.failures[unit.key] = Failure(unit.key, HOSTILE, f"Traceback\n{HOSTILE}", "", HOSTILE)
    folder = write_report(*sweep.write(tmp_path)).folder
    one = opened((folder / "index.html").as_uri())
    assert one.page.title() == "made-up – report of a sweep"
    assert one.page.locator("img").count() == 0
    assert one.page.locator("#failures pre").text_content() == f"Traceback\n{HOSTILE}"
    one.page.get_by_label("Search").fill("onerror")
    one.head(5).locator("button").click()
    assert HOSTILE in " ".join(one.column(1))


def test_a_sweep_with_nothing_finished_opens_too(opened, made_up_sweep, tmp_path):
    folder = write_report(*made_up_sweep(seeds=()).write(tmp_path)).folder
    page = opened((folder / "index.html").as_uri()).page
    assert page.locator("#unit-table tbody").inner_text() == "No unit is planned."
