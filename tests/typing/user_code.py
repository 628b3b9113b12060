"""User code as the documentation shows it, checked by mypy and pyright, never run: what they must infer."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from attrs import frozen
from peewee import PostgresqlDatabase
from typing_extensions import assert_type

from pgevents import (
    Comparison,
    Event,
    EventClient,
    EventStream,
    LatestEvent,
    MultiStreamProjectionBase,
    Position,
    ProjectionBase,
    SavedProjection,
    SavedViews,
    SaveResult,
    Stream,
    at_least,
    between,
    create_event_client,
    create_events_table,
    create_projections_table,
    derive,
    event,
    hookimpl,
    is_not,
    latest,
    more_than,
    one_of,
    pipeline,
    stream,
)
from pgevents.aio import AsyncEventClient


@event("CART_CREATED")
class CartCreated:
    cart_id: str
    user_id: str


@event(
    "ITEM_ADDED_TO_CART",
    version=2,
    upcasters={1: lambda data: {**data, "price_at_time": 0}},
    formerly=["ITEM_ADDED"],
)
class ItemAddedToCart:
    cart_id: str
    product_id: str
    quantity: int
    price_at_time: int


@event
class ItemRemovedFromCart:
    cart_id: str
    product_id: str
    quantity: int = 1


@event("CART_CHECKED_OUT")
class CartCheckedOut:
    cart_id: str
    at: datetime


CartEvent = CartCreated | ItemAddedToCart | ItemRemovedFromCart | CartCheckedOut


@frozen
class CartItem:
    product_id: str
    quantity: int
    price_at_time: int


@frozen
class CartView:
    id: str
    user_id: str = ""
    items: tuple[CartItem, ...] = ()
    is_checked_out: bool = False
    total: int = 0


def to_user_id(user_id: str, event: Event[CartEvent]) -> str:
    return event.data.user_id if isinstance(event.data, CartCreated) else user_id


def to_items(items: tuple[CartItem, ...], event: Event[CartEvent]) -> tuple[CartItem, ...]:
    match event.data:
        case ItemAddedToCart(product_id=product, quantity=quantity, price_at_time=price):
            assert_type(quantity, int)
            return (*items, CartItem(product, quantity, price))
        case ItemRemovedFromCart(product_id=product):
            return tuple(item for item in items if item.product_id != product)
        case _:
            return items


def to_is_checked_out(is_checked_out: bool, event: Event[CartEvent]) -> bool:
    return is_checked_out or isinstance(event.data, CartCheckedOut)


def to_total(cart: CartView) -> int:
    return sum(item.quantity * item.price_at_time for item in cart.items)


class CartProjection(ProjectionBase[CartView, CartEvent]):
    projection_type = "SHOPPING_CART"
    version = 1
    reducers = pipeline(user_id=to_user_id, items=to_items, is_checked_out=to_is_checked_out) | derive(
        total=to_total
    )

    def initial_view(self) -> CartView:
        return CartView(id=self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"cart_id": self.id}


class UserCarts(MultiStreamProjectionBase[CartView, CartEvent]):
    projection_type = "USER_CARTS"

    def initial_view(self) -> CartView:
        return CartView(id=self.id)

    def get_stream_options(self) -> Sequence[Stream[Any]]:
        return [
            stream(CartCreated, user_id=self.id),
            stream(CartCheckedOut | ItemAddedToCart, cart_id=["c1", "c2"]),
        ]


class Announce:
    @hookimpl
    def pgevents_after_commit(self, client: EventClient, events: Sequence[Event[Any]]) -> None:
        print(len(events))


def make() -> EventClient:
    events = create_events_table(schema="my_app", name="events", data_indexes=["cart_id", "product_id"])
    views = create_projections_table(schema="my_app", name="views", data_indexes=["id", "user_id"])
    client = create_event_client(PostgresqlDatabase("shop"), events, views, CartEvent, plugins=[Announce()])
    client.create_tables()
    return create_event_client("postgresql:///shop", events, views)


def events_of_the_decorator() -> None:
    created = CartCreated(cart_id="c1", user_id="u1")
    assert_type(created, CartCreated)
    assert_type(created.cart_id, str)
    assert_type(ItemRemovedFromCart("c1", "p1"), ItemRemovedFromCart)
    assert_type(ItemAddedToCart("c1", "p1", 1, 2).price_at_time, int)


def saving(client: EventClient) -> None:
    created = CartCreated("c1", "u1")
    saved = client.save_event(created, metadata={"actor": "u1"}, idempotency_key="k")
    assert_type(saved, Event[CartCreated])
    assert_type(saved.data.user_id, str)
    assert_type(saved.id, int)
    assert_type(client.save_events([created, created]), list[Event[CartCreated]])
    mixed: list[CartEvent] = [created, ItemRemovedFromCart("c1", "p1")]
    assert_type(client.save_events(mixed), list[Event[CartEvent]])
    client.save_event({"type": "CART_CREATED", "data": {"cart_id": "c1"}})
    client.save_events(
        [ItemAddedToCart("c1", "p1", 2, 1999), CartCheckedOut("c1", datetime.now(timezone.utc))]
    )


def reading(client: EventClient) -> None:
    history = client.get_event_stream(CartEvent, cart_id="c1")
    assert_type(history, EventStream[CartEvent])
    assert_type(history[0].data, CartEvent)
    assert_type(history.position, Position)
    for one in history:
        assert_type(one, Event[CartEvent])
    assert_type(client.get_event_stream(CartCreated), EventStream[CartCreated])
    assert_type(
        client.get_event_stream(CartCreated | CartCheckedOut, final=True),
        EventStream[CartCreated | CartCheckedOut],
    )
    assert_type(client.get_event_stream("CART_CREATED"), EventStream[Any])
    assert_type(client.get_event_stream(["CART_CREATED", CartCreated], cart_id=["c1"]), EventStream[Any])
    assert_type(client.get_event_stream(), EventStream[Any])
    newest = client.get_event_stream(CartCreated, limit=3, reverse=True, after=7, cart_id="c1")
    assert_type(newest, EventStream[CartCreated])
    assert_type(client.iter_event_stream(CartCreated, final=True, limit=5), Iterator[Event[CartCreated]])
    assert_type(client.get_event(7), Event[Any] | None)
    large = stream(ItemAddedToCart, quantity=at_least(10), price_at_time=between(1, 2.5), after=3)
    assert_type(large, Stream[ItemAddedToCart])
    assert_type(one_of("a", "b"), list[str])
    assert_type(is_not("a", "b"), Comparison)
    client.query_projections(CartProjection, total=more_than(3))
    assert_type(latest(CartCreated, cart_id="c1"), LatestEvent[CartCreated])
    assert_type(latest(), LatestEvent[Any])

    def number(last: Event[CartCreated] | None) -> CartCreated:
        return CartCreated("c1", "u1" if last is None else last.data.user_id)

    def number_in_cart(cart: CartView, last: Event[CartCreated] | None) -> CartCreated:
        return CartCreated(cart.id, "u1" if last is None else last.data.user_id)

    assert_type(client.decide(latest(CartCreated), number), list[Event[CartCreated]])
    client.decide(
        latest(CartCreated), lambda last: CartCreated("c", "u" if last is None else last.data.user_id)
    )
    saved = client.decide((CartProjection("c1", client), latest(CartCreated)), number_in_cart)
    assert_type(saved, list[Event[CartCreated]])
    client.decide((latest(CartCreated), CartProjection("c1", client)), lambda last, cart: None)
    assert_type(client.get_saved("key"), list[Event[Any]])
    assert_type(client.iter_event_stream(CartEvent, after=3), Iterator[Event[CartEvent]])
    assert_type(client.get_latest_event(CartCreated, cart_id="c1"), Event[CartCreated] | None)
    assert_type(client.get_latest_event(CartEvent), Event[CartEvent] | None)
    assert_type(stream(CartCreated, cart_id="c1"), Stream[CartCreated])
    assert_type(stream(CartEvent), Stream[CartEvent])
    assert_type(stream(cart_id="c1"), Stream[Any])


def validating(client: EventClient) -> None:
    created = CartCreated("c1", "u1")
    history = client.get_event_stream(CartEvent, cart_id="c1")
    assert_type(client.save_event_with_stream_validation(created, history.position), Event[CartCreated])
    assert_type(client.save_event_with_stream_validation(created, history), Event[CartCreated])
    latest = client.get_latest_event(CartEvent, cart_id="c1")
    assert latest is not None
    client.save_event_with_stream_validation(
        ItemAddedToCart("c1", "p3", 1, 1999),
        latest_event_id=latest.id,
        streams=[stream(CartCreated | CartCheckedOut, cart_id="c1"), stream(ItemAddedToCart, cart_id="c1")],
    )
    client.save_events_with_stream_validation([created], None, stream(cart_id="c1"))
    client.save_event_with_stream_validation(created, CartProjection("c1", client).position)


def projecting(client: EventClient) -> None:
    cart = CartProjection("c1", client)
    assert_type(cart.view, CartView)
    assert_type(cart.view.items, tuple[CartItem, ...])
    assert_type(cart.as_json(), dict[str, Any])
    assert_type(cart.projection_events, list[Event[CartEvent]])
    assert_type(cart.saved_projection, SavedProjection[CartView] | None)
    assert_type(cart.save_projection(), SaveResult[CartView])
    assert_type(client.save_projection(cart), SaveResult[CartView])
    assert_type(client.save_projection(cart).projection.data, CartView)
    none: tuple[CartItem, ...] = ()
    assert_type(cart.reduce_events(to_items, none), tuple[CartItem, ...])
    assert_type(cart.refresh(), CartProjection)
    assert_type(cart.apply(ItemRemovedFromCart("c1", "p1")), CartProjection)
    assert_type(CartProjection.from_history("c1", []), CartProjection)
    assert_type(UserCarts("u1", client).view, CartView)
    assert_type(client.get_projection(CartProjection, "c1"), SavedProjection[CartView] | None)
    assert_type(client.get_projection(UserCarts, "u1"), SavedProjection[CartView] | None)
    found = client.query_projections(CartProjection, user_id=["u1", "u2"], is_checked_out=False, limit=10)
    assert_type(found, SavedViews[CartView])


@dataclass
class Todo:
    id: str
    done: int = 0


class TodoProjection(ProjectionBase[Todo, CartEvent, tuple[str, int]]):
    projection_type = "TODO"
    reducers = pipeline(done=lambda done, event: done + 1)

    def get_event_identifiers(self) -> dict[str, str | int]:
        return {"cart_id": self.id[0], "product_id": self.id[1]}


class Ported(ProjectionBase[dict[str, Any], CartEvent]):
    projection_type = "PORTED"

    def get_event_identifiers(self) -> dict[str, str]:
        return {"cart_id": self.id}

    def as_json(self) -> dict[str, Any]:
        none: tuple[CartItem, ...] = ()
        items = self.reduce_events(to_items, self.from_projection_or_default("items", none))
        assert_type(items, tuple[CartItem, ...])
        return {"items": items}


def questions_about_views(client: EventClient) -> None:
    todo = TodoProjection(("l1", 5), client, load_existing_projection=False)
    assert_type(todo.id, tuple[str, int])
    assert_type(todo.view, Todo)
    assert_type(TodoProjection.from_history(("l1", 5), [CartCreated("c1", "u1")]), TodoProjection)
    assert_type(todo.from_history([CartCreated("c1", "u1")]), TodoProjection)
    assert_type(todo.apply([CartCreated("c1", "u1")], {"type": "X"}), TodoProjection)
    assert_type(Ported("c1", client).view, dict[str, Any])
    assert_type(client.get_projection("CART", "c1"), SavedProjection[dict[str, Any]] | None)
    assert_type(client.query_projections("CART", version=1), SavedViews[dict[str, Any]])
    cart = client.view_fields(CartProjection)
    found = client.query_projections(CartProjection, where=cart.total >= 100, order_by=["-total", "id"])
    assert_type(found, SavedViews[CartView])
    assert_type(client.query_projections([CartProjection, "TODO"]), SavedViews[Any])
    assert_type(client.count_projections(CartProjection, user_id="u1"), int)
    assert_type(client.refresh_projections(TodoProjection, anew=True), dict[str, int])
    assert_type(client.delete_projection(CartProjection, "c1"), bool)
    plain = client.project("N", {"cart_id": "c1"}, lambda n, event: n, Todo("c1"))
    assert_type(plain.view, Todo)
    client.decide(plain, lambda view: CartCreated(view.id, "u1"))


def deciding(client: EventClient) -> None:
    def add_item(cart: CartView) -> ItemAddedToCart:
        return ItemAddedToCart(cart.id, "p3", 1, 1999)

    def maybe(cart: CartView) -> list[CartEvent] | None:
        return (
            None
            if cart.is_checked_out
            else [CartCreated(cart.id, "u1"), ItemAddedToCart(cart.id, "p3", 1, 1999)]
        )

    def both(one: CartView, two: CartView) -> CartCheckedOut:
        return CartCheckedOut(one.id, datetime.now(timezone.utc))

    def one_by_one(cart: CartView) -> Iterator[CartEvent]:
        yield CartCreated(cart.id, "u1")
        yield ItemAddedToCart(cart.id, "p3", 1, 1999)

    def with_result(cart: CartView) -> Generator[ItemAddedToCart, None, int]:
        yield ItemAddedToCart(cart.id, "p3", 1, 1999)
        return 1

    def one_or_several(cart: CartView) -> CartCreated | tuple[CartCreated, ...]:
        created = CartCreated(cart.id, "u1")
        return (created, created) if cart.is_checked_out else created

    def as_dict(cart: CartView) -> dict[str, Any]:
        return {"type": "CART_CREATED", "data": {"cart_id": cart.id}}

    def all_of_them(*carts: CartView) -> list[CartCheckedOut]:
        return [CartCheckedOut(cart.id, datetime.now(timezone.utc)) for cart in carts]

    cart, carts = CartProjection("c1", client), UserCarts("u1", client)
    assert_type(client.decide(cart, add_item, retries=5), list[Event[ItemAddedToCart]])
    assert_type(client.decide(cart, maybe), list[Event[CartEvent]])
    saved = client.decide(cart, lambda cart: CartCreated(cart.id, cart.user_id))
    assert_type(saved, list[Event[CartCreated]])
    assert_type(client.decide((cart, carts), both), list[Event[CartCheckedOut]])
    assert_type(client.decide(cart, one_by_one), list[Event[CartEvent]])
    assert_type(client.decide(cart, with_result), list[Event[ItemAddedToCart]])
    assert_type(client.decide(cart, one_or_several), list[Event[CartCreated]])
    assert_type(client.decide(cart, as_dict), list[Event[dict[str, Any]]])
    assert_type(client.decide([cart, carts], all_of_them), list[Event[CartCheckedOut]])


async def deciding_awaited(client: AsyncEventClient) -> None:
    def add_item(cart: CartView) -> ItemAddedToCart | None:
        return None if cart.is_checked_out else ItemAddedToCart(cart.id, "p3", 1, 1999)

    saved = await client.decide(CartProjection("c1"), add_item)
    assert_type(saved, list[Event[ItemAddedToCart]])
