"""A made-up ledger, and a server on loopback in W&B's place."""

from collections.abc import Iterator

import pytest
from made_up_ledger import MadeUpLedger
from wandb_stand_in import StandIn, serving

from sweep.config import ResolvedConfig
from sweep.plan import make_plan


@pytest.fixture
def made_up(tiny: ResolvedConfig) -> MadeUpLedger:
    """A sweep of 7 units, none of them computed: 1 original, 2 scratch, 4 two-stage."""
    return MadeUpLedger(tiny, make_plan(tiny))


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A stand-in for W&B's server; it is the test's own."""
    with serving() as stand_in:
        yield stand_in
