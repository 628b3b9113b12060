"""Idempotency keys: a save that is repeated returns what the first one saved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    IdempotencyError,
    event,
    stream,
)
from pgevents.store.append import EventColumns

from .conftest import database, shop_client
from .shop import CartCreated, ItemAddedToCart

Make = Callable[..., EventClient]
BATCH = [CartCreated("c1", "u1"), ItemAddedToCart("c1", "p1", 1, 5), CartCreated("c1", "u1")]


def test_a_repeated_save_returns_what_was_saved(client: EventClient) -> None:
    """The second call writes nothing and returns the first one's event, its metadata and its time."""
    first = client.save_event(CartCreated("c1", "u1"), idempotency_key="k", metadata={"try": 1})
    client.save_event(CartCreated("c2", "u1"))
    again = client.save_event(CartCreated("c1", "u1"), idempotency_key="k", metadata={"try": 2})
    assert again == first
    assert len(client.get_event_stream()) == 2


def test_a_batch_has_one_key_and_is_found_whole(client: EventClient) -> None:
    """A batch, with equal events in it, is repeated as one."""
    first = client.save_events(BATCH, idempotency_key="k")
    assert client.save_events(BATCH, idempotency_key="k") == first
    assert len(client.get_event_stream()) == 3


@pytest.mark.parametrize(
    "other",
    [
        BATCH[:1],
        BATCH[:2],
        [*BATCH, CartCreated("c1", "u1")],
        [BATCH[1], BATCH[0], BATCH[2]],
        [CartCreated("c1", "u2"), *BATCH[1:]],
    ],
)
def test_the_same_key_with_other_content_is_an_error(client: EventClient, other: list[Any]) -> None:
    """Fewer, more, exchanged or other events under a used key are refused, and nothing is half-written."""
    client.save_events(BATCH, idempotency_key="k")
    with pytest.raises(IdempotencyError) as caught:
        client.save_events(other, idempotency_key="k")
    assert caught.value.key == "k"
    assert caught.value.saved_ids == (1, 2, 3)
    assert len(client.get_event_stream()) == 3


def test_keys_that_begin_alike_are_different(client: EventClient) -> None:
    """A key that continues another one is a key of its own, also beside a batch."""
    client.save_events(BATCH, idempotency_key="k")
    for key in ("k2", "k ", "k\x7f", "kk", "K", "%", "k_", "\u00a0"):
        client.save_event(CartCreated("c1", "u1"), idempotency_key=key)
    assert len(client.get_event_stream()) == 11


def test_a_repeated_validated_save_is_no_conflict(client: EventClient) -> None:
    """A validated save whose answer was lost is repeated: it meets its own event and is no conflict."""
    read = client.get_event_stream(cart_id="c1")
    first = client.save_event_with_stream_validation(CartCreated("c1", "u1"), read, idempotency_key="k")
    assert (
        client.save_event_with_stream_validation(CartCreated("c1", "u1"), read, idempotency_key="k") == first
    )
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(CartCreated("c1", "u1"), read, idempotency_key="other")


def test_a_refused_save_does_not_use_up_its_key(client: EventClient) -> None:
    """After a conflict the same key may save."""
    client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(
            CartCreated("c1", "u1"), 0, [stream(cart_id="c1")], idempotency_key="k"
        )
    saved = client.save_event_with_stream_validation(
        CartCreated("c1", "u1"), 1, [stream(cart_id="c1")], idempotency_key="k"
    )
    assert client.save_event(CartCreated("c1", "u1"), idempotency_key="k") == saved


def test_a_rolled_back_save_does_not_use_up_its_key(client: EventClient) -> None:
    """What was rolled back was never saved: the key is free."""
    with pytest.raises(ZeroDivisionError), client.db.atomic():
        client.save_event(CartCreated("c1", "u1"), idempotency_key="k")
        1 / 0  # noqa: B018
    assert client.save_event(CartCreated("c1", "u2"), idempotency_key="k").data.user_id == "u2"


