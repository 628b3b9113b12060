"""Servers that are down, passwords that are wrong, URLs that cannot be read: clear errors, and no password in
any."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import peewee
import pytest
from peewee import PostgresqlDatabase, SqliteDatabase
from playhouse.pool import PooledPostgresqlDatabase
from psycopg2.extensions import make_dsn, parse_dsn
from psycopg2.extras import DictCursor, NamedTupleCursor, RealDictConnection, RealDictCursor

from pgevents import (
    ConfigurationError,
    ConnectionLostError,
    DatabaseUnavailableError,
    EventClient,
    EventEncodeError,
    create_event_client,
    create_events_table,
    create_projections_table,
    hookimpl,
)

from .conftest import database, shop_client
from .shop import CartCreated, CartProjection

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
        with pytest.raises(DatabaseUnavailableError, match="127.0.0.1.*port 1") as caught:
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
        with pytest.raises(DatabaseUnavailableError, match="password authentication failed") as caught:
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


def test_a_database_that_is_not_ready_says_what_to_call(url: str) -> None:
    """Deferred: init() first. After it, the client works."""
    db: Any = PostgresqlDatabase(None)
    client = client_of(db)
    with pytest.raises(ConfigurationError, match="db.init"):
        client.save_event(CartCreated("c1", "u1"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefer_psycopg3": True}, "works with psycopg2.*psycopg"),
        ({"cursor_factory": RealDictCursor}, "rows by name"),
        ({"connection_factory": RealDictConnection}, "rows by name"),
        ({"cursor_factory": NamedTupleCursor}, "rows by name"),
        ({"client_encoding": "sql_ascii"}, "encoding of the connection is SQL_ASCII"),
    ],
)
def test_a_connection_that_pgevents_cannot_use_is_refused_at_its_first_use(
    client: EventClient, url: str, options: dict[str, Any], words: str
) -> None:
    """Another driver, rows without an order, bytes without a meaning: a save or read says what to change."""
    own = client_of(database(url, **options))
    for call in (lambda: own.save_event(CartCreated("c1", "u1")), lambda: own.get_event_stream(cart_id="c1")):
        with pytest.raises(ConfigurationError, match=words):
            call()
    assert len(client.get_event_stream()) == 0
    own.db.close()


def test_rows_in_order_are_taken_whatever_their_class(client: EventClient, url: str) -> None:
    """A cursor whose rows can be unpacked, if also by name, serves every call."""
    own = shop_client(database(url, cursor_factory=DictCursor))
    own.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u1")], idempotency_key="k")
    own.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u1")], idempotency_key="k")
    read = own.get_event_stream(CartCreated, cart_id="c1", final=True)
    own.save_event_with_stream_validation(CartCreated("c1", "u1"), read)
    assert CartProjection("c1", own).view.user_id == "u1"
    assert CartProjection("c1", own).save_projection().status == "created"
    assert own.horizon().id == len(own.get_event_stream()) == 3
    own.db.close()


def test_text_that_the_connections_encoding_cannot_hold_is_refused(client: EventClient, url: str) -> None:
    """On a LATIN1 connection a cup of tea in Japanese is refused in words; what fits is saved and read."""
    own = shop_client(database(url, client_encoding="LATIN1"))
    assert own.save_event(CartCreated("café", "u1")).data == own.get_event_stream(cart_id="café")[0].data
    with pytest.raises(EventEncodeError, match=r"LATIN1.*cannot hold.*client_encoding=UTF8"):
        own.save_event(CartCreated("お茶", "u1"))
    with pytest.raises(EventEncodeError, match="LATIN1"):
        own.get_event_stream(cart_id="お茶")
    assert len(client.get_event_stream()) == 1
    own.db.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding(url: str, encoding: str) -> None:
    """SQL_ASCII is refused; LATIN1 holds what it can, and the rest is refused in words."""
    admin: Any = database(url)
    admin.execute_sql(
        f"CREATE DATABASE of_{encoding} ENCODING '{encoding}' TEMPLATE template0 LOCALE_PROVIDER "
        f"libc LOCALE 'C'"
    )
    params = parse_dsn(url)
    try:
        own = shop_client(database(make_dsn(**{**params, "dbname": f"of_{encoding.lower()}"})))
        if encoding == "SQL_ASCII":
            with pytest.raises(ConfigurationError, match="encoding of the database is SQL_ASCII"):
                own.create_tables()
        else:
            own.create_tables()
            assert own.save_event(CartCreated("café", "u1")).data == own.get_event_stream()[0].data
            with pytest.raises(EventEncodeError, match="LATIN1.*cannot hold.*UTF8 database"):
                own.save_event(CartCreated("お茶", "u1"))
        own.db.close()
    finally:
        admin.execute_sql(f"DROP DATABASE of_{encoding} WITH (FORCE)")
        admin.close()


@pytest.mark.long
def test_a_value_that_jsonb_cannot_hold_is_refused(client: EventClient) -> None:
    """A text of over 256 MB: nothing is written, and the error names the limit."""
    with pytest.raises(EventEncodeError, match="at most 256 MB.*nothing was written"):
        client.save_event(CartCreated("c1", "u" * 270_000_000))
    assert len(client.get_event_stream()) == 0


# -- forks ------------------------------------------------------------


def in_child(work: Callable[[], object]) -> str:
    """What a forked process says: `work`'s result, or its error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


