"""Transactions: a save belongs to the caller's `atomic()`, and Peewee's traps are no traps here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import peewee
import pytest

from pgevents import (
    ConnectionLostError,
    EventClient,
    RetryableError,
    UnsupportedTransactionError,
    hookimpl,
    stream,
)

from .conftest import database, shop_client
from .shop import CartCreated, CartProjection

Make = Callable[..., EventClient]


class Told:
    """A plugin that keeps what it was told is durable."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    @hookimpl
    def pgevents_after_commit(self, events: Any) -> None:
        self.ids += [event.id for event in events]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watched(client: EventClient, make_client: Make, told: Told) -> EventClient:
    """A client with the plugin."""
    return make_client(plugins=[told])


def save(client: EventClient, cart: str = "c1") -> int:
    return client.save_event(CartCreated(cart, "u1")).id


def test_a_save_is_part_of_the_callers_transaction(client: EventClient, make_client: Make) -> None:
    """Inside `atomic()` nothing is seen outside before the commit, and nothing stands after a rollback."""
    other = make_client()
    with client.db.atomic():
        save(client)
        assert len(client.get_event_stream()) == 1
        assert len(other.get_event_stream()) == 0
    assert len(other.get_event_stream()) == 1
    with pytest.raises(ZeroDivisionError), client.db.atomic():
        save(client)
        CartProjection("c1", client).save_projection()
        1 / 0  # noqa: B018
    assert len(other.get_event_stream()) == 1
    assert other.get_projection(CartProjection, "c1") is None


def test_events_commit_with_the_applications_own_rows(client: EventClient) -> None:
    """A row of the application and an event stand together or not at all."""
    client.db.execute_sql("CREATE TABLE stock (product text PRIMARY KEY, pieces int CHECK (pieces >= 0))")
    client.db.execute_sql("INSERT INTO stock VALUES ('p1', 1)")
    for _ in range(2):
        try:
            with client.db.atomic():
                save(client)
                client.db.execute_sql("UPDATE stock SET pieces = pieces - 1")
        except peewee.IntegrityError:
            pass
    assert len(client.get_event_stream()) == 1


def test_durable_events_are_told_of_once_committed(watched: EventClient, told: Told) -> None:
    """`pgevents_after_commit` runs after the commit of the outermost transaction, and at once without one."""
    save(watched)
    assert told.ids == [1]
    with watched.db.atomic():
        save(watched)
        with watched.db.atomic():
            save(watched)
        assert told.ids == [1]
    assert told.ids == [1, 2, 3]


def test_a_rolled_back_savepoint_is_not_told_of(watched: EventClient, told: Told) -> None:
    """Peewee runs the callbacks of a rolled-back savepoint too: nobody is told of events that are not
    there."""
    with watched.db.atomic():
        save(watched)
        with pytest.raises(ZeroDivisionError), watched.db.atomic():
            save(watched)
            1 / 0  # noqa: B018
        with watched.db.atomic() as savepoint:
            save(watched)
            savepoint.rollback()
        save(watched)
    assert told.ids == [one.id for one in watched.get_event_stream()] == [1, 4]


def test_a_swallowed_sql_error_is_not_told_of(watched: EventClient, told: Told) -> None:
    """An SQL error swallowed inside `atomic()` makes COMMIT a silent rollback: nobody is told that events are
    durable."""
    with watched.db.atomic():
        save(watched)
        try:
            watched.db.execute_sql("SELECT 1/0")
        except peewee.PeeweeException:
            pass
    assert told.ids == []
    assert len(watched.get_event_stream()) == 0


def test_a_save_after_a_swallowed_sql_error_is_an_error(client: EventClient) -> None:
    """Saving in a transaction that can only be rolled back is refused, with what to do instead."""
    with client.db.atomic() as transaction:
        try:
            client.db.execute_sql("SELECT 1/0")
        except peewee.PeeweeException:
            pass
        with pytest.raises(UnsupportedTransactionError, match="an SQL error was swallowed"):
            save(client)
        transaction.rollback()
    assert save(client) == 1


def test_a_swallowed_sql_error_in_a_hook_is_an_error(client: EventClient, make_client: Make) -> None:
    """A plugin that swallows an SQL error in `pgevents_after_save` cannot lose the save in silence."""

    class Careless:
        @hookimpl
        def pgevents_after_save(self, client: EventClient, events: Any) -> None:
            try:
                client.db.execute_sql("SELECT 1/0")
            except peewee.PeeweeException:
                pass

    with pytest.raises(UnsupportedTransactionError, match="swallowed"):
        save(make_client(plugins=[Careless()]))
    assert len(client.get_event_stream()) == 0


