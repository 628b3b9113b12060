"""Tells pgevents' tables and indexes from those of an application that have the same names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pgevents.errors import ConfigurationError
from pgevents.store.ddl import columns_of
from pgevents.store.layout import Index, TableSpec

__all__ = [
    "found_indexes",
    "index_fault",
    "index_is_former",
    "log_of_snapshots",
    "refuse_foreign",
    "refuse_foreign_index",
    "refuse_leftovers",
    "refuse_stale_functions",
    "snapshots_mark",
]

RELATIONS_SQL = """\
SELECT asked.name, c.relkind::text, a.attname::text,
    format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity = 'a',
    a.atthasdef OR a.attidentity <> ''
FROM unnest(%s::text[]) AS asked(name) JOIN pg_class AS c ON c.oid = to_regclass(asked.name)
LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY asked.name, a.attnum
"""
MARK_SQL = """\
SELECT (
    SELECT col_description(a.attrelid, a.attnum) FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass(%s) AND a.attname = 'latest_event_id')
"""
INDEXES_SQL = """\
SELECT asked.name, i.relkind::text, x.indrelid = to_regclass(%s), x.indisvalid AND x.indisready, m.amname,
    ARRAY(SELECT pg_get_indexdef(i.oid, n, false) FROM generate_series(1, x.indnatts) AS n),
    coalesce(pg_get_expr(x.indpred, x.indrelid), ''), x.indisunique
FROM unnest(%s::text[]) AS asked(name) JOIN pg_class AS i ON i.oid = to_regclass(asked.name)
LEFT JOIN pg_index AS x ON x.indexrelid = i.oid
LEFT JOIN pg_am AS m ON m.oid = i.relam
"""
STALE_SQL = """\
SELECT n.nspname::text, p.proname::text FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE right(p.proname, 7) = '_append' AND starts_with(obj_description(p.oid, 'pg_proc'), 'pgevents ')
    AND strpos(obj_description(p.oid, 'pg_proc'), %s) > 0
"""
KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
}
SNAPSHOTS = "pgevents snapshots of "


def snapshots_mark(events: TableSpec, projections: TableSpec) -> str:
    """The comment of the column `latest_event_id`: which log the snapshots are folded from.

    A log in the same schema is noted without it, so that the schema may be renamed.
    """
    return SNAPSHOTS + (f'"{events.name}"' if events.schema == projections.schema else events.qualified())


def log_of_snapshots(execute: Any, events: TableSpec, projections: TableSpec) -> str | None:
    """The mark of a projections table if it names this log as the one that its snapshots are folded from.

    None if the table has no mark, or its mark names a log that does not exist any more.

    Raises:
        ConfigurationError: The mark names another log, whose ids mean other events.
    """
    mark = execute(MARK_SQL, [projections.qualified()]).fetchone()[0] or ""
    if mark == snapshots_mark(events, projections):
        return str(mark)
    other = mark.removeprefix(SNAPSHOTS)
    if other == mark:
        return None
    other = other if '"."' in other else projections.beside(other)
    if execute("SELECT to_regclass(%s)", [other]).fetchone()[0] is not None:
        raise ConfigurationError(
            f"{projections.qualified()} holds the snapshots of another log, {other}: an id in them means "
            f"another event than in {events.qualified()}. Give each log its own projections table"
        )
    return None


def refuse_foreign(execute: Any, spec: TableSpec, tables: Mapping[str, str]) -> None:
    """Refuse an existing relation of the same name that pgevents did not create; it is not touched.

    Args:
        execute: `Session.execute`.
        spec: The spec of the tables.
        tables: The DDL of each table, by its quoted name; statements that create no table are ignored.

    Raises:
        ConfigurationError: There is a relation that is not a table, or a table with other columns.
    """
    created = {name: ddl for name, ddl in tables.items() if ddl.startswith("CREATE TABLE")}
    found = _relations(execute, created)
    for name, ddl in created.items():
        rows = found[name]
        later = spec.later_columns().get(name, ())
        reason = _foreign_because(rows, ddl, later) if rows else _sequence_is_taken(execute, spec, name)
        if reason is not None:
            factory = f"create_{spec.kind}_table"
            raise ConfigurationError(
                f"{name} is not a table that pgevents made: {reason}. It was left as it is. Give your tables "
                f"another name or schema: {factory}(schema='my_app', name='my_{spec.kind}')"
            )


def refuse_leftovers(execute: Any, events: TableSpec, projections: TableSpec) -> None:
    """Refuse to create a log beside what a dropped one has left: ids that mean other events, and keys and
    lines that it does not hold.

    Raises:
        ConfigurationError: There are such rows. Nothing was changed.
    """
    left = {
        events.qualified("_checkpoints"): "position > 0",
        events.qualified("_timers"): "true",
        events.qualified("_commands"): "true",
        events.qualified("_imports"): "true",
        projections.qualified(): "latest_event_id > 0",
    }
    for table, condition in left.items():
        if execute("SELECT to_regclass(%s)", [table]).fetchone()[0] is None:
            continue
        if execute(f"SELECT EXISTS (SELECT FROM {table} WHERE {condition})").fetchone()[0]:
            raise ConfigurationError(
                f"{table} still has rows of a log that was dropped, which would be wrong for the new one. "
                f"Nothing was changed. Drop it, too: DROP TABLE {table}"
            )


def refuse_stale_functions(execute: Any, spec: TableSpec) -> None:
    """Refuse to create a log while functions of a renamed log still use its name and would write into it.

    Raises:
        ConfigurationError: There are such functions.
    """
    append_function = spec.qualified("_append")
    for stale in execute(STALE_SQL, [f"{spec.qualified()}:"]).fetchall():
        schema, name = stale
        if f'"{schema}"."{name}"' != append_function:
            raise ConfigurationError(
                f'the functions of "{schema}"."{name.removesuffix("_append")}" still use its former name '
                f"{spec.qualified()}, and would write into a new log of that name: "
                "call create_tables() for the renamed log first"
            )


def _relations(execute: Any, names: Iterable[str]) -> dict[str, list[Any]]:
    """Of each name the relation's kind, with each of its columns; no row if there is no such relation."""
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for name, *row in execute(RELATIONS_SQL, [list(rows)]).fetchall():
        rows[name].append(row)
    return rows