def backend_of(client: EventClient) -> int:
    return int(client.db.execute_sql("SELECT pg_backend_pid()").fetchone()[0])


@pytest.mark.parametrize("is_pool", [False, True])
def test_a_forked_process_has_a_connection_of_its_own(client: EventClient, url: str, is_pool: bool) -> None:
    """With a plain database and with a pool that holds idle connections; the parent's goes on, too."""
    params = parse_dsn(url)
    db: Any = PooledPostgresqlDatabase(params.pop("dbname"), **params) if is_pool else database(url)
    own = shop_client(db)
    own.save_event(CartCreated("parent", "u1"))
    backends = {backend_of(own)}
    if is_pool:
        db.close()

    def work() -> int:
        own.save_event(CartCreated("child", "u1"))
        assert len(own.get_event_stream(cart_id="child")) == 1
        return backend_of(own)

    backends.add(int(in_child(work)))
    assert own.save_event(CartCreated("parent", "u1")).id == 3
    assert len(backends) == 2 and backend_of(own) in backends
    db.close()


def test_a_process_forked_inside_a_transaction_is_refused(client: EventClient) -> None:
    """Its parent's COMMIT is not its own: the error says where to fork."""
    with client.db.atomic():
        client.save_event(CartCreated("c1", "u1"))
        said = in_child(lambda: client.save_event(CartCreated("c2", "u1")))
        client.save_event(CartCreated("c3", "u1"))
    assert said.startswith("UnsupportedTransactionError") and "fork outside db.atomic()" in said
    assert [event.data.cart_id for event in client.get_event_stream()] == ["c1", "c3"]


# -- connections that break ------------------------------------------------------------


def kill(admin: EventClient) -> None:
    """End all connections but the administrator's, and wait until they are gone."""
    sql = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    admin.db.execute_sql(f"SELECT pg_terminate_backend(pid) {sql}")
    while admin.db.execute_sql(f"SELECT count(*) {sql}").fetchone()[0]:
        time.sleep(0.01)


class Looks:
    """A plugin for which saves and snapshots open a transaction."""

    @hookimpl
    def pgevents_after_save(self, client: EventClient, events: Any) -> None:
        client.get_event_stream(cart_id="c1")

    @hookimpl
    def pgevents_after_snapshot(self, client: EventClient, snapshot: Any, status: str) -> None:
        pass


def maintain(client: EventClient) -> None:
    with client.maintenance("a test"):
        pass


def save_in_atomic(client: EventClient) -> None:
    with client.db.atomic():
        client.save_event(CartCreated("c1", "u1"))


@pytest.mark.parametrize(
    ("work", "is_transaction"),
    [
        (lambda client: client.save_event(CartCreated("c1", "u1")), True),
        (lambda client: client.get_event_stream(cart_id="c1"), False),
        (
            lambda client: client.decide(CartProjection("c1", client), lambda view: CartCreated("c1", "u1")),
            False,
        ),
        (lambda client: CartProjection("c1", client).save_projection(), False),
        (maintain, True),
        (save_in_atomic, True),
        (lambda client: client.create_tables(), True),
    ],
    ids=["save", "read", "decide", "snapshot", "maintenance", "atomic", "create_tables"],
)
def test_a_connection_killed_while_idle(
    client: EventClient, url: str, work: Callable[[EventClient], Any], is_transaction: bool
) -> None:
    """What begins with a transaction connects anew by itself; another call says that the connection was lost,
    and the next one works."""
    parts = "&".join(f"{key}={quote(value, '')}" for key, value in parse_dsn(url).items())
    own = create_event_client(f"postgresql:///?{parts}", client.events, client.projections, plugins=[Looks()])
    own.save_event(CartCreated("c1", "u1"))
    for _ in range(2):
        kill(client)
        if not is_transaction:
            with pytest.raises(ConnectionLostError):
                work(own)
        work(own)
    own.db.close()


