"""Making schema, tables, functions and guards, and the audited way round the guards."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import peewee

from pgevents.errors import ConfigurationError
from pgevents.events import is_text
from pgevents.store.ordering import functions_sql, generation_of, setting_sql
from pgevents.store.processing import bring_along, table_statements
from pgevents.store.session import Session
from pgevents.store.tables import EventsModel, ProjectionsModel

__all__ = ["install", "install_sql", "maintenance"]

# One installer at a time, whatever it installs: CREATE ... IF NOT EXISTS alone fails when two run at once.
TURN_SQL = "SELECT pg_advisory_xact_lock(hashtextextended('pgevents.create_tables', 0))"
SWITCH_SQL = "SELECT set_config('pgevents.maintenance', %s, true)"
COMMENT_SQL = "SELECT obj_description(to_regproc(%s), 'pg_proc')"


def install(session: Session, events: type[EventsModel], projections: type[ProjectionsModel]) -> None:
    """Create or update everything that a client needs, in one transaction."""
    spec = events.pgevents_spec
    with session.atomic():
        session.execute(TURN_SQL)
        is_new = not _stands(session, spec.qualified())  # functions may be left of a table that was dropped
        bring_along(session, spec)
        wanted = [
            spec.create_statements(),
            table_statements(spec),
            projections.pgevents_spec.create_statements(),
        ]
        for statements in wanted:
            for statement in _missing(session, statements):
                session.execute(statement)
        for model in (events, projections):
            for index in _additional_indexes(model):
                name = getattr(index, "_name", None)
                if name is None or not _stands(session, model.pgevents_spec.beside(f'"{name}"')):
                    cast(Any, session.db).execute(index)
        comment = session.execute(COMMENT_SQL, [spec.qualified("_append")]).fetchone()[0]
        if is_new or comment != f"pgevents {generation_of(spec)}":
            # Waits for writers in flight and keeps new ones out. One that called the old function and has not
            # inserted yet is turned away by the new guard.
            session.execute(f"LOCK TABLE {spec.qualified()} IN SHARE ROW EXCLUSIVE MODE")
            session.execute(functions_sql(spec))
        if is_new:  # what this transaction remembers was of a table that it has dropped
            session.execute(f"SELECT set_config({setting_sql(spec)}, '', true)")


def install_sql(events: type[EventsModel], projections: type[ProjectionsModel]) -> str:
    """The same as SQL text; additional indexes made with Peewee are not part of it."""
    spec = events.pgevents_spec
    parts = [
        *spec.create_statements().values(),
        *table_statements(spec).values(),
        *projections.pgevents_spec.create_statements().values(),
        functions_sql(spec),
    ]
    return "BEGIN;\n" + "\n".join(parts) + "COMMIT;\n"


def _missing(session: Session, statements: Mapping[str, str]) -> Iterator[str]:
    """The statements that are still needed: `IF NOT EXISTS` alone would take locks that stall writers."""
    for name, statement in statements.items():
        if not _stands(session, name):
            yield statement


def _stands(session: Session, name: str) -> bool:
    kind = "to_regnamespace" if name.startswith("schema ") else "to_regclass"
    (found,) = session.execute(f"SELECT {kind}(%s) IS NOT NULL", [name.removeprefix("schema ")]).fetchone()
    return bool(found)


def _additional_indexes(model: type[EventsModel] | type[ProjectionsModel]) -> Iterator[Any]:
    wanted = model.pgevents_spec.additional_indexes
    for index in wanted(model) if callable(wanted) else wanted:
        if isinstance(index, peewee.Node):
            yield index
            continue
        names = (index,) if isinstance(index, str) else tuple(index)
        fields = {field.column_name: field for field in model._meta.sorted_fields}
        unknown = [name for name in names if name not in fields]
        if unknown:
            raise ConfigurationError(
                f"additional_indexes names no column {unknown[0]!r}; there are {list(fields)}. "
                "For a field of the data use data_indexes; for an expression give a Peewee index"
            )
        made = peewee.ModelIndex(
            model,
            [fields[name] for name in names],
            name=model.pgevents_spec.index_name(*names).strip('"'),
            safe=True,
        )
        yield made


def maintenance(session: Session, reason: Any) -> AbstractContextManager[None]:
    """A transaction with the guard's switch on; see `EventClient.maintenance`."""
    is_reason = isinstance(reason, str) and reason.strip() and "\0" not in reason and is_text(reason)
    if not is_reason:
        raise ConfigurationError(
            f"maintenance needs a reason in words, which stays in the audit trail, not {reason!r}"
        )
    return _maintenance(session, reason)


@contextmanager
def _maintenance(session: Session, reason: str) -> Generator[None, None, None]:
    with session.atomic():
        (outer,) = session.execute("SELECT current_setting('pgevents.maintenance', true)").fetchone()
        session.execute(SWITCH_SQL, [reason])
        yield
        session.execute(SWITCH_SQL, [outer or ""])  # a block around this one goes on
