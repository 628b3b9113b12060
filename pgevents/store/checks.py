"""Checks of an events table before a client saves to it or relies on a final read of it."""

from __future__ import annotations

from typing import Any

import attrs

from pgevents.errors import ConfigurationError, NotInstalledError
from pgevents.fields import split_many
from pgevents.store.functions import functions_mark
from pgevents.store.layout import TableSpec
from pgevents.store.triggers import GUARDS

__all__ = [
    "Installed",
    "check_installed",
    "distributed_table",
    "find_installed",
    "not_guarded",
    "not_made",
    "sequence_fault",
    "troubles",
]

FOUND_SQL = """\
SELECT current_schema()::text, n.nspname::text, c.relkind::text, c.relpersistence::text,
    obj_description(to_regproc(%(append)s), 'pg_proc') AS mark,
    ARRAY(
        SELECT t.tgname::text FROM pg_trigger AS t
        WHERE t.tgrelid = c.oid AND t.tgname = ANY (%(guards)s) AND t.tgenabled IN ('A', 'O')
        ORDER BY 1
    ) AS guards,
    ARRAY(
        SELECT t.tgname::text FROM pg_trigger AS t
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname <> ALL (%(guards)s) AND t.tgenabled <> 'D'
            AND t.tgtype & 7 = 7  -- FOR EACH ROW, BEFORE, INSERT
        ORDER BY 1
    ) AS changing_triggers,
    ARRAY(
        SELECT t.tgname::text FROM pg_trigger AS t
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname <> ALL (%(guards)s) AND t.tgenabled <> 'D'
            AND t.tgtype & 7 <> 7 AND t.tgtype & 4 = 4  -- on INSERT, too late to change it
        ORDER BY 1
    ) AS other_triggers,
    ARRAY(SELECT r.rulename::text FROM pg_rewrite AS r WHERE r.ev_class = c.oid ORDER BY 1) AS rules,
    row_security_active(c.oid) AS hides_rows,
    EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = c.oid) AS has_children,
    EXISTS (SELECT FROM pg_subscription_rel AS r WHERE r.srrelid = c.oid) AS is_replicated,
    s.seqincrement = 1 AND s.seqcache = 1 AND NOT s.seqcycle AND s.seqmin = 1 AS sequence_is_sound,
    EXISTS (
        SELECT FROM pg_trigger AS t
        WHERE t.tgrelid = to_regclass(%(lists)s) AND t.tgname = 'pgevents_lists' AND t.tgenabled IN ('A', 'O')
    ) AS has_lists,
    to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL AS has_citus
FROM (VALUES (1)) AS always
LEFT JOIN pg_class AS c ON c.oid = to_regclass(%(table)s)
LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_sequence AS s ON s.seqrelid = to_regclass(%(sequence)s)
"""
CITUS_SQL = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
DISTRIBUTED_SQL = """\
SELECT p.logicalrelid::regclass::text
FROM pg_catalog.pg_dist_partition AS p JOIN pg_class AS c ON c.oid = p.logicalrelid
WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relname = coalesce(%(table)s, c.relname) LIMIT 1
"""
SEQUENCE_SQL = (
    "SELECT (SELECT last_value - (NOT is_called)::int FROM {sequence}), (SELECT max(id) FROM {table})"
)


