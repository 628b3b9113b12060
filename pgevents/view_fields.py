"""The fields of saved views as SQL: compared and ordered as what they are."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

import peewee

from pgevents.caches import remembered
from pgevents.comparisons import NUMBER
from pgevents.errors import ConfigurationError
from pgevents.fields import check_view_field
from pgevents.store.tables import ProjectionsModel
from pgevents.view_kinds import ViewKind
from pgevents.views import field_types, nearest

__all__ = [
    "ViewFields",
    "bare_type",
    "cast_of",
    "number_of",
    "text_of",
]

CASTS: tuple[tuple[type[Any], str], ...] = (
    (bool, "boolean"),
    (int, "numeric"),
    (float, "numeric"),
    (Decimal, "numeric"),
    (datetime, "timestamptz"),
    (date, "date"),
)
"""As what a field of a view is compared and ordered."""
TEXTS = (str, Enum, UUID)
"""Fields that are compared and ordered as text; all others as JSON."""


class ViewFields:
    """The fields of saved views as Peewee expressions, to compare and order by; from `client.view_fields()`.

    Numbers, Decimals, dates, times and booleans are compared as what they are, text, UUIDs and
    Enums as text, and fields of any type as JSON. A number is compared with such a field as a number,
    also where it is stored as a text, as a Decimal is. An attribute or an item is a field:
    `fields.total`, `fields["total"]`.
    """

    def __init__(self, model: type[ProjectionsModel], kinds: Sequence[ViewKind]) -> None:
        self._model = model
        self._kinds = kinds

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        return _expression(self._model, name, self.type_of(name))

    def type_of(self, name: str) -> Any:
        """The type of a field; Any if it is not known, or not the same in all views.

        Raises:
            ConfigurationError: A view does not have it.
        """
        check_view_field(name)  # it becomes SQL
        types = [
            (_type_in_class if type(kind.view_class) is type else _type_in)(kind.view_class, name, kind.type)
            for kind in self._kinds
        ]
        return types[0] if len(types) == 1 or all(each == types[0] for each in types) else Any

    def knows(self, name: str) -> bool:
        """Whether all views have a field of this name, as far as that is known."""
        fields_of_each = [field_types(kind.view_class) for kind in self._kinds]
        return all(fields is not None and name in fields for fields in fields_of_each)


def _type_in(view_class: Any, name: str, type: str) -> Any:
    """The type of a field in views of one class, which are those of a projection's type."""
    fields = field_types(view_class)
    if fields is not None and name not in fields:
        raise ConfigurationError(f"the view of {type} has no field {name!r}; {nearest(name, list(fields))}")
    return Any if fields is None else bare_type(fields[name])


_type_in_class = remembered("types of fields")(_type_in)


