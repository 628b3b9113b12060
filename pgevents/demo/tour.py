"""A tour of the browser after the demo: a cart with a wrong total, and subscriptions that notice it."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timezone

from pgevents import ConfigurationError, Event, EventClient
from pgevents.subscriptions import Runner, keep, retry, subscription

from .shop import (
    CartCheckedOut,
    CartEvent,
    CartOpened,
    CartProjection,
    ItemAdded,
    ItemRemoved,
    ProductProjection,
    shop_client,
)

__all__ = ["PUZZLE", "VIEWS", "newest_shop", "save_puzzle", "subscriptions_at_work"]

PUZZLE = "A-1001"
"""The id of the cart with a wrong total."""
VIEWS = (CartProjection, ProductProjection)
SCHEMAS_SQL = """\
SELECT nspname FROM pg_namespace
WHERE starts_with(nspname, 'pgevents_demo_') AND to_regclass(quote_ident(nspname) || '.events') IS NOT NULL
ORDER BY nspname DESC LIMIT 1
"""


def save_puzzle(client: EventClient) -> None:
    """Save a cart in which a request was carried out twice, as by a program that repeats it without a key.

    The cart is saved after the replay, so that it does not change the figures that are compared with the CSV.
    """
    at = datetime.now(timezone.utc)
    bottle = ItemAdded(PUZZLE, "21479", "WHITE SKULL HOT WATER BOTTLE", quantity=2, price=375)
    clock = ItemAdded(PUZZLE, "22726", "ALARM CLOCK BAKELIKE GREEN", quantity=1, price=375)
    chain = ItemAdded(PUZZLE, "22086", "PAPER CHAIN KIT 50'S CHRISTMAS", quantity=4, price=295)
    requests: list[tuple[str, CartEvent]] = [
        ("request-1", CartOpened(PUZZLE, "17850", "United Kingdom", is_cancellation=False, opened_at=at)),
        ("request-2", bottle),
        ("request-3", chain),
        ("request-3", chain),
        ("request-4", clock),
        ("request-5", ItemRemoved(PUZZLE, "22726", "ALARM CLOCK BAKELIKE GREEN", quantity=1, price=375)),
        ("request-6", CartCheckedOut(PUZZLE, at)),
    ]
    for request, data in requests:
        client.save_event(data, metadata={"actor": "customer 17850", "correlation_id": request})


class CarriedOutTwice(Exception):
    """A request was carried out twice in a cart."""


@subscription("receipts", CartCheckedOut, key="cart_id", lanes=4, on_error=retry(1).then_park())
def check_receipt(event: Event[CartCheckedOut], client: EventClient) -> None:
    """Refuse the receipt of a cart in which a request was carried out twice."""
    seen: set[str] = set()
    for saved in client.get_event_stream(CartEvent, cart_id=event.data.cart_id):
        request = saved.metadata.get("correlation_id")
        if request in seen:
            raise CarriedOutTwice(f"cart {event.data.cart_id}: {request} was carried out twice")
        if isinstance(request, str):
            seen.add(request)


@contextmanager
def subscriptions_at_work(url: str, schema: str) -> Generator[None, None, None]:
    """Run the subscription, and keep the views, in threads for the time of the block."""
    runner = Runner(shop_client(url, schema), [check_receipt, *map(keep, VIEWS)])
    thread = threading.Thread(target=runner.run, kwargs={"workers": 2}, name="pgevents-demo")
    thread.start()
    try:
        yield
    finally:
        runner.stop()
        thread.join()


def newest_shop() -> EventClient:
    """The shop of the last demo in the database that PGEVENTS_DATABASE_URL names.

    For `pgevents ui --app pgevents.demo.tour:newest_shop`.

    Raises:
        ConfigurationError: The variable is not set, or no demo has run in that database.
    """
    url = os.environ.get("PGEVENTS_DATABASE_URL")
    if not url:
        raise ConfigurationError("set PGEVENTS_DATABASE_URL to the database of the demo")
    client = shop_client(url, "public")
    row = client.session.execute(SCHEMAS_SQL, None).fetchone()
    client.db.close()
    if row is None:
        raise ConfigurationError("no demo has run in this database: pgevents demo --database URL")
    return shop_client(url, row[0])