@attrs.frozen
class Installed:
    """What the database has under an events table's name.

    Attributes:
        current_schema: Where the connection creates tables without a schema in their name; None if nowhere.
        schema: The table's schema; None if there is no such table.
        kind: "r" for a table, "p" for a partitioned table, another letter for other relations.
        persistence: "p" for a table that survives a crash.
        mark: The comment of the append function, which identifies its version; None if there is none.
        guards: The guards that exist and are enabled.
        changing_triggers: Foreign triggers that may change or drop events while they are inserted.
        other_triggers: Other foreign triggers on INSERT.
        rules: Rewrite rules.
        hides_rows: Whether row level security hides events from this role.
        has_children: Whether tables inherit from it, or it is partitioned.
        is_replicated: Whether a subscription of logical replication writes to it.
        sequence_is_sound: Whether the sequence gives out every id once, in order; None if there is none.
        has_lists: Whether the table of the values of lists exists and is guarded.
        is_distributed: Whether Citus has spread it over several servers.
    """

    current_schema: str | None
    schema: str | None
    kind: str | None
    persistence: str | None
    mark: str | None
    guards: list[str]
    changing_triggers: list[str]
    other_triggers: list[str]
    rules: list[str]
    hides_rows: bool | None
    has_children: bool
    is_replicated: bool
    sequence_is_sound: bool | None
    has_lists: bool
    is_distributed: bool = False

    @property
    def data_indexes(self) -> tuple[str, ...] | None:
        """The data indexes of the installed functions, in order; None if there are no functions."""
        if self.mark is None or not self.mark.startswith("pgevents "):
            return None
        _, _, fields = self.mark.partition(": ")
        return tuple(fields.split(", ")) if fields else ()

    @property
    def lists(self) -> tuple[str, ...]:
        """The data indexes whose values are in the table of lists."""
        return split_many(self.data_indexes or ())[1] if self.has_lists else ()


def find_installed(execute: Any, spec: TableSpec) -> Installed:
    """Look up what the database has under the name of an events table.

    Args:
        execute: `Session.execute`.
        spec: The table; without a schema, what the connection's search path finds.
    """
    names = {
        "table": spec.qualified(),
        "append": spec.qualified("_append"),
        "sequence": spec.qualified("_id_seq"),
        "lists": spec.qualified("_lists"),
        "guards": list(GUARDS),
    }
    *found, has_citus = execute(FOUND_SQL, names).fetchone()
    installed = Installed(*found)
    if not has_citus or installed.schema is None:
        return installed
    table = distributed_table(execute, installed.schema, spec.name)
    return attrs.evolve(installed, is_distributed=table is not None)


def distributed_table(execute: Any, schema: str, table: str | None = None) -> str | None:
    """The name of a table that Citus has spread over several servers; None if there is none.

    Args:
        execute: `Session.execute`.
        schema: Where to look.
        table: The table; None for any of the schema.
    """
    if not execute(CITUS_SQL, None).fetchone()[0]:
        return None
    quoted = '"' + schema.replace('"', '""') + '"'
    row = execute(DISTRIBUTED_SQL, {"schema": quoted, "table": table}).fetchone()
    return None if row is None else str(row[0])


def check_installed(execute: Any, spec: TableSpec) -> None:
    """Check that a client may save to a table and rely on its final reads.

    Args:
        execute: `Session.execute`.
        spec: The events table.

    Raises:
        NotInstalledError: Table, functions or guards are missing, or the functions are not those of this
            client.
        ConfigurationError: Ids could come twice or out of order, or events could be changed, hidden or added
            without the append functions.
    """
    installed = find_installed(execute, spec)
    reason = not_made(installed, spec)
    if reason is not None:
        raise NotInstalledError(f"{reason}: run client.create_tables()")
    for trouble in troubles(installed, spec):
        raise ConfigurationError(trouble)
    reason = not_guarded(installed, spec)
    if reason is not None:
        raise NotInstalledError(f"{reason}: run client.create_tables()")
    fault = sequence_fault(execute, spec)
    if fault is not None:
        raise ConfigurationError(fault)


