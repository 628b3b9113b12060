"""Events as tables of Arrow: all types in one form, or the fields of one class as columns."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime
from enum import Enum
from typing import Any
from uuid import UUID

from pgevents.caches import remembered
from pgevents.client import EventClient
from pgevents.codec.serialization import time_of
from pgevents.distribution import require
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.exchange.schemas import resolved, stored_fields

__all__ = ["TypedColumns", "arrow", "column_kind", "table_of"]

TYPED: dict[Any, str] = {str: "string", bool: "bool", int: "int64", float: "float64", UUID: "string"}


@remembered("module of Arrow")
def arrow() -> Any:
    """The module pyarrow, which has no types.

    Raises:
        ConfigurationError: It is not installed.
    """
    require("pyarrow.parquet", "parquet")
    return require("pyarrow", "parquet")


def time_field(name: str) -> Any:
    """A column of times."""
    return arrow().field(name, arrow().timestamp("us", tz="UTC"))


def table_of(rows: list[Any]) -> Any:
    """Events of all types in one form."""
    pyarrow = arrow()
    text = pyarrow.string()
    schema = pyarrow.schema(
        [
            pyarrow.field("id", pyarrow.int64()),
            pyarrow.field("type", text),
            pyarrow.field("data", text),
            pyarrow.field("metadata", text),
            pyarrow.field("idempotency_key", text),
            time_field("created_at"),
            time_field("updated_at"),
        ]
    )
    ids, names, data, metadata, created, updated, keys = zip(*rows, strict=True)
    created_times = [time_of(at) for at in created]
    columns = [
        ids,
        names,
        data,
        [value or "{}" for value in metadata],
        keys,
        created_times,
        [time_of(at) if at else first for at, first in zip(updated, created_times, strict=True)],
    ]
    arrays = [pyarrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pyarrow.Table.from_arrays(arrays, schema=schema)


class TypedColumns:
    """The columns of the events of one class."""

    def __init__(self, client: EventClient, kind: Any) -> None:
        self._client, self._kind = client, kind
        hidden = client.identifiers.hidden.get(kind.name, frozenset())
        fields: Mapping[str, Any] = stored_fields(client.serializer.converter, kind.cls) or {}
        self._kinds = {
            name: column_kind(field.annotation) for name, field in fields.items() if name not in hidden
        } or {"data": "json"}

    def table(self, found: list[tuple[Event[Any], Any]]) -> Any:
        """A table of events, each with its row of the log."""
        pyarrow = arrow()
        text = pyarrow.string()
        columns: dict[str, Any] = {
            "event_id": pyarrow.array([event.id for event, _ in found], pyarrow.int64()),
            "event_created_at": pyarrow.array([event.created_at for event, _ in found], time_field("").type),
            "event_metadata": pyarrow.array([row[3] or "{}" for _, row in found], text),
        }
        encode = self._client.serializer.encode
        data: list[dict[str, Any]] = [encode(event.data, self._kind.name) for event, _ in found]
        for name, kind in self._kinds.items():
            values = data if name == "data" and kind == "json" else [fields.get(name) for fields in data]
            column = f"data_{name}" if name in columns else name
            try:
                columns[column] = pyarrow.array([ARROW[kind](value) for value in values], arrow_type(kind))
            except OverflowError as error:
                raise ConfigurationError(
                    f"the field {name!r} of {self._kind.name!r} holds an integer of more than 64 bits"
                ) from error
        return pyarrow.table(columns)


def column_kind(annotation: Any) -> str:
    """The kind of column for a field of a type: one of `ARROW`."""
    kind = resolved(annotation)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        rest = [argument for argument in arguments if argument not in (None, types.NoneType)]
        return column_kind(rest[0]) if len(rest) == 1 else "json"
    if isinstance(kind, type) and issubclass(kind, Enum):
        kinds: set[type[Any]] = {member.value.__class__ for member in kind}
        return TYPED.get(kinds.pop(), "json") if len(kinds) == 1 else "json"
    if kind is datetime:
        return "timestamp"
    return "date" if kind is date else TYPED.get(kind, "json")


def _same(value: Any) -> Any:
    return value


def _json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


ARROW: dict[str, Callable[[Any], Any]] = {
    "string": _same,
    "bool": _same,
    "int64": _same,
    "float64": lambda value: None if value is None else float(value),
    "timestamp": lambda value: None if value is None else time_of(value),
    "date": lambda value: None if value is None else date.fromisoformat(value),
    "json": _json,
}


def arrow_type(kind: str) -> Any:
    pyarrow = arrow()
    if kind == "timestamp":
        return time_field("").type
    return {"json": pyarrow.string(), "date": pyarrow.date32()}.get(kind) or getattr(
        pyarrow, {"bool": "bool_"}.get(kind, kind)
    )()
