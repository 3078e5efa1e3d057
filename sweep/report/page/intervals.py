"""The intervals behind a claim as small drawings, beside the numbers that say the same."""

from collections.abc import Sequence

from sweep.report.findings import Finding
from sweep.report.page.panels import Shape, marker, path_through

WIDTH, HEIGHT = 120.0, 14.0
_EDGE = 6.0  # pixels left free at both ends
_STYLES = {"holds": "holds", "fails": "fails"}


def interval_drawings(findings: Sequence[Finding]) -> list[tuple[Shape, ...]]:
    """Each comparison's interval and the value that decides, 0 or 1; empty without an interval.

    Comparisons of one claim that have a unit in common share their scale, so that they can be
    compared by eye.
    """
    return [_drawing(finding, findings) for finding in findings]


def _reference(finding: Finding) -> float:
    return float("1" in finding.supports)


def _drawing(finding: Finding, others: Sequence[Finding]) -> tuple[Shape, ...]:
    interval, reference = finding.interval, _reference(finding)
    if not interval.known:
        return ()
    known = [one for one in others if one.interval.known and one.unit == finding.unit]
    low = min(reference, *(one.interval.low for one in known))
    high = max(reference, *(one.interval.high for one in known))
    scale = (WIDTH - 2 * _EDGE) / (high - low or 1.0)

    def at(value: float) -> float:
        return _EDGE + scale * (value - low)

    middle, style = HEIGHT / 2, _STYLES.get(finding.verdict, "open")
    ends = [(at(end), middle) for end in (interval.low, interval.high)]
    return (
        Shape(path_through([(at(reference), 0), (at(reference), HEIGHT)]), "axis"),
        Shape(path_through(ends), f"line {style} whisker"),
        Shape(marker("circle", at(interval.estimate), middle), f"mark {style}"),
    )
