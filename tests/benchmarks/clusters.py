"""How fast the workers of a cluster fold views: two against one, and one against the plain rebuild.

`python -m tests.benchmarks.clusters [--events 200000] [--rounds 3]` takes turns, so that a busy machine is
busy for all of them; the ratios are of each round, and their median counts. With `--costs` it prints
processor times instead, in microseconds an event: what the server takes for one range to go through the log,
and to do so and give all of it, and what a worker takes to fold from the database, to deal out an export, and
to fold what was dealt out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import psutil

from pgevents.cli.rebuilding import collect_rarely
from pgevents.clusters import Dask
from pgevents.clusters.dealing import to_deal
from pgevents.clusters.ranges import begin
from pgevents.clusters.recipe import recipe_of
from pgevents.clusters.worker import Outcome, RangeFold, Task, deal_file, fold_range
from pgevents.embedded import embedded_database
from pgevents.exchange import export_parquet
from pgevents.exchange.parquet import exported
from pgevents.store.processing import NEXT_BY_KEY
from pgevents.subscriptions import keep, rebuild
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.view_folding import PAGE
from pgevents.subscriptions.view_reading import begin_runs

from ..shop import CartProjection
from .processing_views import check_views, client_of, fill, forget, fresh

__all__ = ["costs", "measure"]

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


def costs(url: str, events: int, ranges: int) -> dict[str, float]:
    """Processor times of the parts, in microseconds: the server's by event of the log."""
    os.environ[URL] = url
    client = fresh(url)
    fill(client, events)
    work = keep(CartProjection).work(client)
    settle(work)
    work.setup()
    task = Task(recipe_of(client, CartProjection, URL, None), begin(work, ranges), 0)
    (backend,) = client.db.execute_sql("SELECT pg_backend_pid()").fetchone()
    found: dict[str, float] = {}
    for name, count in (("server_scan", 1024), ("server_read", 1)):  # of 1024 ranges one has next to nothing
        before = sum(psutil.Process(backend).cpu_times()[:2])
        with client.session.atomic():
            begin_runs(work, [RangeFold(work, attrs.evolve(task.plan, ranges=count), 0).lane], events)
            while client.session.execute(NEXT_BY_KEY, [PAGE]).fetchall():
                pass
        found[name] = (sum(psutil.Process(backend).cpu_times()[:2]) - before) / events * 1e6
    half = ranges // 2
    tasks = [attrs.evolve(task, number=number) for number in task.plan.todo]
    found["fold"] = _cost([partial(fold_range, one) for one in tasks[:half]])
    with TemporaryDirectory() as folder:
        export_parquet(client, folder)
        tasks = [attrs.evolve(one, parquet=folder) for one in tasks]
        names = to_deal(folder, task.plan, exported(client, folder)[0])
        found["deal"] = _cost([partial(deal_file, tasks[0], name) for name in names])
        found["fold_dealt"] = _cost([partial(fold_range, one) for one in tasks[half:]])
    client.db.close()
    return {name: round(value, 1) for name, value in found.items()}


def _cost(calls: list[Callable[[], Outcome]]) -> float:
    start = time.process_time()
    outcomes = [call() for call in calls]
    assert {outcome.kind for outcome in outcomes} == {"done"}, outcomes
    return (time.process_time() - start) / sum(outcome.events for outcome in outcomes) * 1e6


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
    parser.add_argument("--ranges", type=int, default=4)
    parser.add_argument("--costs", action="store_true")
    options = parser.parse_args()
    collect_rarely()
    with embedded_database(durable=False) as db:
        if options.costs:
            found = costs(db.url, options.events, options.ranges)
        else:
            found = measure(db.url, options.events, options.rounds, options.ranges)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
