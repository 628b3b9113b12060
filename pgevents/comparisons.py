"""Comparisons in place of a value: ranges, and "not". A field is compared as what it is, never as text that
happens to look like it."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar, cast
from uuid import UUID

import attrs

from pgevents.codec.times import parse_date, parse_datetime
from pgevents.comparison_kinds import NAMES, ORDERED, kind_of_type, kind_of_value
from pgevents.errors import ConfigurationError, InvalidValueError, shown
from pgevents.fields import json_text

__all__ = [
    "AllOf",
    "Comparable",
    "Comparison",
    "all_of",
    "at_least",
    "at_most",
    "between",
    "check_kind",
    "is_not",
    "less_than",
    "more_than",
    "one_of",
]

T = TypeVar("T")
Comparable = int | float | Decimal | str | date | datetime | timedelta
"""What has an order: numbers, texts, days, times, durations."""
NOT = "is_not"
OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
WORDS = {">=": "at_least", "<=": "at_most", ">": "more_than", "<": "less_than"}

# What is in another form is no such value, and no comparison finds it: a cast would end the whole read.
NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,4})?$"
DAY = (
    r"((?!0000)[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|1[0-9]|2[0-8]))|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([2468][048]|0[48]|[13579][26])00)-02-29)"
)
CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?"
ZONE = r"([Zz]|[+-](0[0-9]|1[0-5])(:?[0-5][0-9](:?[0-5][0-9])?)?)"
TIME = f"^{DAY}[Tt ]{CLOCK}{ZONE}$"
FIRST, LAST = "0000", "9999-99"
"""Below and above the text of every day."""


@attrs.frozen
class Comparison:
    """What a field's value must be, in place of a value; made by `between()`, `at_least()`, `is_not()` and
    their like.

    Attributes:
        operator: "between", ">=", "<=", ">", "<" or "is_not".
        kind: As what the field is compared: "number", "time", "day", "text"; "name" or "truth" for `is_not`.
        values: What it is compared with.
    """

    operator: str
    kind: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{WORDS.get(self.operator, self.operator)}({', '.join(map(shown, self.values))})"

    # -- as SQL ------------------------------------------------------------

    @property
    def shape(self) -> Comparison:
        """The same without its values: what its SQL depends on."""
        return Comparison(self.operator, self.kind, ())

    def sql(self, text: str, json: str) -> str:
        """The condition, with `%s` for what `params` gives.

        Args:
            text: The SQL of the field's text.
            json: The SQL of the field as JSON.
        """
        if self.operator == NOT:
            return self._not_sql(text)
        signs = [">=", "<="] if self.operator == "between" else [self.operator]
        value = {
            "number": f"CASE WHEN {text} ~ '{NUMBER}' THEN ({text})::numeric END",
            "time": f"CASE WHEN {text} ~ '{TIME}' THEN ({text})::timestamptz END",
            "day": text,
            "text": f"CASE WHEN jsonb_typeof({json}) = 'string' THEN {text} END COLLATE \"C\"",
        }[self.kind]
        cast_to = {"number": "::numeric", "time": "::timestamptz"}.get(self.kind, "")
        parts = [f"({value}) {sign} %s{cast_to}" for sign in signs]
        if self.kind == "day":
            parts.append(f"{text} ~ '^{DAY}$'")
        if self.kind == "time":  # days about it, which an index of the field can find
            parts = [f"{text} {sign[0]}= %s" for sign in signs] + parts
        return " AND ".join(parts)

    def _not_sql(self, text: str) -> str:
        found = f"{text} <> ALL (%s)"
        if self.kind == "number":
            return (
                f"{found} AND coalesce(CASE WHEN {text} ~ '{NUMBER}' THEN ({text})::numeric END "
                "<> ALL (%s::numeric[]), true)"
            )
        if self.kind == "time":
            return (
                f"{found} AND coalesce(CASE WHEN {text} ~ '{TIME}' THEN ({text})::timestamptz END "
                "<> ALL (%s::timestamptz[]), true)"
            )
        return found

    def params(self) -> list[Any]:
        """The values for `sql`, in its order."""
        if self.operator == NOT:
            texts = [_text(value) for value in self.values]
            return [texts, texts] if self.kind in ("number", "time") else [texts]
        bounds = self._bounds()
        values: list[Any] = [_text(value) for _, value in bounds]
        return [_day_about(*bound) for bound in bounds] + values if self.kind == "time" else values

    def _bounds(self) -> list[tuple[str, Any]]:
        if self.operator == "between":
            low, high = self.values
            return [(">=", low), ("<=", high)]
        return [(self.operator, self.values[0])]

    # -- in Python ------------------------------------------------------------

    def holds(self, value: Any) -> bool:
        """Whether it holds for a field's JSON value; as the SQL says it."""
        if value is None:
            return False
        found = _value_of(self.kind, value)
        wanted = [_comparable(item) for item in self.values]
        if self.operator == NOT:
            return json_text(value) not in map(_text, self.values) and (found is None or found not in wanted)
        if found is None:
            return False
        if self.operator == "between":
            return bool(wanted[0] <= found <= wanted[1])
        return bool(OPERATORS[self.operator](found, wanted[0]))


