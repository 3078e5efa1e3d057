import re
import subprocess
import sys

import matplotlib
import pytest

from sweep.report.figures import figure2

PNG = b"\x89PNG\r\n\x1a\n"


def labels(svg):
    """The texts of a figure, which the svg file keeps as comments beside the outlines."""
    return re.findall(r"<!-- (.*?) -->", svg.decode())


@pytest.fixture(scope="module")
def drawn(accident):
    return figure2(accident.results())


def test_the_figure_comes_as_png_and_svg(drawn):
    assert drawn["png"].startswith(PNG)
    assert drawn["svg"].startswith(b"<?xml")


def test_every_data_set_and_every_line_is_named(drawn):
    names = labels(drawn["svg"])
    for name in ("MNIST", "digits", "scratch", "original", "forget ratio (%)", "test accuracy (%)"):
        assert name in names
    for strategy in ("maximum", "random"):
        assert f"retrained, {strategy}" in names
    assert "mean over seeds; bands from the lowest seed to the highest" in names


def test_the_same_results_give_the_same_bytes(accident, drawn):
    assert figure2(accident.results()) == drawn


def test_the_file_holds_no_date(drawn):
    assert b"dc:date" not in drawn["svg"]
    assert b"tIME" not in drawn["png"] and b"Software" not in drawn["png"]


def test_drawing_changes_no_setting_and_does_not_follow_the_users_style(accident, drawn):
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30}):
        before = dict(matplotlib.rcParams)
        assert figure2(accident.results()) == drawn
        assert dict(matplotlib.rcParams) == before


def test_other_results_give_another_figure(made_up_sweep, varied, drawn):
    sweep = made_up_sweep()
    sweep.finish_all(varied)
    assert figure2(sweep.results())["png"] != drawn["png"]


@pytest.mark.parametrize(
    "grid",
    [
        {"ratios": (0.05,)},
        {"seeds": (0,)},
        {"ratios": (0.05,), "seeds": (0,), "strategies": ("minimum",)},
        {"strategies": ()},
        {"strategies": tuple(f"mine_{index}" for index in range(9))},
        {"ratios": [step / 1000 for step in range(1, 41)]},
        {"datasets": {f"set_{index}": ("arrays", 3) for index in range(5)}},
    ],
)
def test_any_grid_can_be_drawn(made_up_sweep, varied, grid):
    sweep = made_up_sweep(**grid)
    sweep.finish_all(varied)
    assert figure2(sweep.results())["png"].startswith(PNG)


def test_a_data_set_with_nothing_finished_says_so(made_up_sweep):
    assert "no finished unit" in labels(figure2(made_up_sweep().results())["svg"])


def test_pyplot_is_not_loaded_and_the_report_imports_without_matplotlib():
    code = (
        "import sys, sweep.report, sweep.report.figures\n"
        "assert 'matplotlib' not in sys.modules and 'scipy' not in sys.modules\n"
        "import pandas\n"
        "from sweep.report.aggregate import Results, tidy_frame\n"
        "sweep.report.figures.figure2(Results(tidy_frame([]), (), ()))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
