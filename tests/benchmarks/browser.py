"""How long the server takes for each page of the browser: `python -m tests.benchmarks.browser`.

The log has a million events of fifty types and fifty thousand carts. One product is in a tenth of them, a
hundred thousand views are saved, and two subscriptions have dealt with nothing of it and parked ten thousand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from flask.testing import FlaskClient

from pgevents import EventClient
from pgevents.browser import browser
from pgevents.embedded import embedded_database
from pgevents.subscriptions import Subscription

from ..conftest import shop_client
from ..shop import CartCreated, CartEvent, CartProjection

__all__ = ["PAGES", "fill", "measure"]

FILL_SQL = """\
ALTER TABLE my_app.events DISABLE TRIGGER USER;
INSERT INTO my_app.events (type, data, metadata, created_at, updated_at)
SELECT
    CASE mod(n, 20) WHEN 0 THEN 'CART_CREATED' WHEN 19 THEN 'TYPE_' || mod(n / 20, 48)
    ELSE 'ITEM_ADDED_TO_CART' END,
    CASE mod(n, 20) WHEN 0 THEN
        jsonb_build_object('cart_id', 'c' || n / 20, 'user_id', 'u' || mod(n / 20, 1000))
    ELSE jsonb_build_object('cart_id', 'c' || n / 20, 'quantity', 1, 'price_at_time', mod(n, 1000),
        'product_id', CASE mod(n, 10) WHEN 1 THEN 'hot' ELSE 'p' || mod(n, 997) END) END,
    jsonb_build_object('correlation_id', 'r' || n / 5, 'actor', 'u' || mod(n / 20, 1000)),
    at, at
FROM (
    SELECT n, clock_timestamp() - ({size} - n) * interval '1 s' AS at FROM generate_series(0, {size} - 1) AS n
) AS numbered;
ALTER TABLE my_app.events ENABLE TRIGGER USER;
INSERT INTO my_app.views (type, id, data, latest_event_id, version)
SELECT 'SHOPPING_CART', 'c' || n,
    jsonb_build_object('id', 'c' || n, 'user_id', 'u' || mod(n, 1000), 'total', mod(n, 5003),
        'items', jsonb_build_array(), 'is_checked_out', false),
    20 * n + 1, 1
FROM generate_series(0, {size} / 10 - 1) AS n;
INSERT INTO my_app.events_parked (name, key, event_id, hash, state, attempts, error)
SELECT 'unkeyed', '', n, 0, 'parked', 3, 'ValueError: no paper' FROM generate_series(1, {size} / 100) AS n;
"""
PAGES = (
    "/log",
    "/log?before={middle}",
    "/log?type=ITEM_ADDED_TO_CART",
    "/log?type=TYPE_7",
    "/log?where=product_id=hot",
    "/log?where=cart_id=c2500&type=CART_CREATED",
    "/log?meta=actor=u7",
    "/log?text=nowhere",
    "/log?since=2026-01-01&until=2026-01-02",
    "/events/{middle}",
    "/identifier?where=cart_id=c2500",
    "/identifier?where=product_id=hot",
    "/identifier?where=user_id=u7",
    "/find?q=c2500",
    "/projections",
    "/views?type=SHOPPING_CART",
    "/views?type=SHOPPING_CART&where=user_id=u7&order=-total",
    "/views?type=SHOPPING_CART&where=user_id=u7",
    "/view?type=SHOPPING_CART&id=c2500",
    "/subscriptions",
    "/subscription?name=unkeyed",
    "/types",
    "/health",
)


def fill(client: EventClient, size: int) -> None:
    """Make the tables, and put so many events and what belongs to them there."""
    client.create_tables()
    client.save_event(CartCreated("first", "u1"))
    for subscription in (
        Subscription(client, "unkeyed"),
        Subscription(client, "keyed", key="cart_id", lanes=8),
    ):
        with subscription.batch():
            pass
    client.db.execute_sql(FILL_SQL.format(size=size))
    client.db.connection().commit()
    client.db.connection().autocommit = True
    client.db.execute_sql("VACUUM ANALYZE")
    client.db.close()


def measure(site: FlaskClient, page: str, times: int = 5) -> float:
    """The milliseconds of the quickest of some requests."""
    taken: list[float] = []
    for _ in range(times + 1):
        start = time.perf_counter()
        answer = site.get(page)
        taken.append(time.perf_counter() - start)
        assert answer.status_code in (200, 302), f"{page}: {answer.status}"
    return min(taken[1:]) * 1000


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The URL of a database: the given one, or an embedded one for the time of the block."""
    if url is not None:
        yield url
        return
    with embedded_database() as db:
        yield db.url


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.browser", description=__doc__)
    parser.add_argument("--url", help="an empty database to measure in; default: an embedded one")
    parser.add_argument("--size", type=int, default=1_000_000, help="how many events")
    options = parser.parse_args()
    with server(options.url) as url:
        client = shop_client(url, CartEvent)
        if not client.db.table_exists("events", schema="my_app"):
            fill(client, options.size)
        app = Flask("browser")
        app.register_blueprint(
            browser(client, authorize=lambda: True, projections=[CartProjection], url_prefix=None)
        )
        site = app.test_client()
        print("| page | ms |\n|---|--:|")
        for page in PAGES:
            page = page.format(middle=options.size // 2)
            print(f"| `{page}` | {measure(site, page):.0f} |", flush=True)


if __name__ == "__main__":
    main()
