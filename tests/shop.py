"""The shopping cart of the README: events, view, reducers, projection."""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, frozen

from pgevents import Event, ProjectionBase, derive, event, pipeline


@event("CART_CREATED")
class CartCreated:
    cart_id: str
    user_id: str


@event("ITEM_ADDED_TO_CART")
class ItemAddedToCart:
    cart_id: str
    product_id: str
    quantity: int
    price_at_time: int


@event("ITEM_REMOVED_FROM_CART")
class ItemRemovedFromCart:
    cart_id: str
    product_id: str
    quantity: int


@event("CART_CHECKED_OUT")
class CartCheckedOut:
    cart_id: str
    checked_out_at: datetime


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
            return (*items, CartItem(product, quantity, price))
        case ItemRemovedFromCart(product_id=product, quantity=quantity):
            left = [
                evolve(i, quantity=i.quantity - quantity) if i.product_id == product else i for i in items
            ]
            return tuple(item for item in left if item.quantity > 0)
        case _:
            return items


def to_is_checked_out(is_checked_out: bool, event: Event[CartEvent]) -> bool:
    return is_checked_out or isinstance(event.data, CartCheckedOut)


class CartProjection(ProjectionBase[CartView, CartEvent]):
    projection_type = "SHOPPING_CART"
    version = 1
    reducers = pipeline(user_id=to_user_id, items=to_items, is_checked_out=to_is_checked_out) | derive(
        total=lambda cart: sum(item.quantity * item.price_at_time for item in cart.items)
    )

    def initial_view(self) -> CartView:
        return CartView(id=self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"cart_id": self.id}
