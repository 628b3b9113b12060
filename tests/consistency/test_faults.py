"""Promise 7 and 8 when things break: what was acknowledged is there, nothing is there in half, nothing
twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from pgevents import ConnectionLostError, EventClient, PgEventsError, RetryableError

from ..conftest import database
from ..shop import CartProjection, ItemAddedToCart
from .lab import Race, lab_client
from .servers import server
from .test_odd_servers import shop, sql

MakeClient = Callable[..., EventClient]
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END';
CREATE TRIGGER slow AFTER INSERT ON my_app.events FOR EACH STATEMENT EXECUTE FUNCTION slow();
"""
"""Makes every save stay in flight for a while, with its ids taken."""


def item(cart: str = "c1", product: str = "p1") -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, 100)


def wait_for(url: str, query: str) -> Any:
    """The first row of a query as soon as there is one."""
    for _ in range(400):
        rows = sql(url, query)
        if rows:
            return rows[0]
        time.sleep(0.02)
    raise AssertionError(f"nothing came of {query}")


IN_FLIGHT = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


def test_a_client_killed_in_the_middle_of_a_batch_leaves_nothing(client: EventClient, url: str) -> None:
    """kill -9: no event of the batch appears, its keys are free, the horizon moves on; a retry with the key
    saves it once."""
    sql(url, SLOW)
    batch = [item("c1", f"p{number}") for number in range(100)]

    def save() -> None:
        from ..conftest import shop_client

        shop_client(database(url)).save_events(batch, idempotency_key="order 7")

    process = multiprocessing.get_context("fork").Process(target=save)
    process.start()
    (backend,) = wait_for(url, IN_FLIGHT)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    sql(
        url, f"SELECT pg_terminate_backend({backend}, 5000)"
    )  # else the server finishes, as it may, and then notices
    assert len(client.get_event_stream()) == 0
    assert client.horizon().holders == ()
    saved = client.save_events(batch, idempotency_key="order 7")
    assert client.save_events(batch, idempotency_key="order 7") == saved
    assert len(client.get_event_stream()) == 100


def test_a_backend_terminated_in_the_middle_of_a_save_says_so_and_the_client_reconnects(
    client: EventClient, url: str
) -> None:
    """ConnectionLostError, with what to do; the next call works, and the repeated key saves once."""
    client.save_event(item())
    sql(url, SLOW)
    errors: list[Exception] = []

    def save() -> None:
        try:
            client.save_event(item(), idempotency_key="k")
        except Exception as error:
            errors.append(error)
        client.save_event(item(), idempotency_key="k")
        client.save_event(item(), idempotency_key="k")
        client.db.close()

    thread = threading.Thread(target=save)
    thread.start()
    (backend,) = wait_for(url, IN_FLIGHT)
    sql(url, f"SELECT pg_terminate_backend({backend}, 5000)")
    thread.join()
    assert [type(error) for error in errors] == [ConnectionLostError]
    assert "idempotency_key" in str(errors[0])
    assert errors[0].__cause__ is not None
    assert len(client.get_event_stream()) == 2


def test_a_backend_terminated_in_a_transaction_loses_the_whole_transaction(
    client: EventClient, url: str
) -> None:
    """All or nothing: what was saved earlier in the transaction is gone, too, and the client goes on."""
    with pytest.raises(Exception), client.db.atomic():  # noqa: B017 (whatever the driver says when it rolls back)
        client.save_event(item())
        pid = client.db.connection().info.backend_pid
        sql(url, f"SELECT pg_terminate_backend({pid}, 5000)")
        client.save_event(item())
    assert len(client.get_event_stream()) == 0
    assert client.save_event(item()).id > 0


