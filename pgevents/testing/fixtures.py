"""pytest fixtures: a server for the run, and an empty store for each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import pytest

if TYPE_CHECKING:
    import peewee

    from pgevents.client import EventClient

__all__ = [
    "EMPTY_SQL",
    "pgevents_client",
    "pgevents_database",
    "pgevents_databases",
    "pgevents_server",
    "pgevents_url",
]


# Dropping what a test made, and making tables anew, takes a third of the time of CREATE DATABASE ... TEMPLATE
# or less: that copies some 300 files.
EMPTY_SQL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE _schema name;
BEGIN
    SET LOCAL client_min_messages = warning;
    SET LOCAL lock_timeout = '5s';
    FOR _schema IN
        SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', _schema);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
END $$
"""


class _Databases:
    """One database for one test after the other, emptied in between."""

    def __init__(self, server: str) -> None:
        import psycopg2
        from psycopg2.extensions import parse_dsn

        self.connect = psycopg2.connect
        self.parts = parse_dsn(server)
        self.server = self.open(self.parts)
        self.numbers = itertools.count(1)
        self.made: list[str] = []
        self.inside: Any = None

    def open(self, parts: Mapping[str, Any]) -> Any:
        connection = self.connect(**parts)
        connection.autocommit = True
        return connection

    def lend(self) -> str:
        if self.inside is None:
            self.made.append(f"pgevents_test_{os.getpid()}_{os.urandom(3).hex()}_{next(self.numbers)}")
            self.server.cursor().execute(f"CREATE DATABASE {self.made[-1]}")
            self.inside = self.open({**self.parts, "dbname": self.made[-1]})
        return "postgresql:///?" + urlencode({**self.parts, "dbname": self.made[-1]}, quote_via=quote)

    def take_back(self) -> None:
        try:
            self.inside.cursor().execute(EMPTY_SQL)
        except (
            Exception
        ):  # a prepared transaction, a schema of another owner, ...: the next test gets another database
            self.inside.close()
            self.inside = None

    def close(self) -> None:
        if self.inside is not None:
            self.inside.close()
        for name in self.made:
            with suppress(Exception):
                self.server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
        self.server.close()


@pytest.fixture(scope="session")
def pgevents_server() -> Iterator[str]:
    """The server of the run: what `PGEVENTS_DATABASE_URL` names, or an embedded one (the extra `embedded`).

    Override it in `conftest.py` for another server: a connection string of a role that may create databases.
    """
    given_url = os.environ.get("PGEVENTS_DATABASE_URL")
    if given_url:
        yield given_url
        return
    from pgevents.embedded import embedded_database

    with embedded_database(durable=False) as db:
        yield cast(Any, db).url


@pytest.fixture(scope="session", name="_pgevents_databases")
def pgevents_databases(pgevents_server: str) -> Iterator[_Databases]:
    """What `pgevents_url` lends from."""
    databases = _Databases(pgevents_server)
    yield databases
    databases.close()


@pytest.fixture
def pgevents_url(_pgevents_databases: _Databases) -> Iterator[str]:
    """The URL of an empty database for one test; connections still open after it are cut."""
    yield _pgevents_databases.lend()
    _pgevents_databases.take_back()


@pytest.fixture
def pgevents_database(pgevents_url: str) -> Iterator[peewee.PostgresqlDatabase]:
    """A Peewee database for one test: empty, to make a client and its tables on."""
    from peewee import PostgresqlDatabase
    from psycopg2.extensions import parse_dsn

    parts = parse_dsn(pgevents_url)
    db: Any = PostgresqlDatabase(parts.pop("dbname"), **parts)
    yield db
    db.close()


@pytest.fixture
def pgevents_client(pgevents_database: peewee.PostgresqlDatabase) -> EventClient:
    """A client with tables `events` and `projections`, no data indexes, and every class made by `@event`."""
    from pgevents import (
        create_event_client,
        create_events_table,
        create_projections_table,
    )

    client = create_event_client(pgevents_database, create_events_table(), create_projections_table())
    client.create_tables()
    return client
