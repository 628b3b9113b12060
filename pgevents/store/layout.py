"""The place of a table in the database, and its indexes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import peewee

from pgevents.fields import described_sql, many, text_sql
from pgevents.store.ddl import (
    COMMANDS_SQL,
    EVENTS_SQL,
    IMPORTS_SQL,
    LATER_COLUMNS,
    LISTS_SQL,
    MAINTENANCE_SQL,
    PROJECTIONS_SQL,
)

__all__ = [
    "AdditionalIndexes",
    "Index",
    "TableSpec",
]

AdditionalIndexes = Sequence[Any] | Callable[[type[peewee.Model]], Sequence[Any]]


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
        columns = [column.replace("{field}", f"({text})") for column in self.columns]
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

    def index_name(self, *parts: str, kind: str = "idx") -> str:
        """A quoted index name that no other table of the schema can have: `$` stands in no table's or field's
        name."""
        name = "$".join((self.name, *parts, kind))
        if len(name.encode()) > 63:
            digest = hashlib.sha256(name.encode()).hexdigest()[:10]
            name = name.encode()[:52].decode(errors="ignore") + "_" + digest
        return f'"{name}"'

    def tables(self) -> dict[str, str]:
        """The DDL of the table and of those that it needs beside itself, by their quoted names."""
        table = self.qualified()
        if self.kind == "projections":
            return {table: PROJECTIONS_SQL.format(table=table)}
        maintenance, imports, commands, lists = map(
            self.qualified, ("_maintenance", "_imports", "_commands", "_lists")
        )
        return {
            table: EVENTS_SQL.format(table=table, sequence=self.qualified("_id_seq")),
            maintenance: MAINTENANCE_SQL.format(maintenance=maintenance),
            imports: IMPORTS_SQL.format(imports=imports),
            commands: COMMANDS_SQL.format(commands=commands),
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
            *self.statistics().values(),
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

    def statistics(self) -> dict[str, str]:
        """The DDL of statistics on the fields that have a partial index, by their names without quotes.

        From a partial index alone the planner does not learn how many values a field has: it takes any value
        for half a percent of the log, and reads all of a large one for a few streams.
        """
        names = {
            index.field: self.index_name("data", index.field, kind="stats")
            for index in self.indexes()
            if index.field is not None and index.only
        }
        return {
            name.strip('"'): f"CREATE STATISTICS IF NOT EXISTS {self.beside(name)} ON ({text_sql(field)}) "
            f"FROM {self.qualified()};\n"
            for field, name in names.items()
        }

    def _index_name(self, *parts: str) -> str:
        return self.index_name(*parts).strip('"')
