"""Words and bars are made to fit what there is, and numbers stay whole."""

import re

from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from sweep.layout import aligned, bar, cut, share_out, shorten
from sweep.snapshot import STATES

LONG = "two_stage fashion_mnist 12.5 % second_largest seed 10"


@given(st.text(st.characters(categories=["L", "N", "Zs"]), max_size=80), st.integers(1, 60))
def test_labels_and_sentences_are_made_to_fit(text: str, width: int) -> None:
    assert cell_len(shorten(text, width)) <= width
    assert cell_len(cut(text, width)) <= width
    assert sum(map(cell_len, aligned([[text, "12.5 %"]], width)[0])) <= max(width, 1)


def test_numbers_in_a_shortened_label_stay_whole() -> None:
    numbers = set(re.findall(r"[\d.]+", LONG))
    for width in range(8, len(LONG) + 1):
        assert set(re.findall(r"[\d.]+", shorten(LONG, width))) <= numbers
    assert shorten(LONG, 44) == "two_stage fashion_… 12.5 % second_l… seed 10"


@given(st.lists(st.integers(0, 10**6), min_size=5, max_size=5), st.integers(0, 200))
@example([1, 1, 1, 6, 6], 5)
def test_a_bar_has_its_width_and_a_part_for_whatever_occurs(counts: list[int], width: int) -> None:
    styles = dict(zip(STATES, ("a", "b", "c", "d", "e"), strict=True))
    drawn = bar(dict(zip(STATES, counts, strict=True)), styles, width, "#-")
    assert len(drawn) == width
    if width >= 5 and any(counts):
        assert len(drawn.spans) == sum(count > 0 for count in counts)


@given(st.lists(st.integers(0, 20), max_size=4), st.integers(-5, 60))
def test_lines_are_shared_out_within_what_there_is(wanted: list[int], lines: int) -> None:
    given_ = share_out(wanted, lines, overhead=2)
    assert all(0 <= got <= most for got, most in zip(given_, wanted, strict=True))
    assert sum(got + 2 for got in given_ if got) <= max(0, lines)
