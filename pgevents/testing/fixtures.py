"""pytest fixtures: a server for the run, and a database or a store for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

from pgevents.testing.databases import EMPTY_SQL, Databases, MakeClient, create_tables, open_database

if TYPE_CHECKING:
    import peewee

    from pgevents.client import EventClient

__all__ = [
    "EMPTY_SQL",
    "pgevents_client",
    "pgevents_database",
    "pgevents_databases",
    "pgevents_make_client",
    "pgevents_server",
    "pgevents_tables",
    "pgevents_url",
]


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
def pgevents_databases(pgevents_server: str) -> Iterator[Databases]:
    """What `pgevents_url` lends from."""
    databases = Databases(pgevents_server)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def pgevents_make_client() -> MakeClient:
    """The function of a Peewee database that makes `pgevents_client`; it calls no `create_tables()`.

    Override it in `conftest.py` for the tables, event types and plugins of your application.
    """
    return _default_client


def _default_client(db: peewee.PostgresqlDatabase) -> EventClient:
    from pgevents import create_event_client, create_events_table, create_projections_table

    return create_event_client(db, create_events_table(), create_projections_table())


@pytest.fixture
def pgevents_url(
    request: pytest.FixtureRequest, _pgevents_databases: Databases, pgevents_make_client: MakeClient
) -> Iterator[str]:
    """The URL of a database for one test; connections still open after it are cut.

    It is empty, unless the test asks for `pgevents_client` or `pgevents_tables`, too.
    """
    with_tables = "pgevents_tables" in request.fixturenames
    yield _pgevents_databases.lend(pgevents_make_client if with_tables else None)
    _pgevents_databases.take_back()


@pytest.fixture
def pgevents_tables(
    pgevents_url: str, _pgevents_databases: Databases, pgevents_make_client: MakeClient
) -> None:
    """The tables of `pgevents_client` are in the test's database, without rows: for clients that a test makes
    itself, and for other processes.

    They are made once, and kept from test to test while nothing but rows is changed.
    """
    if not _pgevents_databases.has_tables():  # asked for by request.getfixturevalue() alone
        create_tables(pgevents_make_client, pgevents_url)


@pytest.fixture
def pgevents_database(pgevents_url: str) -> Iterator[peewee.PostgresqlDatabase]:
    """A Peewee database for one test: empty, to make a client and its tables on."""
    db = open_database(pgevents_url)
    yield db
    db.close()


@pytest.fixture
def pgevents_client(
    pgevents_tables: None, pgevents_database: peewee.PostgresqlDatabase, pgevents_make_client: MakeClient
) -> EventClient:
    """A client that is connected, and whose tables are made and hold no rows.

    By default with tables `events` and `projections`, no data indexes, and every class made by `@event`;
    `pgevents_make_client` makes it.
    """
    client = pgevents_make_client(pgevents_database)
    client.db.connect(reuse_if_open=True)
    return client
