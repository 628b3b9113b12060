"""How SQL reaches the database: by the shortest way, and by Peewee's own where somebody listens or changes
it."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, cast
from urllib.parse import quote

import peewee
import psycopg2
import pytest
from peewee import PostgresqlDatabase
from psycopg2.extensions import parse_dsn

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
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
    assert len(seen) == 2 and "events_append_plain" in seen[0] and "events_fetch" in seen[1]
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


def test_errors_are_peewees_whichever_way_was_taken(client: EventClient) -> None:
    """What has no name of its own here is raised as Peewee raises it, with the driver's error inside."""
    for listeners in ([], [lambda told: None]):
        cast(Any, client.db).query_hooks = listeners
        with pytest.raises(peewee.DataError, match="invalid input syntax for type bigint") as caught:
            Session(client.db).execute("SELECT %s::bigint", ["x"])
        assert isinstance(cast(Any, caught.value).orig, psycopg2.errors.InvalidTextRepresentation)


def test_a_closed_database_that_may_not_connect_says_so(client: EventClient) -> None:
    """`autoconnect=False` is respected: it is for the program to connect."""
    client.db.close()
    cast(Any, client.db).autoconnect = False
    with pytest.raises(peewee.InterfaceError, match="not opened"):
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


def test_a_kept_cursor_is_of_one_user_at_a_time(url: str) -> None:
    """Threads that share a connection get each its own value."""
    interval = sys.getswitchinterval()
    params = parse_dsn(url)
    db = PostgresqlDatabase(params.pop("dbname"), thread_safe=False, **params)
    session = Session(db)
    connection = session.connection()

    def ask(number: int) -> list[str]:
        return [session.value("SELECT %s", (f"{number}-{n}",)) for n in range(2_000)]

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert answers == [[f"{number}-{n}" for n in range(2_000)] for number in range(4)]
    connection.close()


def test_a_kept_cursor_ends_with_its_thread(client: EventClient) -> None:
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


def test_a_kept_cursor_is_no_large_one_and_may_be_closed(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of a batch is not kept; and whoever made the cursors may close them."""
    made: list[Any] = []

    class Known(psycopg2.extensions.cursor):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))

    client.session.connection().cursor_factory = Known
    for _ in range(2):
        client.save_event(CartCreated("c1", "u1"))
    client.save_events([CartCreated("c2", "u" * 1_000)] * 100)
    alive = [cursor for cursor in (ref() for ref in made) if cursor is not None]
    assert len(alive) == 1 and len(alive[0].query) < 1_000
    alive[0].close()
    assert client.save_event(CartCreated("c3", "u1")).id == 103


def test_a_kept_cursor_is_left_behind_with_its_connection(client: EventClient) -> None:
    """An error, another connection or another kind of cursor: the next value comes by the right cursor."""
    session, db = client.session, cast(Any, client.db)
    backend = session.value("SELECT pg_backend_pid()", ())
    with pytest.raises(peewee.DataError, match="invalid input syntax for type bigint"):
        session.value("SELECT %s::bigint", ("x",))
    assert session.value("SELECT pg_backend_pid()", ()) == backend
    db.close()
    db.connect()
    assert session.value("SELECT pg_backend_pid()", ()) == session.connection().get_backend_pid() != backend
    session.connection().close()
    for _ in range(2):
        assert session.value("SELECT pg_backend_pid()", ()) == session.connection().get_backend_pid()

    class Watching(psycopg2.extensions.cursor):  # type: ignore[misc]
        seen: ClassVar[list[str]] = []

        def execute(self, query: Any, vars: Any = None) -> None:
            self.seen.append(query)
            super().execute(query, vars)

    session.connection().cursor_factory = Watching
    client.save_event(CartCreated("c1", "u1"))
    client.save_event(CartCreated("c2", "u1"))
    assert len([sql for sql in Watching.seen if "append_plain" in sql]) == 2
