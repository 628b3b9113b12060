"""The test kit's databases: tables that are kept from test to test are as good as new ones."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from pgevents import EventClient
from pgevents.testing.databases import KEEPING_VERSION, STATE_SQL, Databases, open_database

from .conftest import shop_client
from .consistency.servers import client_programs
from .shop import CartCreated, CartProjection, ItemAddedToCart

TABLE_SQL = "SELECT 'my_app.events'::regclass::oid"
SIZES_SQL = """\
SELECT relname::text, relpages, reltuples, relallvisible FROM pg_class
WHERE relnamespace = 'my_app'::regnamespace ORDER BY relname
"""


@pytest.fixture
def databases(pgevents_server: str) -> Iterator[Databases]:
    made = Databases(pgevents_server)
    yield made
    made.close()


def run(url: str, *statements: str) -> Any:
    """Run statements on a connection of their own; the first column of the last one's first row."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for statement in statements:
            cursor.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def use(url: str) -> None:
    """Write events, a snapshot, the trail of maintenance, and what subscriptions note."""
    with closing(open_database(url)) as db:
        client = shop_client(db)
        client.save_events([CartCreated("c1", "u1"), ItemAddedToCart("c1", "tea" * 9000, 1, 450)])
        client.save_event(CartCreated("c2", "u1"), idempotency_key="once")
        CartProjection("c1", client).save_projection()
        with client.maintenance("a test"):
            db.execute_sql("DELETE FROM my_app.events WHERE id = 2")
        db.execute_sql("INSERT INTO my_app.events_seen (last_id) VALUES (1)")


def dumped(url: str) -> str:
    """All that pg_dump says: tables, functions, guards, privileges, rows, sequences."""
    text = subprocess.check_output([client_programs(url) / "pg_dump", "-d", url], text=True)
    return "\n".join(
        line for line in text.splitlines() if not line.startswith("\\")
    )  # a key of each dump's own


def sizes(url: str) -> list[Any]:
    """What plans are made by."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(SIZES_SQL)
        return list(cursor.fetchall())


def test_kept_tables_are_as_new_ones(databases: Databases) -> None:
    """After a test that wrote to them, a dump, and the figures of plans, are what they are of new tables."""
    url = databases.lend(shop_client)
    if int(run(url, "SHOW server_version_num")) < KEEPING_VERSION:
        pytest.skip("tables are made anew for each test on this server")
    fresh, fresh_sizes, table = dumped(url), sizes(url), run(url, TABLE_SQL)
    use(url)
    assert dumped(url) != fresh
    databases.take_back()
    assert databases.lend(shop_client) == url
    assert run(url, TABLE_SQL) == table
    assert dumped(url) == fresh
    assert sizes(url) == fresh_sizes


CHANGES = """
CREATE TABLE mine (x int)
CREATE INDEX mine ON my_app.events (created_at)
DROP INDEX my_app.events$type$idx
ALTER TABLE my_app.views ADD COLUMN mine int
ALTER TABLE my_app.views ALTER COLUMN version SET DEFAULT 2
ALTER TABLE my_app.views ALTER COLUMN data SET STATISTICS 7
ALTER TABLE my_app.views SET UNLOGGED
ALTER TABLE my_app.events SET (fillfactor = 50)
ALTER TABLE my_app.events DISABLE TRIGGER pgevents_insert
ALTER TABLE my_app.events ENABLE TRIGGER pgevents_insert
ALTER TABLE my_app.events ENABLE ROW LEVEL SECURITY
ALTER SEQUENCE my_app.events_id_seq CACHE 10
ALTER SCHEMA my_app RENAME TO other
ALTER FUNCTION my_app.events_append_one RENAME TO other
ALTER FUNCTION my_app.events_append_one COST 7
COMMENT ON COLUMN my_app.views.latest_event_id IS NULL
COMMENT ON FUNCTION my_app.events_append IS 'mine'
GRANT SELECT ON my_app.events TO PUBLIC
GRANT USAGE ON SCHEMA my_app TO PUBLIC
REVOKE USAGE ON SCHEMA public FROM PUBLIC
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC
CREATE POLICY mine ON my_app.events USING (true)
CREATE RULE mine AS ON UPDATE TO my_app.events DO INSTEAD NOTHING
CREATE STATISTICS my_app.mine ON type, id FROM my_app.events
CREATE PUBLICATION mine
CREATE SCHEMA mine
CREATE TYPE mine AS ENUM ('a')
SELECT lo_create(0)
ALTER DATABASE {name} SET lock_timeout = 77
REVOKE CONNECT ON DATABASE {name} FROM PUBLIC
"""
NOT_ROLLED_BACK = """
ANALYZE my_app.events_parked
INSERT INTO my_app.events_seen (last_id) VALUES (1)
"""


def test_every_other_change_is_noticed(url: str, client: EventClient) -> None:
    """Whatever a test changes in its database beside rows, its tables are not kept."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:

        def state(change: str = "SELECT 1") -> Any:
            cursor.execute(change.replace("{name}", name))
            cursor.execute(STATE_SQL)
            return cursor.fetchone()

        name = connection.info.dbname
        fresh = state()
        for change in CHANGES.strip().splitlines():
            assert state(change) != fresh, change
            connection.rollback()
        assert state() == fresh
        for change in NOT_ROLLED_BACK.strip().splitlines():
            before = state()
            assert state(change) != before, change
            connection.rollback()


