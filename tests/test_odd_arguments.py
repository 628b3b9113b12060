"""Whatever is given to a client by mistake: an error of pgevents' own, and nothing written."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
from attrs import field, frozen

from pgevents import (
    ConfigurationError,
    EventClient,
    EventEncodeError,
    PgEventsError,
    UnknownEventTypeError,
    create_event_client,
    create_events_table,
    event,
    later,
    stream,
)
from pgevents.aio import AsyncEventClient
from pgevents.subscriptions import Runner, keep
from pgevents.testing import drain, given

from .shop import CartCreated, CartProjection, CartView


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


def projection_class(**members: Any) -> Any:
    return type("Odd", (CartProjection,), members)


def event_class(method: str, source: str) -> Any:
    names: dict[str, Any] = {}
    exec(source, names)
    return event("ODD")(type("Odd", (), {"__annotations__": {"a": str}, method: names[method]}))


def other_log(client: EventClient) -> EventClient:
    events = create_events_table(name="other_log", data_indexes=["cart_id"])
    return create_event_client(client.db, events, client.projections)


REFUSALS = (ConfigurationError, EventEncodeError, UnknownEventTypeError, AssertionError)
Call: TypeAlias = Callable[[Any], Any]


class Currency(Enum):
    EURO = "eur"


@frozen
class Price:
    pence: int
    currency: Currency = Currency.EURO


@frozen
class Size:
    centimetres: int = 1


@event("ODDLY_PRICED")
class Priced:
    cart_id: str = "c1"
    at: datetime = datetime(2024, 1, 1, tzinfo=timezone.utc)
    price: Price = Price(1)
    rate: Decimal = Decimal(1)
    size: Size = Size()
    by_number: dict[int, str] = field(factory=dict[int, str])
    by_day: dict[date, list[Price]] = field(factory=dict[date, list[Price]])


def knowing_prices(client: EventClient) -> EventClient:
    return create_event_client(client.db, client.events, client.projections, [Priced])


def priced(**values: Any) -> Call:
    return lambda client: knowing_prices(client).save_event(Priced(**values))


def priced_as_json(**values: Any) -> Call:
    return lambda client: knowing_prices(client).save_event({"type": "ODDLY_PRICED", "data": values})


SAYS: dict[str, tuple[Call, str]] = {
    "id and client swapped": (lambda c: CartProjection(c, "c1"), r"not 'c1': the id comes first, CartP"),
    "asyncio's client": (lambda c: CartProjection("c1", AsyncEventClient(c)), r"give its \.client"),
    "reducers in a dict": (
        lambda c: projection_class(reducers={"n": nothing}),
        r"by pipeline.*not {'n'",
    ),
    "a reducer alone": (lambda c: projection_class(reducers=nothing), r"Odd\.reducers are made by pipeline"),
    "a view for a method": (
        lambda c: projection_class(initial_view=CartView("c1")),
        r"Odd\.initial_view is a method, def initial_view\(self\)",
    ),
    "deciding True": (
        lambda c: c.decide(CartProjection("c1", c), lambda cart: True),
        r"the decider returned True, not an event.*an event is an instance",
    ),
    "deciding the view": (
        lambda c: c.decide(CartProjection("c1", c), lambda cart: [CREATED, cart]),
        r"the decider returned CartView\(.*CartView is not an event class: decorate it",
    ),
    "deciding a text for later": (
        lambda c: c.decide(CartProjection("c1", c), lambda cart: later("X", after=timedelta(1))),
        r"the decider returned 'X', not an event",
    ),
    "deciding True in the test kit": (
        lambda c: given(CartProjection("c1")).when(lambda cart: True).events,
        r"the decider returned True, not an event",
    ),
    "another log": (
        lambda c: c.decide(CartProjection("c1", other_log(c)), nothing),
        r"^CartProjection\('c1'\) reads another log",
    ),
    "a runner of one": (
        lambda c: Runner(c, keep(CartProjection)),
        r"a list, such as \[keep\(",
    ),
    "draining one": (lambda c: drain(c, keep(CartProjection)), r"subscriptions are a list"),
    "a runner without client": (lambda c: Runner([keep(CartProjection)], c), r"an EventClient, then a list"),
    "a runner of a projection": (
        lambda c: Runner(c, [CartProjection]),
        r"keep\(.* of a projection",
    ),
    "waiting for views that nobody keeps": (
        lambda c: c.wait(CartProjection, 1, timeout=1),
        r"^no runner has kept the view SHOPPING_CART 1 in \w+ yet: run Runner\(client, \[keep",
    ),
    "ids_of with self": (
        lambda c: Runner(c, [keep(projection_class(ids_of=lambda self, event: {"c1"}))]),
        r"Odd\.ids_of takes the event alone, not \(self, event\): @staticmethod",
    ),
    "a text for a time": (priced(at="2024"), r"ODDLY_PRICED, field 'at' .*: expected datetime, got '2024'"),
    "a date for a time": (priced(at=date(2024, 1, 1)), r"'at' .*: expected datetime, got datetime\.date\("),
    "None for an object": (priced(price=None), r"field 'price' .*: expected Price, got None"),
    "a text for an Enum inside": (
        priced(by_day={date(2024, 1, 1): [Price(1, "eur")]}),  # type: ignore[arg-type]
        r"'by_day\.2024-01-01\.0\.currency' cannot be stored: expected Currency, got 'eur'",
    ),
    "a text for a date in a key": (priced(by_day={"x": []}), r"'by_day.x' .*: expected date, got 'x'"),
    "a number for a dict": (priced(by_day=5), r"field 'by_day' .*: expected dict\[.*\], got 5"),
    "a word for a Decimal": (priced(rate="x"), r"field 'rate': 'x' is not a Decimal"),
    "keys that are numbers": (priced(by_number={1: "a"}), r"keys of a JSON object are text.*dict\[str"),
    "a text for an object of defaults": (priced_as_json(size="x"), r"field 'size': expected an object; it"),
    "a list for an object of defaults": (priced_as_json(size=[]), r"field 'size': expected an object; it"),
    "JSON without an object": (priced_as_json(price=5), r"field 'price': expected an object, got 5; it does"),
    "JSON without an object inside": (
        priced_as_json(by_day={"2024-01-01": ["x"]}),
        r"field 'by_day\.2024-01-01\.0': expected an object, got 'x'",
    ),
    "an event's __init__": (
        lambda c: event_class("__init__", "def __init__(self, a): self.a = a"),
        r"Odd\.__init__ cannot assign to fields, because events are frozen; leave it out.*converter=",
    ),
}


@pytest.mark.parametrize("what", SAYS)
def test_the_error_says_what_was_wrong_and_what_to_do(client: EventClient, what: str) -> None:
    """Not the error that Python raises somewhere further inside."""
    call, message = SAYS[what]
    with pytest.raises(REFUSALS, match=message):
        call(client)
    assert client.get_event_stream() == []
