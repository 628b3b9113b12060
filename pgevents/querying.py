"""Questions about saved projections: fields of their views, compared and ordered as what they are."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

import attrs
import peewee

from pgevents.errors import ConfigurationError
from pgevents.store.tables import ProjectionsModel
from pgevents.streams import check_field_name, identifier_text
from pgevents.views import field_types, nearest

__all__ = ["Asked", "Question", "ViewFields"]

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
COLUMNS = ("type", "id", "latest_event_id", "version", "created_at", "updated_at")


@attrs.frozen
class Asked:
    """One kind of projection that a question is about.

    Attributes:
        type: The projection's type.
        version: The version; None for any.
        shape: The shape of the view; None for any.
        view_class: The view's class; `dict` without one.
        id_class: The id's type, or Any.
    """

    type: str
    version: int | None = None
    shape: str | None = None
    view_class: Any = dict
    id_class: Any = Any


class ViewFields:
    """The fields of saved views as Peewee expressions, to compare and order by; from `client.view_fields()`.

    Numbers, Decimals, dates, times and booleans are compared as what they are, text, UUIDs and Enums as
    text, and
    fields of any type as JSON. An attribute or an item is a field: `fields.total`, `fields["total"]`.
    """

    def __init__(self, model: type[ProjectionsModel], kinds: Sequence[Asked]) -> None:
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
        check_field_name(name)  # it becomes SQL
        found: list[Any] = []
        for kind in self._kinds:
            fields = field_types(kind.view_class)
            if fields is not None and name not in fields:
                raise ConfigurationError(
                    f"the view of {kind.type} has no field {name!r}; {nearest(name, list(fields))}"
                )
            found.append(Any if fields is None else _bare(fields[name]))
        return found[0] if all(one == found[0] for one in found) else Any

    def knows(self, name: str) -> bool:
        """Whether all views have a field of this name, as far as that is known."""
        every = [field_types(kind.view_class) for kind in self._kinds]
        return all(fields is not None and name in fields for fields in every)


@attrs.frozen
class Question:
    """Which saved projections, in which order; see `EventClient.query_projections`."""

    model: type[ProjectionsModel]
    kinds: Sequence[Asked]
    match: Mapping[str, Any] = {}
    where: peewee.Expression | None = None
    order_by: Any = None
    limit: int | None = None
    offset: int | None = None

    def rows(self) -> tuple[str, list[Any]]:
        """The statement for the rows, with `shape` at the end."""
        model: Any = self.model
        first, rest = COLUMNS[:2], COLUMNS[2:]
        data = peewee.SQL('coalesce("t1".exact, "t1".data::text)')
        columns = [getattr(model, name) for name in first], [getattr(model, name) for name in rest]
        query = self._selected(model.select(*columns[0], data, *columns[1], peewee.SQL('"t1".shape')))
        query = query.order_by(*self._order(), *([model.type] if len(self.kinds) > 1 else []), model.id)
        for name, count in (("limit", self.limit), ("offset", self.offset)):
            if count is not None:
                query = getattr(query, name)(_checked_count(name, count))
        return cast("tuple[str, list[Any]]", query.sql())

    def count(self) -> tuple[str, list[Any]]:
        """The statement for their number."""
        model: Any = self.model
        return cast(
            "tuple[str, list[Any]]", self._selected(model.select(peewee.fn.COUNT(peewee.SQL("*")))).sql()
        )

    def ids(self) -> tuple[str, list[Any]]:
        """The statement for types and ids alone."""
        model: Any = self.model
        query = self._selected(model.select(model.type, model.id)).order_by(model.type, model.id)
        return cast("tuple[str, list[Any]]", query.sql())

    def _selected(self, query: Any) -> Any:
        model: Any = self.model
        wanted: Any = None
        for kind in self.kinds:
            one = model.type == kind.type
            if kind.version is not None:
                one &= model.version == kind.version
            wanted = one if wanted is None else wanted | one
        query = query.where(wanted)
        for name, value in self.match.items():
            query = query.where(_matches(model, name, value, ViewFields(model, self.kinds).type_of(name)))
        if self.where is None:
            return query
        if not isinstance(self.where, peewee.Node):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"where is a Peewee expression, as client.view_fields(...).total > 100, not {self.where!r}"
            )
        return query.where(self.where)

    def _order(self) -> list[Any]:
        given: Any = self.order_by
        if given is None:
            return []
        several = cast("Iterable[Any]", given if isinstance(given, (list, tuple)) else [given])
        return [self._one_order(one) for one in several]

    def _one_order(self, given: Any) -> Any:
        if isinstance(given, peewee.Node):
            return given
        if not isinstance(given, str):
            raise ConfigurationError(
                f"order_by is a field's name, with - in front for the greatest first, or a Peewee "
                f"expression, not {given!r}"
            )
        name, fields = given.removeprefix("-"), ViewFields(self.model, self.kinds)
        is_column = name in COLUMNS and not fields.knows(name)
        key: Any = getattr(self.model, name) if is_column else fields[name]
        return key.desc(nulls="LAST") if given.startswith("-") else key.asc(nulls="LAST")


def _checked_count(name: str, count: object) -> int:
    if type(count) is not int or not 0 <= count < 2**63:
        raise ConfigurationError(f"{name} is a whole number from 0 on, not {count!r}")
    return count


def _bare(kind: Any) -> Any:
    """The type of a field without None, annotations and new names."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        named = [one for one in arguments if one is not types.NoneType]
        return _bare(named[0]) if len(named) == 1 else Any
    if origin is typing.Annotated:
        return _bare(arguments[0])
    return _bare(kind.__supertype__) if hasattr(kind, "__supertype__") else kind


