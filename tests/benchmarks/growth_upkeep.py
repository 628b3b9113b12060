"""What keeps a grown log in order: `python -m tests.benchmarks.growth_upkeep FOLDER [--of DATABASE]`.

The folder is that of `tests.benchmarks.growth`. Each part works on a copy of one of its databases, which is
dropped afterwards: VACUUM (FREEZE) and wraparound, redactions and REINDEX, another tablespace, partitions.
"""

from __future__ import annotations

import argparse
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import EventClient
from pgevents.embedded import embedded_database

from ..shop import ItemAddedToCart
from .growth import SETTINGS, say, sizes_of
from .growth_filling import cart_id, client_at, copy_database

VISIBLE_SQL = """\
SELECT relpages, relallvisible, coalesce((to_jsonb(c)->>'relallfrozen')::int, -1), age(relfrozenxid)
FROM pg_class AS c WHERE oid = 'my_app.events'::regclass
"""
COUNT_SQL = "SELECT count(*) FROM my_app.events WHERE type = 'CART_CHECKED_OUT'"
BURN_SQL = """\
DO $$ BEGIN
    FOR n IN 1 .. 150000 LOOP
        PERFORM pg_current_xact_id();
        COMMIT;
    END LOOP;
END $$
"""
REDACT_SQL = """\
UPDATE my_app.events SET data = data || '{"cart_id": "erased", "product_id": "erased"}'
WHERE id BETWEEN %s AND %s AND type = 'ITEM_ADDED_TO_CART'
"""
PARTITIONS = 10
CART_SQL = """\
SELECT id, type, data FROM {table} WHERE data->>'cart_id' = ANY (ARRAY[$1]) AND id > $2
ORDER BY data->>'cart_id', id LIMIT 1001
"""
"""As the functions read a cart."""


class Upkeep:
    """One copy of a database, and what is done to it."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log
        self.client: EventClient = client_at(url)
        self.execute: Any = self.client.db.execute_sql
        (self.events,) = self.execute("SELECT max(id) FROM my_app.events").fetchone()

    def timed(self, title: str, *statements: str) -> None:
        """Print how long statements take, and how much WAL they write."""
        (before,) = self.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        began = time.perf_counter()
        for statement in statements:
            self.execute(statement)
        took = time.perf_counter() - began
        (wal,) = self.execute(
            "SELECT (pg_current_wal_insert_lsn() - %s::pg_lsn)::bigint", [before]
        ).fetchone()
        print(f"{title}: {took:.1f} s, {wal / 1e6:,.0f} MB of WAL", flush=True)

    def visible(self, title: str) -> None:
        pages, visible, frozen, age = self.execute(VISIBLE_SQL).fetchone()
        print(f"{title}: {pages:,} pages, {visible:,} all-visible, {frozen:,} all-frozen, age {age:,}")

    def sizes(self, title: str) -> None:
        found = sizes_of(self.client)
        print(f"{title}, MB:", ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in found.items()))

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Somebody saves meanwhile; prints how long saves took."""
        stop, waits = threading.Event(), list[float]()

        def save() -> None:
            client = client_at(self.url)
            while not stop.is_set():
                began = time.perf_counter()
                client.save_event(ItemAddedToCart("meanwhile", "p1", 1, 1))
                waits.append(time.perf_counter() - began)
            client.db.close()

        thread = threading.Thread(target=save)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        print(
            f"  {len(waits):,} saves meanwhile: median {1e3 * statistics.median(waits):.1f} ms, "
            f"longest {1e3 * max(waits):,.0f} ms",
            flush=True,
        )

    def count_type(self, title: str) -> None:
        """What an index-only scan has to fetch."""
        rows = self.execute(f"EXPLAIN (ANALYZE, BUFFERS) {COUNT_SQL}").fetchall()
        text = "\n".join(row[0] for row in rows)
        found = re.findall(r"(Index Only Scan|Seq Scan|Heap Fetches: \d+|Execution Time: .*)", text)
        print(f"{title}, {COUNT_SQL}: {', '.join(found)}", flush=True)


def freeze(log: Upkeep) -> None:
    """VACUUM (FREEZE), the first time and again; then what autovacuum does against wraparound."""
    log.visible("as autovacuum left it")
    log.count_type("before")
    with log.saving():
        log.timed("VACUUM", "VACUUM my_app.events")
    log.visible("after VACUUM")
    with log.saving():
        log.timed("VACUUM (FREEZE)", "VACUUM (FREEZE) my_app.events")
    log.visible("after VACUUM (FREEZE)")
    log.count_type("after")
    log.timed("VACUUM (FREEZE) again", "VACUUM (FREEZE) my_app.events")
    _wraparound(log)


def _wraparound(log: Upkeep) -> None:
    """150,000 transactions, and a limit of 100,000: autovacuum has to freeze."""
    log.execute("ALTER TABLE my_app.events SET (autovacuum_freeze_max_age = 100000)")
    start = log.log.stat().st_size
    log.execute("SET synchronous_commit = off")
    log.execute(BURN_SQL)
    log.execute("RESET synchronous_commit")
    name = parse_dsn(log.url)["dbname"]
    with log.saving():
        for _ in range(180):
            time.sleep(1)
            with log.log.open(encoding="utf-8") as file:
                file.seek(start)
                told = file.read()
            found = re.search(rf'automatic [a-z ]*wraparound of table "{name}\.my_app\.events"[^[]*', told)
            if found:
                print(found[0])
                break
        else:
            print("no vacuum against wraparound within three minutes")


