"""The shop's carts, folded as slowly as a variable says: so that there is time to kill who folds them."""

from __future__ import annotations

import os
import time

from pgevents import Event, derive, pipeline

from .shop import CartEvent, CartProjection, to_is_checked_out, to_items, to_user_id


def to_user_slowly(user_id: str, event: Event[CartEvent]) -> str:
    time.sleep(float(os.environ.get("SECONDS_AN_EVENT", "0")))
    return to_user_id(user_id, event)


class SlowCartProjection(CartProjection):
    projection_type = "SLOW_CART"
    reducers = pipeline(user_id=to_user_slowly, items=to_items, is_checked_out=to_is_checked_out) | derive(
        total=lambda cart: sum(item.quantity * item.price_at_time for item in cart.items)
    )
