"""Replays the day: saves order lines as events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from attrs import define, field

from pgevents import EventClient, stream

from .orders import Line, Orders, is_cancellation
from .shop import (
    CartCheckedOut,
    CartEvent,
    CartOpened,
    CartProjection,
    ItemAdded,
    ItemRemoved,
    add_item,
    check_out,
    open_cart,
)

__all__ = ["Pace", "Replayed", "replay"]

LINES_TO_DECIDE = 20
"""Invoices up to this size are saved line by line, each line a decision; larger ones as a batch."""

BATCH = 5_000
Progress = Callable[[int], object]


@define
class Pace:
    """A number of things, and the seconds that they took."""

    count: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """The rate."""
        return self.count / self.seconds if self.seconds else 0.0


@define
class Replayed:
    """What the replay did, and how fast.

    Attributes:
        events: All events saved.
        decisions: Events that were decided one by one.
        batched: Events that were saved in batches.
        batches: The number of batches.
        last_id: The id of the last event.
    """

    events: int = 0
    last_id: int = 0
    decisions: Pace = field(factory=Pace)
    batched: Pace = field(factory=Pace)
    batches: int = 0


def replay(
    client: EventClient,
    orders: Orders,
    progress: Progress = lambda lines: None,
    saved: Callable[[int], object] = lambda event_id: None,
) -> Replayed:
    """Save all invoices as carts.

    Args:
        client: The shop's client; its log holds none of these carts yet.
        orders: The order lines.
        progress: Called after each invoice with its number of lines.
        saved: Called after each invoice with the id of its last event.
    """
    done = Replayed()
    for invoice, lines in orders.invoices.items():
        start = time.perf_counter()
        if len(lines) <= LINES_TO_DECIDE:
            pace, last = done.decisions, _decide(client, invoice, lines)
        else:
            pace, last = done.batched, _batch(client, invoice, lines)
            done.batches += 1
        pace.seconds += time.perf_counter() - start
        pace.count += len(lines) + 2  # opened, and checked out
        done.events += len(lines) + 2
        done.last_id = last
        saved(last)
        progress(len(lines))
    return done


def _decide(client: EventClient, invoice: str, lines: Sequence[Line]) -> int:
    """As customers buy: each step reads the cart, and is saved only if the cart has not changed since."""
    cart = CartProjection(invoice, client)
    client.decide(cart, partial(open_cart, opened=_opened(invoice, lines)))
    for line in lines:
        client.decide(cart, partial(add_item, item=_item(invoice, line)))
    return client.decide(cart, partial(check_out, at=lines[-1].at))[-1].id


def _batch(client: EventClient, invoice: str, lines: Sequence[Line]) -> int:
    """As an import saves: the whole cart in one transaction, and only if the cart does not exist yet."""
    items: list[CartEvent] = [_item(invoice, line) for line in lines]
    with client.db.atomic():  # pyright: ignore[reportUnknownMemberType]
        client.save_event_with_stream_validation(
            _opened(invoice, lines), None, stream(CartEvent, cart_id=invoice)
        )
        for start in range(0, len(items), BATCH):
            client.save_events(items[start : start + BATCH])
        return client.save_event(CartCheckedOut(invoice, lines[-1].at)).id


def _opened(invoice: str, lines: Sequence[Line]) -> CartOpened:
    first = lines[0]
    return CartOpened(invoice, first.customer_id, first.country, is_cancellation(invoice), first.at)


def _item(invoice: str, line: Line) -> ItemAdded | ItemRemoved:
    event_class = ItemRemoved if is_cancellation(invoice) else ItemAdded
    return event_class(invoice, line.product_id, line.description, line.quantity, line.price)
