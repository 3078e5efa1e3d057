"""Draws a sweep's state: by width and height of a terminal, and as plain lines anywhere else."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sweep.errors import one_line
from sweep.glance import Glance
from sweep.layout import GAP, aligned, bar, cut, share_out, shorten
from sweep.snapshot import STATES, Snapshot, duration, summary, throughput, totals

WIDE = 140  # columns from which on there are two panels side by side
MAX_ROWS = 12  # of a list
_NO_END = 10**6  # lines, where the height is of no concern
_STYLES = {"done": "green", "failed": "red", "blocked": "red", "running": "cyan", "waiting": "dim"}


@dataclass(frozen=True)
class Picture:
    """All that is shown of a sweep at one moment."""

    name: str
    state: str  # in words: running on which host, or not running, or complete
    snapshot: Snapshot
    is_alive: bool  # its clocks go on
    running: Sequence[Glance] = ()
    finished: Sequence[Glance] = ()
    failures: Sequence[tuple[str, str]] = ()  # label and cause
    jobs: Sequence[str] = ()  # of a batch system
    made: float = field(default_factory=time.monotonic)

    def aged(self, seconds: float) -> "Picture":
        """The same with all clocks as they are so much later."""
        if not self.is_alive:
            return self
        snapshot, left = self.snapshot, self.snapshot.time_left_s
        return replace(
            self,
            snapshot=replace(
                snapshot,
                elapsed_s=snapshot.elapsed_s + seconds,
                time_left_s=None if left is None else max(0.0, left - seconds),
            ),
            running=[
                one if one.seconds is None else replace(one, seconds=one.seconds + seconds)
                for one in self.running
            ],
        )


def running_on(snapshot: Snapshot) -> str:
    """A living sweep's state in words."""
    process = f", process {snapshot.pid}" if snapshot.pid else ""
    phase = f" ({one_line(snapshot.phase)})" if snapshot.phase else ""
    return f"running on {one_line(snapshot.host)}{process}{phase}"


def draw(picture: Picture, tracking: str | None = None, fits: bool = False) -> RenderableType:
    """The state of a sweep.

    Args:
        tracking: a line about Weights & Biases.
        fits: never higher than the terminal, for what is drawn again and again; otherwise every
            failure is shown in full.
    """
    return _Display(picture, tracking, fits)


