"""SQL views with typed columns, one for each event type, for programs that read SQL."""

from __future__ import annotations

import hashlib
import types
import typing
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, DatabaseError
from pgevents.event_types import EventType
from pgevents.exchange.schemas import resolved, stored_fields
from pgevents.store.grants import quoted_role
from pgevents.store.session import Session

__all__ = ["EventView", "create_views"]

MARK = "pgevents view of "
"""What the comment of each view begins with; others are not touched."""
MAX_NAME = 63
ENVELOPE = {
    "event_id": "id",
    "event_created_at": "created_at",
    "event_updated_at": "updated_at",
    "event_version": "coalesce(metadata->>'$version', '1')::int",
    "event_metadata": "metadata - '$version'",
}

# One event of another form (an older version, a dict of another program) must not make the whole view an
# error, and SQL has no cast that gives NULL: so each cast stands behind conditions under which it holds.
NUMBER = "CASE jsonb_typeof(data->{field}) WHEN 'number' THEN (data->>{field})::numeric END"
FLOAT = f"CASE WHEN abs({NUMBER}) < 1e308 THEN (data->>{{field}})::double precision END"
BOOLEAN = "CASE jsonb_typeof(data->{field}) WHEN 'boolean' THEN (data->>{field})::boolean END"
DAY = "(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?"
OFFSET = "(Z|[+-](0[0-9]|1[0-5]):[0-5][0-9](:[0-5][0-9])?)"
DATED = (
    "CASE WHEN data->>{{field}} ~ '^{pattern}$' THEN CASE WHEN substr(data->>{{field}}, 9, 2)::int <= "
    "extract(day FROM (substr(data->>{{field}}, 1, 7) || '-01')::date + interval '1 month - 1 day') "
    "THEN (data->>{{field}})::{kind} END END"
)
MATCHING = "CASE WHEN data->>{{field}} ~ '^{pattern}$' THEN (data->>{{field}})::{kind} END"
COLUMNS: dict[Any, str] = {
    str: "data->>{field}",
    bool: BOOLEAN,
    int: NUMBER,
    float: FLOAT,
    timedelta: FLOAT,
    Decimal: MATCHING.format(
        pattern="[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{1,3})?", kind="numeric"
    ),
    UUID: MATCHING.format(pattern="[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", kind="uuid"),
    date: DATED.format(pattern=DAY, kind="date"),
    datetime: DATED.format(pattern=f"{DAY}T{CLOCK}{OFFSET}", kind="timestamptz"),
}
"""The SQL of a column by its field's type; what is not here stays jsonb."""
NESTED = "data->{field}"


@attrs.frozen
class EventView:
    """A view of the events of one type.

    Attributes:
        name: Its quoted name, with the schema.
        event_type: The type.
        columns: The names of its columns.
        comment: What its comment says, which names the log, and whether older events are shown as stored.
    """

    name: str
    event_type: str
    columns: tuple[str, ...]
    comment: str


def create_views(
    client: EventClient, *, schema: str | None = None, grant_reader: str | None = None
) -> list[EventView]:
    """Make an SQL view for each event class that the client knows, or bring them up to date.

    A view is named like its type in small letters. It has the columns `event_id`, `event_created_at`,
    `event_updated_at`, `event_version` (of the data's shape), `event_metadata`, and one for each field: text,
    numeric (int and Decimal), double precision (float, and seconds of a timedelta), boolean, timestamptz,
    date, uuid, or jsonb for what is nested. A field with the name of one of the others gets `data_` before
    its own.

    Upcasters run in Python only: of an older version a view shows what is stored, and NULL where that has
    another form. Fields that a plugin stores in another form (encrypted ones) are left out. Views of types
    that the client does not know any more are dropped. All is done in one transaction.

    Args:
        client: The client, as the role that owns the events table.
        schema: The schema that they stand in; by default `<schema of the events table>_views`.
        grant_reader: A role that may read them. It needs no right on the events table.

    Returns:
        The views, by type.

    Raises:
        ConfigurationError: The client knows no class; two types of the same name in small letters; a name
            that is too long for PostgreSQL; a relation of that name that is not such a view; another view
            depends on one that must change; or there is no such role. Nothing was changed.

    Example:
        ```python
        from pgevents.exchange import create_views

        create_views(client, grant_reader="metabase")
        client.db.execute_sql("SELECT cart_id, sum(quantity) FROM my_app_views.item_added GROUP BY 1")
        ```
    """
    client.check_installed()
    execute = client.session.execute
    table = _table_of(client)
    target = f"{table[0]}_views" if schema is None else schema
    with client.session.atomic():
        views = [_SqlView(client, kind, target) for kind in client.types.all()]
        _refuse_same_names(views)
        execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(target)}")
        former = _former_views(client.session, target, ".".join(table))
        for view in views:
            view.make(client.session, former.pop(view.relation, None))
        for relation in former:
            _drop(client.session, f"{_quoted(target)}.{_quoted(relation)}")
        if grant_reader is not None:
            _grant(client.session, target, views, grant_reader)
    return [view.described() for view in views]


