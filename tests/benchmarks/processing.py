"""Figures of subscriptions: `python -m tests.benchmarks.processing [--only lag,rows,...]`."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2

from pgevents import (
    Event,
    EventClient,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    stream,
)
from pgevents.embedded import embedded_database
from pgevents.subscriptions import Runner, Subscription, subscription

SPAWN = multiprocessing.get_context("spawn")


@event("BENCH_ADDED")
class Added:
    cart_id: str
    n: int
    at: float


def client_of(url: str) -> EventClient:
    events = create_events_table("bench", data_indexes=["cart_id"])
    return create_event_client(url, events, create_projections_table("bench", "views"), Added)


def fresh(url: str) -> EventClient:
    client = client_of(url)
    client.db.execute_sql("DROP SCHEMA IF EXISTS bench CASCADE")
    client.create_tables()
    client.db.execute_sql(
        "CREATE TABLE bench.out (event_id bigint, cart text, lag float8, at float8, pid int DEFAULT "
        "pg_backend_pid())"
    )
    client.db.execute_sql("CREATE TABLE bench.totals (name text PRIMARY KEY, n bigint)")
    return client


def fill(client: EventClient, count: int) -> None:
    for start in range(0, count, 1000):
        client.save_events([Added(f"c{n % 200}", n, 0.0) for n in range(start, min(start + 1000, count))])
    client.db.execute_sql("ANALYZE bench.events")


def save(url: str, rate: float, seconds: float, number: int) -> None:
    client, start, count = client_of(url), time.time(), 0
    while time.time() - start < seconds:
        client.save_event(Added(f"c{(count * 7 + number) % 200}", count, time.time()))
        count += 1
        time.sleep(max(0.0, start + count / rate - time.time()))


def insert(client: EventClient) -> Any:
    @subscription("rows", stream(Added), key="cart_id", lanes=16)
    def write(one: Event[Added]) -> None:
        now = time.time()
        client.db.execute_sql(
            "INSERT INTO bench.out (event_id, cart, lag, at) VALUES (%s, %s, %s, %s)",
            [one.id, one.data.cart_id, now - one.data.at, now],
        )

    return write


def work(url: str, workers: int) -> None:
    client = client_of(url)
    runner = Runner(client, [insert(client)])
    signal.signal(signal.SIGTERM, lambda number, frame: runner.stop())
    runner.run(workers)


@contextmanager
def in_thread(runner: Runner, workers: int) -> Iterator[None]:
    thread = threading.Thread(target=runner.run, args=(workers,))
    thread.start()
    runner.wait_until_ready(30)
    try:
        yield
    finally:
        runner.stop()
        thread.join()


def lag(url: str) -> dict[str, Any]:
    """From save to handler at 1,000 saves a second: four workers, in one process and in four."""
    found: dict[str, Any] = {}
    for name, processes, threads, kills in (
        ("4 threads", 1, 4, False),
        ("4 processes", 4, 1, False),
        ("4 processes, one killed a second", 4, 1, True),
    ):
        client = fresh(url)
        workers = [SPAWN.Process(target=work, args=(url, threads)) for _ in range(processes)]
        for one in workers:
            one.start()
        time.sleep(4)
        savers = [SPAWN.Process(target=save, args=(url, 500, 10, n)) for n in range(2)]
        for one in savers:
            one.start()
        killed = 0
        while any(saver.is_alive() for saver in savers):
            time.sleep(1)
            if kills:
                workers[killed % processes].kill()
                workers[killed % processes] = SPAWN.Process(target=work, args=(url, threads))
                workers[killed % processes].start()
                killed += 1
        time.sleep(3)
        for one in workers:
            one.terminate()
        for one in workers:
            one.join()
        row = client.db.execute_sql(
            "SELECT count(*), percentile_cont(.5) WITHIN GROUP (ORDER BY lag) * 1000, "
            "percentile_cont(.99) WITHIN GROUP (ORDER BY lag) * 1000, max(lag) * 1000, count(DISTINCT "
            "event_id), "
            "(SELECT count(*) FROM bench.events) FROM bench.out"
        ).fetchone()
        found[name] = {
            "handled": row[0],
            "distinct": row[4],
            "saved": row[5],
            "p50_ms": round(row[1], 1),
            "p99_ms": round(row[2], 1),
            "max_ms": round(row[3], 1),
            "kills": killed,
        }
        client.db.close()
    return found


def timed(client: EventClient, given: Sequence[Any], workers: int, last: int, name: str) -> float:
    start = time.perf_counter()
    with in_thread(Runner(client, given), workers):
        client.wait(name, last, timeout=300)
        return time.perf_counter() - start


def rows(url: str, count: int = 20_000) -> dict[str, Any]:
    """One worker whose handler inserts a row an event, against a bare loop in transactions of the same
    size."""
    client = fresh(url)
    fill(client, count)

    @subscription("one", stream(Added))
    def write(one: Event[Added]) -> None:
        client.db.execute_sql(
            "INSERT INTO bench.out (event_id, cart) VALUES (%s, %s)", [one.id, one.data.cart_id]
        )

    ours = timed(client, [write], 1, count, "one")
    batches = client.db.execute_sql("SELECT count(DISTINCT xmin::text) FROM bench.out").fetchone()[0]
    size = max(1, count // batches)
    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    start = time.perf_counter()
    for n in range(count):
        cursor.execute("INSERT INTO bench.out (event_id, cart) VALUES (%s, %s)", [n, "c1"])
        if n % size == size - 1:
            connection.commit()
    connection.commit()
    bare = time.perf_counter() - start
    return {
        "ours_per_s": round(count / ours),
        "bare_per_s": round(count / bare),
        "ratio": round(bare / ours, 2),
        "transaction": size,
    }


def batches(url: str, count: int = 100_000) -> dict[str, Any]:
    """`handle_batch` with one statement a batch, against iterating the same typed events."""
    client = fresh(url)
    fill(client, count)

    class Batches(Subscription[Added]):
        name = "batches"
        streams = (stream(Added),)

        def handle_batch(self, events: Sequence[Event[Added]]) -> None:
            self.client.db.execute_sql(
                "INSERT INTO bench.totals VALUES ('all', %s) ON CONFLICT (name) DO UPDATE SET n = "
                "totals.n + excluded.n",
                [len(events)],
            )

    ours = timed(client, [Batches], 1, count, "batches")
    start = time.perf_counter()
    iterated = sum(1 for _ in client.iter_event_stream(Added))
    plain = time.perf_counter() - start
    assert iterated == count
    return {
        "ours_per_s": round(count / ours),
        "iterating_per_s": round(count / plain),
        "ratio": round(plain / ours, 2),
    }


def totals(url: str, count: int = 6_000) -> dict[str, Any]:
    """Handlers that all update the same three rows: four workers on 16 lanes against one."""
    found: dict[str, float] = {}
    for workers in (1, 4):
        client = fresh(url)
        fill(client, count)

        @subscription("totals", stream(Added), key="cart_id", lanes=16)
        def add(one: Event[Added], own: EventClient) -> None:
            own.db.execute_sql(
                "INSERT INTO bench.totals VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET n = totals.n + 1",
                [f"t{one.data.n * 7919 % 3}"],
            )

        found[f"{workers}_per_s"] = round(count / timed(client, [add], workers, count, "totals"))
    return {**found, "ratio": round(found["4_per_s"] / found["1_per_s"], 2)}


def idle(url: str) -> dict[str, Any]:
    """CPU of this process while nothing comes: one subscription, and two hundred."""
    client = fresh(url)
    found: dict[str, Any] = {}
    for count in (1, 200):
        given: list[Any] = []
        for n in range(count):

            @subscription(f"idle{n}", stream(Added))
            def nothing(one: Event[Added]) -> None:
                return None

            given.append(nothing)
        with in_thread(Runner(client, given), 1):
            time.sleep(3)
            before, start = _cpu(), time.perf_counter()
            time.sleep(10)
            found[f"{count}_percent"] = round(100 * (_cpu() - before) / (time.perf_counter() - start), 2)
    return found


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


MEASURES: dict[str, Callable[[str], dict[str, Any]]] = {
    "lag": lag,
    "rows": rows,
    "batches": batches,
    "totals": totals,
    "idle": idle,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.processing", description=__doc__)
    parser.add_argument("--only", default=",".join(MEASURES))
    options = parser.parse_args()
    with embedded_database(durable=True, settings={"max_connections": "100"}) as db:
        for name in options.only.split(","):
            print(
                json.dumps({name: MEASURES[name](db.url), "load": round(os.getloadavg()[0], 1)}), flush=True
            )


if __name__ == "__main__":
    sys.exit(main())
