"""Runs statements with the names of the encryption plugin's tables."""

from __future__ import annotations

from typing import Any

from pgevents import EventClient

__all__ = ["execute"]

# Tables of projections are noted by full name: a short name may mean another table to another client.
FULL_NAME_SQL = """\
(SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = {table}::regclass)"""


def execute(client: EventClient, sql: str, params: Any = None, **names: str) -> Any:
    """Run a statement with the names of the client's tables put in; returns the cursor.

    Args:
        client: The client whose tables are meant.
        sql: A statement; `{events}`, `{projections}`, `{keys}`, `{uses}`, `{fields}` and `{this_table}` (the
            full name of the projections table, as a value) are replaced.
        params: Its parameters.
        **names: Further names, quoted.
    """
    spec, projections = client.events.pgevents_spec, client.projections.pgevents_spec.qualified()
    tables = {
        "events": spec.qualified(),
        "keys": spec.qualified("_keys"),
        "uses": spec.qualified("_key_uses"),
        "uses_index": spec.index_name("key", "uses", "subject"),
        "fields": spec.qualified("_personal"),
        "check": spec.qualified("_personal_check"),
        "projections": projections,
        "this_table": FULL_NAME_SQL.format(table=literal(projections)),
    }
    return client.session.execute(sql.format(**{**tables, **names}), [] if params is None else params)


def literal(name: str) -> str:
    """A name as a text in SQL; names are checked identifiers, so only quotes matter."""
    return "'" + name.replace("'", "''") + "'"
