"""A field that was renamed: questions by either name find, lock and check events of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import attrs
import pytest
from peewee import PostgresqlDatabase

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    ProjectionBase,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    pipeline,
    stream,
)
from pgevents.subscriptions import Subscription
from pgevents.testing import given
from pgevents.type_registry import EventTypes

from .conftest import database


@pytest.fixture(autouse=True)
def own_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventTypes, "everything", EventTypes())


def client_of(db: PostgresqlDatabase, types: Any = (), indexes: Any = ("cart_id", "cart")) -> EventClient:
    events = create_events_table(schema="shop", data_indexes=indexes)
    client = create_event_client(db, events, create_projections_table(schema="shop"), types)
    client.create_tables()
    return client


@attrs.frozen
class Count:
    id: str
    count: int = 0


def cart_class(**options: Any) -> type[Any]:
    """Carts whose id was called `cart` at first, then `cartId`."""
    steps = {
        1: lambda data: {"cartId": data["cart"], "n": 1},
        2: lambda data: {"cart_id": data["cartId"], "n": data["n"]},
    }

    @event("CART", **{"version": 3, "upcasters": steps, **options})
    class Cart:
        cart_id: str
        n: int = 0

    return Cart


def count_of(cls: type[Any], field: str = "cart_id") -> type[ProjectionBase[Count, Any]]:
    class Carts(ProjectionBase[Count, Any]):
        projection_type = "CARTS"
        event_types = cls
        reducers = pipeline(count=lambda count, event: count + event.data.n)

        def initial_view(self) -> Count:
            return Count(self.id)

        def get_event_identifiers(self) -> Mapping[str, Any]:
            return {field: self.id}

    return Carts


@pytest.fixture
def old(db: PostgresqlDatabase) -> EventClient:
    """What older programs have saved: events 1 and 2 of the cart c1, and others."""
    client = client_of(db)
    client.save_event({"type": "CART", "data": {"cart": "c1"}})
    client.db.execute_sql(
        "SELECT shop.events_append(%s)",
        [json.dumps([{"type": "CART", "data": {"cartId": "c1", "n": 2}, "metadata": {"$version": 2}}])],
    )
    client.save_events([{"type": "CART", "data": {"cart": "c2"}}, {"type": "NOTE", "data": {"cart": "c1"}}])
    return client


@pytest.mark.parametrize("name", ["cart_id", "cartId", "cart"])
def test_every_read_finds_all_versions_by_any_name(old: EventClient, name: str) -> None:
    """By the class, by the type's name, or of any type, where the program knows the class."""
    cart = cart_class()
    client = client_of(old.db, [cart])
    client.save_event(cart("c1", 3))
    ids = [1, 2, 5]
    assert [one.id for one in client.get_event_stream(cart, data={name: "c1"})] == ids
    assert [one.id for one in client.get_event_stream(cart, data={name: "c1"}, final=True)] == ids
    assert [one.id for one in client.get_event_stream(cart, data={name: ["c1", "c9"]}, as_of=5)] == ids
    assert [one.id for one in client.iter_event_stream("CART", data={name: "c1"})] == ids
    assert client.get_latest_event(cart, data={name: "c1"}) == client.get_event_stream()[-1]
    everything = ids if name != "cart" else [1, 2, 4, 5]  # a note stores it, too
    assert [one.id for one in client.get_event_stream(data={name: "c1"})] == everything
    carts = count_of(cart, name)("c1", client)
    assert carts.view.count == 6
    assert carts.save_projection().projection.latest_event_id == 5
    found: list[int] = []
    Subscription(client, "reader", [stream(cart, data={name: "c1"})]).process(
        lambda event: found.append(event.id)
    )
    assert found == ids
    assert given(count_of(cart, name)("c1"), cart("c1", 3), cart("c2", 3)).view.count == 3


@pytest.mark.parametrize("name", ["cart_id", "cartId", "cart"])
def test_a_condition_by_any_name_sees_events_of_all_versions(old: EventClient, name: str) -> None:
    """What an older program saves after the read is a conflict, and so is what a newer one saves."""
    cart = cart_class()
    client = client_of(old.db, [cart])
    seen = client.get_event_stream(cart, data={name: "c1"})
    client.save_event_with_stream_validation(cart("c1"), seen)
    for data, saver in (({"cart": "c1"}, old), ({"cart_id": "c1"}, client)):
        seen = client.get_event_stream(cart, data={name: "c1"})
        saver.save_event({"type": "CART", "data": data})
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(cart("c1"), seen)
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(cart("c1"), seen[-1], stream(cart, data={name: "c1"}))


