"""Removing a log: the SQL that drops everything that `create_tables()` and `pgevents import` make."""

from __future__ import annotations

from pgevents.store.functions import function_names
from pgevents.store.installation import DEFAULT_SCHEMA
from pgevents.store.layout import TableSpec
from pgevents.store.processing import TABLES
from pgevents.store.tables import EventsModel, ProjectionsModel

__all__ = ["remove_sql", "table_names"]

BESIDE = (
    "_maintenance",
    "_lists",
    "_imports",
    "_commands",
    *[f"_{name}" for name in TABLES],
    "_checkpoints_old",
)
"""What follows the events table's name in the names of the tables beside it, also of earlier versions."""
SCHEMA_SQL = """\
DO $pgevents$
BEGIN
    DROP SCHEMA IF EXISTS "{schema}" RESTRICT;
EXCEPTION WHEN dependent_objects_still_exist THEN NULL;  -- others have something in it
END
$pgevents$;
"""


def remove_sql(events: type[EventsModel], projections: type[ProjectionsModel]) -> str:
    """The SQL that drops the tables, functions, indexes and triggers of a log, and its schemas if they are
    empty then. Tables of plugins stay. Tables that name no schema are dropped in `public`."""
    spec, views = (model.pgevents_spec.in_schema(DEFAULT_SCHEMA) for model in (events, projections))
    tables = [views.qualified(), *[spec.qualified(name) for name in BESIDE], spec.qualified()]
    schemas = {model.pgevents_spec.schema for model in (events, projections)} - {None, DEFAULT_SCHEMA}
    parts = [
        "-- This drops all events and all that was made of them.",
        "BEGIN;",
        *[f"DROP TABLE IF EXISTS {table};" for table in tables],
        f"DROP FUNCTION IF EXISTS\n    {_functions(spec)};",
        *[SCHEMA_SQL.format(schema=schema).rstrip() for schema in sorted(map(str, schemas))],
        "COMMIT;",
    ]
    return "\n".join(parts) + "\n"


def table_names(
    events: type[EventsModel], projections: type[ProjectionsModel]
) -> set[tuple[str | None, str]]:
    """Schema and name of each table that belongs to a log; the schema is None if the models name none."""
    spec, views = events.pgevents_spec, projections.pgevents_spec
    names = {(spec.schema, f"{spec.name}{suffix}") for suffix in ("", *BESIDE)}
    return {*names, (views.schema, views.name)}


def _functions(spec: TableSpec) -> str:
    return ",\n    ".join(spec.qualified(name) for name in function_names())
