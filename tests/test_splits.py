"""Upcasters that make several events of one, or none: each part is seen once, and positions stay exact."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from peewee import PostgresqlDatabase

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    EventDecodeError,
    ProjectionBase,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    pipeline,
)
from pgevents.store import read
from pgevents.subscriptions import Subscription, far_folding, keep, parked, rebuild, retry
from pgevents.testing import drain
from pgevents.type_registry import EventTypes

from .conftest import database


def to_items(data: dict[str, Any]) -> Any:
    """The first version had all products of a cart in one event, and events without any."""
    if data["products"] == "broken":
        return "not a dict"
    return [{"cart_id": data["cart_id"], "product": one} for one in data["products"]]


@pytest.fixture
def item(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("ADDED", version=3, upcasters={1: to_items, 2: lambda data: {**data, "count": 1}})
    class Added:
        cart_id: str
        product: str
        count: int = 0

    return Added


def client_of(db: PostgresqlDatabase, types: Any = ()) -> EventClient:
    events = create_events_table(schema="shop", data_indexes=["cart_id"])
    client = create_event_client(db, events, create_projections_table(schema="shop"), types)
    client.create_tables()
    return client


def old(*products: str, cart: str = "c1") -> dict[str, Any]:
    return {"type": "ADDED", "data": {"cart_id": cart, "products": list(products)}}


@pytest.fixture
def client(db: PostgresqlDatabase, item: type[Any]) -> EventClient:
    """Stored are: a and b in one, nothing, c; then, in today's form, d; and another cart's nothing."""
    client_of(db).save_events([old("a", "b"), old(), old("c")])
    made = client_of(db, [item])
    made.save_event(item("c1", "d", 2))
    client_of(db).save_event(old(cart="c2"))
    return made


def seen(events: Any) -> list[tuple[int, int, str]]:
    return [(one.id, one.part, one.data.product) for one in events]


ALL = [(1, 0, "a"), (1, 1, "b"), (3, 0, "c"), (4, 0, "d")]


def test_every_read_gives_the_parts_in_order(
    client: EventClient, item: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part once, with the id of what is stored, and a number that makes it unique."""
    assert seen(client.get_event_stream(item, cart_id="c1")) == ALL
    assert seen(client.get_event_stream(item, cart_id="c1", final=True)) == ALL
    assert seen(client.get_event_stream(item, cart_id="c1", as_of=4)) == ALL
    assert seen(client.get_event_stream(item, cart_id="c1", on_undecodable="skip")) == ALL
    assert seen(client.get_event_stream(item, cart_id="c1", reverse=True)) == ALL[::-1]
    assert seen(client.get_event_stream(item, cart_id="c1", reverse=True, final=True)) == ALL[::-1]
    assert seen(client.get_event_stream(item, cart_id="c1", after=1)) == ALL[2:]
    for limit, count in (
        (1, 2),
        (2, 3),
        (3, 4),
        (4, 4),
    ):  # what is split counts once, what is dropped does not
        assert seen(client.get_event_stream(item, cart_id="c1", limit=limit)) == ALL[:count]
        assert seen(client.get_event_stream(item, cart_id="c1", limit=limit, final=True)) == ALL[:count]
    for page in (1, 2, 5):
        monkeypatch.setattr(read, "PAGE", page)
        assert seen(client.iter_event_stream(item)) == ALL
        assert seen(client.iter_event_stream(item, reverse=True)) == ALL[::-1]
    events = client.get_event_stream(item, cart_id="c1")
    assert len({(one.id, one.part) for one in events}) == len(set(events)) == 4
    assert events[0] != events[1]
    latest = client.get_latest_event(item, cart_id="c1")
    assert latest is not None
    assert latest.data.product == "d"
    assert client.get_latest_event(item, cart_id="c2") is None
    assert client.get_event(2) is None
    with pytest.raises(ConfigurationError, match="is split into 2"):
        client.get_event(1)


@pytest.mark.parametrize("cart", ["c1", "c2"])
def test_positions_count_what_is_stored(client: EventClient, item: type[Any], cart: str) -> None:
    """A save validated by a read of split and dropped events holds; one event more is a conflict, also one
    that is dropped."""
    for options in ({}, {"final": True}, {"limit": 9}):
        known = client.get_event_stream(item, cart_id=cart, **options)
        client.save_event_with_stream_validation(item(cart, "e"), known)
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(item(cart, "e"), known)
    known = client.get_event_stream(item, cart_id=cart)
    client_of(client.db).save_event(old(cart=cart))
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(item(cart, "e"), known)


@attrs.frozen
class Cart:
    id: str
    products: tuple[str, ...] = ()