@dataclass(frozen=True)
class _Display:
    picture: Picture
    tracking: str | None
    fits: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        picture = self.picture.aged(time.monotonic() - self.picture.made)
        if not console.is_terminal:
            yield from _plain(picture, self.tracking)
            return
        width, marks = options.max_width, "#-" if options.ascii_only else "━─"
        top = _top(picture, width, marks)
        bottom = [Text(cut(f"job {one_line(job)}", width)) for job in picture.jobs]
        if self.tracking:
            bottom.append(Text(cut(one_line(self.tracking), width), "dim"))
        lines = _NO_END
        if self.fits:  # one line is left to the cursor
            bottom = bottom[-max(1, console.height // 6) :]
            lines = console.height - 1 - len(top) - len(bottom)
        yield from top
        arrange = _side_by_side if width >= WIDE else _below_each_other
        yield from arrange(_Lists(picture, marks, whole=not self.fits), width, lines)
        yield from bottom
        if not self.fits:
            yield from (Text(line, "red") for line in _failures_in_full(picture))


def _top(picture: Picture, width: int, marks: str) -> list[Text]:
    """The name and the state, a bar, and the times."""
    name, snapshot, count = one_line(picture.name), picture.snapshot, totals(picture.snapshot)
    style = "green" if picture.is_alive or count["done"] == count["all"] else "yellow"
    state = cut(f"● {picture.state}", max(8, width - min(len(name), 12) - len(GAP)))
    name = cut(name, width - len(state) - len(GAP))
    head = Text.assemble((name, "bold"), GAP, (state, style))
    share = 100 * count["done"] // max(1, count["all"])
    numbers = f"{GAP}{count['done']:,}/{count['all']:,} units, {share} %"
    whole = bar(count, _STYLES, width - len(numbers), marks)
    whole.append(numbers, "bold")
    parts = [f"elapsed {duration(snapshot.elapsed_s)}"]
    if picture.is_alive:
        parts.append(f"left {duration(snapshot.time_left_s)}")
        parts += [throughput(snapshot.units_per_h)] if snapshot.units_per_h else []
    times = Text(cut(" · ".join(parts), width))
    if snapshot.not_converged:
        note = f" · {snapshot.not_converged:,} not converged"
        times.append(cut(note, width - len(times)), "yellow")
    for line in (head, whole, times):
        line.truncate(width)
    return [head, whole, times]


@dataclass(frozen=True)
class _Lists:
    """The lists below the top, each as a title and lines for a width and a number of rows."""

    picture: Picture
    marks: str  # of bars; empty: without bars
    whole: bool  # failures are shown in full elsewhere

    def units(self, width: int) -> list[Text]:
        """Kinds by states, each with a bar where there is room."""
        kinds = self.picture.snapshot.units
        counts = [[f"{max(0, kinds[k].get(s, 0)):,}" for s in STATES] for k in kinds]
        widths = [max(map(len, column)) for column in zip(STATES, *counts, strict=True)]
        first = max(map(len, kinds), default=0)
        heads = "".join(f"{GAP}{s:>{w}}" for s, w in zip(STATES, widths, strict=True))
        lines = [Text(" " * first + heads, "dim")]
        for kind, cells in zip(kinds, counts, strict=True):
            line = Text(f"{kind:<{first}}")
            for state, cell, size in zip(STATES, cells, widths, strict=True):
                line.append(f"{GAP}{cell:>{size}}", "dim" if cell == "0" else _STYLES[state])
            room = width - len(line) - len(GAP) - 1
            if self.marks and room >= 10:
                line.append(GAP + " ").append(bar(kinds[kind], _STYLES, room, self.marks))
            lines.append(line)
        for line in lines:
            line.truncate(width)
        return lines

    def num_rows(self, name: str) -> int:
        """Rows that a list could use."""
        if name == "failed":
            causes = {cause for _, cause in self.picture.failures}
            return 0 if self.whole else 2 * min(len(causes), MAX_ROWS)
        all_of = self.picture.running if name == "running" else self.picture.finished
        return min(len(all_of), MAX_ROWS) + (name == "running" and len(all_of) > MAX_ROWS)

    def rows(self, name: str, width: int, count: int) -> list[Text]:
        """`count` lines of a list; the last of them says how many units there are more."""
        if name == "failed":
            return _failed(self.picture.failures, width, count)
        shown = list(self.picture.running if name == "running" else self.picture.finished)
        more = len(shown) - count if name == "running" else 0
        if more > 0:
            shown = shown[: count - 1]
        cells = [[g.label, *_words(g)] for g in shown[:count]]
        lines = [
            Text.assemble(label, (rest, "" if glance.is_converged else "yellow"))
            for (label, rest), glance in zip(aligned(cells, width), shown, strict=False)
        ]
        return [*lines, Text(f"and {more + 1:,} more", "dim")] if more > 0 else lines


_TITLES = {
    "running": ("running now", "cyan"),
    "failed": ("failed", "red"),
    "finished": ("finished last", "green"),
}


def _below_each_other(lists: _Lists, width: int, lines: int) -> RenderResult:
    units = lists.units(width)
    if lines > len(units):
        yield ""
        yield from units
        lines -= len(units) + 1
    names = ("failed", "running", "finished")
    given = share_out([lists.num_rows(name) for name in names], lines, overhead=2)
    for name, count in zip(names, given, strict=True):
        if count:
            yield ""
            yield Text(*_TITLES[name])
            yield from lists.rows(name, width, count)


def _side_by_side(lists: _Lists, width: int, lines: int) -> RenderResult:
    inner = (width - 1) // 2 - 4  # a panel's frame takes two cells on each side
    units = lists.units(inner)
    left: list[RenderableType] = []
    right: list[RenderableType] = []
    if lines >= len(units) + 2:
        left.append(_panel("units", "", units))
    wanted = [lists.num_rows("finished")]
    (count,) = share_out(wanted, lines - len(units) - 2, overhead=2)
    if count:
        left.append(_panel(*_TITLES["finished"], lists.rows("finished", inner, count)))
    names = ("failed", "running")
    given = share_out([lists.num_rows(name) for name in names], lines, overhead=2)
    for name, count in zip(names, given, strict=True):
        if count:
            right.append(_panel(*_TITLES[name], lists.rows(name, inner, count)))
    if not right:
        left, right = left[:1], left[1:]
    grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    for _ in (left, right):
        grid.add_column(width=inner + 4)
    grid.add_row(_stack(left), _stack(right))
    yield grid


def _stack(panels: Sequence[RenderableType]) -> Table:
    column = Table.grid(expand=True)
    for panel in panels:
        column.add_row(panel)
    return column


def _panel(title: str, style: str, lines: Sequence[Text]) -> Panel:
    return Panel(Text("\n").join(lines), title=Text(title, style), title_align="left")


def _failed(failures: Sequence[tuple[str, str]], width: int, count: int) -> list[Text]:
    """The first causes, each below the first of its units; `count` is 2 or more."""
    by_cause: dict[str, list[str]] = {}
    for label, cause in failures:
        by_cause.setdefault(cause, []).append(label)
    fit = len(by_cause) if 2 * len(by_cause) <= count else max(1, (count - 1) // 2)
    lines = []
    for cause, (first, *others) in list(by_cause.items())[:fit]:
        more = f" and {len(others):,} more" if others else ""
        lines.append(Text(shorten(one_line(first), width - len(more)) + more, "red"))
        lines.append(Text(cut(f"  {one_line(cause)}", width), "red"))
    others_left = len(by_cause) - fit
    if others_left and len(lines) < count:
        causes = "cause" if others_left == 1 else "causes"
        lines.append(Text(f"and {others_left:,} other {causes}", "red"))
    return lines


def _words(glance: Glance) -> list[str]:
    words = [] if glance.seconds is None else [f"{duration(glance.seconds):>6}"]
    return [*words, *glance.words]


def _failures_in_full(picture: Picture) -> Iterable[str]:
    for label, cause in picture.failures:
        yield one_line(f"failed: {label}: {cause}")


def _plain(picture: Picture, tracking: str | None) -> Iterable[Text]:
    """Lines for a pipe, as long as they are; each says by itself what it is about."""
    yield Text(f"{one_line(picture.name)}: {picture.state}")
    yield Text(summary(picture.snapshot))
    yield from _Lists(picture, "", whole=True).units(_NO_END)
    for name, glances in (("running", picture.running), ("finished", picture.finished)):
        for glance in glances[:MAX_ROWS]:
            words = [word.strip() for word in _words(glance)]
            yield Text(f"{name}: {', '.join([glance.label, *words])}")
        if name == "running" and len(glances) > MAX_ROWS:
            yield Text(f"running: and {len(glances) - MAX_ROWS:,} more")
    yield from (Text(f"job {one_line(job)}") for job in picture.jobs)
    yield from (Text(line) for line in _failures_in_full(picture))
    if tracking:
        yield Text(one_line(tracking))
