"""Fields that can identify events: what they may be called, and where their text stands in an event."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast

from pgevents.caches import remembered
from pgevents.errors import ConfigurationError, shown

__all__ = [
    "check_field",
    "check_view_field",
    "described_sql",
    "function_json_sql",
    "function_sql",
    "json_sql",
    "json_text",
    "many",
    "named_once",
    "path_of",
    "split_many",
    "text_sql",
    "texts_in",
    "value_in",
]

MAX_BYTES = 63
# Nothing that has a meaning in SQL text, a statement of the driver, a dollar quote or a list of fields.
PART = re.compile(r"[\w@/#:+-](?:[\w@/#:+ -]*[\w@/#:+-])?")
METADATA = "metadata"
MANY = "[]"
"""Follows the name of a field that holds a list, of which each value identifies the event."""


def many(field: str) -> str:
    """A data index of a field that holds a list: an event belongs to the stream of each of its values.

    Args:
        field: The field's name, or its path. Its values are strings, numbers or booleans.

    Returns:
        The name in the form that `data_indexes` and `pgevents init --index` take: `product_ids[]`.

    Raises:
        ConfigurationError: Not a field's name.

    Example:
        ```python
        from pgevents import create_events_table, many

        events = create_events_table(schema="my_app", data_indexes=["cart_id", many("product_ids")])
        ```
    """
    return check_field(field) + MANY


def split_many(declared: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The checked names of data indexes, and of those among them that `many` has made."""
    fields: list[str] = []
    lists: list[str] = []
    for field in declared:
        is_many = isinstance(field, str) and field.endswith(MANY)  # pyright: ignore[reportUnnecessaryIsInstance]
        fields.append(check_field(field.removesuffix(MANY) if is_many else field))
        if is_many:
            lists.append(fields[-1])
    return tuple(fields), tuple(lists)


def check_field(field: object) -> str:
    """The name of a field of stored events, as it may stand in SQL.

    A name with dots is a path: `customer.id` is the field `id` of the object in the field `customer`, and
    `metadata.tenant` stands in the event's metadata. A key that itself has a dot cannot be named.

    Raises:
        ConfigurationError: Anything else than such a name of at most 63 bytes.
    """
    text = field if isinstance(field, str) else ""
    is_short = len(text.encode(errors="replace")) <= MAX_BYTES
    if not is_short or not all(PART.fullmatch(part) for part in text.split(".")):
        raise ConfigurationError(
            "field names consist of letters, digits, _ - @ / # : + and spaces, with dots between the names "
            f"of nested fields, and have at most {MAX_BYTES} bytes: not {shown(field)}"
        )
    return str.__str__(text)  # itself; of an Enum that is a str, the text


@remembered("paths of fields")
def path_of(field: str) -> tuple[str, tuple[str, ...]]:
    """The column of the events table, and the keys of the objects that lead to a field."""
    keys = tuple(check_field(field).split("."))
    return (METADATA, keys[1:]) if keys[0] == METADATA and len(keys) > 1 else ("data", keys)


def text_sql(field: str, table: str = "") -> str:
    """The SQL that gives a field's text: `data->>'cart_id'`, `data->'customer'->>'id'`.

    Args:
        field: A field's name.
        table: What stands before the columns, such as `e.`.
    """
    column, (*outer, last) = path_of(field)
    path = "".join(f"->'{key}'" for key in outer)
    return f"{table}{column}{path}->>'{last}'"


def json_sql(field: str, table: str = "") -> str:
    """The SQL that gives a field as JSON: `data->'cart_id'`."""
    column, keys = path_of(field)
    return f"{table}{column}" + "".join(f"->'{key}'" for key in keys)


def function_sql(field: str) -> str:
    """`text_sql` of the variables `_data` and `_metadata`, by functions whose names say their schema."""
    column, (*outer, last) = path_of(field)
    value = f"_{column}"
    for key in outer:
        value = f"pg_catalog.jsonb_object_field({value}, '{key}')"
    return f"pg_catalog.jsonb_object_field_text({value}, '{last}')"


def function_json_sql(field: str) -> str:
    """`json_sql` in the same way."""
    return function_sql(field).replace(
        "pg_catalog.jsonb_object_field_text(", "pg_catalog.jsonb_object_field("
    )


def described_sql(field: str) -> str:
    """The same in the words of `pg_get_indexdef`."""
    column, (*outer, last) = path_of(field)
    value = column
    for key in outer:
        value = f"({value} -> '{key}'::text)"
    return f"({value} ->> '{last}'::text)"


def texts_in(field: str, data: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """The texts by which a field identifies an event, whose data and metadata are as JSON gives them."""
    value = value_in(field, data, metadata)
    values: list[Any] = [*value] if isinstance(value, list) else [value]
    return [json_text(item) for item in values if item is not None and not isinstance(item, (Mapping, list))]


def value_in(field: str, data: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
    """What JSON has in a field; None if it is missing."""
    column, keys = path_of(field)
    value: Any = metadata if column == METADATA else data
    for key in keys:
        value = cast("Mapping[str, Any]", value).get(key) if isinstance(value, Mapping) else None
    return value


def json_text(value: Any) -> str:
    """The text that PostgreSQL's `->>` gives for a JSON value that is neither object nor list."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")
        return text if "." in text else f"{text}.0"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def check_view_field(field: object) -> str:
    """The name of a view's field as it may stand in SQL: a Python identifier of at most 63 bytes.

    Raises:
        ConfigurationError: Anything else.
    """
    if not isinstance(field, str) or not field.isidentifier() or len(field.encode()) > 63:
        raise ConfigurationError(
            f"field names are identifiers (letters, digits, underscores) of at most 63 bytes, not "
            f"{shown(field)}"
        )
    return str.__str__(field)  # itself; of an Enum that is a str, the text


def named_once(named: Mapping[str, Any], keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values by field name, from `data=` and from keywords together.

    Raises:
        ConfigurationError: A field is given in both.
    """
    twice = sorted(set(named) & set(keywords))
    if twice:
        raise ConfigurationError(f"{twice[0]!r} is given twice, as a keyword and in data=")
    return {**named, **keywords}
