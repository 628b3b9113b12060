"""Grants a role the rights to save, or only to read, and no others."""

from __future__ import annotations

from collections.abc import Iterator

from pgevents.errors import ConfigurationError
from pgevents.store.functions import DOORS
from pgevents.store.processing import TABLES
from pgevents.store.session import Session
from pgevents.store.tables import EventsModel, ProjectionsModel

__all__ = ["grant", "quoted_role"]

# Nobody gets INSERT on the events: the append functions insert with their owner's rights. A snapshot with
# personal data locks rows of the keys, which takes the right to update at least one column.
BESIDE_EVENTS = {
    "": ("SELECT", "SELECT"),
    "_id_seq": ("SELECT", "SELECT"),
    "_lists": ("SELECT", "SELECT"),
    "_imports": ("SELECT, INSERT, UPDATE", "SELECT"),
    "_commands": ("SELECT", "SELECT"),
    **{f"_{name}": ("SELECT, INSERT, UPDATE, DELETE", "SELECT") for name in TABLES},
    "_keys": ("SELECT, INSERT, UPDATE (created_at)", "SELECT"),
    "_key_uses": ("SELECT, INSERT, UPDATE (version, latest_event_id)", ""),
    "_personal": ("SELECT", ""),
}
"""The rights of a writer and of a reader, by what a table's name adds to that of the events table."""
PROJECTIONS = ("SELECT, INSERT, UPDATE", "SELECT")
FIND_SQL = """\
SELECT quote_ident(n.nspname), quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind = 'S'
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass(%s)
"""
ROLE_SQL = "SELECT pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles WHERE rolname = %s"
FUNCTIONS_SQL = """\
SELECT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = (SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = %s::pg_catalog.regclass)
    AND p.proname = ANY (%s) ORDER BY 1
"""


def grant(
    session: Session,
    events: type[EventsModel],
    projections: type[ProjectionsModel],
    role: str,
    *,
    may_write: bool,
) -> None:
    """Grant a role the rights of a writer or of a reader.

    Args:
        session: The database, as the owner of the tables.
        events: The events table; it exists.
        projections: The projections table; it exists.
        role: An existing role; a group to which the programs' roles belong will do.
        may_write: Whether the role saves events, snapshots and checkpoints.

    Raises:
        ConfigurationError: There is no such role.
    """
    name = quoted_role(session, role)
    for statement in _statements(session, events, projections, may_write):
        session.execute(f"GRANT {statement} TO {name}")


def quoted_role(session: Session, role: str) -> str:
    """The name of a role as SQL has it.

    Raises:
        ConfigurationError: There is no such role.
    """
    row = session.execute(ROLE_SQL, [role]).fetchone()
    if row is None:
        raise ConfigurationError(f"there is no role {role!r} to grant rights to: CREATE ROLE it first")
    return str(row[0])


def _statements(
    session: Session, events: type[EventsModel], projections: type[ProjectionsModel], may_write: bool
) -> Iterator[str]:
    spec, which = events.pgevents_spec, 0 if may_write else 1
    wanted = {spec.qualified(suffix): rights[which] for suffix, rights in BESIDE_EVENTS.items()}
    wanted[projections.pgevents_spec.qualified()] = PROJECTIONS[which]
    for name, rights in wanted.items():
        row = session.execute(FIND_SQL, [name]).fetchone() if rights else None
        if row is not None:  # tables of plugins may be missing
            schema, table, is_sequence = row
            yield f"USAGE ON SCHEMA {schema}"
            yield f"{rights} ON {'SEQUENCE' if is_sequence else 'TABLE'} {table}"
    doors = DOORS["reader"] + (DOORS["writer"] if may_write else ())
    names = [spec.name + door for door in doors]
    for (function,) in session.execute(FUNCTIONS_SQL, [spec.qualified(), names]).fetchall():
        yield f"EXECUTE ON FUNCTION {function}"
