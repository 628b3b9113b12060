"""One server for the whole run, a fresh database for each test, and the shop that most tests are about."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from peewee import PostgresqlDatabase
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import EventClient, create_event_client, create_events_table, create_projections_table
from pgevents.embedded import embedded_database

from .shop import CartEvent

# Processes that a test starts find its functions by name; at the end, so that pgevents is still the installed
# one.
sys.path.append(str(Path(__file__).parent.parent))

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A server to make databases on: the one that PGEVENTS_DATABASE_URL names, or an embedded one."""
    given = os.environ.get("PGEVENTS_DATABASE_URL")
    if given:
        yield given
        return
    with embedded_database(durable=False, settings={"max_connections": "150"}) as db:
        yield db.url


# A database costs a test a third of a second on a busy machine, so a used one is emptied and used again.
EMPTY_SQL = """
DO $$
DECLARE
    _schema name;
BEGIN
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR _schema IN
        SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', _schema);
    END LOOP;
    CREATE SCHEMA public;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
    IF EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database()) THEN
        RAISE 'a prepared transaction was left behind';
    END IF;
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
END $$
"""


@pytest.fixture(scope="session")
def spare_databases(server_url: str) -> Iterator[list[tuple[str, Any]]]:
    """Emptied databases, each with a connection of its owner's."""
    spare: list[tuple[str, Any]] = []
    yield spare
    for name, owner in spare:
        owner.close()
        on(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def url(server_url: str, spare_databases: list[tuple[str, Any]]) -> Iterator[str]:
    """The connection string of an empty database of the test's own."""
    if not spare_databases:
        name = f"pgevents_test_{os.getpid()}_{next(_numbers)}"
        on(server_url, f"CREATE DATABASE {name}")
        spare_databases.append((name, _connect(make_dsn(**{**parse_dsn(server_url), "dbname": name}))))
    name, owner = spare_databases.pop()
    yield make_dsn(**{**parse_dsn(server_url), "dbname": name})
    try:
        owner.cursor().execute(EMPTY_SQL)
        spare_databases.append((name, owner))
    except psycopg2.Error:
        owner.close()
        on(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _connect(url: str) -> Any:
    connection: Any = psycopg2.connect(url)
    connection.autocommit = True
    return connection


def on(url: str, sql: str) -> None:
    """Run a statement on a server, in no transaction."""
    connection = _connect(url)
    connection.cursor().execute(sql)
    connection.close()


def database(url: str, **options: Any) -> PostgresqlDatabase:
    """A Peewee database on a libpq connection string."""
    params = parse_dsn(url)
    return PostgresqlDatabase(params.pop("dbname"), **params, **options)


@pytest.fixture
def db(url: str) -> Iterator[PostgresqlDatabase]:
    """A Peewee database of the test's own."""
    made = database(url)
    yield made
    made.close()


@pytest.fixture
def make_client(url: str) -> Iterator[Callable[..., EventClient]]:
    """Clients on the same tables of one database, each with a connection of its own."""
    opened: list[PostgresqlDatabase] = []

    def make(**options: Any) -> EventClient:
        opened.append(database(url))
        return shop_client(opened[-1], **options)

    yield make
    for db in opened:
        db.close()


def shop_client(db: PostgresqlDatabase | str, event_types: Any = CartEvent, **options: Any) -> EventClient:
    """A client for the shop's tables, as a program would make it."""
    events = create_events_table(schema="my_app", name="events", data_indexes=["cart_id", "product_id"])
    views = create_projections_table(schema="my_app", name="views", data_indexes=["id", "user_id"])
    return create_event_client(db, events, views, event_types, **options)


@pytest.fixture
def client(make_client: Callable[..., EventClient]) -> EventClient:
    """A client for the shop, tables made."""
    made = make_client()
    made.create_tables()
    return made
