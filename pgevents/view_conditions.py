"""What the fields of saved views must be, as SQL and as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, cast

import attrs
import peewee

from pgevents.comparison_kinds import single_types
from pgevents.comparisons import Comparison, check_kind
from pgevents.errors import ConfigurationError, shown
from pgevents.fields import named_once
from pgevents.texts import identifier_text
from pgevents.view_fields import cast_of, number_of, text_of

__all__ = [
    "Slot",
    "comparison_sql",
    "equal_values",
    "equality_sql",
    "values_by_field",
]

OPTIONS = ("where", "order_by", "limit", "offset", "version", "partial", "max_lag")
"""Keywords that are options of some calls; as a field's name they would be a mistake."""


def values_by_field(data: object, keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the fields of views must be, from `data=` and from keywords.

    Raises:
        ConfigurationError: A field that is given twice, an option that the call does not have, or no dict.
    """
    if data is not None and not isinstance(data, Mapping):
        raise ConfigurationError(f"data= takes values by field name, a dict, not {shown(data)}")
    for name, value in keywords.items():
        if name in OPTIONS:
            raise ConfigurationError(
                f"{name}= is not an option here; if a field of the view is called {name!r}, write "
                f"data={{{name!r}: {shown(value)}}}"
            )
    return named_once(cast("Mapping[str, Any]", data or {}), keywords)


@attrs.frozen
class Slot:
    """The place of a value among the parameters of a statement that is used again."""

    number: int


def comparison_sql(model: Any, name: str, comparison: Comparison, field_type: Any) -> Any:
    """The condition that a comparison holds of a field.

    Raises:
        ConfigurationError: A field of this type is not compared so.
    """
    check_kind(comparison, f"the field {name!r}", [] if field_type is Any else single_types(field_type))
    column = '"t1"."data"'
    sql = comparison.sql(f"{column}->>'{name}'", f"{column}->'{name}'")
    return peewee.SQL(f"({sql})", comparison.params())


def equality_sql(model: Any, name: str, sql_type: str, slot: Slot) -> Any:
    """The condition that a field equals a value; or any of several, but for "jsonb"."""
    if sql_type == "jsonb":
        return peewee.Expression(model.data[name], "=", peewee.SQL("%s::jsonb", [slot]))
    if sql_type == "whole number":
        return _whole_number_sql(model, name, slot)
    if sql_type == "number":
        field, sql_type = number_of(text_of(model, name)), "numeric"
    else:
        field = text_of(model, name, "" if sql_type == "text" else sql_type)
    values = peewee.Value(slot, converter=False, unpack=False)
    array = peewee.NodeList((values, peewee.SQL(f"::{sql_type}[]")), glue="")
    return peewee.Expression(field, "=", peewee.fn.ANY(array))


def _whole_number_sql(model: Any, name: str, slot: Slot) -> Any:
    """The condition that a field of any type has this text, or is the number in another form, as a Decimal
    is stored ("9.00", but not "09"). Of a data index, the text alone: that is an identifier."""
    text = text_of(model, name)
    value = peewee.Value(slot, converter=False, unpack=False)
    texts = peewee.NodeList((value, peewee.SQL("::text[]")), glue="")
    is_text = peewee.Expression(text, "=", peewee.fn.ANY(texts))
    if name in model.pgevents_spec.data_indexes:
        return is_text
    numbers = peewee.NodeList((value, peewee.SQL("::text[]::numeric[]")), glue="")
    is_other_form = peewee.NodeList((text, peewee.SQL("!~ '^-?[0-9]+$'")), parens=True)
    return is_text | (is_other_form & peewee.Expression(number_of(text), "=", peewee.fn.ANY(numbers)))


def equal_values(name: str, value: Any, field_type: Any) -> tuple[str, Any]:
    """What a field is equal to, if it equals a value or any of a list; an array field, exactly these.

    Returns:
        The PostgreSQL type that field and values have ("number": numeric, if the field is one), and the
        values; for "jsonb" the text of one.

    Raises:
        ConfigurationError: A value that a field of this type cannot have.
    """
    cast_to = cast_of(field_type)
    values = cast("Sequence[Any]", value if isinstance(value, (list, tuple)) else [value])
    if cast_to == "boolean" and any(type(item) is not bool for item in values):
        raise ConfigurationError(
            f"{name} is true or false; give True, False or a list of these, not {value!r}"
        )
    is_number = cast_to == "numeric" and any(not isinstance(item, (int, str)) for item in values)
    if is_number or cast_to == "timestamptz" or (cast_to == "numeric" and field_type is not int):
        return str(cast_to), [_time_or_number(name, item, cast_to) for item in values]
    if cast_to == "date":
        values = [item.isoformat() if type(item) is date else item for item in values]
        value = values if isinstance(value, (list, tuple)) else values[0]
    # A field of any type may hold a number, or a Decimal as a text.
    if field_type is Any and isinstance(value, int) and not isinstance(value, (bool, Enum)):
        return "whole number", _texts(name, value)
    if field_type is Any and isinstance(value, (float, Decimal)):
        return "number", [Decimal(_number_text(name, value))]
    if cast_to is None and isinstance(value, (float, Decimal)):
        return "jsonb", _number_text(name, value)
    return "text", _texts(name, value)


def _time_or_number(name: str, value: Any, cast_to: str | None) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if cast_to == "timestamptz":
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise ConfigurationError(f"{name} is a time; give a datetime with its time zone, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise ConfigurationError(f"{name} is a number; give an int, a float or a Decimal, not {value!r}")
    return Decimal(_number_text(name, value)) if isinstance(value, (float, Decimal)) else value


def _number_text(name: str, value: float | Decimal) -> str:
    number = Decimal(str(value))
    if not number.is_finite():
        raise ConfigurationError(f"{name} is a number, which {value!r} is not")
    return format(number, "f")


def _texts(field: str, value: Any) -> list[str]:
    """The texts that `data->>'field'` may have: any of a list; of an array field, exactly the array."""
    if not isinstance(value, (list, tuple)):
        return [identifier_text(field, value)]
    items = cast("Sequence[Any]", value)
    texts = [identifier_text(field, item) for item in items if not isinstance(item, (list, tuple, dict))]
    array = json.dumps(
        list(items),
        ensure_ascii=False,
        default=lambda item: item.value if isinstance(item, Enum) else identifier_text(field, item),
    )
    return [*texts, array]
