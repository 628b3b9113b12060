"""The cart events that every contender stores and reads: the same types, texts and order for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from attrs import field, frozen

from pgevents import event

from ..shop import CartCheckedOut, CartCreated, ItemAddedToCart, ItemRemovedFromCart

CART = 20
"""Events of an ordinary cart."""
BIG_CART = 1_000
OPEN_CARTS = 100
"""How many ordinary carts are filled at a time, so that the rows of one lie apart, as they would in a
shop."""
PRODUCTS = 1_000
ROUND = "abcAdBeCDE"
"""Ten events of a cart: a small letter adds a product, its capital takes it out; never more than three stay
    in."""
CHECKED_OUT_AT = "2026-01-31T12:00:00+00:00"


# Of classes of their own: a class made by @event stands for its subclasses, too, and these are another log's.
@event("TENANT_CART_CREATED")
class TenantCartCreated:
    cart_id: str
    user_id: str
    tenant_id: str


@event("TENANT_ITEM_ADDED_TO_CART")
class TenantItemAddedToCart:
    cart_id: str
    product_id: str
    quantity: int
    price_at_time: int
    tenant_id: str


@event("TENANT_ITEM_REMOVED_FROM_CART")
class TenantItemRemovedFromCart:
    cart_id: str
    product_id: str
    quantity: int
    tenant_id: str


@event("TENANT_CART_CHECKED_OUT")
class TenantCartCheckedOut:
    cart_id: str
    checked_out_at: datetime
    tenant_id: str


@frozen
class Shop:
    """Classes and indexes of one kind of events.

    Attributes:
        created, added, removed, checked_out: The event classes.
        prefix: What stands before the names of the types.
        data_indexes: The indexed fields.
        extra: Fields that every event has besides its own.
    """

    created: type[Any]
    added: type[Any]
    removed: type[Any]
    checked_out: type[Any]
    prefix: str = ""
    data_indexes: tuple[str, ...] = ("cart_id", "product_id")
    extra: dict[str, str] = field(factory=dict)

    @property
    def classes(self) -> dict[str, type[Any]]:
        """Event classes by the names of their types."""
        return {
            f"{self.prefix}CART_CREATED": self.created,
            f"{self.prefix}ITEM_ADDED_TO_CART": self.added,
            f"{self.prefix}ITEM_REMOVED_FROM_CART": self.removed,
            f"{self.prefix}CART_CHECKED_OUT": self.checked_out,
        }


PLAIN = Shop(CartCreated, ItemAddedToCart, ItemRemovedFromCart, CartCheckedOut)
TENANT = Shop(
    TenantCartCreated,
    TenantItemAddedToCart,
    TenantItemRemovedFromCart,
    TenantCartCheckedOut,
    prefix="TENANT_",
    data_indexes=("cart_id", "product_id", "tenant_id"),
    extra={"tenant_id": "t1"},
)


@frozen
class Sample:
    """An event in every form that a contender takes, made before the clock runs.

    Attributes:
        type: Name of the type.
        cart: Id of the cart.
        text: The data as JSON text.
        data: The same as bytes.
        event: The same as an instance of the event class.
        tags: What the event can be found by, as `field:value`.
    """

    type: str
    cart: str
    text: str
    data: bytes
    event: Any
    tags: list[str]


def instance(cls: type[Any], fields: dict[str, Any]) -> Any:
    """Stored data as an instance of its class, by the least that Python can do: no check of any value."""
    if "checked_out_at" in fields:
        fields["checked_out_at"] = datetime.fromisoformat(fields["checked_out_at"])
    return cls(**fields)


def data_of(shop: Shop, cart: str, number: int, length: int | None) -> tuple[str, dict[str, Any]]:
    """Type and data of one event of a cart.

    Args:
        shop: The kind of events.
        cart: Id of the cart.
        number: Place in the cart, from 0.
        length: Events until the cart is checked out; None for a cart that goes on for ever.
    """
    fields: dict[str, Any] = {"cart_id": cart}
    if number == 0:
        name, fields["user_id"] = "CART_CREATED", f"u-{cart}"
    elif length is not None and number == length - 1:
        name, fields["checked_out_at"] = "CART_CHECKED_OUT", CHECKED_OUT_AT
    else:
        letter = ROUND[(number - 1) % len(ROUND)]
        product = (sum(cart.encode()) * 13 + (number - 1) // len(ROUND) * 5 + ord(letter.lower())) % PRODUCTS
        fields |= {"product_id": f"p{product}", "quantity": 2}
        name = "ITEM_REMOVED_FROM_CART" if letter.isupper() else "ITEM_ADDED_TO_CART"
        if letter.islower():
            fields["price_at_time"] = 1999
    return shop.prefix + name, {**fields, **shop.extra}


def samples(shop: Shop, owner: str, count: int) -> list[Sample]:
    """Events of new carts, cart after cart.

    Args:
        shop: The kind of events.
        owner: What the ids of the carts begin with, so that nobody else has the same.
        count: How many events.
    """
    made: list[Sample] = []
    for number in range(count):
        cart = f"{owner}-{number // CART}"
        name, fields = data_of(shop, cart, number % CART, CART)
        text = json.dumps(fields, separators=(",", ":"))
        tags = [f"{one}:{fields[one]}" for one in shop.data_indexes if one in fields]
        made.append(Sample(name, cart, text, text.encode(), instance(shop.classes[name], fields), tags))
    return made


def big_carts(size: int) -> list[str]:
    """Ids of the carts of `BIG_CART` events in a log of so many events, which is one event in fifty."""
    return [f"b{number}" for number in range(max(2, min(20, size // 50_000)))] if size > 2 * BIG_CART else []


def small_carts(size: int) -> list[str]:
    """Ids of the carts of `CART` events in a log of so many events."""
    return [f"c{number}" for number in range((size - len(big_carts(size)) * BIG_CART) // CART)]


def log_of_carts(shop: Shop, size: int) -> Iterator[tuple[str, int, str, dict[str, Any]]]:
    """Cart, place in it (from 0), type and data of every event of a shop's log, in order."""
    for carts, length in ((big_carts(size), BIG_CART), (small_carts(size), CART)):
        for first in range(0, len(carts), OPEN_CARTS):
            block = carts[first : first + OPEN_CARTS]
            for number in range(length):
                for cart in block:
                    yield cart, number, *data_of(shop, cart, number, length)


def log_of_one_cart(shop: Shop, size: int) -> Iterator[tuple[str, int, str, dict[str, Any]]]:
    """The same for a log that is one cart."""
    for number in range(size):
        yield "c0", number, *data_of(shop, "c0", number, None)
