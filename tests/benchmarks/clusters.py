"""How fast the workers of a cluster fold views: two against one, and one against the plain rebuild.

`python -m tests.benchmarks.clusters [--events 200000] [--rounds 3]` takes turns, so that a busy machine is
busy for all of them; the ratios are of each round, and their median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import ExitStack
from typing import Any

from pgevents.cli.rebuilding import collect_rarely
from pgevents.clusters import Dask
from pgevents.embedded import embedded_database
from pgevents.subscriptions import rebuild

from ..shop import CartProjection
from .processing_views import check_views, client_of, fill, forget, fresh

__all__ = ["measure"]

URL = "PGEVENTS_BENCHMARK_URL"


def measure(url: str, events: int, rounds: int, ranges: int) -> dict[str, Any]:
    """Rebuild by one process, and by clusters of one and of two workers, in turns."""
    from distributed import LocalCluster

    os.environ[URL] = url
    client = fresh(url)
    fill(client, events)
    client.db.close()
    seconds: dict[str, list[float]] = {"plain": [], "one": [], "two": []}
    with ExitStack() as stack:
        settings: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None}
        clusters = {
            name: stack.enter_context(LocalCluster(n_workers=count, **settings))
            for name, count in (("one", 1), ("two", 2))
        }
        for cluster in clusters.values():  # imports, which are no part of a rebuild
            _rebuild(client_of(url), Dask(cluster.scheduler_address, credentials=URL, ranges=ranges))
            forget(client)
        for _ in range(rounds):
            for name in seconds:
                dask = None
                if name != "plain":
                    address = clusters[name].scheduler_address
                    dask = Dask(address, credentials=URL, ranges=ranges)
                seconds[name].append(_rebuild(client_of(url), dask))
                check_views(client, events)
                forget(client)
    client.db.close()

    def ratio(slower: str, faster: str) -> float:
        pairs = zip(seconds[slower], seconds[faster], strict=True)
        return round(statistics.median(one / other for one, other in pairs), 2)

    return {
        "events": events,
        "ranges": ranges,
        "events_per_s": {name: round(events / min(found)) for name, found in seconds.items()},
        "two_workers_of_one": ratio("one", "two"),
        "one_worker_of_plain": ratio("plain", "one"),
    }


def _rebuild(client: Any, engine: Dask | None) -> float:
    start = time.perf_counter()
    rebuild(client, CartProjection, engine=engine, every=0.02)
    took = time.perf_counter() - start
    client.db.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.clusters")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranges", type=int, default=8)
    options = parser.parse_args()
    collect_rarely()
    with embedded_database(durable=False) as db:
        print(json.dumps(measure(db.url, options.events, options.rounds, options.ranges), indent=1))


if __name__ == "__main__":
    main()