class Carts(ProjectionBase[Cart, Any]):
    projection_type = "CARTS"
    event_types = "ADDED"
    reducers = pipeline(products=lambda products, event: (*products, event.data.product))

    def initial_view(self) -> Cart:
        return Cart(self.id)

    def get_event_identifiers(self) -> Any:
        return {"cart_id": self.id}


def test_projections_fold_each_part_once(client: EventClient, item: type[Any], url: str) -> None:
    """From the start, on from a snapshot, and in a decision that somebody interrupts."""
    assert Carts("c1", client).view.products == ("a", "b", "c", "d")
    assert Carts("c1", client).save_projection().status == "created"
    older = client_of(database(url))
    tries: list[tuple[str, ...]] = []

    def decider(cart: Cart) -> Any:
        tries.append(cart.products)
        if len(tries) == 1:
            older.save_event(old("x", "y"))
        return item("c1", "z")

    client.decide(Carts("c1", client), decider)
    assert tries == [("a", "b", "c", "d"), ("a", "b", "c", "d", "x", "y")]
    assert Carts("c1", client).view.products == ("a", "b", "c", "d", "x", "y", "z")
    Carts("c1", client).save_projection()
    older.save_event(old())
    assert Carts("c1", client).view.products[-1] == "z"
    older.db.close()


def test_a_subscription_passes_over_what_is_dropped_and_refuses_what_is_split(
    client: EventClient, item: type[Any]
) -> None:
    """It handles, parks and answers under one id: parts would be done twice or by halves."""
    found: list[str] = []
    follower = Subscription(client, "reader")
    with pytest.raises(ConfigurationError, match="event 1 .*is split into 2"):
        follower.process(lambda event: found.append(event.data.product))
    follower.reset(position=1)
    follower.process(lambda event: found.append(event.data.product))
    assert found == ["c", "d"]


@pytest.mark.parametrize("how", ["by pages", "far behind", "by ids_of"])
def test_kept_views_fold_each_part_once(
    client: EventClient, item: type[Any], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """From the start, on from a row, after a deletion, and where a reducer fails at a part."""
    if how == "far behind":
        monkeypatch.setattr(far_folding, "FAR", 1)

    class Kept(Carts):
        projection_type = "KEPT"
        faults: frozenset[str] = frozenset()

    def to_products(products: tuple[str, ...], event: Any) -> tuple[str, ...]:
        assert event.data.product not in Kept.faults
        return (*products, event.data.product)

    Kept.reducers = pipeline(products=to_products)
    if how == "by ids_of":
        Kept.ids_of = staticmethod(lambda event: {event.data.cart_id})  # type: ignore[attr-defined]
    kept = keep(Kept, on_error=retry(1))
    rebuild(client, Kept)
    older = client_of(client.db)
    older.save_events([old("e", "f"), old(), old("g", "h", cart="c2"), old("i", cart="")])
    drain(client, [kept])
    views = {"c1": ("a", "b", "c", "d", "e", "f"), "c2": ("g", "h")}
    rows = {one.id: one for one in client.query_projections(Kept)}
    assert {id: one.data.products for id, one in rows.items() if id} == views
    assert [rows[id].latest_event_id for id in views] == [6, 8]
    client.delete_projection(Kept, "c1")
    Kept.faults = frozenset("y")
    older.save_event(old("x", "y"))
    drain(client, [kept])
    assert [(one.key, one.event_id) for one in parked(client, "view KEPT 1 in projections")] == [("c1", 10)]
    Kept.faults = frozenset()
    rebuild(client, Kept)
    (saved,) = client.query_projections(Kept, id="c1")
    assert saved.data.products == (*views["c1"], "x", "y")


def test_what_is_neither_is_refused(db: PostgresqlDatabase, item: type[Any]) -> None:
    """Something else than dicts says which upcaster gave it."""
    client_of(db).save_event({"type": "ADDED", "data": {"cart_id": "c1", "products": "broken"}})
    with pytest.raises(EventDecodeError, match="from version 1 returned 'not a dict', not a dict or a list"):
        client_of(db, [item]).get_event_stream(item)


def test_an_identifier_that_parts_do_not_share_is_refused(db: PostgresqlDatabase, item: type[Any]) -> None:
    """A transfer that becomes two entries is stored under neither account's name alone."""

    @event("ENTRY", version=2, upcasters={1: lambda data: [{"account": data["a"]}, {"account": data["b"]}]})
    class Entry:
        account: str

    with pytest.raises(ConfigurationError, match="upcasters make that field"):
        client_of(db, [Entry]).get_event_stream(Entry, account="x")
