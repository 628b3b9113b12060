"""How SQL reaches the database: by Peewee's own methods, so that whoever listens or overrides them is
heard."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
from typing import Any, cast
from urllib.parse import quote

import peewee
import psycopg2
import pytest
from peewee import PostgresqlDatabase
from psycopg2.extensions import parse_dsn

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    DatabaseError,
    EventClient,
    create_event_client,
    event,
    stream,
)
from pgevents.store.session import Session

from .conftest import shop_client
from .shop import CartCreated, CartEvent, ItemAddedToCart


def save_and_read(client: EventClient, cart: str) -> None:
    client.save_event(CartCreated(cart, "u1"))
    assert len(client.get_event_stream(cart_id=cart)) == 1


def test_query_hooks_and_the_log_of_sql_see_every_statement(
    client: EventClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Peewee's `query_hooks` and its logger are told, whenever they come."""
    save_and_read(client, "c0")
    db, seen = cast(Any, client.db), list[str]()

    def hook(told: Any) -> None:
        seen.append(told.sql)

    db.query_hooks.append(hook)
    save_and_read(client, "c1")
    db.query_hooks.remove(hook)
    assert len(seen) == 2 and "events_append_one" in seen[0] and "events_fetch" in seen[1]
    with caplog.at_level(logging.DEBUG, logger="peewee"):
        save_and_read(client, "c2")
    assert len(caplog.records) == 2
    save_and_read(client, "c3")
    assert len(seen) == len(caplog.records) == 2


def test_a_database_class_with_ways_of_its_own_is_asked(client: EventClient, url: str) -> None:
    """Overridden methods, of a class or of one instance, are called for each statement."""
    asked: list[str] = []

    class Watching(PostgresqlDatabase):
        def execute_sql(self, sql: str, params: Any = None) -> Any:
            asked.append("execute_sql")
            return cast(Any, super()).execute_sql(sql, params)

    class OwnCursor(PostgresqlDatabase):
        def cursor(self, named_cursor: Any = None) -> Any:
            asked.append("cursor")
            return cast(Any, super()).cursor(named_cursor)

    params = parse_dsn(url)
    name = params.pop("dbname")
    for cls, what in ((Watching, "execute_sql"), (OwnCursor, "cursor")):
        db = cls(name, **params)
        asked.clear()
        other = create_event_client(db, client.events, client.projections)
        save_and_read(other, what)
        assert asked and set(asked) == {what}
        db.close()

    patched: Any = client.db
    original = patched.execute_sql

    def execute_sql(*args: Any, **options: Any) -> Any:
        asked.append("instance")
        return original(*args, **options)

    asked.clear()
    patched.execute_sql = execute_sql
    save_and_read(client, "patched")
    assert len(asked) == 4  # two of them look once whether the functions are installed


