"""One server for the whole run, a fresh database for each test, and the shop that most tests are about."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from peewee import PostgresqlDatabase
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import EventClient, create_event_client, create_events_table, create_projections_table
from pgevents.embedded import embedded_database
from pgevents.testing.databases import MakeClient

from .shop import CartEvent

# Processes that a test starts find its functions by name; at the end, so that pgevents is still the installed
# one.
sys.path.append(str(Path(__file__).parent.parent))

# A busy machine is no fault of the program.
settings.register_profile("without a time limit", deadline=None)
settings.load_profile("without a time limit")

# A shell's background job ignores SIGINT, and so would the programs that tests end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def pgevents_server() -> Iterator[str]:
    """The server of the test kit's fixtures: one of more connections, for races."""
    given = os.environ.get("PGEVENTS_DATABASE_URL")
    if given:
        yield given
        return
    # Autovacuum would take time from the tests, and analyse tables whose plans they look at.
    settings = {"max_connections": "150", "autovacuum_naptime": "1d"}
    with embedded_database(durable=False, settings=settings) as db:
        yield db.url


@pytest.fixture
def url(pgevents_url: str) -> str:
    """The connection string of an empty database of the test's own."""
    return make_dsn(**parse_dsn(pgevents_url))


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


@pytest.fixture(scope="session")
def pgevents_make_client() -> MakeClient:
    """The tables of the test kit's fixtures are the shop's."""
    return shop_client


@pytest.fixture
def client(pgevents_tables: None, make_client: Callable[..., EventClient]) -> EventClient:
    """A client for the shop, connected, tables made."""
    made = make_client()
    made.db.connect()
    return made
