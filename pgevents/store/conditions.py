"""The condition by which SQL finds the events of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pgevents.fields import json_sql, text_sql
from pgevents.store.layout import TableSpec
from pgevents.streams import Compared, Stream

__all__ = ["Shape", "shape_of", "where_params", "where_sql"]

V = TypeVar("V")
Shape = tuple[tuple[tuple[str, bool], ...], bool | None, Compared]
"""What the SQL of a stream depends on: its fields, whether each is one of several values, the same of its
types, and its comparisons without what they compare with."""


def shape_of(stream: Stream[Any]) -> Shape:
    """The shape of a stream, by which its SQL can be remembered."""
    types = stream.types
    fields = tuple([(field, len(values) != 1) for field, values in stream.match])
    compared = tuple([(field, comparison.shape) for field, comparison in stream.compared])
    return fields, None if types is None else len(types) != 1, compared


def where_sql(
    shape: Shape, table: TableSpec, alias: str = "", id_sql: str = "", besides: str | None = None
) -> str:
    """The condition of a stream as SQL with `%s` for its values.

    Args:
        shape: The stream's shape.
        table: The events table, which knows the fields that hold lists of values.
        alias: What stands before the columns, such as `e.`.
        id_sql: The event's id, where it cannot be mistaken; by default the table's column.
        besides: A field whose first condition is not needed.
    """
    fields, several_types, compared = shape
    id_sql = id_sql or f"{table.qualified()}.id"
    parts = [
        _has_value_sql(table, field, alias, id_sql, "ANY(%s)" if has_many else "%s")
        for field, has_many in _without_first(fields, besides)
    ]
    parts += [
        comparison.sql(text_sql(field, alias), json_sql(field, alias)) for field, comparison in compared
    ]
    if several_types is not None:
        parts.append(f"{alias}type = {'ANY(%s)' if several_types else '%s'}")
    return " AND ".join(parts) or "true"


def _without_first(pairs: Sequence[tuple[str, V]], field: str | None) -> list[tuple[str, V]]:
    """Pairs without the first one of a field, which may have others."""
    place = next((n for n, (name, _) in enumerate(pairs) if name == field), len(pairs))
    return [*pairs[:place], *pairs[place + 1 :]]


def _has_value_sql(table: TableSpec, field: str, alias: str, id_sql: str, value: str) -> str:
    if field not in table.lists:
        return f"{text_sql(field, alias)} = {value}"
    return (
        f"EXISTS (SELECT FROM {table.qualified('_lists')} AS l "
        f"WHERE l.field = '{field}' AND l.value = {value} AND l.id = {id_sql})"
    )


def where_params(stream: Stream[Any], besides: str | None = None) -> list[Any]:
    """The values for `where_sql`, in its order."""
    params: list[Any] = [
        values[0] if len(values) == 1 else list(values) for _, values in _without_first(stream.match, besides)
    ]
    for _, comparison in stream.compared:
        params += comparison.params()
    if stream.types is not None:
        params.append(stream.types[0] if len(stream.types) == 1 else list(stream.types))
    return params
