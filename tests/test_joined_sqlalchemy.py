"""SQLAlchemy programs: events in the transactions of a session, and Alembic that leaves the tables alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from psycopg2.extensions import parse_dsn
from sqlalchemy import URL, Column, Engine, MetaData, Table, Text, create_engine, insert, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pgevents import (
    ConfigurationError,
    EventClient,
    UnsupportedTransactionError,
    create_event_client,
    create_events_table,
    create_projections_table,
    hookimpl,
)
from pgevents.sqlalchemy import include_name, joined

from .conftest import database
from .shop import CartCreated

Make = Callable[..., EventClient]
payments = Table("payments", MetaData(), Column("cart_id", Text))


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    parts: dict[str, Any] = parse_dsn(url)
    made = create_engine(URL.create("postgresql+psycopg2", database=parts.pop("dbname"), query=parts))
    payments.metadata.create_all(made)
    yield made
    made.dispose()


class Durable:
    """A plugin that keeps what is durable, and whether its client was in a transaction then."""

    def __init__(self) -> None:
        self.carts: list[tuple[str, bool]] = []

    @hookimpl
    def pgevents_after_commit(self, client: EventClient, events: Any) -> None:
        self.carts += [(event.data.cart_id, client.db.in_transaction()) for event in events]


@pytest.fixture
def durable() -> Durable:
    return Durable()


@pytest.fixture
def shop(client: EventClient, make_client: Make, durable: Durable) -> EventClient:
    return make_client(plugins=[durable])


def saved(client: EventClient) -> list[str]:
    return [event.data.cart_id for event in client.get_event_stream(CartCreated)]


def test_events_commit_with_a_session(shop: EventClient, engine: Engine, durable: Durable) -> None:
    """Commit, rollback and savepoints of the session decide; hooks run after the outermost commit."""
    with Session(engine) as session, session.begin(), joined(shop, session):
        session.execute(insert(payments), {"cart_id": "c1"})
        shop.save_event(CartCreated("c1", "u1"))
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            shop.save_event(CartCreated("c2", "u1"))
            1 / 0  # noqa: B018
        with session.begin_nested():
            shop.save_event(CartCreated("c3", "u1"))
        assert durable.carts == []
    assert durable.carts == [("c1", False), ("c3", False)]
    with pytest.raises(ZeroDivisionError), Session(engine) as session, session.begin(), joined(shop, session):
        session.execute(insert(payments), {"cart_id": "c4"})
        shop.save_event(CartCreated("c4", "u1"))
        1 / 0  # noqa: B018
    assert saved(shop) == ["c1", "c3"] == [cart for cart, _ in durable.carts]
    with Session(engine) as session:
        assert session.scalars(select(payments.c.cart_id)).all() == ["c1"]


def test_a_block_outlives_the_sessions_transactions(
    shop: EventClient, engine: Engine, durable: Durable
) -> None:
    """Each save goes to the transaction that the session has then, also of a scoped session."""
    sessions = scoped_session(sessionmaker(engine))
    with joined(shop, sessions):
        shop.save_event(CartCreated("c1", "u1"))
        sessions.commit()
        shop.save_event(CartCreated("c2", "u1"))
        sessions.rollback()
        shop.save_event(CartCreated("c3", "u1"))
        sessions.commit()
    sessions.remove()
    assert saved(shop) == ["c1", "c3"] == [cart for cart, _ in durable.carts]


def test_a_connection_of_the_core(client: EventClient, shop: EventClient, engine: Engine) -> None:
    """Works without after-commit hooks, and is refused with them."""
    with engine.begin() as connection, joined(client, connection):
        client.save_event(CartCreated("c1", "u1"))
    with engine.connect() as connection, joined(client, connection):
        client.save_event(CartCreated("c2", "u1"))  # and no commit
    assert saved(client) == ["c1"]
    with (
        engine.begin() as connection,
        joined(shop, connection),
        pytest.raises(UnsupportedTransactionError, match="join a Session"),
    ):
        shop.save_event(CartCreated("c3", "u1"))


def test_what_is_refused(client: EventClient, engine: Engine) -> None:
    """Autocommit, psycopg 3, and other objects."""
    with (
        Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session,
        pytest.raises(UnsupportedTransactionError, match="autocommit is on"),
        joined(client, session),
    ):
        pass
    with pytest.raises(ConfigurationError, match="Session or Connection, not Engine"):
        joined(client, engine)
    pytest.importorskip("psycopg")
    three = create_engine(engine.url.set(drivername="postgresql+psycopg"))
    with (
        Session(three) as session,
        pytest.raises(ConfigurationError, match=r"postgresql\+psycopg2"),
        joined(client, session),
    ):
        pass
    three.dispose()
    assert saved(client) == []


@pytest.mark.parametrize("schema", ["my_app", "public", None])
def test_alembic_leaves_the_tables_alone(url: str, engine: Engine, schema: str | None) -> None:
    """A migration makes them in its transaction; autogenerate sees no difference, and would without help."""
    pytest.importorskip("alembic")
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    db = database(url)
    client = create_event_client(db, create_events_table(schema), create_projections_table(schema))
    with engine.begin() as connection, joined(client, connection):
        client.create_tables()
    client.save_event(CartCreated("c1", "u1"))
    options: dict[str, Any] = {"include_schemas": schema == "my_app"}

    def differences(**more: Any) -> list[str]:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={**options, **more})
            return [found[0] for found in compare_metadata(context, payments.metadata)]

    assert "remove_table" in differences()
    assert differences(include_name=include_name(client)) == []
    db.close()
