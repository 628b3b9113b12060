"""Reads that only show something go to standbys; decisions never do. Nobody waits for one that is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import peewee
import psycopg2
import pytest

from pgevents import (
    ConfigurationError,
    ConnectionLostError,
    EventClient,
    InvalidValueError,
    UnsupportedTransactionError,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    latest,
    stream,
)
from pgevents.subscriptions.transient import is_transient

from ..conftest import database
from .servers import Server, server


@event
class Added:
    cart_id: str


def client_of(primary: str, *standbys: str) -> EventClient:
    return create_event_client(
        database(primary),
        create_events_table("app", data_indexes=["cart_id"]),
        create_projections_table("app"),
        [Added],
        read_from=[database(url) for url in standbys],
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with server(wal_level="replica", fsync="off") as primary, server(copy_of=primary, fsync="off") as standby:
        client_of(primary.url).create_tables()
        yield primary, standby


@pytest.fixture
def client(servers: tuple[Server, Server]) -> Iterator[EventClient]:
    primary, standby = servers
    resume(standby)
    made = client_of(primary.url, standby.url)
    yield made
    for db in (made.db, *(one.session.db for one in made.standbys.all)):
        db.close()


def sql(server: Server, statement: str) -> Any:
    connection = psycopg2.connect(server.url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    connection.close()
    return row


def pause(standby: Server) -> None:
    """The standby stays where it is."""
    sql(standby, "SELECT pg_wal_replay_pause()")
    while sql(standby, "SELECT pg_get_wal_replay_pause_state()") != ("paused",):
        time.sleep(0.01)


def resume(standby: Server) -> None:
    sql(standby, "SELECT pg_wal_replay_resume()")


def test_what_is_only_shown_comes_from_a_standby(client: EventClient, servers: tuple[Server, Server]) -> None:
    """A standby that stands still shows the past in every such read, and in no other."""
    client.project("COUNT", {"cart_id": "c1"}, lambda view, one: {"n": view["n"] + 1}, {"n": 0})
    first = client.save_event(Added("c1"))
    view = client.project("COUNT", {"cart_id": "c1"}, lambda view, one: {"n": view["n"] + 1}, {"n": 0})
    view.save_projection()
    with client.reading_after(client.bookmark()):
        assert len(client.get_event_stream(Added, cart_id="c1")) == 1
    pause(servers[1])
    second = client.save_event(Added("c1"))
    view = client.project("COUNT", {"cart_id": "c1"}, lambda view, one: {"n": view["n"] + 1}, {"n": 0})
    view.save_projection()

    assert [e.id for e in client.get_event_stream(Added, cart_id="c1")] == [first.id]
    assert [e.id for e in client.get_event_streams([stream(Added, cart_id="c1")], limit=5)] == [first.id]
    assert [e.id for e in client.iter_event_stream(Added, cart_id="c1")] == [first.id]
    assert client.get_event(second.id) is None
    shown = client.get_latest_event(Added, cart_id="c1", final=False)
    assert shown is not None and shown.id == first.id
    saved = client.get_projection("COUNT", "c1")
    assert saved is not None and saved.data == {"n": 1}
    assert [found.data for found in client.query_projections("COUNT", n=1)] == [{"n": 1}]
    assert client.count_projections("COUNT", n=2) == 0

    assert len(client.get_event_stream(Added, cart_id="c1", final=True)) == 2
    assert len(list(client.iter_event_stream(Added, cart_id="c1", final=True))) == 2
    newest = client.get_latest_event(Added, cart_id="c1")
    assert newest is not None and newest.id == second.id
    assert view.view == {"n": 2}
    with client.db.atomic():
        assert len(client.get_event_stream(Added, cart_id="c1")) == 2
        assert client.count_projections("COUNT", n=2) == 1
    seen: list[int] = []

    def decider(last: Any) -> None:
        seen.append(last.id)

    client.decide(latest(Added, cart_id="c1"), decider)
    assert seen == [second.id]


def test_a_bookmark_shows_what_was_saved_before(client: EventClient, servers: tuple[Server, Server]) -> None:
    """The standby gets a second; then the primary answers."""
    client.save_event(Added("c2"))
    bookmark = client.bookmark()
    for _ in range(20):
        client.save_event(Added("c2"))
        with client.reading_after(client.bookmark()):
            found = client.get_event_stream(Added, cart_id="c2")
        assert len(found) == len(client.get_event_stream(Added, cart_id="c2", final=True))
    pause(servers[1])
    client.save_event(Added("c2"))
    assert len(client.get_event_stream(Added, cart_id="c2")) == 21
    with client.reading_after(bookmark):
        assert len(client.get_event_stream(Added, cart_id="c2")) == 21
    with client.reading_after(client.bookmark()):
        assert len(client.get_event_stream(Added, cart_id="c2")) == 22
        assert len(list(client.iter_event_stream(Added, cart_id="c2"))) == 22
    with client.db.atomic(), pytest.raises(UnsupportedTransactionError, match="after its end"):
        client.bookmark()
    for wrong in ("", "x", None, "1/2; DROP"):
        with pytest.raises(InvalidValueError, match="a bookmark has the form"):
            client.reading_after(wrong)  # type: ignore[arg-type]


def test_a_position_from_a_standby_is_checked_on_the_primary(
    client: EventClient, servers: tuple[Server, Server]
) -> None:
    """A save that rests on what a standby showed is refused if the primary holds more."""
    from pgevents import ConcurrencyError

    client.save_event(Added("c3"))
    with client.reading_after(client.bookmark()):
        client.get_event_stream(Added, cart_id="c3")
    pause(servers[1])
    client.save_event(Added("c3"))
    seen = client.get_event_stream(Added, cart_id="c3")
    assert len(seen) == 1
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(Added("c3"), seen.position, [stream(Added, cart_id="c3")])


def test_a_standby_that_is_away_keeps_nobody_waiting(
    client: EventClient, servers: tuple[Server, Server]
) -> None:
    """The primary answers, also in the middle of an iteration; later the standby is asked again."""
    client.save_events([Added("c4") for _ in range(6_000)])
    with client.reading_after(client.bookmark()):
        events = client.iter_event_stream(Added, cart_id="c4")
        ids = [next(events).id]
    standby = servers[1]
    standby.stop()
    try:
        ids += [e.id for e in events]
        assert len(ids) == 6_000 and ids == sorted(set(ids))
        assert len(list(client.iter_event_stream(Added, cart_id="c4", limit=10))) == 10
        assert len(client.get_event_stream(Added, cart_id="c4")) == 6_000
    finally:
        standby.start()
    while sql(standby, "SELECT pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()") != (True,):
        time.sleep(0.05)
    client.standbys.all[0].away_until = 0.0
    with client.reading_after(client.bookmark()):
        client.get_event_stream(Added, cart_id="c4")
    pause(standby)
    client.save_event(Added("c4"))
    assert len(client.get_event_stream(Added, cart_id="c4")) == 6_000


def test_a_server_with_another_log_is_refused(url: str, servers: tuple[Server, Server]) -> None:
    client_of(url).create_tables()
    mixed = client_of(servers[0].url, url)
    with pytest.raises(ConfigurationError, match="not a physical copy"):
        mixed.get_event_stream(Added, cart_id="c1")
    with pytest.raises(ConfigurationError, match="starts with postgresql"):
        create_event_client(url, mixed.events, mixed.projections, read_from=[mixed.db, "mysql://x"])


def test_a_server_that_was_stopped_is_a_lost_connection(
    client: EventClient, servers: tuple[Server, Server]
) -> None:
    """The driver reports it without a code, on a connection that it calls open."""
    primary = servers[0]
    client.save_event(Added("c5"))
    primary.stop()
    primary.start()
    with pytest.raises(ConnectionLostError, match="idempotency_key"):
        client.save_event(Added("c5"))
    client.save_event(Added("c5"))
    primary.stop()
    primary.start()
    with client.session.atomic():  # it was lost before the transaction: a new one is used
        client.save_event(Added("c5"))
    assert len(client.get_event_stream(Added, cart_id="c5", final=True)) == 3
    primary.stop()
    primary.start()
    with pytest.raises(peewee.DatabaseError) as caught:
        client.db.execute_sql("SELECT 1")
    assert is_transient(caught.value)  # where a handler meets it, its event is not to blame
