"""Runs on a W&B server. One process of wandb's own serves them all.

What the server has of a run decides where to go on, never what was handed to the client: its
`finish()` returns without an error also where the server has refused every row.
"""

import os
from collections.abc import Collection, Mapping
from typing import Any

from sweep.plan import Plan, PlannedUnit
from sweep.tracking.client import ClientRuns
from sweep.tracking.content import MAX_NAME, OUTCOME, tags_of
from sweep.tracking.errors import Refused
from sweep.tracking.runs import Arrived, Recording
from sweep.tracking.settings import TrackingConfig

REQUESTS_A_RUN = 8  # at most, counted with wandb 0.31: asking, start, upserts, parts of the stream
TRANSMIT_EVERY_S = 15.0  # of each open run
_INIT_TIMEOUT_S = 20.0
# wandb's own would retry for hours, and nothing here would know; the sink tries again itself.
_RETRIES, _WAIT_MAX_S, _TIMEOUT_S = 4, 10.0, 15.0
_SETTINGS = {
    "init_timeout": _INIT_TIMEOUT_S,
    "x_skip_transaction_log": True,  # the store is the ledger
    "ignore_globs": ("*",),  # configuration and summary travel by themselves, not as files too
    "x_file_stream_transmit_interval": TRANSMIT_EVERY_S,
    **{f"x_{part}_retry_max": _RETRIES for part in ("file_stream", "graphql")},
    **{f"x_{part}_retry_wait_max_seconds": _WAIT_MAX_S for part in ("file_stream", "graphql")},
    **{f"x_{part}_timeout_seconds": _TIMEOUT_S for part in ("file_stream", "graphql")},
}


class OnlineRuns(ClientRuns):
    """Opens runs in one project; see `runs.Runs`."""

    def __init__(self, plan: Plan, config: TrackingConfig) -> None:
        super().__init__(plan, config, "online")
        self._api: Any = None
        self._entity = config.entity
        self.url: str | None = None

    def open(self, unit: PlannedUnit, known: Arrived | None) -> Recording:
        """Begin a unit's run, or go on with it where the server's history ends."""
        tags = dict.fromkeys([*(known.tags if known else ()), *tags_of(self._plan, unit)])
        run = self._init(
            unit,
            _SETTINGS,
            entity=self._entity,
            # A unit that several sweeps share stays in the group that had it first.
            group=self._plan.name[:MAX_NAME] if known is None else None,
            tags=list(tags),
            resume="allow",
        )
        self._entity = run.entity
        self.url = (run.url or "").rpartition("/runs/")[0] or None
        return Recording(run, unit)

    def arrived(self, keys: Collection[str]) -> Mapping[str, Arrived]:
        """Ask the server for at most 100 units, in one question.

        Raises:
            Refused: nobody's key.
        """
        import wandb

        api = self._api = self._api or wandb.Api(timeout=int(_TIMEOUT_S))
        entity = self._entity or os.environ.get("WANDB_ENTITY") or api.default_entity
        if entity is None:
            raise Refused("the key belongs to nobody; set tracking.entity")
        self._entity = entity
        api.flush()  # it would answer the same question as it did before
        path = f"{entity}/{self._config.project}"
        filters = {"name": {"$in": list(keys)}}
        found = {}
        try:
            for run in api.runs(path, filters=filters, per_page=100, lazy=False):
                rows = run._attrs.get("historyLineCount") or 0
                found[run.id] = Arrived(rows, run.summary.get(OUTCOME), tuple(run.tags))
        except ValueError as error:
            if "Could not find project" not in str(error):  # the first run makes it
                raise
        return found
