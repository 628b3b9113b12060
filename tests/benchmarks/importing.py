"""How fast `pgevents import` is beside a COPY of the same rows, both from a file, in turns.

    python -m tests.benchmarks.importing [events] [rounds]

The COPY fills a table with the columns, indexes and constraints of the events table, but without its
triggers. The server is an embedded one that flushes each commit to disk. Also printed: how large the tables
are, with their indexes, beside one filled by direct saves of 100 events each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import psycopg2
from attrs import frozen
from psycopg2.extensions import parse_dsn

from pgevents import create_event_client, create_events_table, create_projections_table
from pgevents.embedded import embedded_database

from ..conftest import database as database_at

COLUMNS = "type, data, metadata, created_at, updated_at"
START = datetime(2023, 5, 4, 9, tzinfo=timezone.utc)


@frozen
class Figures:
    """What was measured: events a second, and bytes.

    Attributes:
        imported: Events a second of the best import.
        copied: Of the best COPY.
        sizes: Of the tables with their indexes, in bytes, by how they were filled.
    """

    imported: float
    copied: float
    sizes: dict[str, int]

    @property
    def ratio(self) -> float:
        """The import's rate beside that of COPY."""
        return self.imported / self.copied


def events(count: int) -> Iterator[tuple[str, dict[str, Any], datetime]]:
    """Carts of ten events: type, data, and time."""
    for number in range(count):
        cart, place = divmod(number, 10)
        at = START + timedelta(seconds=number, microseconds=number % 1000)
        cart_id, product_id = str(UUID(int=cart)), f"p{number % 997}"
        data = {"cart_id": cart_id, "product_id": product_id, "quantity": place, "price": 12.5}
        yield "ITEM_ADDED_TO_CART" if place else "CART_CREATED", data, at


def write_files(count: int, lines: Path, rows: Path) -> None:
    """The same events as JSON Lines, as `pgevents export` writes them, and as rows for COPY."""
    with lines.open("w") as to_import, rows.open("w") as to_copy:
        for number, (name, data, at) in enumerate(events(count), 1):
            line = {"id": number, "type": name, "data": data, "metadata": {}, "created_at": at.isoformat()}
            to_import.write(json.dumps(line) + "\n")
            to_copy.write(f"{name}\t{json.dumps(data)}\t{{}}\t{at.isoformat()}\t{at.isoformat()}\n")


def seconds_of_import(file: Path, url: str, table: str) -> float:
    """What the command itself reports, without the start of Python."""
    options = ["--database", f"postgresql:///?{urlencode(parse_dsn(url))}", "--events", table, "--json"]
    code = "from pgevents.cli import main; main()"
    command = [sys.executable, "-c", code, "import", str(file), *options]
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    return float(json.loads(done.stderr.splitlines()[-1])["seconds"])


def save_directly(url: str, schema: str, count: int) -> None:
    """Make an events table, and save so many events, 100 in each save."""
    tables = create_events_table(schema, data_indexes=["cart_id"]), create_projections_table(schema)
    with database_at(url) as database:
        client = create_event_client(database, *tables, [])
        client.create_tables()
    rest = events(count)
    while batch := list(islice(rest, 100)):
        given = [{"type": name, "data": data} for name, data, _ in batch]
        client.save_events(given, created_at=[at for _, _, at in batch])
    database.close()


def measure(url: str, count: int, rounds: int) -> Figures:
    """Import and COPY in turns, each into new tables; the best of each counts."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    cursor = connection.cursor()
    seconds: dict[str, list[float]] = {"imported": [], "copied": []}
    sizes: dict[str, int] = {}

    def size_of(table: str) -> int:
        cursor.execute("SELECT pg_total_relation_size(%s)", [table])
        return int(cursor.fetchone()[0])

    with tempfile.TemporaryDirectory() as folder:
        lines, rows = Path(folder, "log.jsonl"), Path(folder, "log.copy")
        write_files(count, lines, rows)
        for number in range(rounds):
            imported, copied = f"imported_{number}", f"copied_{number}"
            save_directly(url, imported, 0)
            cursor.execute(f"CREATE TABLE {copied} (LIKE {imported}.events INCLUDING ALL)")
            seconds["imported"].append(seconds_of_import(lines, url, f"{imported}.events"))
            with rows.open() as file:
                start = time.perf_counter()
                cursor.copy_expert(f"COPY {copied} ({COLUMNS}) FROM STDIN", file)
                seconds["copied"].append(time.perf_counter() - start)
            sizes |= {"import": size_of(f"{imported}.events"), "COPY": size_of(copied)}
            print({k: round(count / v[-1]) for k, v in seconds.items()}, flush=True)
    save_directly(url, "saved", count)
    sizes["direct saves"] = size_of("saved.events")
    connection.close()
    best = {name: count / min(taken) for name, taken in seconds.items()}
    return Figures(best["imported"], best["copied"], sizes)


def main(count: int = 200_000, rounds: int = 3) -> None:
    """Measure on an embedded server, and print."""
    with embedded_database() as db:
        figures = measure(db.url, count, rounds)
    print(f"import {figures.imported:,.0f} events/s, COPY {figures.copied:,.0f}, ratio {figures.ratio:.2f}")
    for name, size in figures.sizes.items():
        print(f"  table filled by {name:12} {size / count:6.0f} bytes an event, with indexes")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
