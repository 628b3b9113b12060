"""Making schema, tables, functions and guards, and bringing those of earlier versions up to date."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import attrs
import peewee

from pgevents.errors import ConfigurationError, RetryableError
from pgevents.fields import json_sql
from pgevents.store.blockers import described, table_blockers
from pgevents.store.checks import Installed, find_installed
from pgevents.store.ddl import column_ddl
from pgevents.store.functions import functions_mark, functions_sql, setting_of
from pgevents.store.layout import Index, TableSpec
from pgevents.store.ownership import (
    found_indexes,
    index_is_former,
    log_of_snapshots,
    refuse_foreign,
    refuse_foreign_index,
    refuse_leftovers,
    refuse_stale_functions,
    snapshots_mark,
)
from pgevents.store.processing import (
    add_lease_holder,
    bring_along,
    has_old_checkpoints,
    lacks_lease_holder,
    table_statements,
)
from pgevents.store.session import Session
from pgevents.store.tables import EventsModel, ProjectionsModel
from pgevents.store.triggers import GUARDS, lists_guard_sql, log_guards, view_guards

__all__ = ["install", "install_sql"]

# One installer at a time, whatever it installs: CREATE ... IF NOT EXISTS alone fails when two run at once.
TURN_SQL = "SELECT pg_try_advisory_xact_lock(hashtextextended('pgevents.create_tables', 0))"
TURN_HOLDER_SQL = """\
SELECT l.pid FROM pg_locks AS l, hashtextextended('pgevents.create_tables', 0) AS turn(key)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND l.classid::bigint = turn.key >> 32 & 4294967295 AND l.objid::bigint = turn.key & 4294967295
"""
MISSING_SQL = "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NULL"
COLUMNS_SQL = """\
SELECT attname::text FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""
KEY_SQL = """\
SELECT c.conname::text FROM pg_constraint AS c
WHERE c.conrelid = to_regclass(%s) AND c.contype = 'p' AND cardinality(c.conkey) = 2
"""
STATISTICS_SQL = """\
SELECT stxname::text FROM pg_statistic_ext WHERE stxrelid = to_regclass(%s) AND stxname = ANY (%s)
"""
TRIGGERS_SQL = "SELECT tgname::text FROM pg_trigger WHERE tgrelid = to_regclass(%s)"
NO_WRITERS, NO_USERS = "SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"
TURN_WAIT = 60.0
"""Seconds to wait for another installer, who may be building a large index. Nobody waits for this one yet."""
LOCK_WAIT = 10.0
"""Seconds to wait for transactions that have written to a table, or have used one that gets new columns."""
LOCK_TURN = "100ms"
"""How long at a time: behind a lock that is waited for, all who save queue up."""
DEFAULT_SCHEMA = "public"


def install(session: Session, events: type[EventsModel], projections: type[ProjectionsModel]) -> None:
    """Create or update everything that a client needs, in one transaction.

    Raises:
        ConfigurationError: A table of that name is not pgevents' own, an index is broken, or there is no
            schema to make them in. Nothing was changed.
        RetryableError: Another installer, or a transaction that has written to the tables, did not end in
            time. Nothing was changed.
    """
    with session.atomic():
        _take_turn(session)
        found = find_installed(session.execute, events.pgevents_spec)
        spec = _resolved(events.pgevents_spec, found)
        views = _resolved(projections.pgevents_spec, found)
        for table in (spec, views):
            refuse_foreign(session.execute, table, table.tables())
        log_of_snapshots(session.execute, spec, views)
        if spec is not events.pgevents_spec:  # looked up by the search path before
            found = find_installed(session.execute, spec)
        is_new = found.schema is None  # functions may be left of a table that was dropped
        if is_new:
            session.refuse_moved(f"{spec.qualified()} is not here")
            refuse_stale_functions(session.execute, spec)
        elif has_old_checkpoints(session, spec):
            _lock(session, spec.qualified("_checkpoints"), NO_USERS)
            bring_along(session, spec)
        elif lacks_lease_holder(session, spec):
            _lock(session, spec.qualified("_checkpoints"), NO_USERS)
            add_lease_holder(session, spec)
        refuse_foreign(session.execute, spec, table_statements(spec))
        if is_new:
            refuse_leftovers(session.execute, spec, views)
        _make(session, spec, {**spec.tables(), **table_statements(spec)})
        _make(session, views, views.tables())
        _Table(session, spec, events).update(_functions_and_guards(spec, found, is_new))
        has_old_key = session.execute(KEY_SQL, [views.qualified()]).fetchone()
        _Table(session, views, projections).update(
            [
                *_mark(session, spec, views),
                *_key_of_versions(views, has_old_key),
                *_missing_view_guards(session, spec, views),
            ],
            alone=has_old_key is not None,
        )
        if is_new:  # what this transaction remembers was of a table that it has dropped
            session.execute("SELECT set_config(%s, '', true)", [setting_of(spec)])