def test_what_a_hook_writes_commits_with_the_events(client: EventClient, make_client: Make) -> None:
    """Rows that `pgevents_after_save` writes stand with the events, and an exception there undoes both."""
    client.db.execute_sql("CREATE TABLE outbox (id bigint)")

    class Outbox:
        fails = False

        @hookimpl
        def pgevents_after_save(self, client: EventClient, events: Any) -> None:
            for event in events:
                client.db.execute_sql("INSERT INTO outbox VALUES (%s)", [event.id])
            if self.fails:
                raise RuntimeError("no")

    plugin = Outbox()
    own = make_client(plugins=[plugin])
    save(own)
    plugin.fails = True
    with pytest.raises(RuntimeError):
        save(own)
    assert client.db.execute_sql("SELECT array_agg(id) FROM outbox").fetchone() == ([1],)
    assert len(client.get_event_stream()) == 1


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_other_isolation_levels_are_refused(client: EventClient, url: str, level: str) -> None:
    """A frozen snapshot cannot see what others commit: saves, final reads and snapshots are refused, reads
    are not."""
    for begin in ("transaction", "default"):
        setting = f"-c default_transaction_isolation={level.lower().replace(' ', chr(92) + ' ')}"
        own = shop_client(database(url, **({"options": setting} if begin == "default" else {})))
        with own.db.atomic():
            if begin == "transaction":
                own.db.execute_sql(f"SET TRANSACTION ISOLATION LEVEL {level}")
            own.get_event_stream()
            for refused in (
                lambda own=own: save(own),
                lambda own=own: own.get_event_stream(final=True),
                lambda own=own: CartProjection("c1", own).save_projection(),
            ):
                with pytest.raises(UnsupportedTransactionError, match="READ COMMITTED"), own.db.atomic():
                    refused()
        own.db.close()
    assert len(client.get_event_stream()) == 0


def test_autocommit_that_was_switched_off_is_refused(client: EventClient) -> None:
    """On a connection where nobody would commit, a save is refused."""
    client.db.connection().autocommit = False
    with pytest.raises(UnsupportedTransactionError, match="autocommit"):
        save(client)
    client.db.connection().autocommit = True
    assert save(client) == 1


def test_a_deadlock_is_retryable(client: EventClient, make_client: Make) -> None:
    """Of two transactions that lock each other out one is told that it may try the whole again, cause
    chained."""
    client.db.execute_sql("CREATE TABLE rows (id int PRIMARY KEY, n int)")
    client.db.execute_sql("INSERT INTO rows VALUES (1, 0), (2, 0)")
    one, two, barrier, caught = make_client(), make_client(), threading.Barrier(2), []

    def work(own: EventClient, first: int, second: int) -> None:
        try:
            with own.db.atomic():
                own.session.execute("SET LOCAL deadlock_timeout = '50ms'")
                own.session.execute("UPDATE rows SET n = n + 1 WHERE id = %s", [first])
                save(own)
                barrier.wait()
                own.session.execute("UPDATE rows SET n = n + 1 WHERE id = %s", [second])
        except RetryableError as error:
            caught.append(error)
        own.db.close()

    threads = [threading.Thread(target=work, args=given) for given in ((one, 1, 2), (two, 2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caught) == 1
    assert "deadlock" in str(caught[0]) and "run the whole db.atomic() block again" in str(caught[0])
    assert caught[0].__cause__ is not None
    assert len(client.get_event_stream()) == 1


def test_a_lock_timeout_is_retryable(client: EventClient, make_client: Make) -> None:
    """A validated save that waits longer than the caller's lock_timeout gives a retryable error, and writes
    nothing."""
    holder = make_client()
    client.db.execute_sql("SET lock_timeout = '100ms'")
    with holder.db.atomic():
        save(holder)
        with pytest.raises(RetryableError, match="lock timeout.*nothing was written"):
            client.save_event_with_stream_validation(CartCreated("c1", "u1"), None, [stream(cart_id="c1")])
    assert len(client.get_event_stream()) == 1
    assert client.db.execute_sql("SHOW lock_timeout").fetchone() == ("100ms",)


def test_a_statement_timeout_is_retryable(client: EventClient) -> None:
    """A statement that was cancelled is retryable."""
    client.db.execute_sql("SET statement_timeout = '50ms'")
    with pytest.raises(RetryableError, match="statement timeout"):
        client.session.execute("SELECT pg_sleep(5)")


def test_a_broken_connection_is_told_and_the_next_call_connects_anew(
    client: EventClient, make_client: Make
) -> None:
    """When the server ends the connection, the call says so, and the next one works."""
    save(client)
    admin = make_client()
    (pid,) = client.db.execute_sql("SELECT pg_backend_pid()").fetchone()
    admin.db.execute_sql("SELECT pg_terminate_backend(%s)", [pid])
    with pytest.raises(ConnectionLostError, match="repeat it with its idempotency_key"):
        save(client)
    assert save(client) == 2


def test_a_connection_lost_in_a_transaction_loses_the_transaction(
    client: EventClient, make_client: Make
) -> None:
    """Inside `atomic()` a lost connection ends the block with an error: what was saved before is not half
    there."""
    admin = make_client()
    with pytest.raises((ConnectionLostError, peewee.PeeweeException)), client.db.atomic():
        save(client)
        (pid,) = client.db.execute_sql("SELECT pg_backend_pid()").fetchone()
        admin.db.execute_sql("SELECT pg_terminate_backend(%s)", [pid])
        save(client)
    assert len(admin.get_event_stream()) == 0
    if not client.db.is_closed():
        client.db.close()
    assert save(client) == 2


def test_thousands_of_saves_in_one_transaction(client: EventClient) -> None:
    """Single saves in one `atomic()` do not run the server out of lock memory."""
    with client.db.atomic():
        for n in range(2_000):
            save(client, f"c{n}")
        (locks,) = client.db.execute_sql(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        ).fetchone()
    assert locks < 500  # the limit follows the server's lock memory
    assert len(client.get_event_stream()) == 2_000


def test_threads_share_a_client(client: EventClient) -> None:
    """One client serves many threads, each on a connection of its own."""
    errors: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for _ in range(20):
                save(client, f"c{n}")
            assert len(client.get_event_stream(cart_id=f"c{n}")) == 20
        except BaseException as error:
            errors.append(error)
        finally:
            client.db.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(client.get_event_stream()) == 160
