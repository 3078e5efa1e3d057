"""The report as one page that needs nothing but a browser: no network, no other file.

content, units, charts (histories ──► panels) ──► templates ──► page_html
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.report.aggregate import Results
from sweep.report.cells import Table
from sweep.report.claims import Claim
from sweep.report.overview import state_rows
from sweep.report.page import content
from sweep.report.page.charts import page_figures
from sweep.report.page.intervals import interval_drawings
from sweep.report.page.units import units_data
from sweep.report.render import FINDING_HEAD, finding_row

if TYPE_CHECKING:
    from sweep.failures import Failure
    from sweep.plan import Plan
    from sweep.store import Store

__all__ = ["page_html"]


def page_html(
    plan: "Plan",
    store: "Store",
    results: Results,
    tables: Sequence[Table],
    claims: Sequence[Claim],
    failures: Mapping[str, "Failure"],
    folder: Path,
) -> str:
    """The whole page; the same store and folders give the same text.

    Args:
        folder: where the page will lie; its links to the store's records start there.
    """
    style, theme, script = (_resource(name) for name in ("page.css", "theme.js", "page.js"))
    troubles, more_troubles = content.troubles(plan, results.frame, failures)
    states = state_rows(results.frame)
    values = {
        "name": plan.name,
        "policy": _policy([style], [theme, script]),
        "style": style,
        "theme": theme,
        "script": script,
        "facts": content.facts_of(plan, results),
        "states": states,
        "segments": content.segments(states[-1].counts),
        "verdicts": content.verdict_counts(claims),
        "claims": claims,
        "labels": [column.label for column in results.columns],
        "finding_head": FINDING_HEAD,
        "finding_row": finding_row,
        "interval_drawings": interval_drawings,
        "tables": tables,
        "figures": page_figures(results, tables, store),
        "units": units_data(plan, results.frame, folder, store.root),
        "troubles": troubles,
        "more_troubles": more_troubles,
        "provenance": content.provenance(results.frame),
    }
    return _rendered(values)


def _rendered(values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__name__),
        autoescape=True,  # every name and cause comes from a file that anyone may have written
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("page.html.jinja").render(values) + "\n"


def _resource(name: str) -> str:
    return files(__name__).joinpath("templates", name).read_text(encoding="utf-8")


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A Content-Security-Policy under which this page's own style and scripts work, and no other.

    A name that slipped through as markup could thus neither run nor load anything.
    """

    def hashes(texts: Sequence[str]) -> str:
        digests = (hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; style-src {hashes(styles)}; script-src {hashes(scripts)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
