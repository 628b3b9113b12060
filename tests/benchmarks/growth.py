"""How a log grows: `python -m tests.benchmarks.growth FOLDER [--events 1000000,10000000,30000000]`.

One log grows to the greatest size; a copy of it stays at each of the others. Then all of them are measured in
turns: what saves, reads and followers cost. `growth_upkeep` measures what VACUUM and redactions do to them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import define, frozen

from pgevents import EventClient, stream
from pgevents.embedded import embedded_database
from pgevents.subscriptions import follow

from ..shop import CartCheckedOut, CartEvent, CartProjection, ItemAddedToCart
from .growth_filling import CART, cart_id, client_at, grow

__all__ = ["SETTINGS", "WORK", "Work", "measure", "say", "sizes_of"]

SETTINGS = {
    "max_connections": "40",
    "shared_buffers": "2GB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "256MB",
    "log_autovacuum_min_duration": "0",
}
SIZES_SQL = """\
SELECT pg_relation_size('my_app.events'), i.relname, pg_relation_size(i.oid)
FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
WHERE x.indrelid = 'my_app.events'::regclass ORDER BY 2
"""
PAGES_SQL = """\
SELECT heap_blks_hit + heap_blks_read, idx_blks_hit + idx_blks_read, heap_blks_read + idx_blks_read
FROM pg_statio_user_tables WHERE relid = 'my_app.events'::regclass
"""


@define
class Log:
    """A log that is measured.

    Attributes:
        client: A client of it.
        size: How many events it was filled with, at least.
        chance: Chooses carts and places.
    """

    client: EventClient
    size: int
    chance: random.Random

    @property
    def cart(self) -> str:
        """The id of any of its carts."""
        return cart_id(self.chance.randrange(self.size // CART))


def _added(cart: str) -> ItemAddedToCart:
    return ItemAddedToCart(cart, "p1", 2, 1999)


def _save(log: Log) -> int:
    log.client.save_event(_added(str(uuid.uuid4())))
    return 1


def _save_keyed(log: Log) -> int:
    log.client.save_event(_added(str(uuid.uuid4())), idempotency_key=str(uuid.uuid4()))
    return 1


def _save_validated(log: Log) -> int:
    cart = log.cart
    latest = log.client.get_latest_event(CartEvent, cart_id=cart)
    log.client.save_event_with_stream_validation(
        _added(cart),
        latest_event_id=None if latest is None else latest.id,
        streams=[stream(CartEvent, cart_id=cart)],
    )
    return 1


def _read(log: Log) -> int:
    assert len(log.client.get_event_stream(CartEvent, cart_id=log.cart)) >= CART
    return 1


def _decide(log: Log) -> int:
    cart = log.cart
    log.client.decide(CartProjection(cart, log.client), lambda view: _added(cart))
    return 1


def _follow(log: Log) -> int:
    start = log.chance.randrange(log.size - 10_000)
    return len(list(islice(follow(log.client, after=start), 5_000)))


def _follow_type(log: Log) -> int:
    start = log.chance.randrange(log.size // 2)
    return len(list(islice(follow(log.client, [stream(CartCheckedOut)], after=start), 1_000)))


def _newest(log: Log) -> int:
    assert len(log.client.get_event_stream(limit=50, reverse=True)) == 50
    return 1


@frozen
class Work:
    """What is measured.

    Attributes:
        title: What it is.
        run: Does it; returns how often, or how many events.
    """

    title: str
    run: Callable[[Log], int]


WORK = (
    Work("plain save", _save),
    Work("save with an idempotency key", _save_keyed),
    Work("latest event of an old cart, then a validated save", _save_validated),
    Work("read of an old cart, 20 events", _read),
    Work("decide on an old cart", _decide),
    Work("newest 50 events", _newest),
    Work("follower that catches up, events", _follow),
    Work("the same, one type in twenty", _follow_type),
)


@frozen
class Slice:
    """One slice of a measure: all for each unit.

    Attributes:
        ms: Milliseconds.
        client_us, server_us: Microseconds of processor of the client, and of its server process.
        heap, index, fetched: Pages that were looked at, and those of them that were not in shared buffers.
    """

    ms: float
    client_us: float
    server_us: float
    heap: float
    index: float
    fetched: float


def _slice(log: Log, work: Work, seconds: float) -> Slice:
    execute = log.client.db.execute_sql
    (backend,) = execute("SELECT pg_backend_pid()").fetchone()
    pages = _pages(execute)
    own, server, began = time.process_time(), _cpu(backend), time.perf_counter()
    units = 0
    while time.perf_counter() - began < seconds:
        units += work.run(log)
    took, own, server = time.perf_counter() - began, time.process_time() - own, _cpu(backend) - server
    heap, index, fetched = (after - before for before, after in zip(pages, _pages(execute), strict=True))
    return Slice(
        took / units * 1e3,
        own / units * 1e6,
        server / units * 1e6,
        heap / units,
        index / units,
        fetched / units,
    )


def _pages(execute: Any) -> tuple[int, ...]:
    execute("SELECT pg_stat_force_next_flush()")
    return tuple(execute(PAGES_SQL).fetchone())


def _cpu(pid: int) -> float:
    """Seconds of processor of a process of this machine, to the nanosecond; of its first thread."""
    with open(f"/proc/{pid}/schedstat", encoding="utf-8") as file:
        return int(file.read().split()[0]) / 1e9


def measure(urls: dict[int, str], rounds: int, seconds: float) -> None:
    """Print, for each work, the median of the rounds at each size; the sizes take turns."""
    logs = [Log(client_at(url), size, random.Random(size)) for size, url in urls.items()]
    counts = {log.size: log.client.horizon().last_issued for log in logs}
    for log in logs:
        for work in WORK:
            _slice(log, work, seconds / 10)  # plans, caches
    print(
        "| | events in the log | ms | client CPU, µs | server CPU, µs | pages of table, indexes | fetched |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for work in WORK:
        found: dict[int, list[Slice]] = {log.size: [] for log in logs}
        for number in range(rounds):
            for log in logs if number % 2 else reversed(logs):
                found[log.size].append(_slice(log, work, seconds))
        for log in logs:

            def middle(name: str, slices: Sequence[Slice] = found[log.size]) -> float:
                return statistics.median(getattr(one, name) for one in slices)

            print(
                f"| {work.title} | {counts[log.size]:,} | {middle('ms'):.3f} | {middle('client_us'):,.0f} "
                f"| {middle('server_us'):,.0f} | {middle('heap'):.1f}, {middle('index'):.1f} "
                f"| {middle('fetched'):.1f} |",
                flush=True,
            )
    for log in logs:
        log.client.db.close()


def sizes_of(client: EventClient) -> dict[str, int]:
    """Bytes of the table and of each of its indexes."""
    rows = client.db.execute_sql(SIZES_SQL).fetchall()
    return {"table": rows[0][0], **{name: size for _, name, size in rows}}


def report_sizes(urls: dict[int, str]) -> None:
    """Print bytes an event, and what the commands say of the whole."""
    for size, url in urls.items():
        client = client_at(url)
        events = client.horizon().last_issued
        each = ", ".join(f"{name} {taken / events:.1f}" for name, taken in sizes_of(client).items())
        print(f"{size:,} (now {events:,} events), bytes an event: {each}")
        client.db.close()
        for command in ("stats", "doctor"):
            began = time.perf_counter()
            program = [str(Path(sys.executable).with_name("pgevents")), "--database", url, command]
            done = subprocess.run(program, capture_output=True, text=True)
            print(f"{command}: exit code {done.returncode}, {time.perf_counter() - began:.1f} s")
            print(done.stdout, done.stderr, flush=True)


def say(text: str) -> None:
    """Report progress."""
    print(time.strftime("%X"), text, file=sys.stderr, flush=True)


def main() -> None:
    """Fill, and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("folder", help="where the server keeps its data: 16 GB for 30 million events")
    parser.add_argument("--events", default="1000000,10000000,30000000", help="sizes, the greatest one last")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a slice")
    parser.add_argument("--buffers", default=SETTINGS["shared_buffers"], help="shared_buffers of the server")
    options = parser.parse_args()
    settings = {**SETTINGS, "shared_buffers": options.buffers}
    with embedded_database(options.folder, database="growth", settings=settings) as db:
        urls = grow(db.url, [int(size) for size in options.events.split(",")], say)
        measure(urls, options.rounds, options.seconds)
        report_sizes(urls)


if __name__ == "__main__":
    main()
