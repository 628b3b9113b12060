"""The shop: events, views, projections and decisions.

Money is whole pence.
"""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, frozen
from peewee import PostgresqlDatabase

from pgevents import (
    Event,
    EventClient,
    MultiStreamProjectionBase,
    ProjectionBase,
    Stream,
    create_event_client,
    create_events_table,
    create_projections_table,
    derive,
    event,
    pipeline,
    stream,
)

__all__ = [
    "CartCheckedOut",
    "CartClosed",
    "CartEvent",
    "CartLine",
    "CartOpened",
    "CartProjection",
    "CartView",
    "ItemAdded",
    "ItemRemoved",
    "ProductEvent",
    "ProductProjection",
    "ProductView",
    "SoldOut",
    "StockCounted",
    "add_item",
    "buy_one",
    "check_out",
    "open_cart",
    "shop_client",
]

# Bare @event: the types are named after the classes.


@event
class CartOpened:
    cart_id: str
    customer_id: str | None
    country: str
    is_cancellation: bool
    opened_at: datetime


@event
class ItemAdded:
    cart_id: str
    product_id: str
    description: str
    quantity: int
    price: int


@event
class ItemRemoved:
    cart_id: str
    product_id: str
    description: str
    quantity: int
    price: int


@event
class CartCheckedOut:
    cart_id: str
    checked_out_at: datetime


@event
class StockCounted:
    product_id: str
    pieces: int


CartEvent = CartOpened | ItemAdded | ItemRemoved | CartCheckedOut
ProductEvent = ItemAdded | ItemRemoved | StockCounted


@frozen
class CartLine:
    """A product in a cart. The quantity is below zero if it was removed."""

    product_id: str
    quantity: int
    price: int


@frozen
class CartView:
    """A cart: a sale, or a cancellation with the returned products."""

    id: str
    customer_id: str | None = None
    country: str = ""
    is_cancellation: bool = False
    is_open: bool = False
    is_checked_out: bool = False
    lines: tuple[CartLine, ...] = ()
    pieces: int = 0
    total: int = 0


def to_head(cart: CartView, event: Event[CartEvent]) -> CartView:
    """Customer, country, and whether the cart is open."""
    match event.data:
        case CartOpened() as opened:
            return evolve(
                cart,
                customer_id=opened.customer_id,
                country=opened.country,
                is_cancellation=opened.is_cancellation,
                is_open=True,
            )
        case CartCheckedOut():
            return evolve(cart, is_open=False, is_checked_out=True)
        case _:
            return cart


def to_lines(lines: tuple[CartLine, ...], event: Event[CartEvent]) -> tuple[CartLine, ...]:
    """The lines in order; a product may be in several of them."""
    match event.data:
        case ItemAdded(product_id=product, quantity=quantity, price=price):
            return (*lines, CartLine(product, quantity, price))
        case ItemRemoved(product_id=product, quantity=quantity, price=price):
            return (*lines, CartLine(product, -quantity, price))
        case _:
            return lines


class CartProjection(ProjectionBase[CartView, CartEvent]):
    """One cart."""

    projection_type = "CART"
    reducers = (
        pipeline(to_head)
        | pipeline(lines=to_lines)
        | derive(
            pieces=lambda cart: sum(line.quantity for line in cart.lines),
            total=lambda cart: sum(line.quantity * line.price for line in cart.lines),
        )
    )

    def initial_view(self) -> CartView:
        return CartView(id=self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"cart_id": self.id}


@frozen
class ProductView:
    """A product: pieces sold less returned, turnover, last price, and stock since it was last counted."""

    id: str
    description: str = ""
    price: int = 0
    pieces: int = 0
    turnover: int = 0
    left: int | None = None


def to_product(product: ProductView, event: Event[ProductEvent]) -> ProductView:
    """Sales, returns and stock of one product."""
    match event.data:
        case ItemAdded(quantity=quantity, price=price, description=description):
            sold, product = quantity, evolve(product, price=price)
        case ItemRemoved(quantity=quantity, price=price, description=description):
            sold = -quantity
        case StockCounted(pieces=pieces):
            return evolve(product, left=pieces)
    return evolve(
        product,
        description=description or product.description,
        pieces=product.pieces + sold,
        turnover=product.turnover + sold * price,
        left=None if product.left is None else product.left - sold,
    )


class ProductProjection(MultiStreamProjectionBase[ProductView, ProductEvent]):
    """One product across all carts."""

    projection_type = "PRODUCT"
    reducers = pipeline(to_product)

    def initial_view(self) -> ProductView:
        return ProductView(id=self.id)

    def get_stream_options(self) -> list[Stream[ProductEvent]]:
        return [stream(ItemAdded | ItemRemoved, product_id=self.id), stream(StockCounted, product_id=self.id)]


class CartClosed(Exception):
    """The cart is not open, or a cart that shall be opened exists already."""


class SoldOut(Exception):
    """Nothing is left of the product."""


def open_cart(cart: CartView, opened: CartOpened) -> CartOpened:
    """Each cart is opened once."""
    if cart.is_open or cart.is_checked_out:
        raise CartClosed(cart.id)
    return opened


def add_item(cart: CartView, item: ItemAdded | ItemRemoved) -> ItemAdded | ItemRemoved:
    """Items are added to an open cart, or removed in an open cancellation."""
    if not cart.is_open:
        raise CartClosed(cart.id)
    return item


def check_out(cart: CartView, at: datetime) -> CartCheckedOut:
    """An open cart that holds something is checked out."""
    if not cart.is_open or not cart.lines:
        raise CartClosed(cart.id)
    return CartCheckedOut(cart.id, at)


def buy_one(cart: CartView, product: ProductView, at: datetime) -> list[CartEvent]:
    """Buy a piece in a cart of its own, if one is left."""
    if product.left is None or product.left < 1:
        raise SoldOut(product.id)
    return [
        CartOpened(cart.id, None, "United Kingdom", is_cancellation=False, opened_at=at),
        ItemAdded(cart.id, product.id, product.description, quantity=1, price=product.price),
        CartCheckedOut(cart.id, at),
    ]


def shop_client(db: PostgresqlDatabase | str, schema: str) -> EventClient:
    """A client for the shop's tables in a schema of their own."""
    events = create_events_table(schema=schema, name="events", data_indexes=["cart_id", "product_id"])
    views = create_projections_table(schema=schema, name="views", data_indexes=["customer_id"])
    return create_event_client(db, events, views, CartEvent | ProductEvent)
