"""The columns of the tables, and of those beside them."""

from __future__ import annotations

import re

__all__ = [
    "COMMANDS_SQL",
    "EVENTS_SQL",
    "IMPORTS_SQL",
    "LATER_COLUMNS",
    "LISTS_SQL",
    "MAINTENANCE_SQL",
    "PROJECTIONS_SQL",
    "column_ddl",
    "columns_of",
]

EVENTS_SQL = """\
CREATE TABLE IF NOT EXISTS {table} (
    id bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME {sequence}) PRIMARY KEY,
    type text NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{{}}',
    idempotency_key text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
MAINTENANCE_SQL = """\
CREATE TABLE IF NOT EXISTS {maintenance} (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    role text NOT NULL,
    operation text NOT NULL,
    reason text NOT NULL,
    statement text NOT NULL,
    events bigint,
    ids bigint[]
);
"""
IMPORTS_SQL = """\
CREATE TABLE IF NOT EXISTS {imports} (
    source text,
    page bigint,
    lines bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, page)
);
"""
COMMANDS_SQL = """\
CREATE TABLE IF NOT EXISTS {commands} (
    key text COLLATE "C" PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
LISTS_SQL = """\
CREATE TABLE IF NOT EXISTS {lists} (
    field text COLLATE "C",
    value text COLLATE "C",
    id bigint,
    PRIMARY KEY (value, field, id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
"""
PROJECTIONS_SQL = """\
CREATE TABLE IF NOT EXISTS {table} (
    type text NOT NULL,
    id text NOT NULL,
    data jsonb NOT NULL,
    latest_event_id bigint NOT NULL,
    version int NOT NULL DEFAULT 1,
    shape text,
    exact text CHECK (exact::jsonb = data),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (type, id, version)
);
"""
LATER_COLUMNS = {"maintenance": ("events", "ids"), "projections": ("shape", "exact")}
"""Columns that tables of earlier versions lack: all may be null."""
FULL_TYPE_NAMES = {"timestamptz": "timestamp with time zone", "int": "integer"}


def columns_of(ddl: str) -> dict[str, tuple[str, bool, bool]]:
    """The columns that a `CREATE TABLE` of this module makes.

    Returns:
        By name, the type as `format_type` names it, whether it is NOT NULL, and whether it is GENERATED
        ALWAYS.
    """
    keys = re.findall(r"^    PRIMARY KEY \((.*)\)", ddl, re.M)
    keyed = [name for names in keys for name in str(names).split(", ")]
    return {
        name: (
            str(FULL_TYPE_NAMES.get(kind, kind)),
            "NOT NULL" in rest or "PRIMARY KEY" in rest or name in keyed,
            "GENERATED ALWAYS AS IDENTITY" in rest,
        )
        for name, kind, rest in re.findall(r"^    ([a-z_]+) ([a-z]+(?:\[\])?)(.*)$", ddl, re.M)
    }


def column_ddl(ddl: str, name: str) -> str:
    """One column of a `CREATE TABLE` of this module, with its constraints, for an `ADD COLUMN`."""
    return next(found[1] for found in re.finditer(r"^    ((\w+) .*?),?$", ddl, re.M) if found[2] == name)