def _day_about(sign: str, when: datetime) -> str:
    """A day beyond the bound, whatever the offset that a stored time is written with."""
    try:
        if sign[0] == ">":
            return (when.astimezone(timezone.utc).date() - timedelta(days=1)).isoformat()
        return (when.astimezone(timezone.utc).date() + timedelta(days=2)).isoformat()
    except OverflowError:
        return FIRST if sign[0] == ">" else LAST


def _text(value: Any) -> str:
    value = _comparable(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


def _comparable(value: Any) -> Any:
    """A given value as it is compared."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, timedelta):
        return Decimal(str(value.total_seconds()))
    if isinstance(value, float):
        return Decimal(repr(value))
    return str(value) if isinstance(value, UUID) else value


def _value_of(kind: str, value: Any) -> Any:
    """A stored value as it is compared; None if it is not of this kind."""
    if kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return Decimal(repr(value))
    if not isinstance(value, str):
        return None
    if kind == "text":
        return value
    if kind == "number":
        return Decimal(value) if re.fullmatch(NUMBER, value) else None
    try:
        return parse_datetime(value) if kind == "time" else parse_date(value)
    except ValueError:
        return None


def check_kind(comparison: Comparison, field: str, declared: Iterable[Any]) -> None:
    """Check that a field of these types can be compared so.

    Args:
        comparison: The comparison.
        field: What to call the field in an error.
        declared: The types that it may have; none if that is not known.

    Raises:
        ConfigurationError: It is of another kind than what it is compared with.
    """
    kinds = [kind_of_type(field_type) for field_type in declared]
    alike = {"text", "name"} if comparison.operator == NOT else set[str]()
    if not kinds or None in kinds or comparison.kind in kinds:
        return
    if comparison.kind in alike and not alike.isdisjoint(kinds):
        return
    named = " or ".join(dict.fromkeys(NAMES[str(kind)] for kind in kinds))
    raise ConfigurationError(
        f"{field} is {named}, and {comparison} compares it with {NAMES[comparison.kind]}"
        + ("; a UUID or Enum has no order, use one_of or is_not" if "name" in kinds else "")
    )


def _ordered(sign: str, word: str, *values: Any) -> Comparison:
    kinds = {kind_of_value(value, word) for value in values}
    if len(kinds) > 1:
        named = " and ".join(map(shown, values))
        raise InvalidValueError(f"{word} takes two values of one kind, not {named}")
    kind = kinds.pop()
    if kind not in ORDERED:
        raise InvalidValueError(f"{word}: {NAMES[kind]} has no order; use one_of or is_not")
    return Comparison(sign, kind, values)


def between(low: Comparable, high: Comparable) -> Comparison:
    """From one value to another, both included.

    Args:
        low: A number, text, `date`, `datetime` with its zone, or `timedelta`.
        high: The same.

    Raises:
        InvalidValueError: Values that have no order, two of different kinds, or exchanged ones.

    Example:
        ```python
        from pgevents import between, stream

        january = stream("MEASURED", day=between(date(2026, 1, 1), date(2026, 1, 31)))
        ```
    """
    comparison = _ordered("between", "between", low, high)
    if _comparable(low) > _comparable(high):
        raise InvalidValueError(f"{comparison} holds nothing: the lower value comes first")
    return comparison


def at_least(value: Comparable) -> Comparison:
    """This value, or a greater one; arguments and errors as for `between`."""
    return _ordered(">=", "at_least", value)


def at_most(value: Comparable) -> Comparison:
    """This value, or a smaller one; arguments and errors as for `between`."""
    return _ordered("<=", "at_most", value)


def more_than(value: Comparable) -> Comparison:
    """A greater value; arguments and errors as for `between`."""
    return _ordered(">", "more_than", value)


def less_than(value: Comparable) -> Comparison:
    """A smaller value; arguments and errors as for `between`."""
    return _ordered("<", "less_than", value)


def is_not(*values: Comparable | bool | UUID | Enum) -> Comparison:
    """None of these values, but one there must be: a field that is missing or null is not found.

    Args:
        *values: Values of one kind.

    Raises:
        InvalidValueError: No value, or values that cannot be compared.
    """
    kinds = {kind_of_value(value, NOT) for value in values}
    if len(kinds) != 1:
        raise InvalidValueError("is_not takes at least one value, and values of one kind")
    return Comparison(NOT, kinds.pop(), values)


@attrs.frozen
class AllOf:
    """Several values that one field must all have; made by `all_of()`."""

    values: tuple[Any, ...]


def all_of(*values: Any) -> AllOf:
    """All of these values together, in a field that holds a list (`many(...)`).

    Args:
        *values: Values, or one list, set or other iterable of them.

    Raises:
        InvalidValueError: No values.

    Example:
        ```python
        from pgevents import all_of, stream

        enrolments = stream("STUDENT_SUBSCRIBED", tags=all_of("course:1", "student:7"))
        ```
    """
    wanted = tuple(one_of(*values))
    if not wanted:
        raise InvalidValueError("all_of takes at least one value")
    return AllOf(wanted)


def one_of(*values: T | Iterable[T]) -> list[T]:
    """Any of these values: the same as a list of them.

    Args:
        *values: Values, or one list, set or other iterable of them.
    """
    first: Any = values[0] if len(values) == 1 else None
    if isinstance(first, Iterable) and not isinstance(first, (str, bytes)):
        return list(cast("Iterable[T]", first))
    return list(cast("tuple[T, ...]", values))