def install_sql(events: type[EventsModel], projections: type[ProjectionsModel]) -> str:
    """The same as SQL text; additional indexes made with Peewee are not part of it.

    Tables that name no schema are made in `public`, as there is no connection to ask for its own.
    """
    spec, views = (model.pgevents_spec.in_schema(DEFAULT_SCHEMA) for model in (events, projections))
    parts = [
        *spec.statements(),
        *table_statements(spec).values(),
        *views.statements(),
        functions_sql(spec),
        *([lists_guard_sql(spec)] if spec.lists else []),
        *log_guards(spec).values(),
        _mark_sql(spec, views),
        *view_guards(views, spec).values(),
    ]
    return "BEGIN;\n" + "\n".join(parts) + "COMMIT;\n"


def _take_turn(session: Session) -> None:
    """Wait until no other transaction installs anything."""
    deadline = time.monotonic() + TURN_WAIT
    while not session.execute(TURN_SQL).fetchone()[0]:
        if time.monotonic() > deadline:
            pids = ", ".join(str(pid) for (pid,) in session.execute(TURN_HOLDER_SQL).fetchall())
            raise RetryableError(
                f"another create_tables() has been running for {TURN_WAIT:.0f} s (backend {pids}); "
                "nothing was changed, and trying again is safe"
            )
        time.sleep(random.uniform(0.02, 0.1))


def _resolved(spec: TableSpec, found: Installed) -> TableSpec:
    """The table with its schema: without one, that in which the connection makes new tables."""
    if spec.schema is None and found.current_schema is None:
        raise ConfigurationError(
            "the connection's search_path names no schema that exists, so there is no place for "
            f"{spec.qualified()}; name one: schema='my_app'"
        )
    return spec.in_schema(found.current_schema or DEFAULT_SCHEMA)


def _make(session: Session, spec: TableSpec, statements: Mapping[str, str]) -> None:
    """Make the schema, and what does not exist yet.

    Asked first: `IF NOT EXISTS` alone would take locks that stall writers, and need privileges to do nothing.
    """
    if not _exists(session, "to_regnamespace", f'"{spec.schema}"'):
        session.execute("".join(spec.schema_statements()))
    missing = {name for (name,) in session.execute(MISSING_SQL, [list(statements)]).fetchall()}
    if missing:
        session.execute("".join(statement for name, statement in statements.items() if name in missing))


def _exists(session: Session, to_reg: str, name: str) -> bool:
    (found,) = session.execute(f"SELECT {to_reg}(%s) IS NOT NULL", [name]).fetchone()
    return bool(found)


def _functions_and_guards(spec: TableSpec, found: Installed, is_new: bool) -> list[str]:
    """The SQL that brings functions and triggers up to date; empty if they are."""
    statements: list[str] = []
    if is_new or found.mark != functions_mark(spec) or found.lists != spec.lists:
        statements.append(functions_sql(spec))
        statements += _list_statements(spec, () if is_new else found.lists)
    if is_new or set(found.guards) != set(GUARDS):
        statements += log_guards(spec).values()
    return statements


def _list_statements(spec: TableSpec, installed: Sequence[str]) -> list[str]:
    """The SQL that stores the values of lists that are indexed now, and deletes those that no longer are."""
    lists, events = spec.qualified("_lists"), spec.qualified()
    gone = [field for field in installed if field not in spec.lists]
    new = [field for field in spec.lists if field not in installed]
    filled = [f"DELETE FROM {lists} WHERE field = '{field}';\n" for field in (*gone, *new)]
    for field in new:
        values = f"{spec.qualified('_values')}({json_sql(field, 'e.')})"
        filled.append(
            f"INSERT INTO {lists} (field, value, id)\nSELECT '{field}', v, e.id "
            f"FROM {events} AS e, {values} AS v WHERE {json_sql(field, 'e.')} IS NOT NULL;\n"
        )
    if not filled:
        return []
    return [
        "SELECT set_config('pgevents.maintenance', 'create_tables', true);\n",
        *filled,
        "SELECT set_config('pgevents.maintenance', '', true);\n",
        *([lists_guard_sql(spec)] if spec.lists else []),
    ]


def _mark_sql(spec: TableSpec, views: TableSpec) -> str:
    """The SQL that records in a projections table which log its snapshots are of."""
    return f"COMMENT ON COLUMN {views.qualified()}.latest_event_id IS '{snapshots_mark(spec, views)}';\n"


def _mark(session: Session, spec: TableSpec, views: TableSpec) -> list[str]:
    """The same, if it is not noted yet."""
    return [] if log_of_snapshots(session.execute, spec, views) is not None else [_mark_sql(spec, views)]


def _missing_view_guards(session: Session, spec: TableSpec, views: TableSpec) -> list[str]:
    found = {name for (name,) in session.execute(TRIGGERS_SQL, [views.qualified()]).fetchall()}
    return [ddl for name, ddl in view_guards(views, spec).items() if name not in found]


def _key_of_versions(views: TableSpec, old_key: Sequence[str] | None) -> list[str]:
    """The SQL that makes room for several versions of a projection, in a table that has one row for each."""
    if old_key is None:
        return []
    return [
        f'ALTER TABLE {views.qualified()} DROP CONSTRAINT "{old_key[0]}", '
        f'ADD CONSTRAINT "{old_key[0]}" PRIMARY KEY (type, id, version);\n'
    ]