def test_after_another_change_tables_are_made_anew(databases: Databases) -> None:
    """The next test does not see it; the database is the same, if it can be emptied."""
    url = databases.lend(shop_client)
    fresh, table = dumped(url), run(url, TABLE_SQL)
    run(url, "ALTER TABLE my_app.views ADD COLUMN mine int")
    databases.take_back()
    assert databases.lend(shop_client) == url
    assert run(url, TABLE_SQL) != table
    assert dumped(url) == fresh
    run(url, "SELECT lo_create(0)")
    databases.take_back()
    another_url = databases.lend(shop_client)
    assert another_url != url
    assert dumped(another_url).count("lo_create") == 0


def test_open_connections_have_ended_before_the_next_test(databases: Databases) -> None:
    """With what they held: locks of their session, and transactions that were never committed."""
    url = databases.lend(shop_client)
    with closing(psycopg2.connect(url)) as left_open, left_open.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
        cursor.execute("LOCK TABLE my_app.events")
        databases.take_back()
        url = databases.lend(shop_client)
        assert run(url, "SELECT pg_try_advisory_lock(1)")
        with pytest.raises(psycopg2.OperationalError):
            cursor.execute("SELECT 1")


def test_rows_that_belong_to_new_tables_are_there_each_time(databases: Databases) -> None:
    """Tables that are not empty when they are made are made anew for each test."""

    def with_rows(db: Any) -> EventClient:
        client = shop_client(db)
        client.create_tables()
        db.execute_sql("CREATE TABLE sizes AS SELECT 'large' AS size")
        return client

    for _ in range(2):
        assert run(databases.lend(with_rows), "SELECT size FROM sizes") == "large"
        databases.take_back()


def test_each_client_gets_its_own_tables(databases: Databases) -> None:
    """Another function gets its tables; the empty database stays empty."""

    def other_client(db: Any) -> EventClient:
        db.execute_sql("CREATE TABLE other (x int)")
        return shop_client(db)

    expected = {
        None: (None, None),
        shop_client: ("my_app.events", None),
        other_client: ("my_app.events", "other"),
    }
    for make_client in (None, shop_client, other_client, None, other_client, shop_client):
        url = databases.lend(make_client)
        found = tuple(run(url, f"SELECT to_regclass('{name}')::text") for name in ("my_app.events", "other"))
        assert found == expected[make_client]
        databases.take_back()


def test_tables_that_are_asked_for_late_are_made(request: pytest.FixtureRequest, url: str) -> None:
    """Also in the database of a test that seemed to want an empty one."""
    assert run(url, "SELECT to_regclass('my_app.events')") is None
    request.getfixturevalue("pgevents_tables")
    assert run(url, "SELECT to_regclass('my_app.events')::text") == "my_app.events"
