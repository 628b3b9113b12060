"""Figures of subscriptions: `python -m tests.benchmarks.processing [--only lag,rows,...]`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg2

from pgevents import (
    Event,
    EventClient,
    stream,
)
from pgevents.embedded import embedded_database
from pgevents.subscriptions import Runner, Subscription, subscription
from pgevents.subscriptions.lane_rows import all_rows

from . import processing_lags as lags
from .processing_store import Added, fill, fresh
from .processing_timers import timers
from .processing_views import inline, rebuilding


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


def timed(client: EventClient, given: Sequence[Any], workers: int, last: int, name: str) -> float:
    start = time.perf_counter()
    with in_thread(Runner(client, given), workers):
        while any(row.lanes == 1 and row.position < last for row in all_rows(client, name)):
            time.sleep(0.01)  # asks less of the server than wait() does
        client.wait(name, last, timeout=300)
        return time.perf_counter() - start


def rows(url: str, count: int = 20_000, rounds: int = 3) -> dict[str, Any]:
    """One worker whose handler inserts a row an event, against a bare loop in transactions of the same
    size; in turns, the best of each."""
    ours: list[float] = []
    bare: list[float] = []
    size = 1
    for _ in range(rounds):
        client = fresh(url)
        fill(client, count)

        @subscription("one", stream(Added))
        def write(one: Event[Added], own: EventClient) -> None:
            own.db.execute_sql(
                "INSERT INTO bench.out (event_id, cart) VALUES (%s, %s)", [one.id, one.data.cart_id]
            )

        ours.append(timed(client, [write], 1, count, "one"))
        batches = client.db.execute_sql("SELECT count(DISTINCT xmin::text) FROM bench.out").fetchone()[0]
        size = max(1, count // batches)
        bare.append(_bare(url, count, size))
        client.db.close()
    return {
        "ours_per_s": round(count / min(ours)),
        "bare_per_s": round(count / min(bare)),
        "ratio": round(min(bare) / min(ours), 2),
        "transaction": size,
    }


def _bare(url: str, count: int, size: int) -> float:
    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    start = time.perf_counter()
    for n in range(count):
        cursor.execute("INSERT INTO bench.out (event_id, cart) VALUES (%s, %s)", [n, "c1"])
        if n % size == size - 1:
            connection.commit()
    connection.commit()
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


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


def behind(url: str) -> dict[str, Any]:
    """Memory while a worker catches up with a long log; PGEVENTS_BEHIND says how many events."""
    count = int(os.environ.get("PGEVENTS_BEHIND", "300000"))
    client = fresh(url)
    fill(client, count)
    seen: dict[int, float] = {}

    class Behind(Subscription[Added]):
        name = "behind"
        streams = (stream(Added),)

        def handle_batch(self, events: Sequence[Event[Added]]) -> None:
            seen[events[-1].id] = _resident()

    seconds = timed(client, [Behind], 1, count, "behind")
    early = max(size for last, size in seen.items() if last <= count * 0.2)
    late = max(size for last, size in seen.items() if last > count * 0.8)
    return {
        "events": count,
        "per_s": round(count / seconds),
        "mb_at_fifth": round(early, 1),
        "mb_at_end": round(late, 1),
        "grown_mb": round(late - early, 1),
    }


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


MEASURES: dict[str, Callable[[str], dict[str, Any]]] = {
    "rows": rows,
    "batches": batches,
    "totals": totals,
    "idle": idle,
    "behind": behind,
    "lag": lags.lag,
    "takeover": lags.takeover,
    "deadly": lags.deadly,
    "timers": timers,
    "rebuild": rebuilding,
    "inline": inline,
}
Found = Mapping[str, Any]


def _fired(one: Found) -> float:
    return float(one["fired_while_handled_per_s"])


GOALS: tuple[tuple[str, str, Callable[[Found], float], str, float], ...] = (
    ("rows", "one worker, an INSERT an event, of a bare loop", lambda one: one["ratio"], ">=", 0.6),
    ("batches", "handle_batch, of iterating typed events", lambda one: one["ratio"], ">=", 0.5),
    ("totals", "four workers on shared totals, of one", lambda one: one["ratio"], ">=", 0.2),
    ("idle", "percent of a core, idle, 1 subscription", lambda one: one["1_percent"], "<=", 1.0),
    ("idle", "percent of a core, idle, 200 subscriptions", lambda one: one["200_percent"], "<=", 3.0),
    ("behind", "MB grown while catching up", lambda one: one["grown_mb"], "<=", 10.0),
    ("lag", "ms from save to handler, p50", lambda one: one["4 processes"]["p50_ms"], "<=", 10.0),
    ("lag", "ms from save to handler, p99", lambda one: one["4 processes"]["p99_ms"], "<=", 30.0),
    ("lag", "the same with four threads, p99", lambda one: one["4 threads"]["p99_ms"], "<=", 30.0),
    ("lag", "the same with a kill -9 a second, p99", lambda one: one["killed"]["p99_ms"], "<=", 60.0),
    ("takeover", "ms until a killed worker's lane goes on, worst", lambda one: one["worst_ms"], "<=", 100.0),
    ("deadly", "p99 of other keys, beside that without", lambda one: one["p99_ratio"], "<=", 2.0),
    ("timers", "timers a second that are due at once", lambda one: one["alone_per_s"], ">=", 2000),
    ("timers", "the same in a runner, beside their handler", _fired, ">=", 2000),
    ("rebuild", "a rebuild's rate, of iterating typed events", lambda one: one["ratio"], ">=", 0.5),
    ("rebuild", "MB of a process that rebuilds", lambda one: one["mb"], "<=", 300),
    ("rebuild", "four processes that rebuild, of one", lambda one: one["four_of_one"], ">=", 1.6),
    ("inline", "a save that folds its view, of a plain one", lambda one: one["ratio"], "<=", 2.2),
)
"""Which measure, what it is, how it is taken from the figures, and what is to be reached."""


def table(found: Mapping[str, Found]) -> str:
    """All goals, and what was measured."""
    lines = [f"{'measure':<52}{'found':>10}{'goal':>10}"]
    for name, text, figure, relation, goal in GOALS:
        if name not in found:
            continue
        value = figure(found[name])
        is_reached = value >= goal if relation == ">=" else value <= goal
        lines.append(
            f"{text:<52}{value:>10.2f}{relation:>5}{goal:>5g}{'' if is_reached else '   not reached'}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.processing", description=__doc__)
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--timers", type=int, default=100_000, help="how many timers are due at once")
    parser.add_argument("--events", type=int, default=1_000_000, help="how many events a rebuild folds")
    options = parser.parse_args()
    MEASURES["rebuild"] = partial(rebuilding, events=options.events)
    MEASURES["timers"] = partial(timers, count=options.timers)
    found: dict[str, Found] = {}
    with embedded_database(durable=True, settings={"max_connections": "100"}) as db:
        for name in options.only.split(","):
            start = time.monotonic()
            found[name] = MEASURES[name](db.url)
            took = {"load": round(os.getloadavg()[0], 1), "seconds": round(time.monotonic() - start)}
            print(json.dumps({name: found[name], **took}), flush=True)
    print(table(found))


if __name__ == "__main__":
    sys.exit(main())