def _sequence_is_taken(execute: Any, spec: TableSpec, name: str) -> str | None:
    """Why a table cannot be created: the name of its sequence is taken; None if it is free."""
    sequence = spec.qualified("_id_seq")
    if spec.kind == "events" and name == spec.qualified() and _relations(execute, [sequence])[sequence]:
        return f"there is no such table, but its sequence's name {sequence} is taken"
    return None


def _foreign_because(rows: list[Any], ddl: str, later: Sequence[str]) -> str | None:
    """Why a table was not created by this DDL, with or without its later columns; None if it was."""
    relkind = rows[0][0]
    if relkind not in ("r", "p"):
        return f"it is {KINDS.get(relkind, 'something else')}"
    columns = {row[1]: row[2:5] for row in rows if row[1] is not None}
    wanted = columns_of(ddl)
    for column, (kind, is_required, is_identity) in wanted.items():
        if column not in columns:
            if column in later:
                continue
            return f"it has no column {column!r}"
        if columns[column][0] != kind:
            return f"its column {column!r} is {columns[column][0]}, not {kind}"
        if is_required and not columns[column][1]:
            return f"its column {column!r} may be null"
        if is_identity and not columns[column][2]:
            return f"its column {column!r} is not GENERATED ALWAYS AS IDENTITY"
    for _, column, _, is_required, _, has_default in rows:
        if column not in wanted and is_required and not has_default:
            return f"it needs a value for the column {column!r}, which an event or snapshot does not have"
    return None


def found_indexes(execute: Any, spec: TableSpec) -> dict[str, Any]:
    """What exists under the names of a table's indexes, by the name: a row for the functions below."""
    names = {spec.beside(f'"{index.name}"'): index.name for index in spec.indexes()}
    rows = execute(INDEXES_SQL, [spec.qualified(), list(names)]).fetchall()
    return {names[name]: row for name, *row in rows}


def refuse_foreign_index(row: Any, spec: TableSpec, index: Index) -> None:
    """Refuse an index of the right name that is not pgevents' index, or not complete.

    Args:
        row: What exists under its name, of `found_indexes()`; None if nothing does.
        spec: The spec of its table.
        index: The index.

    Raises:
        ConfigurationError: The index is another one, or not complete.
    """
    reason = index_fault(row, spec, index)
    if reason is not None:
        raise ConfigurationError(f"{reason}; then call create_tables() again")


def index_fault(row: Any, spec: TableSpec, index: Index) -> str | None:
    """What is wrong with an existing index, and what to do; None if it is the right index and complete."""
    name = spec.beside(f'"{index.name}"')
    if row is None:
        return None
    if _is_former(row, index):
        return (
            f"the index {name} has an entry for every event: create_tables(), or pgevents init, replaces it"
        )
    relkind, is_of_table, is_valid, method, columns, only, is_unique = row
    if relkind not in ("i", "I") or not is_of_table:
        return f"{name} is not an index of {spec.qualified()}: rename it"
    if method != "btree" or (columns, only, is_unique) != index.described:
        return (
            f"the index {name} is not the one that pgevents makes "
            f"({index.create_sql(spec.qualified()).strip()}): DROP INDEX CONCURRENTLY {name}"
        )
    if not is_valid:
        return (
            f"the index {name} is not complete: its CREATE INDEX CONCURRENTLY has failed or is still "
            f"running. REINDEX INDEX CONCURRENTLY {name}"
        )
    return None


def index_is_former(row: Any, index: Index) -> bool:
    """Whether an existing index is the one that an earlier version of pgevents made under this name."""
    return row is not None and _is_former(row, index)


def _is_former(row: Any, index: Index) -> bool:
    relkind, is_of_table, _, method, *described = row
    is_of_pgevents = relkind in ("i", "I") and is_of_table and method == "btree"
    return is_of_pgevents and index.former is not None and tuple(described) == index.former.described
