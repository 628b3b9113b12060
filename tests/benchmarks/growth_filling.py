"""Logs of many millions of events: filled by SQL, in the form that saves write."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import psycopg2
from peewee import PostgresqlDatabase
from psycopg2.extensions import make_dsn, parse_dsn
from psycopg2.sql import SQL, Identifier

from pgevents import EventClient

from ..conftest import shop_client
from .carts import CHECKED_OUT_AT

__all__ = ["BLOCK", "CART", "cart_id", "client_at", "copy_database", "fill", "grow"]

CART = 20
"""Events of a cart."""
BLOCK = 1_000
"""Carts that are filled at a time, so that the events of one lie far apart, as they do in a shop."""
BATCH = 200_000
FILL_SQL = """\
INSERT INTO my_app.events (type, data, metadata, idempotency_key, created_at, updated_at)
SELECT type, jsonb_build_object('cart_id', cart) || CASE type
        WHEN 'CART_CREATED' THEN jsonb_build_object('user_id', 'u' || mod(n, 100000))
        WHEN 'CART_CHECKED_OUT' THEN jsonb_build_object('checked_out_at', %(at)s)
        WHEN 'ITEM_ADDED_TO_CART' THEN
            jsonb_build_object('product_id', product, 'quantity', 2, 'price_at_time', 1999)
        ELSE jsonb_build_object('product_id', product, 'quantity', 2) END,
    '{}', CASE place WHEN 0 THEN 'open ' || cart END, saved, saved
FROM (
    SELECT n, c, place, md5(c::text)::uuid::text AS cart,
        'p' || mod(c * 7 + (place - 1) / 2, 1000) AS product, clock_timestamp() AS saved,
        CASE WHEN place = 0 THEN 'CART_CREATED' WHEN place = %(cart)s - 1 THEN 'CART_CHECKED_OUT'
            WHEN mod(place, 2) = 1 THEN 'ITEM_ADDED_TO_CART' ELSE 'ITEM_REMOVED_FROM_CART' END AS type
    FROM (
        SELECT n, n / (%(block)s * %(cart)s) * %(block)s + mod(n, %(block)s) AS c,
            mod(n, %(block)s * %(cart)s) / %(block)s AS place
        FROM generate_series(%(first)s, %(last)s - 1) AS n
    ) AS numbered OFFSET 0
) AS made
"""
"""As the append function writes them: ids from the sequence in order, both times the same, a key on the first
event of each cart, all indexes in place. Ids of carts are UUIDs, so each save meets another page of their
index."""


def client_at(url: str) -> EventClient:
    """A client of the log in a database."""
    params = parse_dsn(url)
    return shop_client(PostgresqlDatabase(params.pop("dbname"), **params))


def cart_id(number: int) -> str:
    """The id of a cart by its number."""

    return str(uuid.UUID(hashlib.md5(str(number).encode()).hexdigest()))


def fill(client: EventClient, events: int, say: Callable[[str], None]) -> None:
    """Add events until there are so many; the filling process gives way to others.

    Args:
        client: Its log is filled, made if it is missing.
        events: How many events shall be there.
        say: Reports progress.
    """
    client.create_tables()
    execute = client.db.execute_sql
    (there,) = execute("SELECT coalesce(max(id), 0) FROM my_app.events").fetchone()
    (backend,) = execute("SELECT pg_backend_pid()").fetchone()
    with suppress(OSError):  # of a server elsewhere, or of another user
        os.setpriority(os.PRIO_PROCESS, backend, 10)
    execute("ALTER TABLE my_app.events DISABLE TRIGGER USER")  # the guards stand aside
    for first in range(there, events, BATCH):
        began, last = time.perf_counter(), min(first + BATCH, events)
        given = {"first": first, "last": last, "block": BLOCK, "cart": CART, "at": CHECKED_OUT_AT}
        execute(FILL_SQL, given)
        if last % 1_000_000 == 0 or last == events:
            say(f"{last:,} events, {BATCH / (time.perf_counter() - began):,.0f}/s")
    execute("ALTER TABLE my_app.events ENABLE TRIGGER USER")
    client.db.close()


def copy_database(url: str, source: str, target: str) -> None:
    """Copy a database as it is, file by file, unless the copy is there."""
    connection = psycopg2.connect(make_dsn(**{**parse_dsn(url), "dbname": "postgres"}))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SELECT FROM pg_database WHERE datname = %s", [target])
    if cursor.fetchone() is None:
        cursor.execute(
            SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                Identifier(target), Identifier(source)
            )
        )
    connection.close()


def grow(url: str, sizes: list[int], say: Callable[[str], None]) -> dict[int, str]:
    """One log that grows; a copy of its database at each size but the last.

    Returns:
        The URL of the database of each size.
    """
    base, urls = parse_dsn(url), dict[int, str]()
    for size in sorted(sizes):
        client = client_at(url)
        fill(client, size, say)
        name = base["dbname"] if size == max(sizes) else f"growth_{size}"
        if size != max(sizes):
            copy_database(url, base["dbname"], name)
        urls[size] = urlsplit(url)._replace(path=f"/{name}").geturl()
    return urls
