"""What hooks cost a save that has no plugin: the same save with and without the places where hooks would be
    called.

    python -m tests.benchmarks.hook_cost [seconds]

The contenders take turns, one save each, in an order that is drawn anew for every round, so that whatever
else the machine does falls on all alike. The database is thrown away and does not flush to disk, which leaves
the least time for the server and so shows the cost at its largest.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from pgevents import (
    Event,
    EventClient,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    hookimpl,
)
from pgevents.embedded import embedded_database
from pgevents.store.append import EventColumns


@event("HOOK_COST_MEASURED")
class Measured:
    cart_id: str
    quantity: int


def bare(client: EventClient) -> Callable[[Any], object]:
    """A save in which nobody asks for hooks."""

    def save(one: Any) -> Event[Any]:
        client.check_installed()
        name = client.types.of(one).name
        answer = client.appender.append(
            EventColumns([name], [client.serializer.dump(one, one.__class__, name)[0]])
        )
        assert answer.created_at is not None
        return Event(answer.ids[0], name, one, {}, answer.created_at, answer.created_at)

    return save


class Idle:
    """A plugin with an empty hook."""

    @hookimpl
    def pgevents_before_save(self) -> None:
        """Nothing."""


def measure(contenders: dict[str, Callable[[Any], object]], seconds: float) -> dict[str, list[float]]:
    """The seconds of each save of each contender."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders.items())
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        random.shuffle(order)
        for name, save in order:
            number += 1
            one = Measured(f"c{number}", 1)
            start = time.perf_counter()
            save(one)
            taken[name].append(time.perf_counter() - start)
    return taken


def main(seconds: float) -> None:
    """Measure, and print the medians with the cost of each beside the bare save."""
    with embedded_database(durable=False) as db:
        tables = create_events_table(data_indexes=["cart_id"]), create_projections_table()
        client = create_event_client(db, *tables, Measured)
        client.create_tables()
        with_plugin = create_event_client(db, *tables, Measured, plugins=[Idle()])
        contenders = contenders_of(client, with_plugin)
        measure(contenders, min(1.0, seconds / 5))  # warm
        taken = measure(contenders, seconds)
        db.close()
    bare = statistics.median(taken["hook calls removed"])
    print(f"{len(taken['hook calls removed'])} saves each, median of one save")
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"  {name:20} {median * 1e6:8.1f} µs  {(median / bare - 1) * 100:+5.1f} %")


def contenders_of(client: EventClient, with_plugin: EventClient) -> dict[str, Callable[[Any], object]]:
    """The saves to compare; the first is named twice, which shows how far chance alone goes."""
    return {
        "hook calls removed": bare(client),
        "the same again": bare(client),
        "no plugin": client.save_event,
        "one empty hook": with_plugin.save_event,
    }


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
