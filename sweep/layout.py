"""Lines that fit: rows in columns, a label made shorter, a bar, and who gets how many lines."""

from collections.abc import Mapping, Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

GAP = "  "  # between columns
_SHORTEST = 4  # a word is not made shorter than this
_LABEL = 30  # cells that a long label should have
_ROWS = 2  # a list is shown with at least as many, or not at all


def cut(text: str, width: int) -> str:
    """The beginning of a text in at most `width` cells; it ends between words where it can."""
    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    head = set_cell_size(text[:width], width - 1).rstrip()
    words, _, _ = head.rpartition(" ")
    # A single long word may be cut anywhere, but a number only as a whole.
    kept = words if len(words) >= len(head) // 2 else head.rstrip("0123456789.,")
    return kept.rstrip("… ") + "…"


def shorten(label: str, width: int) -> str:
    """A unit's label in at most `width` cells: its longest words end early, numbers stay whole."""
    words = label[: 4 * max(1, width)].split(" ")
    lengths = [0 if word[:1].isdigit() else cell_len(word) for word in words]
    excess = cell_len(label) - width
    while excess > 0 and max(lengths) > _SHORTEST:
        longest = lengths.index(max(lengths))
        lengths[longest] -= 1
        words[longest] = set_cell_size(words[longest].removesuffix("…"), lengths[longest] - 1) + "…"
        excess = cell_len(" ".join(words)) - width
    return cut(" ".join(words), width)


def aligned(rows: Sequence[Sequence[str]], width: int) -> list[tuple[str, str]]:
    """Rows as labels and what stands beside them, in columns; a label takes what is left.

    The last columns are left out where a label would have too little.
    """
    if not rows:
        return []
    num_columns = max(map(len, rows))
    padded = [[*row, *[""] * (num_columns - len(row))] for row in rows]
    widths = [max(cell_len(row[i]) for row in padded) for i in range(num_columns)]
    beside = [len(GAP) + size for size in widths[1:]]
    while len(beside) > 1 and width - sum(beside) < min(widths[0], _LABEL):
        beside.pop()
    room = max(min(widths[0], width - sum(beside)), 1)
    lines = []
    for row in padded:
        label = set_cell_size(shorten(row[0], room), room)
        cells = [f"{row[i]:<{widths[i]}}" for i in range(1, len(beside) + 1)]
        rest = "".join(GAP + cell for cell in cells).rstrip()
        lines.append((label, cut(rest, max(0, width - room))))
    return lines


def bar(counts: Mapping[str, int], styles: Mapping[str, str], width: int, marks: str) -> Text:
    """A bar of `width` cells with a part for each state; no state that occurs goes without.

    Args:
        styles: by state, in the order of the parts; what comes last is still to be done.
        marks: of what is done and of what is still to be done.
    """
    total = sum(counts.get(state, 0) for state in styles)
    occur = [state for state in styles if counts.get(state, 0) > 0]
    if width < len(occur) or not occur:
        return Text(marks[-1] * max(0, width), "dim")
    parts = {state: max(1, width * counts[state] // total) for state in occur}
    while (spare := width - sum(parts.values())) != 0:
        largest = max(occur, key=lambda state: parts[state])
        parts[largest] += spare if spare > 0 else -1  # one by one, lest one part pays for all
    last = list(styles)[-1]
    return Text.assemble(*((marks[state == last] * parts[state], styles[state]) for state in occur))


def share_out(wanted: Sequence[int], lines: int, overhead: int) -> list[int]:
    """How many rows each list gets of the lines that are there, the first before the last.

    Args:
        wanted: rows of each list.
        overhead: lines that a list takes besides its rows.
    """
    given = [0] * len(wanted)
    for position, count in enumerate(wanted):
        least = min(count, _ROWS)
        if least and lines >= least + overhead:
            given[position] = least
            lines -= least + overhead
    while lines > 0:
        hungry = [i for i, count in enumerate(given) if 0 < count < wanted[i]]
        if not hungry:
            break
        for position in hungry[:lines]:
            given[position] += 1
            lines -= 1
    return given