@pytest.mark.parametrize("indexes", [("cart_id", "cart", "cartId"), ("cart_id",), ("cart",), ()])
@pytest.mark.parametrize("name", ["cart_id", "cart"])
def test_a_decision_locks_all_names(db: PostgresqlDatabase, url: str, name: str, indexes: Any) -> None:
    """While one decides about a cart by either name, nobody saves an event of it by another, whether the
    names are indexed or not."""
    cart = cart_class()
    client = client_of(db, [cart], indexes)
    older = client_of(database(url), (), indexes)
    older.db.execute_sql("SET lock_timeout = '150ms'")
    outcomes: list[str] = []

    def decider(view: Count) -> Any:
        if older.db.in_transaction():
            return None
        for data in ({"cart": "c1"}, {"cartId": "c1"}, {"cart_id": "c1"}):
            try:
                older.save_event({"type": "CART", "data": data})
                outcomes.append(f"{data} was saved")
            except Exception as error:  # what else comes is seen below
                outcomes.append(str(error))
        return cart("c1", 1)

    with db.atomic():  # locks before it reads
        client.decide(count_of(cart, name)("c1", client), decider)
    assert len(outcomes) == 3
    assert all("locked" in outcome for outcome in outcomes), outcomes
    older.db.close()


def test_several_identifiers_have_the_names_of_one_version(db: PostgresqlDatabase) -> None:
    """Each renamed at another version: an event is found by those names that its version has for them."""

    @event(
        "MOVED",
        version=3,
        upcasters={
            1: lambda data: {"source": data["from"], "to": data["to"]},
            2: lambda data: {"source": data["source"], "target": data["to"]},
        },
    )
    class Moved:
        source: str
        target: str

    old = client_of(db)
    old.save_events(
        [{"type": "MOVED", "data": {"from": "a", "to": "b"}}, {"type": "MOVED", "data": {"to": "b"}}]
    )
    client = client_of(db, [Moved])
    client.save_events([Moved("a", "b"), Moved("a", "c")])
    assert [one.id for one in client.get_event_stream(Moved, source="a", target="b")] == [1, 3]