def _lock(session: Session, table: str, mode: str) -> None:
    """Lock a table, in short turns, for all who save queue behind one who waits."""
    deadline = time.monotonic() + LOCK_WAIT
    (before,) = session.execute("SELECT current_setting('lock_timeout')").fetchone()
    session.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TURN])
    while not _try_lock(session, table, mode):
        if time.monotonic() > deadline:
            readers = mode == NO_USERS
            use = "used" if readers else "written to"
            blockers = described(table_blockers(session.execute, table, readers=readers))
            raise RetryableError(
                f"create_tables() waited {LOCK_WAIT:.0f} s for transactions that have {use} {table}: "
                f"{blockers}; nothing was changed, and trying again is safe"
            )
        time.sleep(random.uniform(0.2, 0.4))
    session.execute("SELECT set_config('lock_timeout', %s, true)", [before])


def _try_lock(session: Session, table: str, mode: str) -> bool:
    try:
        with session.atomic():
            session.execute(f"LOCK TABLE {table} IN {mode} MODE")
    except RetryableError:
        return False
    return True


@attrs.frozen
class _Table:
    """A table that is brought up to date."""

    session: Session
    spec: TableSpec
    model: type[EventsModel] | type[ProjectionsModel]

    def update(self, statements: Sequence[str], *, alone: bool = False) -> None:
        """Add the columns and make the indexes that are missing, and run these statements; without anything
        to do, no lock is taken. `alone`: the statements need the table for themselves.

        The lock waits for writers in flight and keeps new ones out. One that called the old function and has
        not inserted yet is turned away by the new guard.
        """
        indexes = [
            *self._missing_indexes(),
            *self._missing_additional_indexes(),
            *self._missing_statistics(),
        ]
        columns = self._missing_columns()
        if not columns and not indexes and not statements:
            return
        own_table = self.spec.qualified()
        _lock(self.session, own_table, NO_USERS if alone or own_table in columns else NO_WRITERS)
        for table, statement in columns.items():
            if table != own_table:  # nobody writes to it now: who does, writes to the own table first
                _lock(self.session, table, NO_USERS)
            self.session.execute(statement)
        for make in indexes:
            make()
        if statements:
            self.session.execute("".join(statements))

    def _missing_columns(self) -> dict[str, str]:
        """The SQL that adds columns that tables of an earlier version lack, by the table's quoted name."""
        added: dict[str, str] = {}
        for table, columns in self.spec.later_columns().items():
            found = {name for (name,) in self.session.execute(COLUMNS_SQL, [table]).fetchall()}
            ddl = self.spec.tables()[table]
            adds = [f"ADD COLUMN {column_ddl(ddl, name)}" for name in columns if name not in found]
            if adds:
                added[table] = f"ALTER TABLE {table} {', '.join(adds)}"
        return added

    def _missing_indexes(self) -> Iterator[Callable[[], object]]:
        found = found_indexes(self.session.execute, self.spec)
        missing = [index for index in self.spec.indexes() if index.name not in found]
        if missing:
            statements = [index.create_sql(self.spec.qualified()) for index in missing]
            yield partial(self.session.execute, "".join(statements))
        for index in self.spec.indexes():
            if index_is_former(found.get(index.name), index):
                yield partial(self._replace_index, index)
            else:
                refuse_foreign_index(found.get(index.name), self.spec, index)

    def _missing_statistics(self) -> Iterator[Callable[[], object]]:
        wanted = self.spec.statistics()
        if wanted:
            rows = self.session.execute(STATISTICS_SQL, [self.spec.qualified(), list(wanted)]).fetchall()
            for name in wanted.keys() - {row[0] for row in rows}:
                yield partial(self.session.execute, wanted[name])

    def _replace_index(self, index: Index) -> None:
        """Make an index of an earlier version anew; readers have to stand aside for the exchange alone."""
        own_table = self.spec.qualified()

        def named(index: Index) -> str:
            return self.spec.beside(f'"{index.name}"')

        new = attrs.evolve(index, name=self.spec.index_name("new", index.name).strip('"'))
        self.session.execute(new.create_sql(own_table))
        _lock(self.session, own_table, NO_USERS)
        self.session.execute(f'DROP INDEX {named(index)};\nALTER INDEX {named(new)} RENAME TO "{index.name}"')

    def _missing_additional_indexes(self) -> Iterator[Callable[[], object]]:
        for index in _additional_indexes(self.model):
            name = getattr(index, "_name", None)
            if name is None or not _exists(self.session, "to_regclass", self.spec.beside(f'"{name}"')):
                yield lambda index=index: cast(Any, self.session.db).execute(index)  # type: ignore[misc]


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
        yield peewee.ModelIndex(
            model,
            [fields[name] for name in names],
            name=model.pgevents_spec.index_name(*names).strip('"'),
            safe=True,
        )
