"""Which values a field of a view can have, by its type: what no view has is refused, not searched for."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence, Set
from datetime import date
from decimal import Decimal
from enum import Enum, Flag
from typing import Any, cast
from uuid import UUID

from pgevents.caches import remembered
from pgevents.comparison_kinds import kind_of_type, kind_of_value
from pgevents.comparisons import NUMBER
from pgevents.errors import InvalidValueError, shown
from pgevents.texts import identifier_text

__all__ = ["check_value"]

WHOLE = r"-?(0|[1-9][0-9]*)"
"""A whole number as JSON has it."""
COLLECTIONS = (list, tuple, Set, Sequence)


def check_value(name: str, value: Any, field_type: Any) -> None:
    """Check that a field can have a value, or each of a list. A text may stand for what is stored so.

    Args:
        name: The field.
        value: What it is to be equal to.
        field_type: Its type; of one that is not known, any value passes.

    Raises:
        InvalidValueError: No view has this value there.
    """
    if value.__class__ is field_type and field_type in (str, int):  # most are
        return
    is_list = isinstance(value, (list, tuple))
    if _is_collection(field_type):
        if not is_list and value is not None and not (isinstance(value, str) and value.startswith("[")):
            raise InvalidValueError(
                f"the field {name!r} is a list, so it cannot be {shown(value)}; give the whole list"
            )
        return
    for item in cast("Sequence[Any]", value) if is_list else [value]:
        expected = None if item is None else _mismatch(item, field_type)
        if expected is not None:
            raise InvalidValueError(f"the field {name!r} is {expected}, so it cannot be {shown(item)}")


def _is_collection(field_type: Any) -> bool:
    kind = typing.get_origin(field_type) or field_type
    return isinstance(kind, type) and issubclass(kind, COLLECTIONS) and not issubclass(kind, (str, bytes))


def _mismatch(value: Any, field_type: Any) -> str | None:
    """What the field is, if it cannot have the value."""
    members = _members(field_type)
    if members is not None:
        return None if _text(value) in members else f"one of {', '.join(map(repr, members))}"
    kind = None if isinstance(field_type, type) and issubclass(field_type, Flag) else kind_of_type(field_type)
    if kind == "text":
        return None if isinstance(value, str) or _kind(value) in ("text", "name") else "a text"
    if kind == "name":
        return None if _is_uuid(value) else "a UUID"
    if kind == "day":
        return None if _is_day(value) else "a day"
    if kind == "number" and not issubclass(field_type, (float, Decimal)):  # these are checked as SQL is made
        is_whole = issubclass(field_type, int)
        return None if _is_number(value, is_whole) else "a whole number" if is_whole else "a number"
    return None


def _members(field_type: Any) -> tuple[str, ...] | None:
    """The texts of all values of an Enum or a Literal; None for another type."""
    if isinstance(field_type, type):
        return _texts_of_enum(field_type) if issubclass(field_type, Enum) else None
    if typing.get_origin(field_type) is not typing.Literal:
        return None
    return _texts([value for value in typing.get_args(field_type) if value is not None])


@remembered("values of Enums")
def _texts_of_enum(enum: type[Enum]) -> tuple[str, ...] | None:
    return None if issubclass(enum, Flag) else _texts([member.value for member in enum])


def _texts(values: list[Any]) -> tuple[str, ...] | None:
    texts = [text for value in values if (text := _text(value)) is not None]
    return tuple(texts) if len(texts) == len(values) else None


def _text(value: Any) -> str | None:
    """The text of a plain value, alike for numbers that are equal; None of another value."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, (float, Decimal)):
        number = Decimal(str(value))
        return format(number.normalize(), "f") if number.is_finite() else None
    try:
        return identifier_text("", value)
    except InvalidValueError:
        return None


def _kind(value: Any) -> str | None:
    try:
        return kind_of_value(value, "")
    except InvalidValueError:
        return None


def _is_uuid(value: Any) -> bool:
    text = value.value if isinstance(value, Enum) else value
    try:
        return isinstance(text, UUID) or str(UUID(text)) == text
    except (AttributeError, TypeError, ValueError):
        return False


def _is_day(value: Any) -> bool:
    try:
        return (
            date.fromisoformat(value).isoformat() == value
            if isinstance(value, str)
            else _kind(value) == "day"
        )
    except ValueError:
        return False


def _is_number(value: Any, is_whole: bool) -> bool:
    if isinstance(value, str) and not isinstance(value, Enum):
        return re.fullmatch(WHOLE if is_whole else NUMBER, value) is not None
    if _kind(value) != "number":
        return False
    number: Any = value.value if isinstance(value, Enum) else value
    return not is_whole or not isinstance(number, (float, Decimal)) or number == int(number)
