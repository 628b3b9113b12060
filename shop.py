from datetime import datetime, timezone

from attrs import frozen
from peewee import PostgresqlDatabase
from pgevents import Event, EventClient, ProjectionBase, derive, event, pipeline
from pgevents import create_event_client, create_events_table, create_projections_table


@event("CART_CREATED")
class CartCreated:
    cart_id: str
    user_id: str


@event("ITEM_ADDED_TO_CART")
class ItemAddedToCart:
    cart_id: str
    product_id: str
    quantity: int
    price_at_time: int  # in pence: whole numbers add up


@event("ITEM_REMOVED_FROM_CART")
class ItemRemovedFromCart:
    cart_id: str
    product_id: str


@event("CART_CHECKED_OUT")
class CartCheckedOut:
    cart_id: str
    checked_out_at: datetime


CartEvent = CartCreated | ItemAddedToCart | ItemRemovedFromCart | CartCheckedOut


def shop_client(db: PostgresqlDatabase) -> EventClient:
    events = create_events_table(schema="my_app", name="events", data_indexes=["cart_id", "product_id"])
    views = create_projections_table(schema="my_app", name="views", data_indexes=["user_id"])
    return create_event_client(db, events, views, CartEvent)


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
        case ItemRemovedFromCart(product_id=product):
            return tuple(item for item in items if item.product_id != product)
        case _:
            return items


def to_is_checked_out(is_checked_out: bool, event: Event[CartEvent]) -> bool:
    return is_checked_out or isinstance(event.data, CartCheckedOut)


class CartProjection(ProjectionBase[CartView, CartEvent]):
    projection_type = "SHOPPING_CART"
    reducers = pipeline(user_id=to_user_id, items=to_items, is_checked_out=to_is_checked_out) | derive(
        total=lambda cart: sum(item.quantity * item.price_at_time for item in cart.items)
    )

    def initial_view(self) -> CartView:
        return CartView(id=self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"cart_id": self.id}


class CartClosed(Exception):
    """The cart was checked out."""


def add_item(cart: CartView, product_id: str, quantity: int, price: int) -> ItemAddedToCart:
    if cart.is_checked_out:
        raise CartClosed(cart.id)
    return ItemAddedToCart(cart.id, product_id, quantity, price)


def check_out(cart: CartView) -> CartCheckedOut | None:
    if cart.is_checked_out:
        return None  # nothing to do
    return CartCheckedOut(cart.id, datetime.now(timezone.utc))