def test_an_immediate_stop_under_load_loses_nothing_that_was_acknowledged() -> None:
    """The server is stopped the hard way and started again, twice, while four processes save with keys and
    retry."""
    with server() as own:
        race = Race("one key", followers=False, pause=0)
        race.install(own.url)
        context = multiprocessing.get_context("fork")
        told: Any = context.Queue()
        ending = context.Event()

        def save(process: int) -> None:
            own_client = lab_client(own.url)
            acknowledged: dict[str, list[int]] = {}
            lost, number = 0, 0
            while not ending.is_set():
                number += 1
                key = f"{process}-{number}"
                events = [
                    {"type": "A", "data": {"k": f"k{process}", "m": f"{key}-{n}"}}
                    for n in range(1 + number % 3)
                ]
                while key not in acknowledged:
                    try:
                        acknowledged[key] = [
                            event.id for event in own_client.save_events(events, idempotency_key=key)
                        ]
                    except (PgEventsError, psycopg2.Error, Exception):  # the server may be away for a while
                        lost += 1
                        time.sleep(0.05)
            told.put((acknowledged, lost))

        workers = [context.Process(target=save, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for _ in range(2):
            time.sleep(0.7)
            own.stop("immediate")
            own.start()
        time.sleep(0.5)
        ending.set()
        answers = [told.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        rows = dict(sql(own.url, "SELECT data->>'m', id FROM lab.events"))
        (count,) = sql(own.url, "SELECT count(*) FROM lab.events")[0]
        acknowledged = {key: ids for answer in answers for key, ids in answer[0].items()}
        assert sum(answer[1] for answer in answers) > 0
        assert len(acknowledged) > 20
        assert count == len(rows) == sum(len(ids) for ids in acknowledged.values())
        for key, ids in acknowledged.items():
            assert [rows[f"{key}-{n}"] for n in range(len(ids))] == ids


def test_a_lock_timeout_is_retryable_and_nothing_is_lost(
    client: EventClient, make_client: MakeClient
) -> None:
    """The one who waits too long is told by whom it was held up, and the transaction can go on from its
    savepoint."""
    other = make_client()
    with other.db.atomic():
        other.save_event(item())
        client.db.execute_sql("SET lock_timeout = '200ms'")
        with client.db.atomic():
            client.save_event(item("c2"))
            with pytest.raises(RetryableError) as refusal, client.db.atomic():
                client.save_event_with_stream_validation(item(), client.get_event_stream(cart_id="c1"))
            client.save_event(item("c3"))
    assert refusal.value.__cause__ is not None
    assert str(other.db.connection().info.backend_pid) in str(refusal.value)
    assert [len(client.get_event_stream(cart_id=cart)) for cart in ("c1", "c2", "c3")] == [1, 1, 1]


def test_a_statement_timeout_is_retryable_and_nothing_is_lost(client: EventClient, url: str) -> None:
    """Also in the middle of a save that has its ids already."""
    sql(url, SLOW)
    client.db.execute_sql("SET statement_timeout = '100ms'")
    with pytest.raises(RetryableError) as refusal:
        client.save_event(item(), idempotency_key="k")
    assert refusal.value.__cause__ is not None
    client.db.execute_sql("SET statement_timeout = 0")
    assert len(client.get_event_stream()) == 0
    client.save_event(item(), idempotency_key="k")
    assert len(client.get_event_stream()) == 1
    assert client.horizon().holders == ()


def test_a_serialization_failure_is_retryable(client: EventClient) -> None:
    """Whoever raises it."""
    with pytest.raises(RetryableError) as refusal, client.db.atomic():
        client.save_event(item())
        client.session.execute("DO $$ BEGIN RAISE serialization_failure; END $$")
    assert refusal.value.__cause__ is not None
    assert len(client.get_event_stream()) == 0


def test_one_key_from_eight_processes_is_one_save(client: EventClient, url: str) -> None:
    """Plain and validated, with one content: everybody gets the same events. With other content or length: an
    error."""
    from pgevents import IdempotencyError

    from ..conftest import shop_client

    context = multiprocessing.get_context("fork")
    told: Any = context.Queue()
    start = context.Barrier(8)

    def save(process: int) -> None:
        own = shop_client(database(url))
        read = own.get_event_stream(cart_id="c0")
        for round_number in range(15):
            start.wait(30)
            cart = f"c{round_number}"
            count = 4 if process == 6 else 2 if process == 7 else 3
            batch = [item(cart, f"p{number}") for number in range(count)]
            try:
                if process % 2:
                    read = own.get_event_stream("CART_CHECKED_OUT", cart_id=cart)
                    saved = own.save_events_with_stream_validation(batch, read, idempotency_key=cart)
                else:
                    saved = own.save_events(batch, idempotency_key=cart)
                told.put((cart, count, tuple(event.id for event in saved)))
            except IdempotencyError:
                told.put((cart, count, None))

    workers = [context.Process(target=save, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    answers = [told.get(timeout=60) for _ in range(8 * 15)]
    for worker in workers:
        worker.join()
    for round_number in range(15):
        cart = f"c{round_number}"
        stands = tuple(event.id for event in client.get_event_stream(cart_id=cart))
        for _, count, ids in (answer for answer in answers if answer[0] == cart):
            assert ids == (stands if count == len(stands) else None)


def test_a_snapshot_after_a_crash_is_still_exact() -> None:
    """Snapshot and log are in one database: what survives of one survives of the other."""
    with server() as own:
        with shop(own.url) as client:
            client.save_events([item() for _ in range(10)])
            client.save_projection(CartProjection("c1", client))
            client.save_event(item())
        own.stop("immediate")
        own.start()
        with shop(own.url) as client:
            projection = CartProjection("c1", client)
            assert len(projection.view.items) == 11
            assert projection.saved_projection is not None
            assert projection.saved_projection.latest_event_id == 10
