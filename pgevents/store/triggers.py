"""The triggers that keep the log append-only, and those that watch what is derived from it."""

from __future__ import annotations

from pgevents.store.layout import TableSpec

__all__ = [
    "GUARDS",
    "lists_guard_sql",
    "log_guards",
    "view_guards",
]

GUARDS = {
    "pgevents_insert": "BEFORE INSERT ON {table} FOR EACH STATEMENT",
    "pgevents_change": "BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT",
    "pgevents_updated": "AFTER UPDATE ON {table} REFERENCING OLD TABLE AS changed FOR EACH STATEMENT",
    "pgevents_deleted": "AFTER DELETE ON {table} REFERENCING OLD TABLE AS changed FOR EACH STATEMENT",
    "pgevents_touch": "BEFORE UPDATE ON {table} FOR EACH ROW",
    "pgevents_z_updated": "AFTER UPDATE ON {table} REFERENCING OLD TABLE AS before NEW TABLE AS after "
    "FOR EACH STATEMENT",
    "pgevents_z_deleted": "AFTER DELETE ON {table} REFERENCING OLD TABLE AS before FOR EACH STATEMENT",
    "pgevents_z_truncated": "AFTER TRUNCATE ON {table} FOR EACH STATEMENT",
}
"""By name, which orders them: those that mark what a change touches come last."""
VIEW_GUARDS = {
    "pgevents_refold": "AFTER DELETE ON {table} REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT",
    "pgevents_refold_all": "AFTER TRUNCATE ON {table} FOR EACH STATEMENT",
}
"""Of the projections table."""


def log_guards(spec: TableSpec) -> dict[str, str]:
    """The DDL of the triggers that keep the log append-only, by their names.

    They fire `ALWAYS`: also in a session whose `session_replication_role` is `replica`, and in the first
    copy of a subscription of logical replication, which would fill the table past its sequence.
    """
    if spec.kind == "projections":
        return {}
    table = spec.qualified()
    return {
        name: f"CREATE OR REPLACE TRIGGER {name} {when.format(table=table)} "
        f"EXECUTE FUNCTION {spec.qualified(_guard_function(name))}();\n"
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name};\n"
        for name, when in GUARDS.items()
    }


def lists_guard_sql(spec: TableSpec) -> str:
    """The DDL of the trigger that keeps the values of lists as they are."""
    table, guard = spec.qualified("_lists"), spec.qualified("_lists_guard")
    return (
        "CREATE OR REPLACE TRIGGER pgevents_lists BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE "
        f"ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {guard}();\n"
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER pgevents_lists;\n"
    )


def _guard_function(name: str) -> str:
    if name == "pgevents_insert":
        return "_insert_guard"
    return "_mark" if name.startswith("pgevents_z_") else "_guard"


def view_guards(views: TableSpec, events: TableSpec) -> dict[str, str]:
    """The DDL of the triggers of a projections table, by their names."""
    return {
        name: f"CREATE OR REPLACE TRIGGER {name} {when.format(table=views.qualified())} "
        f"EXECUTE FUNCTION {events.qualified('_refold')}();\n"
        for name, when in VIEW_GUARDS.items()
    }
