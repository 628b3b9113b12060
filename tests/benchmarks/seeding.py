"""Databases of a known size: the same rows in the same order for every contender, sent once, copied on the
server."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from psycopg2.sql import SQL, Identifier

from .carts import log_of_carts, log_of_one_cart
from .contenders import CONTENDERS, Contender, connect
from .drivers import Database

__all__ = ["create_database", "drop_database", "replace_database"]

CHUNK = 50_000
SHORT_LOG = 400
"""Events in a database that is about snapshots."""
INDEXES = """\
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index AS i
WHERE i.indrelid = %s::regclass
AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)"""


def create_database(url: str, database: Database, contenders: Iterable[str]) -> None:
    """Make the tables of these contenders in an empty database, and fill them.

    Args:
        url: Of the empty database; the role has to be a superuser.
        database: What shall be in it.
        contenders: Keys of `CONTENDERS`.
    """
    families: dict[str, type[Contender]] = {CONTENDERS[key].tables: CONTENDERS[key] for key in contenders}
    for contender in families.values():
        contender.create(url, database.shop)
    connection = connect(url)
    cursor = connection.cursor()
    cursor.execute("CREATE UNLOGGED TABLE seed (n bigint, cart text, version int, type text, data text)")
    _copy(cursor, "seed", _events(database))
    fills = {table: sql for one in families.values() for table, sql in one.fill(database.shop).items()}
    if database.kind == "views":
        cursor.execute("CREATE UNLOGGED TABLE seed_views (id text, data text)")
        _copy(cursor, "seed_views", _views(database.size))
        fills |= {table: sql for one in families.values() for table, sql in one.fill_views().items()}
    for table, sql in fills.items():
        cursor.execute(INDEXES, [table])
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name}")
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")  # the guards stand aside
        cursor.execute(sql)
        cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        for _, definition in indexes:
            cursor.execute(definition)
    cursor.execute("DROP TABLE IF EXISTS seed, seed_views")
    cursor.execute("VACUUM ANALYZE")
    cursor.execute("CHECKPOINT")
    connection.close()


def replace_database(url: str, name: str) -> None:
    """An empty database, in place of one of that name that a broken run has left."""
    drop_database(url, name)
    connection = connect(url)
    connection.cursor().execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    connection.close()


def drop_database(url: str, name: str) -> None:
    """Remove a database, whoever is connected to it."""
    connection = connect(url)
    connection.cursor().execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))
    connection.close()


def _events(database: Database) -> Iterator[str]:
    shop = database.shop
    if database.kind == "cart":
        log = log_of_one_cart(shop, database.size)
    else:
        log = log_of_carts(shop, database.size if database.kind == "carts" else SHORT_LOG)
    for n, (cart, number, name, fields) in enumerate(log):
        yield f"{n}\t{cart}\t{number}\t{name}\t{json.dumps(fields, separators=(',', ':'))}\n"


def _views(size: int) -> Iterator[str]:
    item = {"product_id": "p1", "quantity": 2, "price_at_time": 1999}
    for number in range(size):
        cart = f"c{number}"
        view: dict[str, Any] = {"id": cart, "user_id": f"u{number % (size // 10)}", "items": [item] * 3}
        view |= {"is_checked_out": False, "total": 11994}
        yield f"{cart}\t{json.dumps(view)}\n"


def _copy(cursor: Any, table: str, lines: Iterator[str]) -> None:
    while chunk := "".join(itertools.islice(lines, CHUNK)):
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(chunk))
