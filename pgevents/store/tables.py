"""Model factories: the columns, indexes and names of an events table and a projections table."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NoReturn, cast

import attrs
import peewee

from pgevents.errors import AppendOnlyError, ConfigurationError
from pgevents.fields import described_sql, many, split_many, text_sql
from pgevents.streams import check_field_name

__all__ = [
    "EventsModel",
    "Index",
    "LATER_COLUMNS",
    "ProjectionsModel",
    "TableSpec",
    "column_ddl",
    "lists_guard_sql",
    "columns_of",
    "create_events_table",
    "create_projections_table",
    "view_guards",
]

AdditionalIndexes = Sequence[Any] | Callable[[type[peewee.Model]], Sequence[Any]]

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
FULL_TYPE_NAMES = {"timestamptz": "timestamp with time zone", "int": "integer"}


@attrs.frozen
class Index:
    """An index of a table, as it is created and as PostgreSQL describes it.

    Attributes:
        name: Its name, without quotes.
        columns: Columns, and `{field}` in the place of the field's text.
        field: The field of the data that it is about, if any.
        only: The condition of a partial index; "" for an ordinary one.
        is_unique: Whether it is unique.
    """

    name: str
    columns: tuple[str, ...]
    field: str | None = None
    only: str = ""
    is_unique: bool = False

    def create_sql(self, table: str) -> str:
        """The statement that creates it on a table."""
        create = "CREATE UNIQUE INDEX" if self.is_unique else "CREATE INDEX"
        where = f" WHERE {self._filled(self.only)}" if self.only else ""
        return f'{create} IF NOT EXISTS "{self.name}" ON {table} ({self.what}){where};\n'

    @property
    def what(self) -> str:
        """What it indexes, as SQL."""
        return self._filled(", ".join(self.columns))

    def _filled(self, text: str) -> str:
        return text if self.field is None else text.replace("{field}", f"({text_sql(self.field)})")

    @property
    def described(self) -> tuple[list[str], str, bool]:
        """Columns, condition and uniqueness in the words of `pg_get_indexdef` and `pg_get_expr`."""
        text = "" if self.field is None else described_sql(self.field)
        columns = [one.replace("{field}", f"({text})") for one in self.columns]
        return columns, f"({self.only})".replace("{field}", text) if self.only else "", self.is_unique

    @property
    def former(self) -> Index | None:
        """The form that an earlier version gave it, with an entry for every event that lacks the field."""
        return attrs.evolve(self, only="") if self.field is not None and self.only else None


@attrs.frozen
class TableSpec:
    """Where a table stands and what it is indexed by.

    Attributes:
        kind: "events" or "projections".
        name: Its name.
        schema: Its schema; None for the connection's own.
        data_indexes: The fields that are indexed.
        additional_indexes: What else is indexed.
        lists: Those of the fields that hold a list of values.
    """

    kind: str
    name: str
    schema: str | None
    data_indexes: tuple[str, ...]
    additional_indexes: AdditionalIndexes = attrs.field(default=(), eq=False)  # lists do not hash
    lists: tuple[str, ...] = ()

    @property
    def declared(self) -> tuple[str, ...]:
        """The data indexes as they are declared and noted."""
        return tuple([many(field) if field in self.lists else field for field in self.data_indexes])

    def qualified(self, suffix: str = "") -> str:
        """The quoted name of the table, or of what belongs to it by a suffix."""
        return self.beside(f'"{self.name}{suffix}"')

    def beside(self, name: str) -> str:
        """A quoted name, qualified by the table's schema."""
        return name if self.schema is None else f'"{self.schema}".{name}'

    def in_schema(self, schema: str) -> TableSpec:
        """The same table with its schema named: the given one, unless it names one itself."""
        return self if self.schema is not None else attrs.evolve(self, schema=schema)

    def index_name(self, *parts: str) -> str:
        """A quoted index name that no other table of the schema can have: `$` stands in no table's or field's
        name."""
        name = "$".join((self.name, *parts, "idx"))
        if len(name.encode()) > 63:
            digest = hashlib.sha256(name.encode()).hexdigest()[:10]
            name = name.encode()[:52].decode(errors="ignore") + "_" + digest
        return f'"{name}"'

    def tables(self) -> dict[str, str]:
        """The DDL of the table and of those that it needs beside itself, by their quoted names."""
        table = self.qualified()
        if self.kind == "projections":
            return {table: PROJECTIONS_SQL.format(table=table)}
        maintenance, imports, lists = map(self.qualified, ("_maintenance", "_imports", "_lists"))
        return {
            table: EVENTS_SQL.format(table=table, sequence=self.qualified("_id_seq")),
            maintenance: MAINTENANCE_SQL.format(maintenance=maintenance),
            imports: IMPORTS_SQL.format(imports=imports),
            **({lists: LISTS_SQL.format(lists=lists)} if self.lists else {}),
        }

    def later_columns(self) -> dict[str, tuple[str, ...]]:
        """The columns that a table may lack because an earlier version made it, by its quoted name."""
        if self.kind == "projections":
            return {self.qualified(): LATER_COLUMNS["projections"]}
        return {self.qualified("_maintenance"): LATER_COLUMNS["maintenance"]}

    def statements(self) -> list[str]:
        """The DDL of the schema, the tables and their indexes, without the additional ones."""
        return [
            *self.schema_statements(),
            *self.tables().values(),
            *[index.create_sql(self.qualified()) for index in self.indexes()],
        ]

    def schema_statements(self) -> list[str]:
        """The DDL of the schema, if one is named."""
        return [] if self.schema is None else [f'CREATE SCHEMA IF NOT EXISTS "{self.schema}";\n']

    def indexes(self) -> list[Index]:
        """The table's indexes, without the additional ones."""
        if self.kind == "projections":
            return [
                Index(self._index_name("data", field), ("type", "{field}", "id"), field)
                for field in self.data_indexes
            ]
        return [
            Index(self._index_name("type"), ("type", "id")),
            Index(
                self._index_name("idempotency_key"),
                ("idempotency_key",),
                only="idempotency_key IS NOT NULL",
                is_unique=True,
            ),
            *[
                Index(self._index_name("data", field), ("{field}", "id"), field, only="{field} IS NOT NULL")
                for field in self.data_indexes
                if field not in self.lists
            ],
        ]

    def _index_name(self, *parts: str) -> str:
        return self.index_name(*parts).strip('"')

    def guards(self) -> dict[str, str]:
        """The DDL of the triggers that keep the log append-only, by their names.

        They fire `ALWAYS`: also in a session whose `session_replication_role` is `replica`, and in the first
        copy of a subscription of logical replication, which would fill the table past its sequence.
        """
        if self.kind == "projections":
            return {}
        table = self.qualified()
        return {
            name: f"CREATE OR REPLACE TRIGGER {name} {when.format(table=table)} "
            f"EXECUTE FUNCTION {self.qualified(_guard_function(name))}();\n"
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


class _TimestampField(peewee.DateTimeField):
    field_type = "TIMESTAMPTZ"


class _PgEventsModel(peewee.Model):
    pgevents_spec: ClassVar[TableSpec]

    @classmethod
    def create_table(cls, *args: Any, **options: Any) -> NoReturn:
        """Refused: a table alone would lack its functions and guards."""
        raise AppendOnlyError(
            f"{cls.__name__}.create_table() would make the table without its indexes, functions and guards; "
            "use client.create_tables()"
        )


class EventsModel(_PgEventsModel):
    """The Peewee model of an events table: for reading, joins and migrations. Events are saved by the
    client."""

    id = peewee.BigIntegerField(primary_key=True)
    type = peewee.TextField()
    data = peewee.JSONField()
    metadata = peewee.JSONField()
    idempotency_key = peewee.TextField(null=True)
    created_at = _TimestampField()
    updated_at = _TimestampField()


class ProjectionsModel(_PgEventsModel):
    """The Peewee model of a projections table: one row for each snapshot, and for each version of its
    projection."""

    type = peewee.TextField()
    id = peewee.TextField()
    data = peewee.JSONField()
    latest_event_id = peewee.BigIntegerField()
    version = peewee.IntegerField()
    created_at = _TimestampField()
    updated_at = _TimestampField()

    class Meta:
        primary_key = peewee.CompositeKey("type", "id", "version")


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refused(self_or_cls: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnlyError(
            f"events are not written through the model: .{name}() would go round locks and hooks; "
            "use client.save_event(...) (the log is append-only)"
        )

    return refused


for _name in ("save", "delete_instance"):
    setattr(EventsModel, _name, _refusal(_name))
for _name in (
    *(
        "create",
        "insert",
        "insert_many",
        "insert_from",
        "replace",
        "replace_many",
        "get_or_create",
        "bulk_create",
    ),
    *("update", "bulk_update", "set_by_id", "delete", "delete_by_id", "truncate_table"),
):
    setattr(EventsModel, _name, classmethod(cast(Any, _refusal(_name))))


def create_events_table(
    schema: str | None = None,
    name: str = "events",
    data_indexes: Iterable[str] = (),
    additional_indexes: AdditionalIndexes = (),
) -> type[EventsModel]:
    """Declare an events table.

    Args:
        schema: The schema that holds it, made by `client.create_tables()`; None: the connection's own.
        name: The table's name, at most 48 bytes (functions and indexes are named after it).
        data_indexes: Fields of the events' data to index, the most selective first. They are also what
            validated saves lock by, so name the ids that streams are about. A dot leads into an object
            (`customer.id`), and into the metadata (`metadata.tenant`). `many("product_ids")` is a field that
            holds a list: an event is in the stream of each value. An event without the field costs nothing.
        additional_indexes: Column names or tuples of them, or Peewee indexes; or a function that
            takes the model and returns these.

    Returns:
        A Peewee model for reading; nothing is created yet.

    Raises:
        ConfigurationError: A name that is no identifier, or too long.

    Example:
        ```python
        from pgevents import create_events_table

        events = create_events_table(schema="my_app", data_indexes=["cart_id", "product_id"])
        ```
    """
    return cast(
        "type[EventsModel]", _model(EventsModel, "events", schema, name, data_indexes, additional_indexes)
    )


def create_projections_table(
    schema: str | None = None,
    name: str = "projections",
    data_indexes: Iterable[str] = (),
    additional_indexes: AdditionalIndexes = (),
) -> type[ProjectionsModel]:
    """Declare a projections table, where snapshots stand; arguments as for `create_events_table`.

    Args:
        schema: The schema that holds it; None: the connection's own.
        name: The table's name, at most 48 bytes.
        data_indexes: Fields of the views to index, for `client.query_projections()`.
        additional_indexes: As for `create_events_table`.

    Raises:
        ConfigurationError: A name that is no identifier, or too long.

    Example:
        ```python
        from pgevents import create_projections_table

        views = create_projections_table(schema="my_app", name="views", data_indexes=["user_id"])
        ```
    """
    return cast(
        "type[ProjectionsModel]",
        _model(ProjectionsModel, "projections", schema, name, data_indexes, additional_indexes),
    )


def _model(
    base: type[_PgEventsModel],
    kind: str,
    schema: str | None,
    name: str,
    data_indexes: Iterable[str],
    additional_indexes: AdditionalIndexes,
) -> type[_PgEventsModel]:
    if isinstance(data_indexes, str):
        raise ConfigurationError(f"data_indexes is a list of field names; write [{data_indexes!r}]")
    lists: tuple[str, ...] = ()
    if kind == "events":
        fields, lists = split_many(data_indexes)
    else:
        fields = tuple(check_field_name(field) for field in data_indexes)
    if len(set(fields)) != len(fields):
        raise ConfigurationError(f"data_indexes names a field twice: {list(fields)}")
    _check_name("table", name, 48)
    if schema is not None:
        _check_name("schema", schema, 63)
    spec = TableSpec(kind, name, schema, fields, additional_indexes, lists)
    meta = type("Meta", (), {"table_name": name, "schema": schema})
    class_name = "".join(part.capitalize() for part in name.split("_")) or "Table"
    return cast("type[_PgEventsModel]", type(class_name, (base,), {"Meta": meta, "pgevents_spec": spec}))


def _check_name(what: str, name: object, most: int) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        hint = ": for a table in a schema write schema='my_app', name='events'" if "." in str(name) else ""
        raise ConfigurationError(
            f"a {what}'s name consists of letters, digits and underscores and starts with no digit, "
            f"not {name!r}{hint}"
        )
    if len(name.encode()) > most:
        raise ConfigurationError(
            f"the {what}'s name {name!r} has {len(name.encode())} bytes; PostgreSQL cuts names at 63, "
            f"and what is named after it needs room: at most {most}"
        )