def _cast_of(kind: Any) -> str | None:
    if not isinstance(kind, type) or (issubclass(kind, Enum) and not issubclass(kind, int)):
        return None
    return next((name for base, name in CASTS if issubclass(kind, base)), None)


def _text(model: Any, name: str, cast_to: str = "") -> peewee.NodeList:
    return _Compared((model.data, peewee.SQL(f"->>'{name}'")), cast_to)


def _expression(model: Any, name: str, kind: Any) -> Any:
    cast_to = _cast_of(kind)
    if cast_to is not None or (isinstance(kind, type) and issubclass(kind, TEXTS)):
        return _text(model, name, cast_to or "")
    return model.data[name]


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
        return [_sql_value(one) for one in cast("Iterable[Any]", value)]
    return value


def _matches(model: Any, name: str, value: Any, kind: Any) -> Any:
    """That a field has this value, or one of a list; an array field, exactly these."""
    cast_to = _cast_of(kind)
    several = cast("Sequence[Any]", value if isinstance(value, (list, tuple)) else [value])
    if cast_to == "boolean" and any(type(one) is not bool for one in several):
        raise ConfigurationError(
            f"{name} is true or false; give True, False or a list of these, not {value!r}"
        )
    is_number = cast_to == "numeric" and any(not isinstance(one, (int, str)) for one in several)
    if is_number or cast_to == "timestamptz" or (cast_to == "numeric" and kind is not int):
        return _equal(
            _text(model, name, cast_to or ""),
            [_compared_value(name, one, cast_to) for one in several],
            cast_to,
        )
    if cast_to == "date":
        several = [one.isoformat() if type(one) is date else one for one in several]
        value = several if isinstance(value, (list, tuple)) else several[0]
    if cast_to is None and isinstance(value, (float, Decimal)):  # of any type: a number of JSON
        return peewee.Expression(model.data[name], "=", peewee.SQL("%s::jsonb", [_number_text(name, value)]))
    return _equal(_text(model, name), _candidates(name, value), "text")


def _equal(field: Any, values: list[Any], kind: str | None) -> Any:
    many = peewee.NodeList((peewee.Value(values, unpack=False), peewee.SQL(f"::{kind}[]")), glue="")
    return peewee.Expression(field, "=", peewee.fn.ANY(many))


def _compared_value(name: str, value: Any, kind: str | None) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if kind == "timestamptz":
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


def _candidates(field: str, value: Any) -> list[str]:
    """The texts that `data->>'field'` may have: any of a list; of an array field the array itself,
    exactly."""
    if not isinstance(value, (list, tuple)):
        return [identifier_text(field, value)]
    several = cast("Sequence[Any]", value)
    texts = [identifier_text(field, one) for one in several if not isinstance(one, (list, tuple, dict))]
    whole = json.dumps(
        list(several),
        ensure_ascii=False,
        default=lambda one: one.value if isinstance(one, Enum) else identifier_text(field, one),
    )
    return [*texts, whole]
