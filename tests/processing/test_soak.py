"""Long races: `PGEVENTS_SOAK=200000 pytest -m soak tests/processing` handles that many events."""

from __future__ import annotations

import os

import attrs
import pytest

from ..consistency.servers import pgbouncer
from .lab import Race, run

ROUNDS = max(1, int(os.environ.get("PGEVENTS_SOAK", "20000")) // 20_000)
LONG = Race(seconds=45, rate=60, savers=2, workers=3, kills=2, changes=2, patience=240)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_long_race(url: str, number: int) -> None:
    """Some five thousand events and four subscriptions, so twenty thousand deliveries, and a kill each
    while."""
    assert run(url, attrs.evolve(LONG, seed=number + 1)) == []


@pytest.mark.soak
def test_a_long_race_through_pgbouncer(url: str) -> None:
    """In transaction mode: no lock and no setting outlives a transaction."""
    with pgbouncer(url) as through:
        assert run(through, attrs.evolve(LONG, seconds=20), direct=url) == []
