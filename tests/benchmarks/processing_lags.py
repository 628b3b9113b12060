"""How long an event takes from its save to its handler, also when workers die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pgevents import Event, EventClient, stream
from pgevents.subscriptions import Runner, retry, subscription

from .processing_store import Added, client_of, fresh

PROCESSES = multiprocessing.get_context("forkserver")
"""As servers with several processes do: who is started again has imported everything. Else the time that
Python takes to import, on a processor that the others need, would be measured."""
PROCESSES.set_forkserver_preload([__name__])
DEADLY = "deadly"
SECONDS = 10.0


def save(url: str, rate: float, seconds: float, number: int) -> None:
    """Save at a rate; the first saver also saves a deadly event now and then, if its number says so."""
    client, start, count = client_of(url), time.time(), 0
    while time.time() - start < seconds:
        key = DEADLY if number < 0 else f"c{(count * 7 + number) % 200}"
        client.save_event(Added(key, count, time.time()))
        count += 1
        time.sleep(max(0.0, start + count / rate - time.time()))


def insert(client: EventClient) -> Any:
    """A handler that inserts a row an event, and kills its process at a deadly one."""

    @subscription("rows", stream(Added), key="cart_id", lanes=16, on_error=retry(3, delay=0.1))
    def write(one: Event[Added]) -> None:
        if one.data.cart_id == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        now = time.time()
        client.db.execute_sql(
            "INSERT INTO bench.out (event_id, cart, lag, at) VALUES (%s, %s, %s, %s)",
            [one.id, one.data.cart_id, now - one.data.at, now],
        )

    return write


def work(url: str, workers: int) -> None:
    """A worker process, until SIGTERM."""
    client = client_of(url)
    Runner(client, [insert(client)]).run(workers, signals=True)


@contextmanager
def processes(url: str, count: int, threads: int) -> Iterator[list[Any]]:
    """Worker processes, which are started again when they die."""
    running = [PROCESSES.Process(target=work, args=(url, threads)) for _ in range(count)]
    for one in running:
        one.start()
    over = threading.Event()

    def keep() -> None:
        while not over.wait(0.05):
            for number, one in enumerate(running):
                if not one.is_alive():
                    running[number] = PROCESSES.Process(target=work, args=(url, threads))
                    running[number].start()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield running
    finally:
        over.set()
        keeper.join()
        for one in running:
            one.terminate()
        for one in running:
            one.join(10)
            one.kill()


def race(
    url: str, count: int, threads: int, kills: bool, savers: Sequence[tuple[float, int]]
) -> dict[str, Any]:
    """Save and handle for some seconds; lags of all events but deadly ones."""
    client, killed = fresh(url), 0
    with processes(url, count, threads) as running:
        wait_for_workers(client, count * threads)
        saving = [
            PROCESSES.Process(target=save, args=(url, rate, SECONDS, number)) for rate, number in savers
        ]
        for saver in saving:
            saver.start()
        while any(saver.is_alive() for saver in saving):
            time.sleep(1)
            rows = client.db.execute_sql("SELECT pid FROM bench.events_runners").fetchall()
            ready = {pid for (pid,) in rows}
            alive = [one for one in running if one.pid in ready and one.is_alive()]
            if kills and alive:
                alive[killed % len(alive)].kill()
                killed += 1
        time.sleep(3)
    row = client.db.execute_sql(
        "SELECT count(*), percentile_cont(.5) WITHIN GROUP (ORDER BY lag) * 1000, "
        "percentile_cont(.99) WITHIN GROUP (ORDER BY lag) * 1000, max(lag) * 1000, "
        "count(DISTINCT event_id), (SELECT count(*) FROM bench.events WHERE data->>'cart_id' <> %s) "
        "FROM bench.out",
        [DEADLY],
    ).fetchone()
    client.db.close()
    handled, p50, p99, most, distinct, saved = (round(number or 0, 1) for number in row)
    counts = {"handled": handled, "distinct": distinct, "saved": saved, "kills": killed}
    return {**counts, "p50_ms": p50, "p99_ms": p99, "max_ms": most}


def wait_for_workers(client: EventClient, workers: int) -> None:
    """Until all are at work."""
    sql, end = "SELECT coalesce(sum(workers), 0) FROM bench.events_runners", time.monotonic() + 60
    while client.db.execute_sql(sql).fetchone()[0] < workers and time.monotonic() < end:
        time.sleep(0.1)


TWO_SAVERS = ((500.0, 0), (500.0, 1))


def lag(url: str) -> dict[str, Any]:
    """From save to handler at 1,000 saves a second: four workers on 16 lanes, threads and processes."""
    return {
        "4 threads": race(url, 1, 4, False, TWO_SAVERS),
        "4 processes": race(url, 4, 1, False, TWO_SAVERS),
        "killed": race(url, 4, 1, True, TWO_SAVERS),
    }


def deadly(url: str) -> dict[str, Any]:
    """A handler that kills its process at the events of one key, one such event in two seconds."""
    without = race(url, 4, 1, False, ((300.0, 0),))
    with_it = race(url, 4, 1, False, ((300.0, 0), (0.5, -1)))
    ratio = round(with_it["p99_ms"] / max(without["p99_ms"], 1.0), 2)
    return {"without": without, "with": with_it, "p99_ratio": ratio}


def hang(url: str, ready: Any) -> None:
    """A worker that hangs in its first event, with the lane locked."""
    client = client_of(url)

    @subscription("rows", stream(Added), key="cart_id", lanes=16)
    def write(one: Event[Added]) -> None:
        ready.set()
        time.sleep(60)

    Runner(client, [write]).run(1)


def takeover(url: str, times: int = 5) -> dict[str, Any]:
    """From a kill -9 to the moment at which another worker handles the event that hung."""
    found: list[float] = []
    for _ in range(times):
        client, ready = fresh(url), PROCESSES.Event()
        hanging = PROCESSES.Process(target=hang, args=(url, ready))
        hanging.start()
        wait_for_workers(client, 1)
        client.save_event(Added("c1", 1, time.time()))
        ready.wait(30)
        other = PROCESSES.Process(target=work, args=(url, 1))
        other.start()
        wait_for_workers(client, 2)
        time.sleep(1)
        start = time.time()
        hanging.kill()
        while not (row := client.db.execute_sql("SELECT at FROM bench.out").fetchone()):
            time.sleep(0.005)
        found.append(1000 * (row[0] - start))
        other.terminate()
        hanging.join()
        other.join()
        client.db.close()
    return {"median_ms": round(sorted(found)[times // 2], 1), "worst_ms": round(max(found), 1)}
