"""A shop's log to look at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from flask.testing import FlaskClient

from pgevents import EventClient
from pgevents.plugins.metadata import Metadata, event_context

from ..chromium import chromium, driver_port
from ..shop import CartCheckedOut, CartCreated, CartProjection, ItemAddedToCart
from .sites import site_of

__all__ = ["chromium", "driver_port"]

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)


@pytest.fixture
def store(pgevents_tables: None, make_client: Callable[..., EventClient]) -> EventClient:
    """A shop with one cart of five events, and an invoice of a type that nobody has registered."""
    client = make_client(plugins=[Metadata(source="shop")])
    client.save_event(CartCreated("c1", "u1"), created_at=NOW)
    client.save_event(ItemAddedToCart("c1", "tea", 2, 450), created_at=NOW + timedelta(minutes=1))
    client.save_event(ItemAddedToCart("c1", "cake", 1, 1275), created_at=NOW + timedelta(minutes=2))
    CartProjection("c1", client).save_projection()
    with event_context(actor="u1"):
        checked_out = client.save_event(CartCheckedOut("c1", NOW), created_at=NOW + timedelta(hours=1))
    with event_context(cause=checked_out):
        client.save_event({"type": "INVOICE_SENT", "data": {"cart_id": "c1", "pence": 2175}})
    return client


@pytest.fixture
def site(store: EventClient) -> FlaskClient:
    return site_of(store)
