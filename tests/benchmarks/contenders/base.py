"""What the workloads ask of a contender, and what all contenders have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import Event

from ...shop import CartProjection, CartView
from ..carts import Shop

__all__ = [
    "FILL_EVENTS",
    "FILL_VIEWS",
    "FULL_CART",
    "PAGE",
    "Contender",
    "connect",
    "fold_cart",
    "length",
    "on_database",
]

PAGE = 5_000
"""Rows that one statement reads where a whole log is read, for every contender."""
FULL_CART = 50
"""A cart that everybody decides on is left for the next one at this size, so that no contender reads longer
carts."""
FILL_EVENTS = """\
INSERT INTO {table} (type, data, created_at, updated_at)
SELECT type, data::jsonb, at, at
FROM (SELECT n, type, data, timestamptz '2026-01-01' + n * interval '1.000321 seconds' AS at FROM seed) AS e
ORDER BY n"""
"""Rows as saves leave them: both times are the same."""
FILL_VIEWS = """\
INSERT INTO {table} (type, id, data, latest_event_id)
SELECT 'SHOPPING_CART', id, data::jsonb, 1 FROM seed_views"""


def on_database(url: str, name: str) -> str:
    """The same server's connection string for another database."""
    return str(make_dsn(**{**parse_dsn(url), "dbname": name}))


def connect(url: str) -> Any:
    """A psycopg2 connection in autocommit."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


class Contender:
    """What the workloads ask for. A contender that cannot do something lacks the method.

    Attributes:
        tables: What it needs; contenders of the same family share them.
        last: Where each cart stands that it writes to.
    """

    tables = ""

    def __init__(self, url: str, shop: Shop) -> None:
        self.url = url
        self.shop = shop
        self.last: dict[str, int] = {}

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """Disconnect; it may be opened again."""

    @classmethod
    def create(cls, url: str, shop: Shop) -> None:
        """Make the tables."""

    @classmethod
    def fill(cls, shop: Shop) -> dict[str, str]:
        """For each table the statement that fills it from the rows of `seed`."""
        return {}

    @classmethod
    def fill_views(cls) -> dict[str, str]:
        """The same for the table of snapshots, from the rows of `seed_views`."""
        return {}


def length(several: Iterable[Any]) -> int:
    """How many there are, each looked at once."""
    count = 0
    for _ in several:
        count += 1
    return count


def fold_cart(events: Iterable[Event[Any]]) -> CartView:
    """The one long cart, folded by the pipeline of the README."""
    return CartProjection.reducers.fold(events, CartView("c0"))
