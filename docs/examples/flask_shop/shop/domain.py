"""The tea shop without requests and pages: what happens in it, what can be seen of it, and what it decides.

Prices are whole pence. An item in a cart is taken off the shelf at once, so what is left of a tea follows
from the same events as the carts; whoever decides on both sees the same log.
"""

from __future__ import annotations

from attrs import evolve, frozen

from pgevents import Event, MultiStreamProjectionBase, ProjectionBase, Stream, derive, event, pipeline, stream
from pgevents.flask import current_events

# -- what happens
# ------------------------------------------------------------------------------------------------


@event("TEA_LISTED")
class TeaListed:
    tea_id: str
    name: str
    about: str
    colour: str
    price: int


@event("TEA_DELIVERED")
class TeaDelivered:
    tea_id: str
    tins: int


@event("CART_OPENED")
class CartOpened:
    cart_id: str


@event("ITEM_ADDED")
class ItemAdded:
    cart_id: str
    tea_id: str
    name: str
    price: int


@event("ITEM_REMOVED")
class ItemRemoved:
    cart_id: str
    tea_id: str


@event("CART_CHECKED_OUT")
class CartCheckedOut:
    cart_id: str
    total: int


CartEvent = CartOpened | ItemAdded | ItemRemoved | CartCheckedOut
TeaEvent = TeaListed | TeaDelivered | ItemAdded | ItemRemoved
ShopEvent = CartEvent | TeaEvent

# -- what can be seen of it
# --------------------------------------------------------------------------------------


@frozen
class CartLine:
    tea_id: str
    name: str
    price: int
    tins: int = 1


@frozen
class CartView:
    id: str
    lines: tuple[CartLine, ...] = ()
    is_open: bool = False
    is_checked_out: bool = False
    tins: int = 0
    total: int = 0


def to_cart(cart: CartView, event: Event[CartEvent]) -> CartView:
    match event.data:
        case CartOpened():
            return evolve(cart, is_open=True)
        case CartCheckedOut():
            return evolve(cart, is_open=False, is_checked_out=True)
        case ItemAdded() as item:
            known = {line.tea_id: line for line in cart.lines}
            line = known.get(item.tea_id, CartLine(item.tea_id, item.name, item.price, tins=0))
            known[item.tea_id] = evolve(line, price=item.price, tins=line.tins + 1)
            return evolve(cart, lines=tuple(known.values()))
        case ItemRemoved(tea_id=tea_id):
            fewer = [
                evolve(line, tins=line.tins - 1) if line.tea_id == tea_id else line for line in cart.lines
            ]
            return evolve(cart, lines=tuple(line for line in fewer if line.tins > 0))


class Cart(ProjectionBase[CartView, CartEvent]):
    """One customer's cart, and after the checkout his order."""

    projection_type = "CART"
    client = current_events
    reducers = pipeline(to_cart) | derive(
        tins=lambda cart: sum(line.tins for line in cart.lines),
        total=lambda cart: sum(line.tins * line.price for line in cart.lines),
    )

    def initial_view(self) -> CartView:
        return CartView(self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"cart_id": self.id}


@frozen
class TeaView:
    id: str
    name: str = ""
    about: str = ""
    colour: str = ""
    price: int = 0
    left: int = 0


def to_tea(tea: TeaView, event: Event[TeaEvent]) -> TeaView:
    match event.data:
        case TeaListed(name=name, about=about, colour=colour, price=price):
            return evolve(tea, name=name, about=about, colour=colour, price=price)
        case TeaDelivered(tins=tins):
            return evolve(tea, left=tea.left + tins)
        case ItemAdded():
            return evolve(tea, left=tea.left - 1)
        case ItemRemoved():
            return evolve(tea, left=tea.left + 1)


class Tea(ProjectionBase[TeaView, TeaEvent]):
    """One tea, and how many tins are left of it."""

    projection_type = "TEA"
    client = current_events
    reducers = pipeline(to_tea)

    def initial_view(self) -> TeaView:
        return TeaView(self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"tea_id": self.id}


@frozen
class ShelfView:
    teas: dict[str, TeaView] = {}


def to_teas(teas: dict[str, TeaView], event: Event[TeaEvent]) -> dict[str, TeaView]:
    tea_id = event.data.tea_id
    return teas | {tea_id: to_tea(teas.get(tea_id, TeaView(tea_id)), event)}


class Shelf(MultiStreamProjectionBase[ShelfView, TeaEvent]):
    """All teas, for the shop window. Nobody decides on it, so it makes nobody wait."""

    projection_type = "SHELF"
    client = current_events
    reducers = pipeline(teas=to_teas)

    def initial_view(self) -> ShelfView:
        return ShelfView()

    def get_stream_options(self) -> list[Stream[TeaEvent]]:
        return [stream(TeaListed | TeaDelivered), stream(ItemAdded | ItemRemoved)]


# -- what it decides
# ---------------------------------------------------------------------------------------------


class Refused(Exception):
    """What the customer wants cannot be; the message is for him."""


def add(cart: CartView, tea: TeaView) -> list[CartEvent]:
    """A tin goes into the cart while there is one; two customers cannot get the same one."""
    if cart.is_checked_out:
        raise Refused("This cart is paid already.")
    if tea.left < 1:
        raise Refused(f"Somebody else has just taken the last tin of {tea.name}.")
    opened: list[CartEvent] = [] if cart.is_open else [CartOpened(cart.id)]
    return [*opened, ItemAdded(cart.id, tea.id, tea.name, tea.price)]


def remove(cart: CartView, tea_id: str) -> ItemRemoved | None:
    """A tin goes back on the shelf; what is not there need not be removed."""
    if cart.is_checked_out:
        raise Refused("This cart is paid already.")
    return ItemRemoved(cart.id, tea_id) if any(line.tea_id == tea_id for line in cart.lines) else None


def check_out(cart: CartView) -> CartCheckedOut:
    """What is in the cart is bought, at the prices in it."""
    if not cart.lines:
        raise Refused("There is nothing in this cart.")
    return CartCheckedOut(cart.id, cart.total)
