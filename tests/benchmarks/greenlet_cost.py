"""Calls of an asyncio program on threads, beside greenlets with psycopg2's wait callback.

Run by `python -m tests.benchmarks.greenlet_cost`; it needs gevent. `threads` is `AsyncEventClient`.
`greenlets` runs the sync client in greenlets of the event loop's thread, which wait for sockets by
`loop.add_reader`. `gevent` does the same without asyncio. Each task has a connection of its own. Rounds of
all take turns, each in a process of its own, because a wait callback is for a whole process.

CPU time is the median of the rounds, without the server's. The rate is that of the best round, because other
load on the machine only lowers it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg2.extensions
from psycopg2.extras import wait_select

from pgevents import EventClient
from pgevents.aio import AsyncEventClient
from pgevents.embedded import embedded_database

from ..conftest import shop_client
from ..shop import CartCreated, CartEvent

ROUNDS, CALLS = 7, 640
TASKS = (1, 4, 16)
Call = Callable[[EventClient], object]
CALLS_MEASURED: dict[str, Call] = {
    "save_event": lambda client: client.save_event(CartCreated("c1", "u1")),
    "get_event_stream, 20 events": lambda client: client.get_event_stream(CartEvent, cart_id="c0"),
}
Figures = dict[str, dict[str, tuple[float, float]]]
"""For each call and number of tasks: microseconds of CPU a call, and calls a second."""


def measured(call: Call, tasks: int, run: Callable[[Call, int, int], None]) -> tuple[float, float]:
    """One round after a short one that makes the connections."""
    run(call, tasks, 5)
    cpu, wall = time.process_time(), time.perf_counter()
    run(call, tasks, CALLS // tasks)
    return (time.process_time() - cpu) / CALLS * 1e6, CALLS / (time.perf_counter() - wall)


def measure_threads(url: str) -> Figures:
    """`AsyncEventClient`, with as many connections as tasks."""
    client = shop_client(url)
    found: Figures = {}
    with asyncio.Runner() as runner:
        for tasks in TASKS:
            shop = AsyncEventClient(client, connections=tasks)

            def run(call: Call, tasks: int, calls: int, shop: AsyncEventClient = shop) -> None:
                runner.run(_gathered(tasks, calls, lambda _: shop.run(call)))

            for name, call in CALLS_MEASURED.items():
                found.setdefault(name, {})[str(tasks)] = measured(call, tasks, run)
            runner.run(shop.close())
    return found


async def _gathered(tasks: int, calls: int, call: Callable[[int], Coroutine[Any, Any, object]]) -> None:
    async def work(number: int) -> None:
        for _ in range(calls):
            await call(number)

    await asyncio.gather(*[work(number) for number in range(tasks)])


def measure_greenlets(url: str) -> Figures:
    """The sync client in greenlets of the event loop's thread."""
    from greenlet import getcurrent, greenlet

    def wait(connection: Any) -> None:
        loop = getcurrent().parent
        if loop is None:  # outside a call
            wait_select(connection)
            return
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            loop.switch(connection.fileno(), state)

    async def spawned(function: Callable[[], object]) -> object:
        loop, running = asyncio.get_running_loop(), greenlet(function)
        running.gr_context = contextvars.copy_context()
        waited: Any = running.switch()
        while not running.dead:
            descriptor, state = waited
            is_read = state == psycopg2.extensions.POLL_READ
            ready = loop.create_future()
            (loop.add_reader if is_read else loop.add_writer)(descriptor, ready.set_result, None)
            try:
                await ready
            finally:
                (loop.remove_reader if is_read else loop.remove_writer)(descriptor)
            waited = running.switch()
        return waited

    psycopg2.extensions.set_wait_callback(wait)
    clients = [shop_client(url) for _ in range(max(TASKS))]
    with asyncio.Runner() as runner:

        def run(call: Call, tasks: int, calls: int) -> None:
            runner.run(_gathered(tasks, calls, lambda number: spawned(lambda: call(clients[number]))))

        return {
            name: {str(tasks): measured(call, tasks, run) for tasks in TASKS}
            for name, call in CALLS_MEASURED.items()
        }


def measure_gevent(url: str) -> Figures:
    """The sync client in greenlets of gevent, in a program without asyncio."""
    import gevent
    from gevent.socket import wait_read, wait_write

    def wait(connection: Any) -> None:
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            (wait_read if state == psycopg2.extensions.POLL_READ else wait_write)(connection.fileno())

    psycopg2.extensions.set_wait_callback(wait)
    clients = [shop_client(url) for _ in range(max(TASKS))]

    def work(call: Call, client: EventClient, calls: int) -> None:
        for _ in range(calls):
            call(client)

    def run(call: Call, tasks: int, calls: int) -> None:
        gevent.joinall(
            [gevent.spawn(work, call, client, calls) for client in clients[:tasks]], raise_error=True
        )

    return {
        name: {str(tasks): measured(call, tasks, run) for tasks in TASKS}
        for name, call in CALLS_MEASURED.items()
    }


VARIANTS = {"threads": measure_threads, "greenlets": measure_greenlets, "gevent": measure_gevent}


def one_round(variant: str, url: str) -> Figures:
    """Figures of a variant, measured in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--variant", variant, "--url", url]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure on an embedded server, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--url")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(VARIANTS[options.variant](options.url)))
        return
    with embedded_database() as db:
        client = shop_client(db)
        client.create_tables()
        client.save_events([CartCreated("c0", "u1") for _ in range(20)])
        rounds = [
            {variant: one_round(variant, db.url) for variant in VARIANTS} for _ in range(options.rounds)
        ]
    for name in CALLS_MEASURED:
        for tasks in map(str, TASKS):
            for variant in VARIANTS:
                cpus, rates = zip(*[found[variant][name][tasks] for found in rounds], strict=True)
                figures = f"{statistics.median(cpus):.0f} µs of CPU a call, {max(rates):.0f} calls a second"
                print(f"{name}, {tasks} tasks, {variant}: {figures}")


if __name__ == "__main__":
    main()
