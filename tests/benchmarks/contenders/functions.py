"""pgevents' functions in the database, called by bare psycopg2: what its promises cost the server.

The calls are those of the library, and their values are ready-made; nothing is encoded, checked or made an event.
What pgevents itself needs beyond that is its Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..carts import Sample, Shop
from .base import Contender, connect
from .ours import PgEvents

__all__ = ["Functions"]


class Functions(Contender):
    """The functions alone, on the tables of pgevents."""

    tables = PgEvents.tables
    create = PgEvents.create
    fill = PgEvents.fill
    fill_views = PgEvents.fill_views

    def __init__(self, url: str, shop: Shop) -> None:
        super().__init__(url, shop)
        self.types = "{" + ",".join(f'"{name}"' for name in sorted(shop.classes)) + "}"

    def open(self) -> None:
        self.connection = connect(self.url)
        self.cursor = self.connection.cursor()

    def close(self) -> None:
        self.connection.close()

    def save(self, sample: Sample) -> None:
        sql = "SELECT shop.events_append_one(%s, %s, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
        self.cursor.execute(sql, (sample.type, sample.text))
        self.cursor.fetchone()

    def save_validated(self, sample: Sample) -> None:
        self.cursor.execute(
            "SELECT shop.events_append_one(%s, %s, 'cart_id', %s, %s, %s, 0, NULL, NULL)",
            (sample.type, sample.text, sample.cart, self.types, self.last.get(sample.cart, 0)),
        )
        (answer,) = self.cursor.fetchone()
        self.last[sample.cart] = int(answer.partition(" ")[0])

    def save_batch(self, samples: Sequence[Sample]) -> None:
        rows = ",".join(['{"type":"%s","data":%s}' % (sample.type, sample.text) for sample in samples])
        self.cursor.execute("SELECT shop.events_append(%s, NULL, NULL, NULL)::text", (f"[{rows}]",))
        self.cursor.fetchone()

    def read(self, cart: str) -> list[Any]:
        return self._ask("SELECT shop.events_fetch('cart_id', %s, %s, 0)", cart)[::6]

    def read_final(self, cart: str) -> list[Any]:
        return self._ask("SELECT shop.events_fetch_final('cart_id', %s, %s, 0)", cart)[1::6]

    def _ask(self, sql: str, cart: str) -> list[str]:
        self.cursor.execute(sql, (cart, self.types))
        (text,) = self.cursor.fetchone()
        return str(text).split("\x1f")
