"""Long races: `PGEVENTS_SOAK=200000 pytest -m soak tests/processing` handles that many events.

In full that takes some hours on two cores, with a thousand kills and more. The default is a short try.
PGEVENTS_DATABASE_URL names another server, such as one of PostgreSQL 15.
"""

from __future__ import annotations

import os

import pytest

from ..consistency.servers import pgbouncer
from .lab import Race, Result, race_until

HANDLED = int(os.environ.get("PGEVENTS_SOAK", "4000"))
KILLS = max(5, HANDLED // 200)
LONG = Race(seconds=30, rate=40, savers=2, workers=3, kills=6, changes=1, patience=240)


def check_size(result: Result) -> None:
    """That it was as long as it was to be."""
    print(result)
    assert result.handled >= HANDLED and result.disturbances >= KILLS


@pytest.mark.soak
def test_a_long_race(url: str) -> None:
    """Four subscriptions; nothing is missing, doubled or out of order after each round."""
    check_size(race_until(url, LONG, HANDLED, KILLS))


@pytest.mark.soak
def test_a_long_race_through_pgbouncer(url: str) -> None:
    """In transaction mode: no lock and no setting outlives a transaction."""
    with pgbouncer(url) as through:
        check_size(race_until(through, LONG, HANDLED // 4, KILLS // 4, direct=url))