def bare_type(annotation: Any) -> Any:
    """The type of a field without None, `Annotated` and `NewType`; Any for a union of several."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in arguments if member is not types.NoneType]
        return bare_type(members[0]) if len(members) == 1 else Any
    if origin is typing.Annotated:
        return bare_type(arguments[0])
    return bare_type(annotation.__supertype__) if hasattr(annotation, "__supertype__") else annotation


def cast_of(field_type: Any) -> str | None:
    """The PostgreSQL type that a field is cast to; None for text and JSON."""
    return _cast_of_class(field_type) if isinstance(field_type, type) else None


@remembered("casts of fields")
def _cast_of_class(field_type: type[Any]) -> str | None:
    if issubclass(field_type, Enum) and not issubclass(field_type, int):
        return None
    return next((name for base, name in CASTS if issubclass(field_type, base)), None)


def text_of(model: Any, name: str, cast_to: str = "") -> peewee.NodeList:
    """The text of a field, cast to a PostgreSQL type if one is named."""
    return _Compared((model.data, peewee.SQL(f"->>'{name}'")), cast_to)


def _expression(model: Any, name: str, field_type: Any) -> Any:
    cast_to = cast_of(field_type)
    if cast_to is not None or (isinstance(field_type, type) and issubclass(field_type, TEXTS)):
        return text_of(model, name, cast_to or "")
    return _Untyped(model.data, (name,))


def number_of(text: Any) -> peewee.NodeList:
    """The number that a text is; NULL if it is not a number."""
    return _Compared(
        (
            peewee.SQL("CASE WHEN ("),
            text,
            peewee.SQL(f") ~ '{NUMBER}' THEN ("),
            text,
            peewee.SQL(")::numeric END"),
        ),
        "",
    )


JSONPath: Any = peewee.JSONPath


class _Untyped(JSONPath):  # type: ignore[misc]
    """A field of any type: compared with numbers as a number, and as JSON with all else."""

    __hash__ = JSONPath.__hash__

    def __init__(self, field: Any, keys: Sequence[str] = (), as_text: bool = False) -> None:
        initialise: Any = super().__init__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        initialise(field, keys, as_text)
        self._json: Any = JSONPath(field, keys, as_text)
        self._place = field, keys
        self._number: Any = number_of(JSONPath(field, keys, True))

    def as_text(self, as_text: bool = True) -> Any:
        """The field as text, compared as such."""
        return JSONPath(*self._place, as_text)

    def __eq__(self, other: object) -> Any:
        return self._number == other if _is_number(other) else self._json == other

    def __ne__(self, other: object) -> Any:
        if not _is_number(other):
            return self._json != other
        return peewee.fn.COALESCE(self._number != other, self._json.is_null(False))

    def __lt__(self, other: Any) -> Any:
        return self._number < other if _is_number(other) else self._json < other

    def __le__(self, other: Any) -> Any:
        return self._number <= other if _is_number(other) else self._json <= other

    def __gt__(self, other: Any) -> Any:
        return self._number > other if _is_number(other) else self._json > other

    def __ge__(self, other: Any) -> Any:
        return self._number >= other if _is_number(other) else self._json >= other

    def between(self, lo: Any, hi: Any) -> Any:
        """From one value to another."""
        are_numbers = _is_number(lo) and _is_number(hi)
        return self._number.between(lo, hi) if are_numbers else self._json.between(lo, hi)

    def in_(self, rhs: Any) -> Any:
        """One of these values."""
        numbers, others = _parted(rhs)
        if not numbers:
            return self._json.in_(rhs)
        return self._number.in_(numbers) | self._json.in_(others) if others else self._number.in_(numbers)

    def not_in(self, rhs: Any) -> Any:
        """None of these values."""
        numbers, others = _parted(rhs)
        if not numbers:
            return self._json.not_in(rhs)
        apart = peewee.fn.COALESCE(self._number.not_in(numbers), self._json.is_null(False))
        return apart & self._json.not_in(others) if others else apart


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, (bool, Enum))


def _parted(values: Any) -> tuple[list[Any], list[Any]]:
    """Numbers, and other values, of a list; nothing of a query."""
    if isinstance(values, peewee.Node):
        return [], []
    listed = list(values)
    numbers = [value for value in listed if _is_number(value)]
    return numbers, [value for value in listed if not _is_number(value)]


NodeList: Any = peewee.NodeList


class _Compared(NodeList):  # type: ignore[misc]
    """A field of a view in SQL. What it is compared with may be anything that such a field holds."""

    def __init__(self, nodes: Sequence[Any], cast_to: str) -> None:
        inner = peewee.NodeList(nodes, glue="", parens=True)
        initialise: Any = super().__init__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        initialise((inner, peewee.SQL(f"::{cast_to}" if cast_to else "")), glue="", parens=bool(cast_to))


def _comparing(name: str) -> Callable[..., Any]:
    plain: Any = getattr(peewee.NodeList, name)

    def compare(self: Any, *values: Any) -> Any:
        return plain(self, *map(_sql_value, values))

    compare.__name__ = name
    return compare


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "in_", "not_in", "between"):
    setattr(_Compared, _name, _comparing(_name))
_Compared.__hash__ = object.__hash__  # type: ignore[method-assign]


def _sql_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_sql_value(item) for item in cast("Iterable[Any]", value)]
    return value