def test_a_name_that_upcasters_do_not_show_can_be_said(db: PostgresqlDatabase) -> None:
    """`renamed=` says it; what it cannot mean is refused."""

    def guarded(data: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(data["cart"], str):
            raise TypeError(data)
        return {"cart_id": data["cart"].strip()}

    old = client_of(db)
    old.save_event({"type": "CART", "data": {"cart": "c1"}})
    cart = cart_class(version=2, upcasters={1: guarded}, renamed={"cart_id": "cart"})
    assert len(client_of(db, [cart]).get_event_stream(cart, cart_id="c1")) == 1
    wrong = cart_class(version=2, upcasters={1: guarded}, renamed={"cartid": "cart"})
    with pytest.raises(ConfigurationError, match="did you mean 'cart_id'"):
        client_of(db, [wrong]).get_event_stream(wrong, cart_id="c1")
    for options in (
        {"version": 1, "upcasters": None},
        {"renamed": ["cart"]},
        {"renamed": {"cart_id": "a'b"}},
    ):
        with pytest.raises(ConfigurationError):
            cart_class(**{"renamed": {"cart_id": "cart"}, **options})


def test_an_upcaster_that_goes_through_a_list_is_probed_to_its_end(db: PostgresqlDatabase) -> None:
    """A probe of a list has an end, and what the upcaster does with other fields is seen all the same."""

    def listed(data: dict[str, Any]) -> dict[str, Any]:
        tags = [tag.upper() for tag in data["tags"]]
        return {"cart_id": data["cart"], "tags": tags, "is_vip": "vip" in data["tags"], **data["more"]}

    @event("TAGGED", version=2, upcasters={1: listed})
    class Tagged:
        cart_id: str
        tags: list[str]
        is_vip: bool

    old = client_of(db)
    old.save_event({"type": "TAGGED", "data": {"cart": "c1", "tags": ["vip", "new"], "more": {}}})
    (found,) = client_of(db, [Tagged]).get_event_stream(Tagged, cart_id="c1")
    assert found.data == Tagged("c1", ["VIP", "NEW"], is_vip=True)


def parted(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data["name"].partition(" ")
    return {"cart_id": data["cart_id"], "first": first, "last": last}


def parted_in_two(data: dict[str, Any]) -> dict[str, Any]:
    first, last = data["name"].split(" ")
    return {"cart_id": data["cart_id"], "first": first, "last": last}


def parted_at(data: dict[str, Any]) -> dict[str, Any]:
    if "@" not in data["name"]:
        raise ValueError(data["name"])
    return {"cart_id": data["cart_id"], "first": data["name"].split("@")[0], "last": data["name"][-1]}


def parted_if_priced(data: dict[str, Any]) -> dict[str, Any]:
    first, last = data["name"].split(" ")
    pence = int(Decimal(data["price"]) * {"GBP": 100, "JPY": 1}[data["currency"]])
    return {"cart_id": data["cart_id"], "first": first, "last": last, "pence": pence}


def zipped(data: dict[str, Any]) -> dict[str, Any]:
    return dict(
        zip(("cart_id", "first", "last"), (data["cart_id"], *data["name"].split(" ", 1)), strict=True)
    )


def shortened(data: dict[str, Any]) -> dict[str, Any]:
    name = data["name"]
    return {"cart_id": data["cart_id"], "first": name[2:] if name[:2] == "C-" else name, "last": name[:-2]}


@pytest.mark.parametrize("upcaster", [parted, parted_in_two, parted_at, parted_if_priced, zipped, shortened])
def test_what_an_upcaster_takes_apart_is_refused(db: PostgresqlDatabase, upcaster: Any) -> None:
    """It finds no older event, so a condition on it would hold in vain; what is stored as it is, is found."""

    @event("NAMED", version=2, upcasters={1: upcaster})
    class Named:
        cart_id: str
        first: str
        last: str
        pence: int = 0

    data = {"cart_id": "c1", "name": "Ada Lovelace", "price": "1.50", "currency": "GBP"}
    client_of(db).save_event(
        {"type": "NAMED", "data": {**data, **({"name": "a@b"} if upcaster is parted_at else {})}}
    )
    client = client_of(db, [Named])
    assert len(client.get_event_stream(Named, cart_id="c1")) == 1
    for field in ("first", "last"):
        with pytest.raises(ConfigurationError, match="upcasters make that field"):
            client.get_event_stream(Named, **{field: "Ada"})


def test_an_upcaster_that_fails_on_all_test_data_is_refused(db: PostgresqlDatabase) -> None:
    """Nobody knows what it does with a field, unless it is declared."""

    def known_carts_alone(data: dict[str, Any]) -> dict[str, Any]:
        if len(data["cart"]) != 77:
            raise ValueError(data["cart"])
        return {"cart_id": data["cart"]}

    def cart(**options: Any) -> Any:
        @event("CART", version=2, upcasters={1: known_carts_alone}, **options)
        class Cart:
            cart_id: str

        return Cart

    client_of(db).save_event({"type": "CART", "data": {"cart": "c" * 77}})
    undeclared = cart()
    with pytest.raises(ConfigurationError, match="fail on all test data.*renamed={'cart_id': 'cart_id'}"):
        client_of(db, [undeclared]).get_event_stream(undeclared, cart_id="c")
    declared = cart(renamed={"cart_id": "cart"})
    assert len(client_of(db, [declared]).get_event_stream(declared, cart_id="c" * 77)) == 1


def test_an_older_name_that_means_something_else_now_is_refused(db: PostgresqlDatabase) -> None:
    """It would find events of the newest version that only look alike."""

    @event(
        "SWAPPED", version=2, upcasters={1: lambda data: {"cart_id": data["owner"], "owner": data["cart_id"]}}
    )
    class Swapped:
        cart_id: str
        owner: str

    client = client_of(db, [Swapped])
    with pytest.raises(ConfigurationError, match="that name for another field"):
        client.get_event_stream(Swapped, cart_id="c1")


def test_nested_fields_may_have_moved(db: PostgresqlDatabase) -> None:
    """From an object to the top, and the other way round."""

    @event("ORDERED", version=2, upcasters={1: lambda data: {"customer_id": data["customer"]["id"]}})
    class Ordered:
        customer_id: int

    @event("PAID", version=2, upcasters={1: lambda data: {"by": {"id": data["payer"]}}})
    class Paid:
        by: dict[str, int]

    old = client_of(db)
    old.save_events(
        [{"type": "ORDERED", "data": {"customer": {"id": 7}}}, {"type": "PAID", "data": {"payer": 7}}]
    )
    client = client_of(db, [Ordered, Paid])
    assert [one.id for one in client.get_event_stream(Ordered, customer_id=7)] == [1]
    assert [one.id for one in client.get_event_stream(Paid, data={"by.id": 7})] == [2]
