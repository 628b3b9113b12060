"""The least SQL that does the job: what PostgreSQL and the driver cost when nothing is promised.

No guard, no order, no types; every value comes back as text.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import attrs

from ...shop import CartProjection
from ..carts import Sample, Shop
from .base import FILL_EVENTS, FILL_VIEWS, FULL_CART, PAGE, Contender, connect
from .functions import sql_types
from .ours import PgEvents

__all__ = ["Checked", "CheckedInFunction", "Copy", "Limit"]

COLUMNS = "id, type, data::text, metadata::text, created_at::text, updated_at::text"
INSERT = "INSERT INTO raw_events (type, data) VALUES ('%s', %%s) RETURNING id"
RAW_APPEND = """\
CREATE FUNCTION raw_append(_type text, _data jsonb, _cart text, _types text[], _last bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO raw_events (type, data) SELECT _type, _data WHERE NOT EXISTS (
        SELECT FROM raw_events WHERE data->>'cart_id' = _cart AND type = ANY (_types) AND id > _last
    ) RETURNING id INTO _last;
    RETURN _last;
END $$"""


class Limit(Contender):
    """Plain statements on a table with the columns, checks and indexes of pgevents' own."""

    tables = "limit"

    def open(self) -> None:
        self.connection = connect(self.url)
        self.cursor = self.connection.cursor()

    def close(self) -> None:
        self.connection.close()

    @classmethod
    def create(cls, url: str, shop: Shop) -> None:
        PgEvents.create(url, shop)
        connection = connect(url)
        connection.cursor().execute("CREATE TABLE raw_events (LIKE shop.events INCLUDING ALL)")
        connection.cursor().execute("CREATE TABLE raw_views (LIKE shop.views INCLUDING ALL)")
        connection.cursor().execute(RAW_APPEND)
        connection.close()

    @classmethod
    def fill(cls, shop: Shop) -> dict[str, str]:
        return {"raw_events": FILL_EVENTS.format(table="raw_events")}

    @classmethod
    def fill_views(cls) -> dict[str, str]:
        return {"raw_views": FILL_VIEWS.format(table="raw_views")}

    def save(self, sample: Sample) -> None:
        self.cursor.execute(INSERT % sample.type, (sample.text,))
        self.cursor.fetchone()

    save_validated = save

    def save_batch(self, samples: Sequence[Sample]) -> None:
        values = ",".join([f"('{sample.type}',%s)" for sample in samples])
        texts = [sample.text for sample in samples]
        self.cursor.execute(f"INSERT INTO raw_events (type, data) VALUES {values} RETURNING id", texts)
        self.cursor.fetchall()

    def read(self, cart: str) -> list[Any]:
        self.cursor.execute(
            f"SELECT {COLUMNS} FROM raw_events WHERE data->>'cart_id' = %s ORDER BY id", (cart,)
        )
        rows: list[Any] = self.cursor.fetchall()
        return rows

    def snapshot(self, cart: str) -> None:
        view = CartProjection.from_history(cart, []).view
        self.cursor.execute(
            "INSERT INTO raw_views (type, id, data, latest_event_id) VALUES ('SHOPPING_CART', %s, %s,"
            " (SELECT max(id) FROM raw_events WHERE data->>'cart_id' = %s)) ON CONFLICT DO NOTHING",
            (cart, json.dumps(attrs.asdict(view)), cart),
        )

    def read_after_snapshot(self, cart: str) -> list[Any]:
        self.cursor.execute(
            "WITH saved AS (SELECT latest_event_id, data FROM raw_views WHERE type = 'SHOPPING_CART' AND id "
            "= %s)\n"
            "SELECT latest_event_id, NULL, data::text, NULL, NULL, NULL FROM saved\n"
            f"UNION ALL (SELECT {COLUMNS} FROM raw_events WHERE data->>'cart_id' = %s"
            " AND id > coalesce((SELECT latest_event_id FROM saved), 0) ORDER BY id)",
            (cart, cart),
        )
        rows: list[Any] = self.cursor.fetchall()
        return rows

    def decide(self, cart: str) -> tuple[int, bool]:
        count = len(self.read(cart))
        if count < FULL_CART:
            event = f'{{"cart_id":"{cart}","product_id":"p1","quantity":1,"price_at_time":1999}}'
            self.save(Sample("ITEM_ADDED_TO_CART", cart, event, b"", None, []))
        return 1, count >= FULL_CART

    def iterate(self) -> int:
        return self._pages("", ())

    def fold(self) -> int:
        return self._pages("data->>'cart_id' = %s AND ", ("c0",))

    def _pages(self, where: str, params: tuple[str, ...]) -> int:
        last = count = 0
        sql = f"SELECT {COLUMNS} FROM raw_events WHERE {where}id > %s ORDER BY id LIMIT {PAGE}"
        while True:
            self.cursor.execute(sql, (*params, last))
            rows = self.cursor.fetchall()
            count += len(rows)
            if len(rows) < PAGE:
                return count
            last = rows[-1][0]

    def query(self, user: str) -> int:
        self.cursor.execute(
            "SELECT type, id, data::text, latest_event_id, version, created_at::text, "
            "updated_at::text FROM raw_views"
            " WHERE type = 'SHOPPING_CART' AND version = 1 AND data->>'user_id' = %s ORDER BY id",
            (user,),
        )
        return len(self.cursor.fetchall())


class Checked(Limit):
    """Check and insert in one statement without any lock: fast, and wrong as soon as two do it at once."""

    SQL = """\
INSERT INTO raw_events (type, data) SELECT '%s', %%s WHERE NOT EXISTS (
    SELECT FROM raw_events WHERE data->>'cart_id' = %%s AND type = ANY (%s) AND id > '%d'
) RETURNING id"""

    def open(self) -> None:
        super().open()
        self.types = f"'{sql_types(self.shop)}'"

    def save_validated(self, sample: Sample) -> None:
        sql = self.SQL % (sample.type, self.types, self.last.get(sample.cart, 0))
        self.cursor.execute(sql, (sample.text, sample.cart))
        (self.last[sample.cart],) = self.cursor.fetchone()


class CheckedInFunction(Checked):
    """The same in a function of the server, whose statements keep their plans."""

    SQL = "SELECT raw_append('%s', %%s, %%s, %s, '%d')"


class Copy(Limit):
    """COPY for many rows at once; it returns no ids."""

    def save_batch(self, samples: Sequence[Sample]) -> None:
        lines = "".join([f"{sample.type}\t{sample.text}\n" for sample in samples])
        self.cursor.copy_expert("COPY raw_events (type, data) FROM STDIN", io.StringIO(lines))
