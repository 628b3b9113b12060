"""Joined transactions: another program's connection, its commit, its rollback, its savepoints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest

from pgevents import ConfigurationError, EventClient, UnsupportedTransactionError, hookimpl
from pgevents.subscriptions import Inline

from .shop import CartCreated, CartProjection, ItemAddedToCart

Make = Callable[..., EventClient]
Register = list[Callable[[], None]]


class Hooks:
    """A plugin that writes along with a save, and keeps what it hears of after the commit."""

    def __init__(self) -> None:
        self.durable: list[int] = []
        self.was_joined: list[bool] = []

    @hookimpl
    def pgevents_after_save(self, client: EventClient, events: Any) -> None:
        if events[0].type == "CART_CREATED":
            client.save_event({"type": "SEEN", "data": {"cart_id": events[0].data.cart_id}})

    @hookimpl
    def pgevents_after_commit(self, client: EventClient, events: Any) -> None:
        self.durable += [event.id for event in events]
        self.was_joined.append(client.db.in_transaction())


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
def shop(client: EventClient, make_client: Make, hooks: Hooks) -> EventClient:
    return make_client(plugins=[hooks, Inline(CartProjection)])


@pytest.fixture
def theirs(client: EventClient, url: str) -> Iterator[Any]:
    """A connection of another program, with a table of its own."""
    client.db.execute_sql("CREATE TABLE payments (cart_id text)")
    connection = psycopg2.connect(url)
    yield connection
    connection.close()


def test_saves_belong_to_their_transaction(client: EventClient, make_client: Make, theirs: Any) -> None:
    """Rows and events are seen together after their commit, or never after their rollback."""
    other, added = make_client(), ItemAddedToCart("c1", "p1", 1, 100)
    for end, expected in ((theirs.rollback, 0), (theirs.commit, 2)):
        with client.joined(theirs):
            theirs.cursor().execute("INSERT INTO payments VALUES ('c1')")
            client.save_event(CartCreated("c1", "u1"))
            client.decide(CartProjection("c1", client), lambda cart: added if cart.total == 0 else None)
            assert len(client.get_event_stream()) == 2
            assert CartProjection("c1", client).view.total == 100
        assert len(other.get_event_stream()) == 0
        end()
        assert len(other.get_event_stream()) == expected
        assert other.db.execute_sql("SELECT count(*) FROM payments").fetchone() == (expected / 2,)
    assert not client.db.in_transaction()


def test_hooks_and_views_commit_with_theirs(shop: EventClient, hooks: Hooks, theirs: Any) -> None:
    """What hooks write is part of it; after-commit hooks run after it, outside, for what stands."""
    register: Register = []
    with shop.joined(theirs, after_commit=register.append):
        first = shop.save_event(CartCreated("c1", "u1"))
        theirs.cursor().execute("SAVEPOINT s")
        shop.save_event(CartCreated("c2", "u1"))
        theirs.cursor().execute("ROLLBACK TO SAVEPOINT s")
        assert hooks.durable == []
    theirs.commit()
    assert shop.get_projection(CartProjection, "c1") is not None
    with shop.joined(theirs):  # the hooks run outside also if they are called in here
        for call in register:
            call()
    assert hooks.durable == [first.id, first.id + 1]
    assert hooks.was_joined == [False, False]
    assert [event.type for event in shop.get_event_stream()] == ["CART_CREATED", "SEEN"]
    assert shop.get_projection(CartProjection, "c2") is None


def test_atomic_inside_is_a_savepoint(client: EventClient, make_client: Make, theirs: Any) -> None:
    """`client.db.atomic()` never ends their transaction."""
    with client.joined(theirs):
        client.save_event(CartCreated("c1", "u1"))
        with pytest.raises(ZeroDivisionError), client.db.atomic():
            client.save_event(CartCreated("c2", "u1"))
            1 / 0  # noqa: B018
        with client.db.atomic():
            client.save_event(CartCreated("c3", "u1"))
        with pytest.raises(UnsupportedTransactionError, match="ends it"):
            client.db.commit()
    assert len(make_client().get_event_stream()) == 0
    theirs.commit()
    assert [event.data.cart_id for event in client.get_event_stream(CartCreated)] == ["c1", "c3"]


def test_what_cannot_be_joined_is_refused(
    client: EventClient, shop: EventClient, theirs: Any, url: str
) -> None:
    """Autocommit, other drivers, and after-commit hooks without a way to hear of the commit."""
    with pytest.raises(UnsupportedTransactionError, match="cannot see the end"), shop.joined(theirs):
        shop.save_event(CartCreated("c1", "u1"))
    theirs.rollback()
    with client.joined(theirs):
        theirs.autocommit = True  # and if it is switched on later
        with pytest.raises(UnsupportedTransactionError, match="autocommit is on"):
            client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(UnsupportedTransactionError, match="autocommit is on"), client.joined(theirs):
        pass
    psycopg = pytest.importorskip("psycopg")
    with (
        psycopg.connect(url) as other,
        pytest.raises(ConfigurationError, match=r"not on psycopg\.Connection"),
        client.joined(other),
    ):
        pass
    assert len(client.get_event_stream()) == 0


def test_other_threads_are_not_in_the_block(client: EventClient, theirs: Any) -> None:
    """A thread that inherits the context does not use the connection."""
    import contextvars

    seen: list[int] = []
    with client.joined(theirs):
        client.save_event(CartCreated("c1", "u1"))
        context = contextvars.copy_context()

        def read() -> None:
            seen.append(len(client.get_event_stream()))
            client.db.close()

        thread = threading.Thread(target=context.run, args=[read])
        thread.start()
        thread.join()
    theirs.rollback()
    assert seen == [0]


def test_a_lost_connection_is_an_error_not_a_new_one(client: EventClient, theirs: Any) -> None:
    """Nothing goes on outside of their transaction when their connection breaks."""
    from pgevents import ConnectionLostError

    with client.joined(theirs):
        client.save_event(CartCreated("c1", "u1"))
        client.get_event_stream()
        theirs.close()
        with pytest.raises(ConnectionLostError):
            client.save_event(CartCreated("c1", "u1"))
    assert len(client.get_event_stream()) == 0
