"""Figures of tenants: `python -m tests.benchmarks.tenants [--events N] [--tenants N]`."""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from peewee import PostgresqlDatabase
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


CATALOG_SQL = """\
SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_attribute),
    (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
    WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'),
    pg_database_size(current_database())
"""

CONNECTIONS_SQL = "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('n1', 'directory')"


class Step:
    """What some steps cost, each: time, and processor time of the client and of its server process."""

    def __init__(self, tenants: Tenants) -> None:
        (self.backend,) = tenants.nodes["n1"].execute_sql("SELECT pg_backend_pid()").fetchone()
        self.began, self.own, self.server = time.perf_counter(), time.process_time(), cpu(self.backend)

    def each(self, count: int) -> dict[str, float]:
        """The costs since it was made, divided by how many steps there were."""
        costs = {
            "ms": time.perf_counter() - self.began,
            "client_cpu_ms": time.process_time() - self.own,
            "server_cpu_ms": cpu(self.backend) - self.server,
        }
        return {name: round(1000 * seconds / count, 2) for name, seconds in costs.items()}


def many(url: str, count: int) -> dict[str, Any]:
    """So many tenants on one server and in one program: time, memory, connections, catalog."""
    tenants = tenants_on(url)
    node = tenants.nodes["n1"]
    empty = node.execute_sql(CATALOG_SQL).fetchone()
    found: dict[str, Any] = {"tenants": count}
    step = Step(tenants)
    for n in range(count):
        tenants.add(f"t{n}", "n1")
    found["add"] = step.each(count)
    full = node.execute_sql(CATALOG_SQL).fetchone()
    names = ("relations", "functions", "columns", "catalog_kb", "database_kb")
    found["a_tenant"] = {
        name: round((after - before) / count / (1024 if name.endswith("kb") else 1), 1)
        for name, before, after in zip(names, empty, full, strict=True)
    }
    found["catalog_mb"] = round(full[3] / 2**20)
    node.close()
    return found | use(tenants, count)


def use(made: Tenants, count: int) -> dict[str, Any]:
    """What a program takes that works with so many tenants of one server, one after the other."""
    began = time.perf_counter()
    program = tenants_again(made)
    program.client("t0").save_event(Sold("c1", 0))
    found: dict[str, Any] = {"start_ms": round(1000 * (time.perf_counter() - began), 1)}
    clients, servers = own_kb(), private_kb(Step(program).backend)
    step = Step(program)
    for n in range(count):
        program.client(f"t{n}").save_event(Sold("c1", n))
    found["first_save"] = step.each(count)
    found["client_kb"] = round((own_kb() - clients) / count, 1)
    found["server_process_kb"] = round((private_kb(step.backend) - servers) / count, 1)
    for name, work in (
        ("next_save", lambda client: client.save_event(Sold("c1", 0)).id),
        ("each_read", lambda client: len(client.get_event_stream(Sold, cart_id="c1"))),
        ("each_create_tables", lambda client: client.create_tables()),
    ):
        step = Step(program)
        program.each(work)
        found[name] = step.each(count)
    rows = made.nodes["n1"].execute_sql(CONNECTIONS_SQL)
    found["connections"] = rows.fetchone()[0]
    return found


def tenants_again(made: Tenants) -> Tenants:
    """The same tenants, as a program that starts meets them."""
    dbs = {name: PostgresqlDatabase(db.database, **db.connect_params) for name, db in made.nodes.items()}
    base = dbs["n1"]
    return Tenants(
        PostgresqlDatabase("directory", **base.connect_params),
        dbs,
        create_events_table(data_indexes=["cart_id"]),
        create_projections_table(),
        [Sold],
    )


def cpu(pid: int) -> float:
    """Seconds of processor of a process of this machine, to the nanosecond; of its first thread."""
    with open(f"/proc/{pid}/schedstat", encoding="utf-8") as file:
        return int(file.read().split()[0]) / 1e9


def private_kb(pid: int) -> int:
    """Kilobytes that only this process has in memory."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


def own_kb() -> int:
    """The same of this process."""
    return private_kb(os.getpid())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--only", default="moves,many", help="which measures")
    given = parser.parse_args()
    settings = {"max_locks_per_transaction": "256"}
    with embedded_database(durable=True, settings=settings) as db:
        measures = {"moves": lambda: moves(db.url, given.events), "many": lambda: many(db.url, given.tenants)}
        for name in given.only.split(","):
            print(json.dumps({name: measures[name](), "load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