def test_a_connection_killed_while_idle_when_there_is_no_other(client: EventClient, url: str) -> None:
    """As in the middle of a failover: each call says that there is no connection, and that nothing was
    written, until there is one again."""
    parts = parse_dsn(url)
    dsn = "&".join(f"{key}={quote(value, '')}" for key, value in parts.items())
    own = create_event_client(f"postgresql:///?{dsn}", client.events, client.projections, plugins=[Looks()])
    own.save_event(CartCreated("c1", "u1"))
    admin = database(make_dsn(**{**parts, "dbname": "postgres"}))
    allow = f'ALTER DATABASE "{parts["dbname"]}" ALLOW_CONNECTIONS'
    admin.execute_sql(f"{allow} false")
    try:
        kill(client)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError, match="nothing was written"):
                own.save_event(CartCreated("c2", "u1"))
    finally:
        admin.execute_sql(f"{allow} true")
        admin.close()
    own.save_event(CartCreated("c3", "u1"))
    assert len(client.get_event_stream()) == 2
    own.db.close()


def test_a_connection_killed_in_the_middle_is_named(client: EventClient, make_client: Any) -> None:
    """In pgevents' own transaction and in the caller's, the error is that the connection was lost; nothing
    that Peewee says while it leaves the block hides it."""
    admin = make_client()

    class Kills:
        @hookimpl
        def pgevents_after_save(self, client: EventClient, events: Any) -> None:
            kill(admin)
            client.get_event_stream(cart_id="c1")

    own = make_client(plugins=[Kills()])
    with pytest.raises(ConnectionLostError, match="rolled back"):
        own.save_event(CartCreated("c1", "u1"))
    with pytest.raises(ConnectionLostError), own.session.atomic():
        kill(admin)
    with pytest.raises(KeyError), own.session.atomic():
        kill(admin)
        raise KeyError
    own.plugins.unregister("Kills")
    assert own.save_event(CartCreated("c1", "u1")).id == 2
    assert len(admin.get_event_stream()) == 1


def test_an_encoding_that_the_driver_does_not_know_of_is_refused(client: EventClient) -> None:
    """After a raw SET the driver would encode text in another way than the server reads it, silently."""
    event = {"type": "GREETED", "data": {"cart_id": "c1", "text": "Grüße"}}
    client.db.execute_sql("SET client_encoding = 'LATIN1'")
    for call in (lambda: client.save_event(event), lambda: client.get_event_stream(cart_id="c1")):
        with pytest.raises(ConfigurationError, match="client_encoding was set to LATIN1"):
            call()
    for encoding in ("EUC_JP", "LATIN1", "UTF8"):
        client.db.connection().set_client_encoding(encoding)
        assert client.get_event_stream(cart_id="c1") == []
    client.save_event(event)
    assert client.get_event_stream(cart_id="c1")[0].data["text"] == "Grüße"


def test_a_date_style_that_the_driver_cannot_read_is_refused(client: EventClient) -> None:
    """It is refused before anything is written, with the statement that sets it right."""
    for style in ("German, DMY", "SQL", "Postgres, MDY"):
        client.db.execute_sql(f"SET DateStyle TO {style}")
        for call in (
            lambda: client.save_event(CartCreated("c1", "u1")),
            lambda: client.get_event_stream(cart_id="c1"),
        ):
            with pytest.raises(ConfigurationError, match="DateStyle was set to .*SET DateStyle TO ISO"):
                call()
    client.db.execute_sql("SET DateStyle TO ISO, DMY")
    assert client.get_event_stream(cart_id="c1") == []
    assert client.save_event(CartCreated("c1", "u1")) == client.get_event_stream(cart_id="c1")[0]
