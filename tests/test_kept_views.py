"""Kept views: at its place each equals the fold from the start, whatever was deleted, late or changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgevents import EventClient
from pgevents.subscriptions import keep
from pgevents.testing import drain

from .shop import CartCreated, CartProjection, ItemAddedToCart

Make = Callable[..., EventClient]


def added(cart: str, product: str = "p1") -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, 100)


def check(client: EventClient, cls: Any = CartProjection, ids: Any = ("c1", "c2")) -> None:
    """Each row equals the fold from the start."""
    for id in ids:
        whole = cls(id, client, load_existing_projection=False)
        saved = client.get_projection(cls, id)
        assert saved is not None
        assert (saved.data, saved.latest_event_id) == (whole.view, whole.position.last_id)


def test_views_are_kept(client: EventClient) -> None:
    """Views of all ids stand there, and grow."""
    client.save_events([CartCreated("c1", "u1"), added("c1"), CartCreated("c2", "u2")])
    assert drain(client, [keep(CartProjection)]) == 3
    check(client)
    client.save_events([added("c2"), added("c1", "p2")])
    drain(client, [keep(CartProjection)])
    check(client)