class _SqlView:
    def __init__(self, client: EventClient, kind: EventType, schema: str) -> None:
        self.kind = kind
        self.relation = kind.name.lower()
        self.name = f"{_quoted(schema)}.{_quoted(self.relation)}"
        self.columns = dict(ENVELOPE)
        self._table = client.events.pgevents_spec.qualified()
        self._params: list[Any] = []
        fields = stored_fields(client.serializer.converter, kind.cls)
        hidden = client.identifiers.hidden.get(kind.name, frozenset())
        for field, described in ({} if fields is None else fields).items():
            if field not in hidden:
                sql = column_sql(described.annotation)
                self._params += [field] * sql.count("{field}")
                self.columns[f"data_{field}" if field in self.columns else field] = sql.replace(
                    "{field}", "%s"
                )
        if fields is None:
            self.columns["data"] = "data"

    def described(self) -> EventView:
        return EventView(self.name.replace("%%", "%"), self.kind.name, tuple(self.columns), self.comment)

    @property
    def comment(self) -> str:
        older = ", as it is stored where the version is older" if self.kind.version > 1 else ""
        digest = hashlib.sha256(repr((self._sql, self._params, self.kind.names)).encode()).hexdigest()[:16]
        table = self._table.replace('"', "")
        return f"{MARK}{table}: {self.kind.name}, version {self.kind.version}{older} ({digest})"

    @property
    def _sql(self) -> str:
        columns = ",\n    ".join(f"{sql} AS {_quoted(name)}" for name, sql in self.columns.items())
        return f"SELECT\n    {columns}\nFROM {self._table} WHERE type = ANY (%s)"

    def make(self, session: Session, former: str | None) -> None:
        """Make the view, unless there is one with the same comment, which holds a digest of its SQL."""
        if former == self.comment:
            return
        if (
            former is None
            and session.execute("SELECT to_regclass(%s)", [self.name.replace("%%", "%")]).fetchone()[0]
            is not None
        ):
            raise ConfigurationError(
                f"{self.name} exists and is not a view of this log: give another schema="
            )
        if former is not None:
            _drop(session, self.name)
        params = [*self._params, list(self.kind.names)]
        session.execute(f"CREATE VIEW {self.name} AS\n{self._sql}", params)
        session.execute(f"COMMENT ON VIEW {self.name} IS %s", [self.comment])


def column_sql(annotation: Any) -> str:
    """The SQL of a column for a field of a type, with `{field}` in place of the field's name."""
    kind = resolved(annotation)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        rest = [argument for argument in arguments if argument not in (None, types.NoneType)]
        return column_sql(rest[0]) if len(rest) == 1 else NESTED
    if origin is typing.Literal:
        return _of_values(arguments)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _of_values([member.value for member in kind])
    return COLUMNS.get(kind, NESTED)


def _of_values(values: typing.Iterable[Any]) -> str:
    kinds: set[type[Any]] = {value.__class__ for value in values}
    return COLUMNS.get(kinds.pop(), NESTED) if len(kinds) == 1 else NESTED


def _table_of(client: EventClient) -> tuple[str, str]:
    sql = (
        "SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass(%s)"
    )
    schema, name = client.session.execute(sql, [client.events.pgevents_spec.qualified()]).fetchone()
    return schema, name


def _quoted(name: str) -> str:
    is_text = isinstance(name, str)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_text or not name or len(name.encode(errors="replace")) > MAX_NAME or "\0" in name:
        raise ConfigurationError(f"{name!r} is not a name for PostgreSQL: names have 1 to {MAX_NAME} bytes")
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'  # every statement goes through the driver


def _refuse_same_names(views: list[_SqlView]) -> None:
    if not views:
        raise ConfigurationError("this client knows no event class, so there are no views to make")
    by_name: dict[str, str] = {}
    for view in views:
        other = by_name.setdefault(view.relation, view.kind.name)
        if other != view.kind.name:
            raise ConfigurationError(
                f"the types {other!r} and {view.kind.name!r} would have one view, {view.relation}"
            )


def _former_views(session: Session, schema: str, table: str) -> dict[str, str]:
    """The views of this log that exist there, and their comments."""
    sql = (
        "SELECT c.relname, d.description FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "JOIN pg_description AS d ON (d.objoid, d.classoid, d.objsubid) = (c.oid, 'pg_class'::regclass, 0) "
        "WHERE n.nspname = %s AND c.relkind = 'v' AND starts_with(d.description, %s)"
    )
    return dict(session.execute(sql, [schema, f"{MARK}{table}: "]).fetchall())


def _drop(session: Session, name: str) -> None:
    try:
        session.execute(f"DROP VIEW {name}")
    except DatabaseError as error:
        if error.sqlstate != "2BP01":
            raise
        raise ConfigurationError(
            f"{name} must be made again, but other objects depend on it: {error}"
        ) from error


def _grant(session: Session, schema: str, views: list[_SqlView], role: str) -> None:
    name = quoted_role(session, role)
    session.execute(f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {name}")
    for view in views:
        session.execute(f"GRANT SELECT ON {view.name} TO {name}")
