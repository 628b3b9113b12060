"""The demo from the file to the report."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from attrs import evolve

from .audit import audit_csv
from .keeping import kept_by_runner
from .orders import Orders
from .race import race
from .replay import replay
from .report import Report, make_report
from .shop import CartProjection, ProductProjection, shop_client
from .tour import save_puzzle

__all__ = ["new_schema", "run"]

BUYERS = 8


class Stages(Protocol):
    """Where progress is shown; `screen.Screen` is one."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], object]]:
        """A stage of the work; gives a function to call with the number of steps done."""
        ...


def new_schema() -> str:
    """A name for a schema that is not there yet: each run has tables of its own."""
    return f"pgevents_demo_{datetime.now():%Y%m%d_%H%M%S}_{secrets.token_hex(2)}"


def run(orders: Orders, path: Path, url: str, schema: str, screen: Stages) -> Report:
    """Replay while a runner keeps the views, query, compare, race.

    Args:
        orders: The order lines; at least one.
        path: The file that they were read from, for the audit.
        url: The database.
        schema: The schema to create for the tables.
        screen: Shows the progress.

    Raises:
        ConfigurationError: The URL is not valid.
        peewee.PeeweeException: The database cannot be reached, or refuses.
    """
    client = shop_client(url, schema)
    client.create_tables()
    try:
        with kept_by_runner(url, schema) as keeping:
            with screen.stage("Replay", orders.usable, "lines") as progress:
                replayed = replay(client, orders, progress, keeping.saved)
            with screen.stage("Views", replayed.last_id, "events") as progress:
                kept = keeping.finish(replayed.last_id, replayed.events, progress)
            kept.views = client.count_projections([CartProjection, ProductProjection])
            report = make_report(client, orders, audit_csv(path), replayed, kept)
            with screen.stage("Last piece", BUYERS, "buyers") as progress:
                ended = race(client, url, schema, _prize(report), BUYERS, progress)
            save_puzzle(client)
            for projection in (CartProjection, ProductProjection):
                client.wait(projection, client.horizon().id, timeout=60)
        return evolve(report, race=ended)
    finally:
        client.db.close()


def _prize(report: Report) -> str:
    """The best seller among goods, whose codes begin with a digit; those of postage and the like do not."""
    best = report.best_sellers
    return next((product.id for product in best if product.id[0].isdigit()), best[0].id)
