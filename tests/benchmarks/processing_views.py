"""How fast views are folded: all of them anew, and each in the transaction of its save.

`python -m tests.benchmarks.processing_views iterate|rebuild URL` is one process of the measure.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pgevents import EventClient, create_event_client, create_events_table, create_projections_table
from pgevents.cli.rebuilding import collect_rarely
from pgevents.subscriptions import Inline, rebuild

from ..shop import CartEvent, CartProjection, ItemAddedToCart
from .carts import CHECKED_OUT_AT, PLAIN

__all__ = ["check_views", "client_of", "fill", "forget", "fresh", "inline", "rebuilding"]

FILL_SQL = """\
INSERT INTO views.events (type, data)
SELECT t.type, jsonb_build_object('cart_id', 'c' || mod(n, %(carts)s)) || CASE t.type
    WHEN 'CART_CREATED' THEN jsonb_build_object('user_id', 'u' || mod(n, 1000))
    WHEN 'CART_CHECKED_OUT' THEN jsonb_build_object('checked_out_at', %(at)s)
    WHEN 'ITEM_ADDED_TO_CART' THEN
        jsonb_build_object('product_id', 'p' || (n / %(carts)s + 1) / 2, 'quantity', 2, 'price_at_time', 1999)
    ELSE jsonb_build_object('product_id', 'p' || (n / %(carts)s) / 2, 'quantity', 2) END
FROM generate_series(0, %(events)s - 1) AS n, LATERAL (SELECT CASE
    WHEN n / %(carts)s = 0 THEN 'CART_CREATED'
    WHEN n / %(carts)s = 19 THEN 'CART_CHECKED_OUT'
    WHEN mod(n / %(carts)s, 2) = 1 OR n / %(carts)s < 6 THEN 'ITEM_ADDED_TO_CART'
    ELSE 'ITEM_REMOVED_FROM_CART' END AS type) AS t
"""
"""Carts of twenty events, which lie as far apart as they can."""


def client_of(url: str, *plugins: Any) -> EventClient:
    events = create_events_table("views", data_indexes=["cart_id"])
    views = create_projections_table("views", "views")
    return create_event_client(url, events, views, list(PLAIN.classes.values()), plugins=plugins)


def fresh(url: str) -> EventClient:
    client = client_of(url)
    client.db.execute_sql("DROP SCHEMA IF EXISTS views CASCADE")
    client.create_tables()
    return client


def fill(client: EventClient, events: int) -> None:
    client.db.execute_sql("ALTER TABLE views.events DISABLE TRIGGER USER")
    client.db.execute_sql(FILL_SQL, {"events": events, "carts": events // 20, "at": CHECKED_OUT_AT})
    client.db.execute_sql("ALTER TABLE views.events ENABLE TRIGGER USER")
    client.db.execute_sql("VACUUM ANALYZE views.events")


def forget(client: EventClient) -> None:
    """The views are as if nobody had ever kept them."""
    for table in ("views", "events_kept", "events_checkpoints", "events_seen", "events_notes"):
        client.db.execute_sql(f"TRUNCATE views.{table}")
    client.db.execute_sql("CHECKPOINT")


def rebuilding(url: str, events: int = 1_000_000, rounds: int = 2) -> dict[str, Any]:
    """One process that iterates and one that rebuilds, in turns; then four that rebuild together."""
    client = fresh(url)
    fill(client, events)
    iterated: list[dict[str, float]] = []
    rebuilt: list[dict[str, float]] = []
    for _ in range(rounds):
        iterated += _in_processes("iterate", url)
        forget(client)
        rebuilt += _in_processes("rebuild", url)
    check_views(client, events)
    forget(client)
    together = _in_processes("rebuild", url, 4)
    four = max(one["ended"] for one in together) - min(one["began"] for one in together)
    check_views(client, events)
    client.db.close()

    def best(found: list[dict[str, float]], name: str) -> float:
        return min(one[name] for one in found)

    return {
        "events": events,
        "iterating_per_s": round(events / best(iterated, "seconds")),
        "one_process_per_s": round(events / best(rebuilt, "seconds")),
        "ratio": round(best(iterated, "seconds") / best(rebuilt, "seconds"), 2),
        "cpu_ratio": round(best(iterated, "cpu") / best(rebuilt, "cpu"), 2),
        "mb": max(one["mb"] for one in rebuilt),
        "four_processes_per_s": round(events / four),
        "four_of_one": round(best(rebuilt, "seconds") / four, 2),
    }


def check_views(client: EventClient, events: int) -> None:
    sql = "SELECT count(*), sum(latest_event_id) FROM views.views"
    carts = events // 20
    count, last = client.db.execute_sql(sql).fetchone()
    assert (count, last) == (carts, sum(range(events - carts + 1, events + 1))), "views are missing or behind"
    cart = f"c{carts // 2}"
    view = client.get_projection(CartProjection, cart)
    assert view is not None and view.data == CartProjection(cart, client, load_existing_projection=False).view


def _in_processes(what: str, url: str, count: int = 1) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "tests.benchmarks.processing_views", what, url]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    found: list[dict[str, float]] = []
    for child in children:
        out, _ = child.communicate()
        assert child.returncode == 0, f"{what} failed"
        found.append(json.loads(out))
    return found


def inline(url: str, saves: int = 2_000, rounds: int = 3) -> dict[str, Any]:
    """Single saves with `Inline` and without, in turns; the median of each, of the best round."""
    fresh(url).db.close()
    clients = {"plain": client_of(url), "inline": client_of(url, Inline(CartProjection))}
    wall: dict[str, list[float]] = {name: [] for name in clients}
    own: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(rounds):
        for name, client in clients.items():
            events = [
                ItemAddedToCart(f"{name}-{number}-{n % 200}", f"p{n // 200}", 2, 1999) for n in range(saves)
            ]
            client.save_event(events[0])
            seconds: list[float] = []
            before = time.process_time()
            for one in events:
                start = time.perf_counter()
                client.save_event(one)
                seconds.append(time.perf_counter() - start)
            own[name].append((time.process_time() - before) / saves * 1000)
            wall[name].append(statistics.median(seconds) * 1000)
    for client in clients.values():
        client.db.close()
    return {
        **{f"{name}_ms": round(min(wall[name]), 3) for name in clients},
        **{f"{name}_client_ms": round(min(own[name]), 3) for name in clients},
        "ratio": round(min(wall["inline"]) / min(wall["plain"]), 2),
    }


def _iterate(client: EventClient) -> None:
    sum(1 for _ in client.iter_event_stream(CartEvent))


def _rebuild(client: EventClient) -> None:
    collect_rarely()  # as the command does
    rebuild(client, CartProjection)


def main() -> None:
    parser = argparse.ArgumentParser()
    calls: dict[str, Callable[[EventClient], None]] = {"iterate": _iterate, "rebuild": _rebuild}
    parser.add_argument("what", choices=list(calls))
    parser.add_argument("url")
    options = parser.parse_args()
    client = client_of(options.url)
    client.check_installed()
    began, before = time.time(), time.process_time()
    calls[options.what](client)
    ended, cpu = time.time(), time.process_time() - before
    mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    found = {"began": began, "ended": ended, "seconds": ended - began, "cpu": cpu, "mb": round(mb)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
