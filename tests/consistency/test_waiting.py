"""Who waits for whom: whoever has nothing to decide about what somebody else keeps, goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgevents import (
    ConcurrencyError,
    EventClient,
    RetryableError,
    UnsupportedTransactionError,
    create_event_client,
    create_events_table,
    create_projections_table,
    stream,
)
from pgevents.store.append import EventColumns
from pgevents.store.options import ReadOptions

from ..conftest import database
from ..shop import ItemAddedToCart
from .test_liveness import under_the_bound, worst_save

MakeClient = Callable[..., EventClient]


def item(cart: str, product: str = "p1") -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, 100)


def decide_on(client: EventClient, cart: str, product: str = "p1") -> None:
    read = client.get_event_stream(cart_id=cart)
    client.save_event_with_stream_validation(item(cart, product), read)


@contextmanager
def waiting_for(client: EventClient, save: Callable[[EventClient], object]) -> Iterator[list[Any]]:
    """A save in a thread of its own, which waits for what this thread keeps; what became of it."""
    outcome: list[Any] = []

    def run() -> None:
        start = time.monotonic()
        try:
            save(client)
            outcome.append("saved")
        except Exception as error:
            outcome.append(error)
        outcome.append(time.monotonic() - start)
        client.db.close()

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.2)
    yield outcome
    thread.join()


@pytest.mark.parametrize("kind", ["a plain save", "a batch of many carts", "a decision in a transaction"])
def test_whoever_waits_for_a_stuck_decision_holds_nobody_up(
    client: EventClient, make_client: MakeClient, kind: str
) -> None:
    """Behind a decision on one cart that stays open somebody waits: decisions on other carts, of the same
    product and type, go on."""
    waiter, other = make_client(), make_client()
    batch = [item(f"c{n}") for n in range(20)]

    def in_transaction(own: EventClient) -> None:
        with own.db.atomic():
            own.save_event(item("mine", "elsewhere"))
            decide_on(own, "c7", "elsewhere")

    saves: dict[str, Callable[[EventClient], object]] = {
        "a plain save": lambda own: own.save_event(item("c7")),
        "a batch of many carts": lambda own: own.save_events(batch),
        "a decision in a transaction": in_transaction,
    }
    with client.db.atomic():
        decide_on(client, "c7")
        with waiting_for(waiter, saves[kind]):
            measured = under_the_bound(
                lambda: worst_save(other, 1.0, lambda n: decide_on(other, f"c{n % 7}", f"p{n % 3}"))
            )
            assert measured[-1] < 0.2
            client.db.rollback()  # the waiter may go on


def test_one_deadline_for_the_whole_save_and_the_error_names_who_holds_it(
    client: EventClient, make_client: MakeClient
) -> None:
    """However many locks it needs, and a plain save, too."""
    holders = [make_client() for _ in range(3)]
    client.db.execute_sql("SET lock_timeout = '700ms'")
    carts = [f"c{n}" for n in range(3)]
    transactions = [holder.db.atomic() for holder in holders]
    for holder, transaction, cart in zip(holders, transactions, carts, strict=True):
        transaction.__enter__()
        holder.db.execute_sql("SET LOCAL application_name = 'the till'")
        decide_on(holder, cart)
    for save in (
        lambda: client.save_event(item("c1")),
        lambda: client.save_events([item(cart) for cart in carts]),
        lambda: client.save_event_with_stream_validation(item("x"), None, stream(cart_id=carts)),
    ):
        start = time.monotonic()
        with pytest.raises(RetryableError, match=r"held by backend \d+ \(the till, in a transaction since"):
            save()
        assert 0.6 < time.monotonic() - start < 2.5
    for transaction in transactions:
        transaction.__exit__(None, None, None)


def test_thirty_decisions_in_a_transaction_stop_nobody(client: EventClient, make_client: MakeClient) -> None:
    """And a batch in the same transaction neither."""
    other = make_client()
    other.db.execute_sql("SET lock_timeout = '500ms'")
    with client.db.atomic():
        for n in range(30):
            decide_on(client, f"c{n}", f"p{n}")
        other.save_event(item("other", "other"))
        decide_on(other, "another", "other")
        client.save_events([item(f"b{n}", f"q{n}") for n in range(300)])
        decide_on(client, "c1")
        other.save_event(item("other", "other"))


def test_more_decisions_than_the_server_has_locks_for_are_refused_unless_the_table_is_locked(
    client: EventClient,
) -> None:
    """Nobody else is stopped without being asked."""
    (limit,) = client.db.execute_sql("SELECT my_app.events_key_limit()").fetchone()

    def decide_on_many() -> None:
        for n in range(3 * limit):
            client.save_event_with_stream_validation(
                {"type": "A", "data": {}}, client.get_event_stream(cart_id=f"c{n}")
            )

    with pytest.raises(UnsupportedTransactionError, match="locks more than the"), client.db.atomic():
        decide_on_many()
    assert len(client.get_event_stream()) == 0
    with client.db.atomic():
        client.session.execute("SELECT my_app.events_lock('[{}]')")
        decide_on_many()
    assert len(client.get_event_stream()) == 3 * limit


def test_a_position_notices_an_event_in_the_place_of_another(
    client: EventClient, make_client: MakeClient
) -> None:
    """Somebody redacts one that was read, and another one comes."""
    other = make_client()
    client.save_events([item("c1")] * 3)
    for change in (
        "DELETE FROM my_app.events WHERE id = 2",
        'UPDATE my_app.events SET data = data || \'{"cart_id": "c2"}\' WHERE id = 1',
    ):
        read = client.get_event_stream(cart_id="c1")
        with other.maintenance("a request"):
            other.db.execute_sql(change)
        other.save_event(item("c1"))
        assert len(client.get_event_stream(cart_id="c1")) == len(read)
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(item("c1"), read)


def test_final_reads_are_right_though_the_data_indexes_change_in_their_transaction(url: str) -> None:
    """The functions that the transaction knows lock by other fields than others do now."""

    def client_of(*fields: str) -> EventClient:
        tables = create_events_table("swap", data_indexes=fields), create_projections_table("swap")
        return create_event_client(database(url), *tables, ())

    for before, after in ((("a",), ("x", "a")), (("a", "b"), ("b",))):
        reader, busy, slow, fast = (
            client_of(*before),
            client_of(*before),
            client_of(*after),
            client_of(*after),
        )
        reader.create_tables()
        wanted = [stream(a="A0")]
        with reader.db.atomic():
            with busy.db.atomic():
                busy.save_event({"type": "P", "data": {"a": "A9"}})
                reader.reader.read_final(wanted)
            slow.create_tables()
            with slow.db.atomic():
                late = slow.save_event({"type": "P", "data": {"a": "A0"}})
                fast.save_event({"type": "P", "data": {"a": "A0"}})
                read = reader.reader.read_final(wanted)
                assert read.position.base < late.id
                assert late.id not in [event.id for event in read]
        for client in (reader, busy, slow, fast):
            client.db.close()


def test_a_final_read_after_an_id_claims_nothing_that_is_in_flight_below_it(
    client: EventClient, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until all up to that id is final."""
    slow, other = make_client(), make_client()
    with slow.db.atomic():
        slow.save_event(item("c1"))
        seen = other.save_event(item("c1"))
        with pytest.raises(RetryableError, match="was not final within"):
            client.reader.read_final([stream(cart_id="c1")], ReadOptions(seen.id), wait=0.2)
    assert (
        client.reader.read_final([stream(cart_id="c1")], ReadOptions(seen.id), wait=0.2).position.base
        == seen.id
    )
    far = client.reader.read_final(
        [stream(cart_id="c1")], ReadOptions(10**6), wait=0.2
    )  # no such id was given out
    assert far.position.base == 10**6


def test_a_batch_of_another_length_with_the_same_key_is_told_what_was_saved(
    client: EventClient, make_client: MakeClient
) -> None:
    """Also if it was in the middle of its save when the other one ended."""
    other = make_client()
    with client.db.atomic():
        first = client.save_events([item("c1")] * 2, idempotency_key="k")
        answers: list[Any] = []
        row = ("A", json.dumps({"cart_id": "c1"}), "{}")

        def race() -> None:
            answers.append(other.appender.append(EventColumns.of_rows([row] * 3), key="k"))
            other.db.close()

        thread = threading.Thread(target=race)
        thread.start()
        time.sleep(0.3)
    thread.join()
    assert (answers[0].status, list(answers[0].ids)) == ("reused", [event.id for event in first])
