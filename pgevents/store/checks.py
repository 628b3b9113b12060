"""What must be true of an events table before a client saves to it or relies on a read of it."""

from __future__ import annotations

from typing import Any

import attrs

from pgevents.errors import ConfigurationError, NotInstalledError
from pgevents.fields import split_many
from pgevents.store.functions import functions_mark
from pgevents.store.tables import GUARDS, TableSpec

__all__ = [
    "Installed",
    "check_installed",
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
    ) AS has_lists
FROM (VALUES (1)) AS always
LEFT JOIN pg_class AS c ON c.oid = to_regclass(%(table)s)
LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_sequence AS s ON s.seqrelid = to_regclass(%(sequence)s)
"""
SEQUENCE_SQL = (
    "SELECT (SELECT last_value - (NOT is_called)::int FROM {sequence}), (SELECT max(id) FROM {table})"
)


@attrs.frozen
class Installed:
    """What stands in the database under an events table's name.

    Attributes:
        current_schema: Where the connection makes tables that name no schema; None if nowhere.
        schema: The table's schema; None if there is no such table.
        kind: "r" for a table, "p" for a partitioned one, another letter for what is no table.
        persistence: "p" for a table that survives a crash.
        mark: The comment of the append function, by which it is known; None if there is none.
        guards: The guards that stand and are enabled.
        changing_triggers: Triggers of others that may change or drop events while they are inserted.
        other_triggers: Other triggers of others on INSERT.
        rules: Rewrite rules.
        hides_rows: Whether row level security hides events from this role.
        has_children: Whether tables inherit from it, or it is partitioned.
        is_replicated: Whether a subscription of logical replication writes to it.
        sequence_is_sound: Whether the sequence gives out every id once, in order; None if there is none.
        has_lists: Whether the table of the values of lists is there, and guarded.
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

    @property
    def data_indexes(self) -> tuple[str, ...] | None:
        """The data indexes that the functions were made for, in order; None if there are no functions."""
        if self.mark is None or not self.mark.startswith("pgevents "):
            return None
        _, _, fields = self.mark.partition(": ")
        return tuple(fields.split(", ")) if fields else ()

    @property
    def lists(self) -> tuple[str, ...]:
        """Those of the data indexes whose values stand in the table of lists."""
        return split_many(self.data_indexes or ())[1] if self.has_lists else ()


def find_installed(execute: Any, spec: TableSpec) -> Installed:
    """What stands under the name of an events table.

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
    return Installed(*execute(FOUND_SQL, names).fetchone())


def check_installed(execute: Any, spec: TableSpec) -> None:
    """What a client checks before its first save or final read.

    Args:
        execute: `Session.execute`.
        spec: The events table.

    Raises:
        NotInstalledError: Table, functions or guards are missing, or the functions are others than this
            client's.
        ConfigurationError: Ids could come twice or out of order, or events be changed, hidden or added in
            another way than by the append functions.
    """
    found = find_installed(execute, spec)
    reason = not_made(found, spec)
    if reason is not None:
        raise NotInstalledError(f"{reason}: run client.create_tables()")
    for trouble in troubles(found, spec):
        raise ConfigurationError(trouble)
    reason = not_guarded(found, spec)
    if reason is not None:
        raise NotInstalledError(f"{reason}: run client.create_tables()")
    fault = sequence_fault(execute, spec)
    if fault is not None:
        raise ConfigurationError(fault)


def not_made(found: Installed, spec: TableSpec) -> str | None:
    """Why `create_tables()` must be called first: table or functions are missing, or others than this client
    knows."""
    name = spec.qualified()
    if spec.schema is None and found.schema is not None and found.schema != found.current_schema:
        return (
            f"{name} does not exist in the connection's own schema {found.current_schema}; "
            f"the search path finds it in {found.schema}, where it may be somebody else's. Name that schema "
            f"(schema={found.schema!r}), or make tables here"
        )
    if found.schema is None or found.mark is None:
        return f"the {'table' if found.schema is None else 'append function'} of {name} does not exist yet"
    if found.data_indexes != spec.declared:
        return (
            f"the functions of {name} were made for other data_indexes "
            f"({list(found.data_indexes or ())}) than this client has ({list(spec.declared)})"
        )
    if found.lists != spec.lists:
        return f"the values of {', '.join(spec.lists)} are not noted, or not guarded"
    if found.mark != functions_mark(spec.in_schema(found.schema)):
        return (
            f"the functions of {name} were made by another version of pgevents, or when the table had "
            "another "
            "name or schema"
        )
    return None


def not_guarded(found: Installed, spec: TableSpec) -> str | None:
    """Which guards are missing, in words; None if all stand."""
    missing = sorted(set(GUARDS) - set(found.guards))
    if not missing:
        return None
    return f"the log {spec.qualified()} is not guarded: {', '.join(missing)} is missing or disabled"


def sequence_fault(execute: Any, spec: TableSpec) -> str | None:
    """What is wrong with the sequence of a table that exists, if it is behind the last event."""
    sequence = spec.qualified("_id_seq")
    last, greatest = execute(SEQUENCE_SQL.format(sequence=sequence, table=spec.qualified()), None).fetchone()
    if greatest is None or greatest <= last:
        return None
    return (
        f"the sequence {sequence} stands at {last}, behind the last event {greatest} "
        "(a RESTART, or a restore without its sequence); "
        f"set it: SELECT setval('{sequence}', {greatest})"
    )


def troubles(found: Installed, spec: TableSpec) -> list[str]:
    """What a table has that makes the promises void, each with what to do."""
    name, sequence = spec.qualified(), spec.qualified("_id_seq")
    found_troubles: list[str] = []
    if found.is_replicated:
        found_troubles.append(
            f"{name} is a copy: a subscription of logical replication writes to it, past locks and "
            "sequence. Read it "
            "with SQL, save to the original; to move the log here, drop the subscription first and set the "
            "sequence to the greatest id"
        )
    if found.changing_triggers:
        triggers = ", ".join(found.changing_triggers)
        found_troubles.append(
            f"{name} has a row trigger of others before INSERT, {triggers}: it could change or drop events "
            "after "
            f"their locks were taken. DROP TRIGGER {found.changing_triggers[0]} ON {name}, and do its work "
            "in a "
            "plugin or before the save"
        )
    if found.rules:
        found_troubles.append(
            f"{name} has the rule {', '.join(found.rules)}, which rewrites what is written to it or read "
            "from it. "
            f"DROP RULE {found.rules[0]} ON {name}"
        )
    if found.hides_rows:
        found_troubles.append(
            f"row level security hides events of {name} from this role: a check that does not see all "
            "events checks "
            "nothing. Give tenants a schema or table each, or let a role with BYPASSRLS save"
        )
    if found.has_children:
        found_troubles.append(
            f"other tables inherit from {name}: their rows are read as events, but were never saved as such. "
            "ALTER TABLE ... NO INHERIT them"
        )
    if found.persistence != "p":
        found_troubles.append(
            f"{name} is UNLOGGED or temporary: a crash empties it. ALTER TABLE {name} SET LOGGED"
        )
    if not found.sequence_is_sound:
        found_troubles.append(
            f"the sequence {sequence} must be MINVALUE 1, INCREMENT 1, CACHE 1 and NO CYCLE, "
            "else ids come twice or out of order; ALTER SEQUENCE it back"
        )
    return found_troubles
