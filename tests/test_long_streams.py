"""A validated save of a long stream counts what is final before it locks, and only the rest under the
locks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgevents import ConcurrencyError, EventClient
from pgevents.saving import LONG_TAIL

from .shop import CartEvent, ItemAddedToCart


def item(product: str = "p1") -> ItemAddedToCart:
    return ItemAddedToCart("c1", product, 1, 100)


@pytest.fixture
def long(client: EventClient) -> EventClient:
    """A cart with more events than are counted under locks."""
    client.save_events([item(f"p{n}") for n in range(LONG_TAIL + 50)])
    return client


def test_only_what_is_not_final_is_left_to_count(long: EventClient) -> None:
    """The shortened position starts from a bound, for the same streams."""
    position = long.get_event_stream(CartEvent, cart_id="c1").position
    short = long.reader.shortened(position)
    assert (short.base, short.count) == (LONG_TAIL + 50, 0)
    assert short.streams == position.streams


def test_what_was_read_of_a_long_stream_can_be_validated(long: EventClient) -> None:
    """The save goes through once, and is refused with the new id the second time."""
    history = long.get_event_stream(CartEvent, cart_id="c1")
    saved = long.save_event_with_stream_validation(item(), history)
    with pytest.raises(ConcurrencyError) as refused:
        long.save_event_with_stream_validation(item(), history)
    assert refused.value.conflicting_ids == (saved.id,)


def test_a_late_event_below_the_last_one_is_still_a_conflict(
    long: EventClient, make_client: Callable[..., EventClient]
) -> None:
    """A transaction that took its id before the last read event and commits after the read is seen."""
    slow = make_client()
    with slow.db.atomic():
        late = slow.save_event(item("late"))
        long.save_event(item("early"))
        history = long.get_event_stream(CartEvent, cart_id="c1")
        assert late.id < history[-1].id
        assert long.reader.shortened(history.position).base < late.id
    with pytest.raises(ConcurrencyError) as refused:
        long.save_event_with_stream_validation(item(), history)
    assert refused.value.conflicting_ids == (late.id,)