def redact(log: Upkeep) -> None:
    """A tenth of the log is redacted, in ten pieces with VACUUM between them; then all indexes made anew."""
    log.sizes("before")
    piece = log.events // 10 // 10

    def pieces(start: int, count: int) -> None:
        for first in range(start, start + count * piece, piece):
            with log.client.maintenance("measure"):
                log.execute(REDACT_SQL, [first, first + piece - 1])

    began = time.perf_counter()
    pieces(1, 5)
    (dead,) = log.execute("SELECT count(*) FROM my_app.events WHERE data->>'cart_id' = 'erased'").fetchone()
    print(f"{dead:,} events redacted in five pieces: {time.perf_counter() - began:.1f} s")
    log.sizes("after")
    with log.saving():
        log.timed("VACUUM", "VACUUM my_app.events")
    log.sizes("after VACUUM")
    for number in range(5):
        pieces(1 + (5 + number) * piece, 1)
        log.execute("VACUUM my_app.events")
    log.sizes("five more pieces, a VACUUM after each")
    reindex(log)


def reindex(log: Upkeep) -> None:
    """What the indexes lack of being packed."""
    log.sizes("before REINDEX")
    with log.saving():
        log.timed("REINDEX TABLE CONCURRENTLY", "REINDEX TABLE CONCURRENTLY my_app.events")
    log.sizes("after REINDEX")
    log.client.check_installed()


def tablespace(log: Upkeep) -> None:
    """The table goes to another tablespace, its indexes stay."""
    log.execute("SET allow_in_place_tablespaces = on")
    log.execute("CREATE TABLESPACE cheap LOCATION ''")
    with log.saving():
        log.timed("SET TABLESPACE", "ALTER TABLE my_app.events SET TABLESPACE cheap")
    log.client.check_installed()
    log.timed("and back", "ALTER TABLE my_app.events SET TABLESPACE pg_default")
    log.execute("DROP TABLESPACE cheap")


def partitions(log: Upkeep) -> None:
    """The same rows in partitions by id, with the same indexes, read as the functions read."""
    execute = log.execute
    execute("CREATE SCHEMA parted")
    execute(
        "CREATE TABLE parted.events (id bigint PRIMARY KEY, type text, data jsonb, metadata jsonb, "
        "idempotency_key text, created_at timestamptz, updated_at timestamptz) PARTITION BY RANGE (id)"
    )
    step = log.events // PARTITIONS
    for number in range(PARTITIONS):
        last = "MAXVALUE" if number == PARTITIONS - 1 else str((number + 1) * step)
        execute(
            f"CREATE TABLE parted.events_{number} PARTITION OF parted.events "
            f"FOR VALUES FROM ({'MINVALUE' if number == 0 else number * step}) TO ({last})"
        )
    try:
        execute("CREATE UNIQUE INDEX ON parted.events (idempotency_key) WHERE idempotency_key IS NOT NULL")
    except Exception as error:
        print("unique keys across partitions:", str(error).splitlines()[0])
    execute("CREATE INDEX ON parted.events ((data->>'cart_id'), id) WHERE data->>'cart_id' IS NOT NULL")
    execute("CREATE INDEX ON parted.events (type, id)")
    log.timed("copy into partitions", "INSERT INTO parted.events SELECT * FROM my_app.events")
    execute("ANALYZE parted.events")
    for table in ("my_app.events", "parted.events"):
        name = table.partition(".")[0]
        execute("SET plan_cache_mode = force_generic_plan")
        execute(f"PREPARE {name} (text, bigint) AS {CART_SQL.format(table=table)}")
        for after in (0, log.events - 1_000):
            calls = [f"EXECUTE {name} ('{cart_id(n * 97)}', {after})" for n in range(500)]
            execute(calls[0])
            taken: list[float] = []
            for call in calls:
                began = time.perf_counter()
                execute(call).fetchall()
                taken.append(time.perf_counter() - began)
            plan = execute(f"EXPLAIN (ANALYZE, BUFFERS) {calls[7]}").fetchall()
            buffers = next(row[0].strip() for row in plan if "Buffers" in row[0])
            print(
                f"{table}, a cart above {after:,}: median {1e3 * statistics.median(taken):.3f} ms, {buffers}",
                flush=True,
            )


PARTS: dict[str, Callable[[Upkeep], None]] = {
    "freeze": freeze,
    "redact": redact,
    "reindex": reindex,
    "tablespace": tablespace,
    "partitions": partitions,
}


def main() -> None:
    """Measure each part on a copy of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth_upkeep", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--of", default="growth_10000000", help="the database to copy")
    parser.add_argument("--only", default=",".join(PARTS), help="parts")
    options = parser.parse_args()
    with embedded_database(options.folder, database="postgres", settings=SETTINGS) as db:
        name_of_copy = f"{options.of}_upkeep"
        copy = make_dsn(**{**parse_dsn(db.url), "dbname": name_of_copy})
        for name in options.only.split(","):
            say(name)
            print(f"## {name}, {options.of}", flush=True)
            _drop(db.url, name_of_copy)
            copy_database(db.url, options.of, name_of_copy)
            log = Upkeep(copy, Path(options.folder) / "server.log")
            try:
                PARTS[name](log)
            finally:
                log.client.db.close()
                _drop(db.url, name_of_copy)


def _drop(url: str, name: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    connection.close()


if __name__ == "__main__":
    main()
