"""pgevents' functions in the database, called by bare psycopg2: what its promises cost the server.

The calls are those of the library, and their values are ready-made; nothing is encoded, checked or made an
event. What pgevents itself needs beyond that is its Python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..carts import Sample, Shop
from .base import FULL_CART, Contender, connect
from .ours import PgEvents

__all__ = ["APPEND", "APPEND_ABOVE", "APPEND_MANY", "FETCH", "Functions", "sql_types"]

APPEND = "SELECT shop.events_append_one(%s, %s, NULL, NULL, NULL, NULL, NULL)"
APPEND_ABOVE = "SELECT shop.events_append_one(%s, %s, NULL, NULL, NULL, %s, %s)"
APPEND_MANY = r"SELECT shop.events_append_many(%s, string_to_array(%s, E'\n'), NULL, NULL, NULL, NULL, NULL)"
LOCK_AND_FETCH = (
    "SELECT shop.events_lock(%s); "
    "SELECT shop.events_fetch_view('shop.views', 'SHOPPING_CART', %s, 1, '', 'cart_id', %s, %s)"
)
FETCH = "SELECT shop.events_fetch('cart_id', %s, %s, 0)"
FETCH_FINAL = "SELECT shop.events_fetch_final('cart_id', %s, %s, 0)"


def sql_types(shop: Shop) -> str:
    """The types of a cart's events as PostgreSQL writes an array."""
    return "{" + ",".join(f'"{name}"' for name in sorted(shop.classes)) + "}"


class Functions(Contender):
    """The functions alone, on the tables of pgevents."""

    tables = PgEvents.tables
    create = PgEvents.create
    fill = PgEvents.fill
    fill_views = PgEvents.fill_views

    def __init__(self, url: str, shop: Shop) -> None:
        super().__init__(url, shop)
        self.types = sql_types(shop)

    def open(self) -> None:
        self.connection = connect(self.url)
        self.cursor = self.connection.cursor()

    def close(self) -> None:
        self.connection.close()

    def save(self, sample: Sample) -> None:
        self.cursor.execute(APPEND, (sample.type, sample.text))
        self.cursor.fetchone()

    def save_validated(self, sample: Sample) -> None:
        types = ",".join(sorted(self.shop.classes))
        condition = (f"{{cart_id,{sample.cart},{types}}}", f"{{{self.last.get(sample.cart, 0)},0,0}}")
        self.cursor.execute(APPEND_ABOVE, (sample.type, sample.text, *condition))
        (answer,) = self.cursor.fetchone()
        self.last[sample.cart] = int(answer.split(" ")[1])

    def save_batch(self, samples: Sequence[Sample]) -> None:
        names = ",".join([sample.type for sample in samples])
        self.cursor.execute(APPEND_MANY, (f"{{{names}}}", "\n".join([sample.text for sample in samples])))
        self.cursor.fetchone()

    def decide(self, cart: str) -> tuple[int, bool]:
        """Lock, read, save, commit, without a look at what was read but how much it is."""
        streams = json.dumps([{"types": list(self.shop.classes), "match": {"cart_id": [cart]}}])
        self.cursor.execute("BEGIN")
        self.cursor.execute(LOCK_AND_FETCH, (streams, cart, cart, self.types))
        (text,) = self.cursor.fetchone()
        full = text.count("\x1f") >= 3 + 6 * FULL_CART
        if not full:
            event = f'{{"cart_id":"{cart}","product_id":"p1","quantity":1,"price_at_time":1999}}'
            self.cursor.execute(APPEND, ("ITEM_ADDED_TO_CART", event))
            self.cursor.fetchone()
        self.cursor.execute("COMMIT")
        return 1, full

    def read(self, cart: str) -> list[Any]:
        return self._ask(FETCH, cart)[::6]

    def read_final(self, cart: str) -> list[Any]:
        return self._ask(FETCH_FINAL, cart)[1::6]

    def _ask(self, sql: str, cart: str) -> list[str]:
        self.cursor.execute(sql, (cart, self.types))
        (text,) = self.cursor.fetchone()
        return str(text).split("\x1f")
