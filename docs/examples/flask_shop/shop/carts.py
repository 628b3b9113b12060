"""What pages and API have in common: each wish of a customer, from what is known to what is saved."""

from __future__ import annotations

from uuid import uuid4

from pgevents.flask import current_events, get_or_404

from . import domain
from .domain import Cart, CartOpened, Shelf, Tea, TeaDelivered, TeaListed

__all__ = ["add", "check_out", "new_id", "open_cart", "remove", "stock_the_shelf"]


def new_id() -> str:
    """An id that nobody guesses: who knows it may use the cart."""
    return uuid4().hex


def open_cart() -> str:
    """A new, empty cart; its id."""
    cart_id = new_id()
    current_events.save_event(CartOpened(cart_id))
    return cart_id


def add(cart_id: str, tea_id: str) -> None:
    """Decided on cart and tea together: if one of them changes meanwhile, it is decided anew."""
    tea = get_or_404(Tea, tea_id, "There is no such tea.")
    current_events.decide((Cart(cart_id), tea), domain.add)


def remove(cart_id: str, tea_id: str) -> None:
    """One tin less in the cart."""
    current_events.decide(Cart(cart_id), lambda cart: domain.remove(cart, tea_id))


def check_out(cart_id: str, seen: int) -> None:
    """Buy what the customer saw, and nothing else; who clicks twice buys once.

    Args:
        cart_id: The cart.
        seen: The last event of it that the page showed. If the cart has changed since then (in another tab,
            by another person), the save is refused with `ConcurrencyError`, which becomes a response 409.
    """
    cart = get_or_404(Cart, cart_id, "There is no such cart.")
    if cart.view.is_checked_out:
        return
    bought = domain.check_out(cart.view)
    latest = min(seen, cart.position.last_id)  # `seen` comes from outside
    current_events.save_event_with_stream_validation(
        bought, latest, cart.get_streams(), idempotency_key=f"checkout of {cart_id}"
    )
    cart.save_projection()
    Shelf("all").save_projection()


def stock_the_shelf() -> None:
    """Six teas, for a demonstration; a second time it does nothing."""
    teas = [
        ("assam", "Assam Mangalam", "Malty and strong, for milk.", "#7a2e12", 1250, 12),
        ("sencha", "Sencha Kagoshima", "First harvest, fresh as cut grass.", "#b3b24a", 1480, 8),
        ("oolong", "Milk Oolong", "Soft, round, seven infusions.", "#d0a24c", 1890, 3),
        ("puerh", "Pu-erh 2009", "Forest floor and dark plums. One tin was found.", "#3d1710", 4200, 1),
        ("hibiscus", "Hibiscus", "Sour and red, good cold.", "#a3123f", 780, 20),
        ("darjeeling", "Darjeeling First Flush", "The new harvest comes in April.", "#c9802f", 2150, 0),
    ]
    listed = [TeaListed(tea_id, name, about, colour, price) for tea_id, name, about, colour, price, _ in teas]
    delivered = [TeaDelivered(tea_id, tins) for tea_id, *_, tins in teas if tins]
    current_events.save_events([*listed, *delivered], idempotency_key="the first delivery")
