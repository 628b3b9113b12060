"""Questions about saved projections: fields of their views, compared and ordered as what they are."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

import attrs
import peewee

from pgevents.comparisons import Comparison, check_kind, single_types
from pgevents.errors import ConfigurationError, shown
from pgevents.fields import check_view_field
from pgevents.store.tables import ProjectionsModel
from pgevents.texts import identifier_text
from pgevents.views import field_types, nearest

__all__ = ["Asked", "Question", "ViewFields", "values_by_field"]

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
OPTIONS = ("where", "order_by", "limit", "offset", "version", "partial", "max_lag")
"""Keywords that are options of some calls; as a field's name they would be a slip."""
COLUMNS = ("type", "id", "latest_event_id", "version", "created_at", "updated_at")


@attrs.frozen
class Asked:
    """One kind of projection that a question is about.

    Attributes:
        type: The projection's type.
        version: The version; None for the newest that each id has.
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
        check_view_field(name)  # it becomes SQL
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


def values_by_field(data: object, keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the fields of views must be, from `data=` and from keywords.

    Raises:
        ConfigurationError: A field that is given twice, an option that the call does not have, or no dict.
    """
    if data is not None and not isinstance(data, Mapping):
        raise ConfigurationError(f"data= takes values by field name, a dict, not {shown(data)}")
    named = cast("Mapping[str, Any]", data or {})
    for name, value in keywords.items():
        if name in named:
            raise ConfigurationError(f"{name!r} is given twice, as a keyword and in data=")
        if name in OPTIONS:
            raise ConfigurationError(
                f"{name}= is no option here; if a field of the view is called {name!r}, write "
                f"data={{{name!r}: {shown(value)}}}"
            )
    return {**named, **keywords}


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
        return self._statement("rows")

    def count(self) -> tuple[str, list[Any]]:
        """The statement for their number."""
        return self._statement("count")

    def ids(self) -> tuple[str, list[Any]]:
        """The statement for types and ids alone."""
        return self._statement("ids")

    def _statement(self, result: str) -> tuple[str, list[Any]]:
        if self.where is not None and not isinstance(self.where, peewee.Node):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"where is a Peewee expression, as client.view_fields(...).total > 100, not {self.where!r}"
            )
        fields = ViewFields(self.model, self.kinds)
        conditions: list[tuple[str, str]] = []
        values: list[Any] = []
        where: Any = self.where
        for name, value in self.match.items():
            if isinstance(value, Comparison):
                compared = _compared(self.model, name, value, fields.type_of(name))
                where = compared if where is None else where & compared
                continue
            comparison, compared = _comparison(name, value, fields.type_of(name))
            conditions.append((name, comparison))
            values.append(compared)
        pages: list[str] = []
        for name, count in (("limit", self.limit), ("offset", self.offset)):
            if count is not None:
                pages.append(name)
                values.append(_checked_count(name, count))
        given: Any = () if self.order_by is None else self.order_by
        orders = cast("Sequence[Any]", given if isinstance(given, (list, tuple)) else [given])
        kinds = tuple([(kind.type, kind.version, kind.view_class) for kind in self.kinds])
        is_text = where is None and all(isinstance(one, str) for one in orders)
        build: Any = _kept_sql if is_text and _is_hashable(kinds) else _built_sql
        sql, params = build(self.model, result, kinds, tuple(conditions), tuple(orders), tuple(pages), where)
        return sql, [values[one.number] if isinstance(one, _Slot) else one for one in params]


@attrs.frozen
class _Slot:
    """The place of a value among the parameters of a statement that is kept."""

    number: int


def _is_hashable(kinds: object) -> bool:
    try:
        hash(kinds)
    except TypeError:  # the annotations of a view's class may hold a list
        return False
    return True


