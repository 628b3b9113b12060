"""Copies what is in one schema into the same schema of another server."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import attrs

from pgevents.errors import ConfigurationError
from pgevents.store.session import Session

__all__ = ["Contents", "copy_table", "contents_of", "fill_sequences", "triggers_off", "unlike"]

# Partitions are copied through their table.
CONTENTS_SQL = """\
SELECT c.relname::text, c.relkind::text, ARRAY(
    SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY a.attnum)
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = pg_catalog.to_regnamespace(%s) AND c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f')
    AND NOT c.relispartition
ORDER BY c.relname
"""
REFERENCES_SQL = """\
SELECT c.conrelid::pg_catalog.regclass::text FROM pg_catalog.pg_constraint AS c
WHERE c.connamespace = pg_catalog.to_regnamespace(%s) AND c.contype = 'f' LIMIT 1
"""
TRIGGERS_SQL = """\
SELECT c.relname::text, t.tgname::text, t.tgenabled::text
FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = pg_catalog.to_regnamespace(%s) AND NOT t.tgisinternal AND t.tgenabled <> 'D'
ORDER BY 1, 2
"""
ENABLE = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
KINDS = {
    "r": "table",
    "p": "table",
    "S": "sequence",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}


@attrs.frozen
class Contents:
    """What a schema holds.

    Attributes:
        tables: The columns of each table, by its name, without generated ones.
        sequences: The names of its sequences.
        others: Its views and foreign tables, and what they are, by name.
    """

    tables: Mapping[str, Sequence[str]]
    sequences: tuple[str, ...]
    others: Mapping[str, str]


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def contents_of(session: Session, schema: str) -> Contents:
    """What a schema holds.

    Raises:
        ConfigurationError: Its tables refer to each other by foreign keys, which would prescribe an order.
    """
    rows = session.execute(CONTENTS_SQL, [quoted(schema)]).fetchall()
    referring = session.execute(REFERENCES_SQL, [quoted(schema)]).fetchone()
    if referring is not None:
        raise ConfigurationError(
            f"the table {referring[0]} has a foreign key, and tables with foreign keys cannot be moved: keep "
            "it in another schema than the tenant's"
        )
    return Contents(
        {name: tuple(columns) for name, kind, columns in rows if kind in "rp"},
        tuple(name for name, kind, _ in rows if kind == "S"),
        {name: KINDS[kind] for name, kind, _ in rows if kind in "vmf"},
    )


def unlike(source: Contents, target: Contents) -> str | None:
    """What the source has and the target lacks, in words; None if everything has its place there."""
    for name, columns in source.tables.items():
        if name not in target.tables:
            return f"the table {name!r}"
        if set(columns) != set(target.tables[name]):
            return f"the table {name!r} with the columns {sorted(columns)}"
    for name in source.sequences:
        if name not in target.sequences:
            return f"the sequence {name!r}"
    for name, kind in source.others.items():
        if target.others.get(name) != kind:
            return f"the {kind} {name!r}"
    return None


@contextmanager
def triggers_off(session: Session, schema: str, tables: Sequence[str]) -> Generator[None]:
    """The triggers of some tables stand aside; at the end each is as it was. In a transaction."""
    found = session.execute(TRIGGERS_SQL, [quoted(schema)]).fetchall()
    mine = [(f"{quoted(schema)}.{quoted(table)}", name, how) for table, name, how in found if table in tables]
    for table, name, _ in mine:
        session.execute(f"ALTER TABLE {table} DISABLE TRIGGER {quoted(name)}")
    yield
    for table, name, how in mine:
        session.execute(f"ALTER TABLE {table} {ENABLE[how]} TRIGGER {quoted(name)}")


def copy_table(
    source: Session, target: Session, schema: str, table: str, columns: Sequence[str], where: str = ""
) -> int:
    """Copy rows from server to server without keeping them.

    Args:
        source: Where they are.
        target: Where the same table is.
        schema: The schema of both.
        table: The table's name.
        columns: Its columns.
        where: Which rows, as an SQL condition of numbers; all by default.

    Returns:
        How many rows.

    Raises:
        ConfigurationError: Not all rows that were sent have arrived.
        peewee.PeeweeException, psycopg2.Error: A server refused; nothing is left at the target after its
            transaction is rolled back.
    """
    name = f"{quoted(schema)}.{quoted(table)}"
    names = ", ".join(map(quoted, columns))
    condition = f" WHERE {where}" if where else ""
    sending, receiving = (session.connection().cursor() for session in (source, target))
    read_end, write_end = os.pipe()
    faults: list[BaseException] = []

    def send() -> None:
        try:
            with os.fdopen(write_end, "wb") as pipe:
                sending.copy_expert(
                    f"COPY (SELECT {names} FROM {name}{condition}) TO STDOUT (FORMAT binary)", pipe
                )
        except BaseException as error:  # raised by the thread that waits
            faults.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        with os.fdopen(read_end, "rb") as pipe:
            receiving.copy_expert(f"COPY {name} ({names}) FROM STDIN (FORMAT binary)", pipe)
    except BaseException as error:
        thread.join()
        if faults and not isinstance(faults[0], BrokenPipeError):
            raise faults[0] from error
        raise
    thread.join()
    if faults:
        raise faults[0]
    if sending.rowcount != receiving.rowcount:
        raise ConfigurationError(
            f"{sending.rowcount} rows of {name} were sent and {receiving.rowcount} arrived: a rule or a "
            "trigger at the target drops rows"
        )
    return cast(int, receiving.rowcount)


def fill_sequences(source: Session, target: Session, schema: str, sequences: Sequence[str]) -> None:
    """Let the sequences go on where they stand."""
    for sequence in sequences:
        name = f"{quoted(schema)}.{quoted(sequence)}"
        last, is_called = source.execute(f"SELECT last_value, is_called FROM {name}").fetchone()
        target.execute("SELECT setval(%s::pg_catalog.regclass, %s, %s)", [name, last, is_called])
