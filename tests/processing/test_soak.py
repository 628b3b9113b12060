"""Long races: `PGEVENTS_SOAK=200000 pytest -s -m soak tests/processing/test_soak.py` handles that many.

Each ends with one line of what was done and found. 200,000 events with 1,000 kills take about half an hour on
two quiet cores; the default is a short try. The races have a server of their own, which is restarted, too.
PGEVENTS_PROGRAMS names the programs of another version, such as /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import psycopg2
import pytest

from ..consistency.servers import Server, pgbouncer, server
from .lab import Race, Result, race_until

HANDLED = int(os.environ.get("PGEVENTS_SOAK", "4000"))
KILLS = max(5, HANDLED // 200)
LONG = Race(seconds=20, rate=60, savers=2, workers=3, kills=6, changes=1, patience=240)


@pytest.fixture
def own() -> Iterator[Server]:
    with server(fsync="off", max_connections="100") as started:
        yield started


def soak(started: Server, url: str, handled: int, kills: int) -> None:
    """Race until so much was done."""

    def restart() -> None:
        started.stop("immediate")
        started.start()

    begin = time.monotonic()
    result: Result = race_until(url, LONG, handled, kills, started.url, restart)
    connection = psycopg2.connect(started.url)
    version = connection.info.server_version // 10000
    connection.close()
    print(f"PostgreSQL {version}{'' if url == started.url else ' behind PgBouncer'}: {result}; ", end="")
    print(f"{time.monotonic() - begin:.0f} seconds")
    assert result.handled >= handled and result.kills >= kills


@pytest.mark.soak
def test_a_long_race(own: Server) -> None:
    """Four subscriptions; nothing is missing, doubled or out of order after each round."""
    soak(own, own.url, HANDLED, KILLS)


@pytest.mark.soak
def test_a_long_race_through_pgbouncer(own: Server) -> None:
    """In transaction mode: no lock and no setting outlives a transaction."""
    with pgbouncer(own.url) as through:
        soak(own, through, HANDLED, KILLS)
