"""Validated saves: only if the streams hold exactly what was read."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    IdempotencyError,
    RetryableError,
    UnknownEventTypeError,
    create_event_client,
    create_events_table,
    create_projections_table,
    latest,
    stream,
)

from .conftest import database, shop_client
from .shop import CartCheckedOut, CartCreated, CartEvent, CartProjection, ItemAddedToCart, ItemRemovedFromCart

Make = Callable[..., EventClient]


def added(cart: str = "c1", product: str = "p1") -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, 5)


def test_a_save_against_what_was_read_succeeds(client: EventClient) -> None:
    """A read, its position, the last event or its id: each may be validated against, if nothing came
    between."""
    client.save_event(CartCreated("c1", "u1"))
    streams = [stream(CartEvent, cart_id="c1")]
    read = client.get_event_stream(CartEvent, cart_id="c1")
    assert client.save_event_with_stream_validation(added(), read).id == 2
    read = client.get_event_stream(CartEvent, cart_id="c1")
    assert client.save_event_with_stream_validation(added(), read.position, streams).id == 3
    assert (
        client.save_event_with_stream_validation(added(), client.get_latest_event(cart_id="c1"), streams).id
        == 4
    )
    assert client.save_event_with_stream_validation(added(), 4, streams[0]).id == 5
    assert client.save_event_with_stream_validation(added(), CartProjection("c1", client).position).id == 6
    saved = client.save_events_with_stream_validation(
        [added(), added()], client.get_event_stream(cart_id="c1", final=True)
    )
    assert [one.id for one in saved] == [7, 8]


def test_a_refused_save_has_written_nothing(client: EventClient) -> None:
    """A conflict names the events that were not read, and not one event of the batch is in the table."""
    read = client.get_event_stream(CartEvent, cart_id="c1")
    others = client.save_events([CartCreated("c1", "u1"), added(), CartCreated("c2", "u1")])
    with pytest.raises(ConcurrencyError) as caught:
        client.save_events_with_stream_validation([added(), added()], read)
    assert caught.value.conflicting_ids == (1, 2)
    assert caught.value.expected is read
    assert list(client.get_event_stream()) == others
    assert isinstance(caught.value, RetryableError)


def test_a_bare_id_says_nothing_stands_above(client: EventClient) -> None:
    """With an id, any event of the streams above it is a conflict; None means that there is none at all."""
    streams = [stream(CartEvent, cart_id="c1")]
    assert client.save_event_with_stream_validation(CartCreated("c1", "u1"), None, streams).id == 1
    for seen in (None, 0):
        with pytest.raises(ConcurrencyError) as caught:
            client.save_event_with_stream_validation(added(), seen, streams)
        assert caught.value.conflicting_ids == (1,)
    assert client.save_event_with_stream_validation(added(), 1, streams).id == 2
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(added(), 1, streams)
    assert len(client.get_event_stream()) == 2


def test_only_what_was_asked_about_conflicts(client: EventClient) -> None:
    """Other identifiers, other types and other values come and go between read and save."""
    read = client.get_event_streams(
        [stream(CartCreated | CartCheckedOut, cart_id="c1"), stream(product_id=["p1", "p2"])]
    )
    client.save_events(
        [added("c1", "p3"), CartCreated("c2", "u1"), {"type": "OTHER", "data": {"product_id": 1}}]
    )
    assert client.save_event_with_stream_validation(added("c1", "p3"), read).id == 4
    client.save_event(added("c9", "p2"))
    with pytest.raises(ConcurrencyError) as caught:
        client.save_event_with_stream_validation(added("c1", "p3"), read)
    assert caught.value.conflicting_ids == (5,)


SHAPES = {
    "one value": [stream(cart_id="c1")],
    "value and types": [stream(CartEvent, cart_id="c1")],
    "list": [stream(cart_id=["c1", "c2"])],
    "two fields": [stream(cart_id="c1", product_id="p1")],
    "field without index": [stream(quantity=1)],
    "types and field without index": [stream(ItemAddedToCart, quantity=1)],
    "types": [stream(ItemAddedToCart | ItemRemovedFromCart)],
    "everything": [stream()],
    "several": [stream(cart_id="c1"), stream(product_id="p1"), stream("ITEM_ADDED_TO_CART", quantity=[1, 2])],
    "mixed list over the key limit": [stream(cart_id=[f"c{n}" for n in range(100)]), stream("X")],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_question_can_be_validated(client: EventClient, shape: str) -> None:
    """For each shape: what matches is a conflict, what does not is none, and a fresh read goes through."""
    streams = SHAPES[shape]
    client.save_events([added(), CartCreated("c1", "u1")])
    read = client.get_event_streams(streams)
    if shape != "everything":
        client.save_event({"type": "OTHER", "data": {"cart_id": "zz", "product_id": "zz", "quantity": 7}})
    saved = client.save_event_with_stream_validation(added(), read)
    with pytest.raises(ConcurrencyError) as caught:
        client.save_event_with_stream_validation(added(), read)
    assert caught.value.conflicting_ids == (saved.id,)
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(added(), saved.id - 1, streams)
    client.save_event_with_stream_validation(added(), saved.id, streams)
    again = client.get_event_streams(streams, after=saved.id)
    assert client.save_event_with_stream_validation(added(), again).id == saved.id + 2


def test_a_late_event_below_the_last_read_id_is_a_conflict(client: EventClient, make_client: Make) -> None:
    """An event that takes its id early and commits late is noticed, though it stands below what was read."""
    slow, quick = make_client(), make_client()
    with slow.db.atomic():
        slow.save_event(added("c1", "early id"))
        assert quick.save_event(added("c1", "later id")).id == 2
        read = client.get_event_stream(cart_id="c1")
        assert [one.id for one in read] == [2]
    with pytest.raises(ConcurrencyError) as caught:
        client.save_event_with_stream_validation(added(), read)
    assert caught.value.conflicting_ids == (1,)
    assert len(client.get_event_stream()) == 2


def test_streams_that_were_not_read_are_refused(client: EventClient) -> None:
    """A position belongs to its streams: others beside it are a mistake, in any order the same are none."""
    read = client.get_event_streams([stream(cart_id="c1"), stream("X", user_id="u1")])
    with pytest.raises(ConfigurationError, match="read from other streams"):
        client.save_event_with_stream_validation(added(), read, [stream(cart_id="c2")])
    client.save_event_with_stream_validation(added(), read, [stream("X", user_id="u1"), stream(cart_id="c1")])


def test_an_id_without_streams_is_refused(client: EventClient) -> None:
    """An id alone says nothing of what was read."""
    saved = client.save_event(CartCreated("c1", "u1"))
    for seen in (saved, 1, None):
        with pytest.raises(ConfigurationError, match="give streams="):
            client.save_event_with_stream_validation(added(), seen)


@pytest.mark.parametrize("latest", ["1", True, 1.0, -1, 2**63, 10**30, b"1", [1]])
def test_what_is_no_id_is_refused(client: EventClient, latest: Any) -> None:
    """Text, truth values and numbers that no id can have are refused, not compared."""
    client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(ConfigurationError, match="latest_event_id is the id of an event"):
        client.save_event_with_stream_validation(added(), latest, [stream(cart_id="c1")])
    assert len(client.get_event_stream()) == 1


def test_an_id_from_the_future_is_refused(client: EventClient) -> None:
    """An id above the last one issued comes from another log: refused, with nothing written."""
    client.save_event(CartCreated("c1", "u1"))
    for seen in (2, 2**62):
        with pytest.raises(ConfigurationError, match="above 1, the last id issued"):
            client.save_event_with_stream_validation(added(), seen, [stream(cart_id="c1")])
    assert len(client.get_event_stream()) == 1


def test_five_thousand_streams_in_one_validation(client: EventClient) -> None:
    """Thousands of streams are one question, answered in reasonable time and with bounded lock memory."""
    client.save_events([added(f"c{n}") for n in range(0, 5000, 50)])
    streams = [stream(CartEvent, cart_id=f"c{n}") for n in range(5000)]
    start = time.monotonic()
    read = client.get_event_streams(streams)
    assert len(read) == 100
    with client.db.atomic():
        client.save_event_with_stream_validation(added("c1"), read)
        (locks,) = client.db.execute_sql(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        ).fetchone()
        assert locks < 100
    client.save_event(added("c4999"))
    with pytest.raises(ConcurrencyError) as caught:
        client.save_event_with_stream_validation(added("c1"), read)
    assert len(caught.value.conflicting_ids) == 2
    assert time.monotonic() - start < 10


def test_five_thousand_streams_of_two_fields_each(client: EventClient) -> None:
    """Streams that cannot be merged are validated by id in reasonable time too."""
    client.save_event(added("c1", "p1"))
    streams = [stream(cart_id=f"c{n}", product_id=f"p{n}") for n in range(5000)]
    start = time.monotonic()
    client.save_event_with_stream_validation(added("c1", "p2"), 1, streams)
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(added("c1", "p1"), 0, streams)
    assert time.monotonic() - start < 20


def test_many_conflicts_are_named_up_to_a_hundred(client: EventClient) -> None:
    """A reader that is far behind gets a hundred ids at most."""
    client.save_events([added() for _ in range(300)])
    with pytest.raises(ConcurrencyError) as caught:
        client.save_event_with_stream_validation(added(), 0, [stream(cart_id="c1")])
    assert len(caught.value.conflicting_ids) == 100


def test_validated_batches_of_none_are_none(client: EventClient) -> None:
    """An empty batch is `[]`, whatever it is validated against."""
    assert client.save_events_with_stream_validation([], None, [stream()]) == []


def _race(url: str, barrier: Any, results: Any) -> None:
    client = shop_client(database(url))
    read = client.get_event_stream(CartEvent, cart_id="c1")
    client.check_installed()
    for _ in range(10):
        barrier.wait(30)
        try:
            client.save_event_with_stream_validation(added(), read)
            results.put("saved")
        except ConcurrencyError:
            results.put("refused")
        barrier.wait(30)
        read = client.get_event_stream(CartEvent, cart_id="c1")


def test_of_eight_concurrent_writers_one_wins(client: EventClient, url: str) -> None:
    """Eight processes that read the same and save at once: one succeeds in each of ten rounds, seven are
    refused."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    workers = [context.Process(target=_race, args=(url, barrier, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in range(80)]
    for worker in workers:
        worker.join()
    assert found.count("saved") == 10
    assert len(client.get_event_stream()) == 10