def not_made(installed: Installed, spec: TableSpec) -> str | None:
    """Why `create_tables()` must be called first: table or functions are missing, or of another client.

    None if they are there.
    """
    name = spec.qualified()
    if spec.schema is None and installed.schema is not None and installed.schema != installed.current_schema:
        return (
            f"{name} does not exist in the connection's own schema {installed.current_schema}; "
            f"the search path finds it in {installed.schema}, where it may be somebody else's. "
            f"Name that schema (schema={installed.schema!r}), or make tables here"
        )
    if installed.schema is None or installed.mark is None:
        return (
            f"the {'table' if installed.schema is None else 'append function'} of {name} does not exist yet"
        )
    if installed.data_indexes != spec.declared:
        return (
            f"the functions of {name} were made for other data_indexes "
            f"({list(installed.data_indexes or ())}) than this client has ({list(spec.declared)})"
        )
    if installed.lists != spec.lists:
        return f"the values of {', '.join(spec.lists)} are not stored apart, or not guarded"
    if installed.mark != functions_mark(spec.in_schema(installed.schema)):
        return (
            f"the functions of {name} were made by another version of pgevents, "
            "or when the table had another name or schema"
        )
    return None


def not_guarded(installed: Installed, spec: TableSpec) -> str | None:
    """The missing guards, in words; None if all are in place."""
    missing = sorted(set(GUARDS) - set(installed.guards))
    if not missing:
        return None
    return f"the log {spec.qualified()} is not guarded: {', '.join(missing)} is missing or disabled"


def sequence_fault(execute: Any, spec: TableSpec) -> str | None:
    """What is wrong with the sequence of an existing table: that it is behind the last event; else None."""
    sequence = spec.qualified("_id_seq")
    last, greatest = execute(SEQUENCE_SQL.format(sequence=sequence, table=spec.qualified()), None).fetchone()
    if greatest is None or greatest <= last:
        return None
    return (
        f"the sequence {sequence} is at {last}, behind the last event {greatest} (a RESTART, or a restore "
        f"without its sequence); set it: SELECT setval('{sequence}', {greatest})"
    )


def troubles(installed: Installed, spec: TableSpec) -> list[str]:
    """Properties of a table that break the guarantees, each with what to do about it."""
    name, sequence = spec.qualified(), spec.qualified("_id_seq")
    faults: list[str] = []
    if installed.is_replicated:
        faults.append(
            f"{name} is a copy: a subscription of logical replication writes to it, bypassing locks and "
            "sequence. Read it with SQL, and save to the original; to move the log here, drop the "
            "subscription first and set the sequence to the greatest id"
        )
    if installed.changing_triggers:
        triggers = ", ".join(installed.changing_triggers)
        faults.append(
            f"{name} has a row trigger before INSERT that is not pgevents', {triggers}: it could change or "
            f"drop events after their locks were taken. DROP TRIGGER {installed.changing_triggers[0]} ON "
            f"{name}, and do its work in a plugin or before the save"
        )
    if installed.rules:
        faults.append(
            f"{name} has the rule {', '.join(installed.rules)}, which rewrites what is written to it "
            f"or read from it. DROP RULE {installed.rules[0]} ON {name}"
        )
    if installed.hides_rows:
        faults.append(
            f"row level security hides events of {name} from this role, so its saves could not be checked "
            "against all events. Give each tenant a schema or table, or save with a role that has BYPASSRLS"
        )
    if installed.has_children:
        faults.append(
            f"other tables inherit from {name}: their rows are read as events, but were never saved as such. "
            "ALTER TABLE ... NO INHERIT them"
        )
    if installed.is_distributed:
        faults.append(
            f"{name} is distributed by Citus, which does not keep what the guarantees rest on: final reads "
            "on another node would be wrong, and its moves lose the sequence. "
            f"SELECT undistribute_table('{name}'), or keep the log in a database without Citus"
        )
    if installed.persistence != "p":
        faults.append(f"{name} is UNLOGGED or temporary: a crash empties it. ALTER TABLE {name} SET LOGGED")
    if not installed.sequence_is_sound:
        faults.append(
            f"the sequence {sequence} must be MINVALUE 1, INCREMENT 1, CACHE 1 and NO CYCLE, "
            "else ids come twice or out of order; ALTER SEQUENCE it back"
        )
    return faults