def test_what_was_wrapped_is_called(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instrumentation that wraps Peewee's method in place sees every statement, however well it hides."""
    save_and_read(client, "c0")
    original, seen = cast(Any, peewee.Database).execute_sql, list[str]()

    class Wrapper:
        """Like a proxy object: its bound form shows the attributes of what it wraps."""

        def __get__(self, db: Any, cls: Any) -> Any:
            if db is None:
                return self

            @functools.wraps(original)
            def call(sql: str, params: Any = None) -> Any:
                seen.append(sql)
                return original(db, sql, params)

            cast(Any, call).__func__ = original
            return call

    monkeypatch.setattr(peewee.Database, "execute_sql", Wrapper())
    save_and_read(client, "c1")
    assert len(seen) == 2
    script = """if True:
        import functools, sys, peewee
        original, seen = peewee.Database.execute_sql, []
        @functools.wraps(original)
        def execute_sql(self, sql, params=None):
            seen.append(sql)
            return original(self, sql, params)
        peewee.Database.execute_sql = execute_sql
        from pgevents import create_event_client, create_events_table, create_projections_table
        events, views = create_events_table("my_app"), create_projections_table("my_app", "views")
        client = create_event_client(sys.argv[1], events, views)
        client.get_event_stream(), client.get_event_stream()
        assert len(seen) == 2, seen
    """
    parts = {
        name: value
        for name, value in parse_dsn(client.session.connection().dsn).items()
        if name != "password"
    }
    url = "postgresql:///?" + "&".join(f"{name}={quote(str(value), '')}" for name, value in parts.items())
    subprocess.run([sys.executable, "-c", script, url], check=True)


def test_errors_without_a_name_of_their_own_keep_the_drivers(client: EventClient) -> None:
    """What pgevents has no better name for is a DatabaseError with PostgreSQL's code, and Peewee's and the
    driver's errors inside."""
    with pytest.raises(DatabaseError, match="invalid input syntax for type bigint") as caught:
        Session(client.db).execute("SELECT %s::bigint", ["x"])
    assert caught.value.sqlstate == "22P02" and isinstance(caught.value.__cause__, peewee.DataError)
    assert isinstance(cast(Any, caught.value.__cause__).orig, psycopg2.errors.InvalidTextRepresentation)


def test_a_closed_database_that_may_not_connect_says_so(client: EventClient) -> None:
    """`autoconnect=False` is respected: it is for the program to connect."""
    client.db.close()
    cast(Any, client.db).autoconnect = False
    with pytest.raises(ConfigurationError, match="autoconnect is off"):
        client.get_event_stream(cart_id="c1")


def test_one_event_is_refused_as_several_would_be(client: EventClient) -> None:
    """The short way of a single save and the general one tell the same errors, with the same facts."""
    first = client.save_event(CartCreated("c1", "u1"))
    second = client.save_event(ItemAddedToCart("c1", "p1", 1, 100))
    given = ItemAddedToCart("c1", "p2", 1, 100)
    streams = [stream([CartCreated, ItemAddedToCart], cart_id="c1")]
    told: list[dict[str, Any]] = []
    for refused in (
        lambda: client.save_event_with_stream_validation(given, first.id, streams),
        lambda: client.save_events_with_stream_validation([given], first.id, streams),
        lambda: client.save_event_with_stream_validation(given, first.id, tuple(streams)),
    ):
        with pytest.raises(ConcurrencyError) as conflict:
            refused()
        told.append({**vars(conflict.value), "message": str(conflict.value)})
    assert told[0] == told[1] == told[2] and list(conflict.value.conflicting_ids) == [second.id]
    for latest in (second.id + 1, -1, True, "1"):
        messages: list[str] = []
        for save in (
            functools.partial(client.save_event_with_stream_validation, given, cast(Any, latest), streams),
            functools.partial(client.save_events_with_stream_validation, [given], cast(Any, latest), streams),
        ):
            with pytest.raises(ConfigurationError) as fault:
                save()
            messages.append(str(fault.value))
        assert messages[0] == messages[1]
    assert len(client.get_event_stream()) == 2


def test_percent_signs_mean_the_same_whichever_way_is_taken(client: EventClient) -> None:
    """Without parameters, too, `%%` stands for one sign, as Peewee has it."""
    for listeners in ([], [lambda told: None]):
        cast(Any, client.db).query_hooks = listeners
        assert Session(client.db).execute("SELECT '%%'").fetchone() == ("%",)


def test_a_name_that_a_second_class_claims_is_refused_again_and_again(client: EventClient) -> None:
    """A class whose events went the short way does not go on to do so once another claims its name."""
    any_type = shop_client(client.db, None)

    @event("TEST_CLAIMED_TWICE")
    class Mine:
        cart_id: str

    for _ in range(2):
        any_type.save_event(Mine("c1"))

    @event("TEST_CLAIMED_TWICE")
    class Yours:
        cart_id: str

    for _ in range(3):
        with pytest.raises(ConfigurationError, match="several classes claim"):
            any_type.save_event(Mine("c1"))
    (count,) = client.session.execute("SELECT count(*) FROM my_app.events").fetchone()
    assert count == 2


def test_a_connection_ends_with_its_thread(client: EventClient) -> None:
    """A thread that ends in the middle of a transaction leaves nothing behind that others would wait for."""

    def save_and_end() -> None:
        client.save_event(CartCreated("c1", "u1"))
        cast(Any, client.db).begin()
        client.save_event(CartCreated("lost", "u1"))

    client.db.close()
    thread = threading.Thread(target=save_and_end)
    thread.start()
    thread.join()
    client.db.execute_sql("SET lock_timeout = '2s'")
    client.save_event_with_stream_validation(
        CartCreated("lost", "u2"), None, [stream(CartEvent, cart_id="lost")]
    )
    horizon = client.horizon()
    assert horizon.id == horizon.last_issued == 3
