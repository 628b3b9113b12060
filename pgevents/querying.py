"""Questions about saved projections, as statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs
import peewee

from pgevents.caches import remembered
from pgevents.comparisons import Comparison
from pgevents.errors import ConfigurationError, InvalidValueError
from pgevents.store.tables import ProjectionsModel
from pgevents.view_conditions import Slot, comparison_sql, equal_values, equality_sql
from pgevents.view_fields import ViewFields
from pgevents.view_kinds import ViewKind
from pgevents.view_values import check_value

__all__ = [
    "Question",
]

COLUMNS = ("type", "id", "latest_event_id", "version", "created_at", "updated_at")


@attrs.frozen
class Question:
    """Which saved projections, in which order; see `EventClient.query_projections`."""

    model: type[ProjectionsModel]
    kinds: Sequence[ViewKind]
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
        is_usual = all(kind.is_usual for kind in self.kinds)
        for name, value in self.match.items():
            if isinstance(value, Comparison):
                condition = comparison_sql(self.model, name, value, fields.type_of(name))
                where = condition if where is None else where & condition
                continue
            field_type = fields.type_of(name)
            if is_usual:
                check_value(name, value, field_type)
            sql_type, equal = equal_values(name, value, field_type)
            conditions.append((name, sql_type))
            values.append(equal)
        pages: list[str] = []
        for name, count in (("limit", self.limit), ("offset", self.offset)):
            if count is not None:
                pages.append(name)
                values.append(_checked_count(name, count))
        order_by = self.order_by
        orders: Sequence[Any] = ()
        if order_by is not None:
            orders = cast("Sequence[Any]", order_by if isinstance(order_by, (list, tuple)) else [order_by])
        kinds = tuple([(kind.type, kind.version, kind.view_class) for kind in self.kinds])
        is_text = where is None and (not orders or all(isinstance(order, str) for order in orders))
        build: Any = _remembered_sql if is_text and _is_hashable(kinds) else _built_sql
        sql, params = build(self.model, result, kinds, tuple(conditions), tuple(orders), tuple(pages), where)
        return sql, [values[param.number] if isinstance(param, Slot) else param for param in params]


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
    fields = ViewFields(model, [ViewKind(type, version, None, cls) for type, version, cls in kinds])
    query = _selected(model, result)
    any_kind: Any = None
    for type, version, _ in kinds:
        condition = model.type == type
        # As an expression: by type and version alone, the planner would go through the whole primary key.
        condition &= (
            _newest_sql(model)
            if version is None
            else peewee.Expression(peewee.SQL('"t1".version + 0'), "=", version)
        )
        any_kind = condition if any_kind is None else any_kind | condition
    query = query.where(any_kind)
    for number, (name, sql_type) in enumerate(conditions):
        query = query.where(equality_sql(model, name, sql_type, Slot(number)))
    if where is not None:
        query = query.where(where)
    if result == "rows":
        last = [model.type, model.id] if len(kinds) > 1 else [model.id]
        query = query.order_by(*[_order(model, fields, order) for order in orders], *last)
    elif result == "ids":
        query = query.order_by(model.type, model.id)
    for number, name in enumerate(pages, len(conditions)):
        query = getattr(query, name)(peewee.Value(Slot(number), converter=False))
    return cast("tuple[str, list[Any]]", query.sql())


def _newest_sql(model: Any) -> Any:
    """The condition that no newer version of the same id is saved."""
    table = model.pgevents_spec.qualified()
    return peewee.SQL(
        f'NOT EXISTS (SELECT FROM {table} AS n WHERE n.type = "t1".type AND n.id = "t1".id '
        'AND n.version > "t1".version)'
    )


# Peewee takes longer to build a statement than PostgreSQL to answer it.
_remembered_sql = remembered("statements about views")(_built_sql)


def _selected(model: Any, result: str) -> Any:
    if result == "count":
        return model.select(peewee.fn.COUNT(peewee.SQL("*")))
    if result == "ids":
        return model.select(model.type, model.id)
    first, rest = [[getattr(model, name) for name in names] for names in (COLUMNS[:2], COLUMNS[2:])]
    data = peewee.SQL('coalesce("t1".exact, "t1".data::text)')
    return model.select(*first, data, *rest, peewee.SQL('"t1".shape'))


def _order(model: Any, fields: ViewFields, order: Any) -> Any:
    if isinstance(order, peewee.Node):
        return order
    if not isinstance(order, str):
        raise ConfigurationError(
            f"order_by is a field's name, with - in front for the greatest first, or a Peewee "
            f"expression, not {order!r}"
        )
    name = order.removeprefix("-")
    is_column = name in COLUMNS and not fields.knows(name)
    key: Any = getattr(model, name) if is_column else fields[name]
    return key.desc(nulls="LAST") if order.startswith("-") else key.asc(nulls="LAST")


def _checked_count(name: str, count: object) -> int:
    if type(count) is not int or not 0 <= count < 2**63:
        raise InvalidValueError(f"{name} is a whole number from 0 on, not {count!r}")
    return count
