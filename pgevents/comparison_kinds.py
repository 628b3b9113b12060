"""How values and types are compared: kinds that have an order, and kinds that are only equal or not."""

from __future__ import annotations

import types
import typing
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pgevents.errors import InvalidValueError, shown
from pgevents.texts import is_text

__all__ = ["NAMES", "ORDERED", "kind_of_type", "kind_of_value", "single_types"]

NAMES = {
    "number": "a number",
    "time": "a time",
    "day": "a day",
    "text": "a text",
    "name": "a UUID or Enum",
    "truth": "true or false",
}
"""The kinds of values, as an error calls them."""
ORDERED = ("number", "time", "day", "text")


def kind_of_value(value: object, word: str) -> str:
    """The kind by which a value is compared: "number", "time", "day", "text", "name" or "truth".

    Args:
        value: The value.
        word: What compares it, for an error.

    Raises:
        InvalidValueError: It is none of these, or could be compared with nothing.
    """
    if isinstance(value, Enum):
        return "name" if isinstance(value.value, str) else kind_of_value(value.value, word)
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, (int, float, Decimal)):
        if not _is_finite(value):
            raise InvalidValueError(f"{word}: {shown(value)} is no number that could be compared")
        return "number"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidValueError(
                f"{word}: {value!r} has no time zone, so nobody knows when it is; give it one, as "
                "datetime.now(timezone.utc) has"
            )
        return "time"
    if isinstance(value, str):
        if not is_text(value) or "\0" in value:
            raise InvalidValueError(f"{word}: PostgreSQL cannot hold the text {shown(value)}")
        return "text"
    kinds: tuple[tuple[type[Any], str], ...] = ((timedelta, "number"), (date, "day"), (UUID, "name"))
    for cls, kind in kinds:
        if isinstance(value, cls):
            return kind
    raise InvalidValueError(
        f"{word} compares numbers, texts, days, times with their zone and durations, not {shown(value)}"
    )


def _is_finite(value: float | Decimal) -> bool:
    try:
        return Decimal(str(value)).is_finite()
    except ValueError:  # an int of thousands of digits, of which Python makes no text
        return False


KINDS_OF_TYPES: tuple[tuple[type[Any], str], ...] = (
    (bool, "truth"),
    (int, "number"),
    (float, "number"),
    (Decimal, "number"),
    (timedelta, "number"),
    (datetime, "time"),
    (date, "day"),
    (Enum, "name"),
    (UUID, "name"),
    (str, "text"),
)


def single_types(declared: Any) -> list[Any]:
    """The types that a declared type stands for: without None, annotations and new names."""
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (typing.Union, types.UnionType):
        return [member for part in arguments if part is not types.NoneType for member in single_types(part)]
    if origin is typing.Annotated:
        return single_types(arguments[0])
    return single_types(declared.__supertype__) if hasattr(declared, "__supertype__") else [declared]


def kind_of_type(declared: Any) -> str | None:
    """The kind by which values of a declared type are compared; None if that is not known."""
    if not isinstance(declared, type):
        return None
    return next((kind for cls, kind in KINDS_OF_TYPES if issubclass(declared, cls)), None)
