"""The process that publishes a report and a view; started by `sweep.tracking.publish`.

The library may wait for long, starts a process of its own and ends only with its own process, so it
gets one that can be killed. A job comes as JSON on standard input. On standard output there is a
line of JSON for each thing as soon as it is published, so that nothing of it is forgotten when
this process is killed, and one about the problem if there was one.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweep.tracking.library import library

Line = dict[str, Any]

NO_KEY, NO_NETWORK, NO_ANSWER, REFUSED = "no key", "no network", "no answer", "refused"
_NOT_REACHED = ("dial tcp", "no such host", "proxyconnect", "network is unreachable")


def main() -> None:
    """Publish what standard input asks for."""
    job = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr  # the library prints
    try:
        for line in _publish(job):
            print(json.dumps(line), file=out, flush=True)
    except Exception as error:  # of any of several packages; each is a line for a person
        print(json.dumps(problem(error)), file=out, flush=True)


def _publish(job: Line) -> Iterator[Line]:
    """Publish both specifications, over what was published before if it is still there.

    Args:
        job: paths of the specifications (`report`, `view`), `project`, `entity`, and what an
            earlier process said (`before`).
    """
    import wandb

    api = wandb.Api()
    entity = job["entity"] or api.default_entity
    if not entity:
        raise ValueError("the key has no default entity: set tracking.entity")
    place = {"server": api.settings["base_url"], "entity": entity, "project": job["project"]}
    before = job["before"] if place.items() <= job["before"].items() else {}
    yield place
    yield {"report": _publish_report(api, entity, Path(job["report"]), before.get("report"))}
    yield {"view": _publish_view(api, entity, Path(job["view"]), before.get("view"))}


def _publish_report(api: Any, entity: str, path: Path, before: Line | None) -> Line:
    internal = library().internal
    from wandb_workspaces.reports.v2.interface import _strip_refs

    model = internal.ReportViewspec.model_validate_json(path.read_bytes())
    model.project.entity_name = entity
    old = _saved(api, before)
    if old is not None:
        model.id = old["id"]
        # What readers have said under the report stays.
        threads = json.loads(old["spec"] or "{}").get("discussionThreads", [])
        _strip_refs(threads)  # type: ignore[no-untyped-call]  # of the browser: not to be saved
        model.spec.discussion_threads = threads
    report = report_of(model)
    report.save()
    return {"id": report.id, "url": report.url}


def report_of(model: Any) -> Any:
    """The report with this specification."""
    report = library().reports.Report._from_model(model)
    report.width = model.spec.width  # which the library forgets
    return report


def _publish_view(api: Any, entity: str, path: Path, before: Line | None) -> Line:
    view = library().internal.View.model_validate_json(path.read_bytes())
    view.entity = entity
    old = _saved(api, before)
    if old is not None:
        view.id, view.name = old["id"], old["name"]
    workspace = library().workspaces.Workspace._from_model(view)
    workspace.save()
    return {"id": workspace._internal_id, "url": workspace.url}


def _saved(api: Any, before: Line | None) -> Line | None:
    """What the server has of a report or view that was published before; None if it is gone."""
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError
    from wandb_workspaces._graphql import execute_graphql
    from wandb_workspaces.reports.v2 import gql

    if before is None:
        return None
    try:
        found: Line | None = execute_graphql(api, gql.view_report, {"reportId": before["id"]})[
            "view"
        ]
    except WandbApiFailedError as error:
        told = problem(error)
        if told["problem"] == REFUSED and told["status"] in (None, 404):
            return None  # servers differ in how they say that there is none
        raise
    return found


def problem(error: BaseException) -> Line:
    """What kept something from being published: which of four kinds, a status, the words."""
    from wandb.errors import AuthenticationError, UsageError
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    kind, status, words = REFUSED, None, str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UsageError) and not isinstance(cause, AuthenticationError):
            kind = NO_KEY
        elif isinstance(cause, WandbApiFailedError):
            words = cause.response.message if cause.response else str(cause)
            found = re.search(r"HTTP (\d{3})", words)  # after repeated attempts, only here
            status = int(found[1]) if found else cause.response and cause.response.http_status
            if any(sign in words for sign in _NOT_REACHED):
                kind = NO_NETWORK
            elif cause.response is None:
                kind = NO_ANSWER
        cause = cause.__cause__
    return {"problem": kind, "status": status or None, "words": words}


if __name__ == "__main__":
    main()
