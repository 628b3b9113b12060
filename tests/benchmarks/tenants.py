"""Figures of tenants: `python -m tests.benchmarks.tenants [--events N] [--tenants N]`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import create_events_table, create_projections_table, event
from pgevents.embedded import embedded_database
from pgevents.tenants import Tenants

from ..conftest import database


@event
class Sold:
    cart_id: str
    n: int


def tenants_on(url: str) -> Tenants:
    """A directory and two nodes, each a database of its own."""
    base = parse_dsn(url)
    connection = psycopg2.connect(url)
    connection.autocommit = True
    dbs = {}
    for node in ("directory", "n1", "n2"):
        connection.cursor().execute(f"DROP DATABASE IF EXISTS {node} WITH (FORCE)")
        connection.cursor().execute(f"CREATE DATABASE {node}")
        dbs[node] = database(make_dsn(**{**base, "dbname": node}))
    connection.close()
    made = Tenants(
        dbs.pop("directory"),
        dbs,
        create_events_table(data_indexes=["cart_id"]),
        create_projections_table(),
        [Sold],
    )
    made.create_tables()
    return made


@contextmanager
def writers(tenants: Tenants, count: int) -> Iterator[list[float]]:
    """Threads that save one event after the other; how long each save took, moves included."""
    stop, waits = threading.Event(), list[float]()

    def write(writer: int) -> None:
        n = 0
        while not stop.is_set():
            began = time.perf_counter()
            sold = Sold(f"c{writer}", n)
            tenants.run("acme", lambda client, sold=sold: client.save_event(sold))
            waits.append(time.perf_counter() - began)
            n += 1
        for db in tenants.nodes.values():
            db.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield waits
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def moves(url: str, events: int) -> dict[str, Any]:
    """A tenant of so many events moves to and fro while four threads save."""
    tenants = tenants_on(url)
    tenants.add("acme", "n1")
    client = tenants.client("acme")
    for start in range(0, events, 10_000):
        client.save_events([Sold(f"c{n % 5000}", n) for n in range(start, min(start + 10_000, events))])
    stood, longest, seconds = list[float](), list[float](), list[float]()
    for target in ("n2", "n1", "n2", "n1"):
        with writers(tenants, 4) as waits:
            time.sleep(1)
            moved = tenants.move("acme", to=target)
            time.sleep(0.5)
        stood.append(round(1000 * moved.stood))
        longest.append(round(1000 * max(waits)))
        seconds.append(round(moved.seconds, 1))
    return {"events": events, "stood_ms": stood, "longest_save_ms": longest, "seconds": seconds}


def many(url: str, count: int) -> dict[str, Any]:
    """So many tenants in one program: what they take in time, memory and connections."""
    tenants = tenants_on(url)
    began = time.perf_counter()
    for n in range(count):
        tenants.add(f"t{n}")
    added = time.perf_counter() - began
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    for n in range(count):
        tenants.client(f"t{n}").save_event(Sold("c1", n))
    first = time.perf_counter() - began
    began = time.perf_counter()
    for n in range(count):
        tenants.client(f"t{n}").save_event(Sold("c1", n))
    warm = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connections = tenants.client("t0").db.execute_sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname ~ '^n'"
    )
    return {
        "tenants": count,
        "add_ms": round(1000 * added / count, 1),
        "first_save_ms": round(1000 * first / count, 2),
        "next_save_ms": round(1000 * warm / count, 2),
        "kb_a_client": round((after - before) / count, 1),
        "connections": connections.fetchone()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--tenants", type=int, default=1_000)
    given = parser.parse_args()
    settings = {"max_locks_per_transaction": "256"}
    with embedded_database(durable=True, settings=settings) as db:
        measures = {"moves": lambda: moves(db.url, given.events), "many": lambda: many(db.url, given.tenants)}
        for name, measure in measures.items():
            print(json.dumps({name: measure(), "load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