def _built_sql(
    model: Any,
    result: str,
    kinds: tuple[tuple[str, int | None, Any], ...],
    conditions: tuple[tuple[str, str], ...],
    orders: tuple[Any, ...],
    pages: tuple[str, ...],
    where: Any,
) -> tuple[str, list[Any]]:
    """The statement of a question, with slots among its parameters for the values of conditions and pages."""
    fields = ViewFields(model, [Asked(kind, version, None, cls) for kind, version, cls in kinds])
    query = _selected(model, result)
    wanted: Any = None
    for kind, version, _ in kinds:
        one = model.type == kind
        # As an expression: by type and version alone, the planner would go through the whole primary key.
        one &= _newest_sql(model) if version is None else peewee.Expression(model.version, "+", 0) == version
        wanted = one if wanted is None else wanted | one
    query = query.where(wanted)
    for number, (name, comparison) in enumerate(conditions):
        query = query.where(_condition(model, name, comparison, _Slot(number)))
    if where is not None:
        query = query.where(where)
    if result == "rows":
        last = [model.type, model.id] if len(kinds) > 1 else [model.id]
        query = query.order_by(*[_order(model, fields, one) for one in orders], *last)
    elif result == "ids":
        query = query.order_by(model.type, model.id)
    for number, name in enumerate(pages, len(conditions)):
        query = getattr(query, name)(peewee.Value(_Slot(number), converter=False))
    return cast("tuple[str, list[Any]]", query.sql())


def _newest_sql(model: Any) -> Any:
    """The condition that no newer version of the same id is saved."""
    table = model.pgevents_spec.qualified()
    return peewee.SQL(
        f'NOT EXISTS (SELECT FROM {table} AS n WHERE n.type = "t1".type AND n.id = "t1".id '
        'AND n.version > "t1".version)'
    )


# Peewee takes longer to build a statement than PostgreSQL to answer it.
_kept_sql = lru_cache(maxsize=256)(_built_sql)


def _selected(model: Any, result: str) -> Any:
    if result == "count":
        return model.select(peewee.fn.COUNT(peewee.SQL("*")))
    if result == "ids":
        return model.select(model.type, model.id)
    first, rest = [[getattr(model, name) for name in names] for names in (COLUMNS[:2], COLUMNS[2:])]
    data = peewee.SQL('coalesce("t1".exact, "t1".data::text)')
    return model.select(*first, data, *rest, peewee.SQL('"t1".shape'))


def _order(model: Any, fields: ViewFields, given: Any) -> Any:
    if isinstance(given, peewee.Node):
        return given
    if not isinstance(given, str):
        raise ConfigurationError(
            f"order_by is a field's name, with - in front for the greatest first, or a Peewee "
            f"expression, not {given!r}"
        )
    name = given.removeprefix("-")
    is_column = name in COLUMNS and not fields.knows(name)
    key: Any = getattr(model, name) if is_column else fields[name]
    return key.desc(nulls="LAST") if given.startswith("-") else key.asc(nulls="LAST")


def _compared(model: Any, name: str, comparison: Comparison, kind: Any) -> Any:
    """A condition by a comparison, on a field that may be compared so."""
    check_kind(comparison, f"the field {name!r}", [] if kind is Any else single_types(kind))
    column = '"t1"."data"'
    sql = comparison.sql(f"{column}->>'{name}'", f"{column}->'{name}'")
    return peewee.SQL(f"({sql})", comparison.params())


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


def _comparison(name: str, value: Any, kind: Any) -> tuple[str, Any]:
    """How a field is compared with a value, or any of a list; an array field, with exactly these.

    Returns:
        The PostgreSQL type that both have, and the values; for "jsonb" the text of one.
    """
    cast_to = _cast_of(kind)
    several = cast("Sequence[Any]", value if isinstance(value, (list, tuple)) else [value])
    if cast_to == "boolean" and any(type(one) is not bool for one in several):
        raise ConfigurationError(
            f"{name} is true or false; give True, False or a list of these, not {value!r}"
        )
    is_number = cast_to == "numeric" and any(not isinstance(one, (int, str)) for one in several)
    if is_number or cast_to == "timestamptz" or (cast_to == "numeric" and kind is not int):
        return str(cast_to), [_compared_value(name, one, cast_to) for one in several]
    if cast_to == "date":
        several = [one.isoformat() if type(one) is date else one for one in several]
        value = several if isinstance(value, (list, tuple)) else several[0]
    if cast_to is None and isinstance(value, (float, Decimal)):  # of any type: a number of JSON
        return "jsonb", _number_text(name, value)
    return "text", _candidates(name, value)


def _condition(model: Any, name: str, comparison: str, slot: _Slot) -> Any:
    if comparison == "jsonb":
        return peewee.Expression(model.data[name], "=", peewee.SQL("%s::jsonb", [slot]))
    field = _text(model, name, "" if comparison == "text" else comparison)
    values = peewee.Value(slot, converter=False, unpack=False)
    many = peewee.NodeList((values, peewee.SQL(f"::{comparison}[]")), glue="")
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
