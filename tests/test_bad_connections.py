"""Servers that are down, passwords that are wrong, URLs that cannot be read: clear errors, and no password in
any."""

from __future__ import annotations

import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest
from peewee import PostgresqlDatabase, SqliteDatabase

from pgevents import (
    ConfigurationError,
    EventClient,
    create_event_client,
    create_events_table,
    create_projections_table,
)

from .shop import CartCreated

SECRET = "s3cr3t"


def client_of(db: Any) -> EventClient:
    return create_event_client(db, create_events_table("my_app"), create_projections_table("my_app", "views"))


def told(error: BaseException) -> str:
    """All that a user, a log or an error tracker could print of an error and of what it is chained to."""
    parts = traceback.format_exception(type(error), error, error.__traceback__)
    while error is not None:
        parts.append(repr(error.args))
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return "".join(parts)


def test_a_server_that_is_down(url: str) -> None:
    """Nobody listens: the driver's own words come through, with host and port, and the next try is free."""
    client = client_of(f"postgresql://me:{SECRET}@127.0.0.1:1/shop?connect_timeout=2")
    calls: list[Callable[[], Any]] = [
        lambda: client.save_event(CartCreated("c1", "u1")),
        lambda: client.get_event_stream(),
        lambda: client.create_tables(),
        lambda: next(client.iter_event_stream()),
    ]
    for call in calls:
        with pytest.raises(peewee.OperationalError, match="127.0.0.1.*port 1") as caught:
            call()
        assert SECRET not in told(caught.value)


@pytest.fixture
def doorkeeper() -> Iterator[int]:
    """A server that asks for a password and refuses every one, as PostgreSQL does; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    def serve() -> None:
        while True:
            try:
                guest, _ = listener.accept()
            except OSError:
                return
            with guest:
                while True:
                    (size,) = struct.unpack("!I", guest.recv(4))
                    (code,) = struct.unpack("!I", guest.recv(size - 4)[:4])
                    if code == 196608:
                        break
                    guest.sendall(b"N")  # no TLS, no GSS
                guest.sendall(message(b"R", struct.pack("!I", 3)))
                guest.recv(1000)
                fields = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "me"\0\0'
                guest.sendall(message(b"E", fields))

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.mark.parametrize("form", ["url", "database"])
def test_a_wrong_password_is_never_printed_back(doorkeeper: int, form: str) -> None:
    """The server refuses the password: the error says so and repeats it nowhere, nor does the client."""
    db: Any = (
        f"postgresql://me:{SECRET}@127.0.0.1:{doorkeeper}/shop"
        if form == "url"
        else PostgresqlDatabase("shop", user="me", password=SECRET, host="127.0.0.1", port=doorkeeper)
    )
    client = client_of(db)
    for call in (
        lambda: client.save_event(CartCreated("c1", "u1")),
        lambda: client.get_event_stream(),
        client.create_tables,
    ):
        with pytest.raises(peewee.OperationalError, match="password authentication failed") as caught:
            call()
        assert SECRET not in told(caught.value)
    assert SECRET not in repr(client) + repr(client.db) + repr(client.session)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}%ZZ@localhost/shop",
        f"postgresql://me:a{SECRET}%@localhost/shop",
        f"postgresql://me:x@{SECRET}@localhost/shop",
        f"postgresql://me:x@{SECRET}:x@localhost/shop",
        f"postgresql://me:{SECRET}/x@localhost/shop",
        f"postgresql://me:1/{SECRET}@localhost/shop",
        f"postgresql://me:{SECRET}@localhost:port/shop",
        f"postgresql://me:{SECRET}@[::1/shop",
        f"postgresql://me:{SECRET}@localhost/shop?pasword={SECRET}",
        f"postgresql://me:{SECRET}\0@localhost/shop",
        f"mysql://me:{SECRET}@localhost/shop",
        f"me:{SECRET}@localhost/shop",
        f"host=localhost password={SECRET}",
        SECRET,
        "",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    """A URL with a mistake, such as an unescaped character in the password, is answered with the form, not
    itself."""
    with pytest.raises(ConfigurationError, match="postgresql://user:password@host:5432/database") as caught:
        client_of(url)
    printed = "".join(traceback.format_exception_only(type(caught.value), caught.value))
    assert SECRET not in printed
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///shop",
        "postgres://me@localhost/shop",
        "postgresql://me:p%40ss%2Fw%3Ard@localhost:5432/shop?application_name=x",
        "postgresql://me@/shop?host=/tmp/sockets&port=5433",
        "postgresql://one:5432,two:5433/shop?target_session_attrs=primary",
        "postgresql://[::1]:5432/shop",
        "postgresql://localhost",
    ],
)
def test_urls_of_every_good_form_are_taken(url: str) -> None:
    """Sockets, several hosts, options and escaped passwords are understood; nothing connects yet."""
    client = client_of(url)
    assert client.db.is_closed()
    if "%40" in url:
        assert client.db.connect_params["password"] == "p@ss/w:rd"


@pytest.mark.parametrize("db", [SqliteDatabase(":memory:"), peewee.DatabaseProxy(), None, 3, object()])
def test_what_is_no_postgresql_database_is_refused(db: Any) -> None:
    """Another kind of database, or none, is refused when the client is made."""
    with pytest.raises(ConfigurationError):
        client_of(db)


def test_a_url_works_as_well_as_a_database(client: EventClient, url: str) -> None:
    """A client made from a URL reads what one made from a Peewee database saved."""
    from urllib.parse import urlencode

    from psycopg2.extensions import parse_dsn

    params = parse_dsn(url)
    own = client_of("postgresql:///?" + urlencode(params))
    client.save_event(CartCreated("c1", "u1"))
    assert own.get_event_stream(cart_id="c1")[0].data == CartCreated("c1", "u1")
    own.db.close()


def test_a_database_that_was_dropped(client: EventClient) -> None:
    """When the schema vanishes under a running client, it says what to do."""
    from pgevents import NotInstalledError

    client.save_event(CartCreated("c1", "u1"))
    client.db.execute_sql("DROP SCHEMA my_app CASCADE")
    with pytest.raises(NotInstalledError, match="create_tables"):
        client.save_event(CartCreated("c1", "u1"))
    client.create_tables()
    assert client.save_event(CartCreated("c1", "u1")).id == 1
