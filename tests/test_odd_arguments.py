"""Whatever is given to a client by mistake: an error of pgevents' own, and nothing written."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from pgevents import ConfigurationError, EventClient, PgEventsError, create_event_client, stream

from .shop import CartCreated, CartProjection


def nested(depth: int) -> dict[str, Any]:
    outer: dict[str, Any] = {}
    inner = outer
    for _ in range(depth):
        inner["a"] = inner = {}  # type: ignore[assignment]
    return outer


class Silent:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise LookupError("no form")

    __str__ = __repr__


def odd_values() -> list[Any]:
    in_odd_zone = datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=5)))
    plain = [None, True, 0, -1, 2**63, 1.5, math.nan, "", "\0", "\ud800", "x" * 3_000, b"x", uuid4()]
    containers = [[], [1], [None], (), {}, {"a": 1}, {1: 2}, {"\ud800": 1}, {"\0": 1}, nested(3_000), {1}]
    times = [date(2024, 1, 1), datetime(2024, 1, 1), in_odd_zone, timedelta(1), Decimal("NaN")]
    objects = [object(), Silent(), int, CartCreated, CartProjection, stream(cart_id="c1"), iter([1])]
    return [*plain, *containers, *times, *objects]


CREATED = CartCreated("c1", "u1")


def nothing(view: Any) -> None:
    return None


CALLS: dict[str, Callable[[EventClient, Any], Any]] = {
    "an event": lambda c, v: c.save_event(v),
    "data": lambda c, v: c.save_event({"type": "X", "data": v}),
    "a type": lambda c, v: c.save_event({"type": v, "data": {}}),
    "a field": lambda c, v: c.save_event(CartCreated(v, "u1")),
    "a value": lambda c, v: c.save_event({"type": "X", "data": {"cart_id": v}}),
    "metadata": lambda c, v: c.save_event(CREATED, metadata=v),
    "a value of metadata": lambda c, v: c.save_event(CREATED, metadata={"a": v}),
    "a key": lambda c, v: c.save_event(CREATED, idempotency_key=v),
    "created_at": lambda c, v: c.save_event(CREATED, created_at=v),
    "events": lambda c, v: c.save_events(v),
    "one of events": lambda c, v: c.save_events([CREATED, v]),
    "latest": lambda c, v: c.save_event_with_stream_validation(CREATED, v, [stream(cart_id="c1")]),
    "streams": lambda c, v: c.save_event_with_stream_validation(CREATED, 1, v),
    "one of streams": lambda c, v: c.save_event_with_stream_validation(CREATED, 1, [v]),
    "a preview": lambda c, v: c.preview(v),
    "projections": lambda c, v: c.decide(v, nothing),
    "a decision": lambda c, v: c.decide(CartProjection("c1", c), lambda view: v),
    "one of decisions": lambda c, v: c.decide(CartProjection("c1", c), lambda view: [v]),
    "a projection's id": lambda c, v: c.decide(CartProjection(v, c), nothing),
    "retries": lambda c, v: c.decide(CartProjection("c1", c), nothing, retries=v),
    "a command's key": lambda c, v: c.decide(CartProjection("c1", c), nothing, idempotency_key=v),
    "a reason": lambda c, v: c.maintenance(v).__enter__() if type(v) is not str else None,
    "types": lambda c, v: c.get_event_stream(v),
    "an identifier": lambda c, v: c.get_event_stream(cart_id=v),
    "identifiers": lambda c, v: c.get_event_stream(data=v),
    "after": lambda c, v: c.get_event_stream(after=v),
    "as_of": lambda c, v: c.get_event_stream(as_of=v),
    "streams to read": lambda c, v: c.get_event_streams(v),
    "a plugin": lambda c, v: c.plugins.register(v),
    "a plugin to remove": lambda c, v: c.plugins.unregister(v),
    "a database": lambda c, v: create_event_client(v, c.events, c.projections),
    "event types": lambda c, v: create_event_client(c.db, c.events, c.projections, v),
    "plugins": lambda c, v: create_event_client(c.db, c.events, c.projections, plugins=v),
    "models": lambda c, v: create_event_client(c.db, v, v),
    "a projection's class": lambda c, v: c.get_projection(v, "c1"),
    "a snapshot's id": lambda c, v: c.get_projection(CartProjection, v),
    "a projection to save": lambda c, v: c.save_projection(v),
}


@pytest.mark.parametrize("what", CALLS)
def test_odd_arguments_work_or_are_refused(client: EventClient, what: str) -> None:
    """No call lets an error of Python's, Peewee's or the driver's through, and what is saved can be read."""
    call = CALLS[what]
    for value in odd_values():
        try:
            call(client, value)
        except PgEventsError as error:
            assert str(error)
        assert not client.db.in_transaction()
    client.get_event_stream()


@pytest.mark.parametrize("value", ["no", 1, 0, None])
def test_a_flag_is_true_or_false(client: EventClient, value: Any) -> None:
    """`final="no"` is not taken for yes."""
    for call in (client.get_event_stream, client.get_latest_event):
        with pytest.raises(ConfigurationError, match="final is True or False"):
            call(final=value, cart_id="c1")
