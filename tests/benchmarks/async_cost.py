"""What an awaited call costs beside the same call of the sync client.

Run by `python -m tests.benchmarks.async_cost`. CPU time of this process, without the server's; rounds of both
take turns, so that other load meets both.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from pgevents import EventClient
from pgevents.aio import AsyncEventClient
from pgevents.embedded import embedded_database

from ..conftest import shop_client
from ..shop import CartCreated, CartEvent

ROUNDS, CALLS = 15, 300


def sync_round(call: Callable[[], object]) -> float:
    """Microseconds of CPU time a call."""
    before = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - before) / CALLS * 1e6


async def async_round(call: Callable[[], Awaitable[object]], tasks: int) -> float:
    """The same, awaited by so many tasks at once."""

    async def work() -> None:
        for _ in range(CALLS // tasks):
            await call()

    before = time.process_time()
    await asyncio.gather(*[work() for _ in range(tasks)])
    return (time.process_time() - before) / (CALLS // tasks * tasks) * 1e6


async def measure(client: EventClient) -> None:
    """Print medians for a save and a read."""
    async with AsyncEventClient(client, connections=4) as shop:
        calls = {
            "save_event": (
                lambda: client.save_event(CartCreated("c1", "u1")),
                lambda: shop.save_event(CartCreated("c1", "u1")),
            ),
            "get_event_stream, 20 events": (
                lambda: client.get_event_stream(CartEvent, cart_id="c0"),
                lambda: shop.get_event_stream(CartEvent, cart_id="c0"),
            ),
        }
        for name, (plain, awaited) in calls.items():
            rounds = [
                (sync_round(plain), await async_round(awaited, 1), await async_round(awaited, 4))
                for _ in range(ROUNDS)
            ]
            one, alone, four = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratios = f"awaited {alone / one:.2f} of that, by four tasks at once {four / one:.2f}"
            print(f"{name}: {one:.0f} µs; {ratios}")


def main() -> None:
    """Measure on an embedded server."""
    with embedded_database() as db:
        client = shop_client(db)
        client.create_tables()
        client.save_events([CartCreated("c0", "u1") for _ in range(20)])
        asyncio.run(measure(client))


if __name__ == "__main__":
    main()