@pytest.mark.parametrize(
    "error",
    [
        ConcurrencyError("m", conflicting_ids=[1], expected=3, attempts=2, retry_after=0.5),
        IdempotencyError("m", key="k", saved_ids=[1, 2]),
        UnknownEventTypeError("m", CartCreated),
    ],
)
def test_errors_travel_between_processes(error: Exception) -> None:
    """An error raised in a worker process arrives with its fields."""
    arrived = pickle.loads(pickle.dumps(error))
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def test_a_position_of_another_log_is_refused(make_client: Callable[..., EventClient], url: str) -> None:
    """Of another table or database; that of another client of the same log is taken, also pickled."""
    client, same = make_client(), make_client()
    client.create_tables()
    other_table = create_event_client(
        database(url), create_events_table(schema="other"), create_projections_table(schema="other"), ()
    )
    name = f"{parse_dsn(url)['dbname']}_other"
    client.db.execute_sql(f'CREATE DATABASE "{name}"')
    other_database = shop_client(database(make_dsn(**{**parse_dsn(url), "dbname": name})))
    address = shop_client(database(url, options="-c application_name=elsewhere"))
    try:
        for other in (other_table, other_database):
            other.create_tables()
            for read in (
                other.get_event_stream(cart_id="c1"),
                other.get_event_stream(cart_id="c1", final=True),
                other.get_event_stream(cart_id="c1", limit=1, reverse=True).position,
                pickle.loads(pickle.dumps(other.get_event_stream(cart_id="c1").position)),
            ):
                with pytest.raises(ConfigurationError, match="this position was read from .*other"):
                    client.save_event_with_stream_validation(CartCreated("c1", "u1"), read)
            with pytest.raises(ConfigurationError, match="reads another log"):
                client.decide(CartProjection("c1", other), lambda cart: CartCreated("c1", "u1"))
        for reader in (client, same, address):
            read = reader.get_event_stream(cart_id="c2")
            client.save_event_with_stream_validation(CartCreated("c2", "u1"), read)
            read = pickle.loads(pickle.dumps(reader.get_event_stream(cart_id="c2")))
            client.save_event_with_stream_validation(CartCreated("c2", "u1"), read.position)
    finally:
        other_database.db.close()
        client.db.execute_sql(f'DROP DATABASE "{name}" WITH (FORCE)')
    assert len(client.get_event_stream(cart_id="c1")) == 0


def test_what_would_validate_nothing_is_refused(client: EventClient) -> None:
    """A list of values that came out empty is no condition that always holds."""
    nothing = [stream(CartCreated, cart_id=[]), stream([], cart_id="c1")]
    for position, streams in [(None, []), (None, nothing), (client.get_event_streams(nothing), None)]:
        with pytest.raises(ConfigurationError, match="would validate nothing"):
            client.save_event_with_stream_validation(added(), position, streams)
    with pytest.raises(ConfigurationError, match="would validate nothing"):
        client.decide(latest(CartCreated, cart_id=[]), lambda last: added())
    assert client.save_event_with_stream_validation(added(), None, [*nothing, stream(cart_id="c1")]).id == 1