@pytest.mark.parametrize("size", [1, 3])
def test_a_key_used_by_many_at_once_saves_once(client: EventClient, make_client: Make, size: int) -> None:
    """Eight writers with one key at the same moment: one save, eight equal answers."""
    writers = [make_client() for _ in range(8)]
    barrier, answers = threading.Barrier(8), []

    def save(writer: EventClient) -> None:
        writer.check_installed()
        barrier.wait()
        try:
            answers.append(writer.save_events(BATCH[:size], idempotency_key="k"))
        except Exception as error:
            answers.append(error)
        writer.db.close()

    threads = [threading.Thread(target=save, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [answers[0]] * 8
    assert len(client.get_event_stream()) == size


def test_a_shorter_batch_that_races_with_a_longer_one_is_whole_or_refused(
    client: EventClient, make_client: Make
) -> None:
    """Two batches of different length under one key at once: one is saved whole, the other is an error."""
    for round_ in range(10):
        barrier, answers = threading.Barrier(2), []

        def save(
            size: int, key: str, barrier: threading.Barrier = barrier, answers: list[Any] = answers
        ) -> None:
            writer = make_client()
            writer.check_installed()
            barrier.wait()
            try:
                answers.append(len(writer.save_events(BATCH[:size], idempotency_key=key)))
            except IdempotencyError:
                answers.append("refused")
            writer.db.close()

        threads = [threading.Thread(target=save, args=(size, f"k{round_}")) for size in (2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, answers)) in (["2", "refused"], ["3", "refused"])
    (uneven,) = client.db.execute_sql(
        "SELECT count(*) FROM my_app.events WHERE idempotency_key ~ '^k' AND split_part(idempotency_key, "
        "chr(31), 2) = ''"
    ).fetchone()
    assert uneven == 10


@pytest.mark.parametrize("key", ["", "x" * 501, "a\nb", "a\0b", "a\x1fb", 5, b"k", "\ud800"])
def test_what_is_no_key_is_refused(client: EventClient, key: Any) -> None:
    """A key is a text of some length, without control characters."""
    with pytest.raises(ConfigurationError, match="idempotency key"):
        client.save_event(CartCreated("c1", "u1"), idempotency_key=key)
    assert len(client.get_event_stream()) == 0


def test_long_keys_of_any_script_work(client: EventClient) -> None:
    """500 characters of four bytes each fit the index."""
    key = "\U0001f40e" * 500
    first = client.save_events(BATCH, idempotency_key=key)
    assert client.save_events(BATCH, idempotency_key=key) == first


def tagged(version: int) -> type[Any]:
    """The event class of a version of a program."""
    fields: dict[str, Any] = {"cart_id": attrs.field(type=str), "tags": attrs.field(type=frozenset[str])}
    if version > 1:
        fields["by"] = attrs.field(type=str)
    upcasters = {1: lambda data: {**data, "by": "nobody"}} if version > 1 else None
    made = attrs.make_class("Tagged", fields, frozen=True)
    return event("TEST_TAGGED", version=version, upcasters=upcasters)(made)


def test_a_repeat_is_compared_by_what_a_read_gives(client: EventClient, url: str) -> None:
    """A set has no order, and the next version of a class reads what the former one saved: the same save. A
    tag more or another value is not."""
    old, new = tagged(1), tagged(2)
    first_program, next_program = shop_client(database(url), old), shop_client(database(url), new)
    stored = '{"cart_id": "c1", "tags": ["b", "a", "c"]}'
    first_program.check_installed()
    first_program.appender.append(EventColumns(["TEST_TAGGED"], [stored]), None, "k")
    tags = frozenset("abc")
    assert first_program.save_event(old("c1", tags), idempotency_key="k").id == 1
    assert next_program.save_event(new("c1", tags, "nobody"), idempotency_key="k").data.by == "nobody"
    for other in (new("c1", tags, "me"), new("c1", tags | {"d"}, "nobody"), new("c2", tags, "nobody")):
        with pytest.raises(IdempotencyError, match="what it saved stands"):
            next_program.save_event(other, idempotency_key="k")
    assert len(client.get_event_stream()) == 1
    for own in (first_program, next_program):
        own.db.close()


def test_values_of_another_kind_are_other_content(client: EventClient) -> None:
    """1 is not true, and neither is equal to a text."""
    any_type = shop_client(client.db, None)

    def given(value: Any) -> dict[str, Any]:
        return {"type": "VALUES_SEEN", "data": {"cart_id": "c1", "values": [value]}}

    first = any_type.save_event(given(1), idempotency_key="k")
    assert any_type.save_event(given(1), idempotency_key="k") == first
    for value in (True, "1", 2, [1], None):
        with pytest.raises(IdempotencyError):
            any_type.save_event(given(value), idempotency_key="k")


def test_a_key_that_an_import_brings_along_meanwhile_is_found(client: EventClient, make_client: Make) -> None:
    """An import does not lock each key: a save that waits for its commit gives what was imported."""
    row = ("CART_CREATED", '{"cart_id": "c1", "user_id": "u1"}', "{}")
    found: list[Any] = []
    other = make_client()

    def save() -> None:
        for data in (CartCreated("c1", "u1"), CartCreated("c1", "u2")):
            try:
                found.append(other.save_event(data, idempotency_key="k"))
            except IdempotencyError as error:
                found.append(error)
        other.db.close()

    with client.db.atomic():
        client.appender.append(EventColumns.of_rows([row, row]), keys=["k", None])
        thread = threading.Thread(target=save)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(10)
    saved = client.get_event_stream()
    assert found[0] == saved[0]
    assert isinstance(found[1], IdempotencyError)
    assert len(saved) == 2
