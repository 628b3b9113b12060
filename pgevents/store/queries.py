"""The statements that read events, as text: a branch for each stream, each on its own index range."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import attrs

from pgevents.caches import remembered
from pgevents.store.conditions import Shape, shape_of, where_params, where_sql
from pgevents.store.layout import TableSpec
from pgevents.streams import Stream

__all__ = ["COLUMNS", "NO_EVENT", "keyed_select", "select_after_snapshot", "select_events", "select_of_types"]

COLUMNS = """\
id, type, data::text, nullif(metadata, '{}')::text AS metadata, created_at::text, \
nullif(updated_at, created_at)::text AS updated_at"""
"""Nothing for what is mostly the same; times as text, which `time_of` reads several times faster than the
driver does."""
NO_EVENT = ", NULL::text, NULL::text, NULL::text, NULL::text, NULL::text"
"""All of those but the id, for a row that does not hold an event."""
# Even this is a bound, for without one the planner would combine two indexes rather than go along one; and it
# is a subquery, for to estimate a constant below all ids the planner would look up the least of them, each
# time.
FROM_THE_START = "id > (SELECT 0::bigint)"
ABOVE_ALL = 2**63 - 1
"""No event has this id."""


def select_events(
    table: TableSpec,
    streams: Sequence[Stream[Any]],
    after: int | str,
    as_of: int | datetime | None,
    tail: str,
    *,
    is_reverse: bool = False,
) -> tuple[str, list[Any]]:
    """Each event of the streams once, and the parameters.

    Args:
        table: The events table.
        streams: Merged streams.
        after: An id, or the SQL of one.
        as_of: Up to where, if not up to now.
        tail: What orders and limits the rows.
        is_reverse: Whether `after` is what the events are below.
    """
    bounds: tuple[str, ...]
    bound_params: list[Any] = []
    if isinstance(after, str):
        bounds = (f"id > {after}",)
    elif after == 0 and all(stream.match for stream in streams):
        bounds = (FROM_THE_START,)
    else:
        bounds = ("id < %s" if is_reverse and after else "id > %s",)
        bound_params.append(after)
    if as_of is not None:
        bounds += ("created_at <= %s" if isinstance(as_of, datetime) else "id <= %s",)
        bound_params.append(as_of)
    own_bound = "id < %s" if is_reverse else "id > %s"
    params: list[Any] = []
    branches: list[tuple[Shape, tuple[str, ...]]] = []
    for stream in streams:
        listed = _list_of(table, tuple([field for field, _ in stream.match]))
        if listed is not None:
            values = next(values for field, values in stream.match if field == listed)
            params.append(values[0] if len(values) == 1 else list(values))
            params += bound_params[: len(bound_params) - isinstance(as_of, datetime)]
            if stream.after:
                params.append(stream.after)
        params += where_params(stream, listed)
        params += bound_params
        if stream.after:
            params.append(stream.after)
        branches.append((shape_of(stream), (*bounds, own_bound) if stream.after else bounds))
    return _select_sql(table, tuple(branches), tail), params


def select_of_types(
    table: TableSpec,
    streams: Sequence[Stream[Any]],
    after: int,
    as_of: int | datetime | None,
    limit: int,
    *,
    is_reverse: bool = False,
) -> tuple[str, list[Any]]:
    """The same for a few events of streams that name types alone: a branch for each type, along the index of
    types, which the order and the bounds leave as the only one.

    Left to choose, the planner takes each type to be spread evenly over the log and goes along the ids: for a
    type that has ended, or has just begun, through all that came after or before it.
    """
    order = "type DESC, id DESC" if is_reverse else "type, id"
    above, up_to = ("<", ">=") if is_reverse else (">", "<=")
    params: list[Any] = []
    branches: list[str] = []
    for stream in streams:
        start = _start(after, stream.after, as_of) if is_reverse else max(after, stream.after)
        comparisons = where_sql(((), None, shape_of(stream)[2]), table)
        for name in stream.types or ():
            where = f"(type, id) {above} (%s, %s) AND type {up_to} %s AND {comparisons}"
            params += [name, start, name, *where_params(attrs.evolve(stream, types=None))]
            if as_of is not None:
                where += " AND created_at <= %s" if isinstance(as_of, datetime) else " AND id <= %s"
                params.append(as_of)
            branches.append(
                f"SELECT {COLUMNS} FROM {table.qualified()} WHERE {where} ORDER BY {order} LIMIT {limit:d}"
            )
    if len(branches) == 1:
        return branches[0], params
    every = "\nUNION ALL\n".join(f"({branch})" for branch in branches)
    by_id = "id DESC" if is_reverse else "id"
    return f"SELECT DISTINCT ON (id) * FROM (\n{every}\n) AS every ORDER BY {by_id} LIMIT {limit:d}", params


def _start(after: int, own: int, as_of: int | datetime | None) -> int:
    """The id that events in reverse order are below."""
    bounds = [bound for bound in (after, own) if bound]
    if isinstance(as_of, int):
        bounds.append(as_of + 1)
    return min(bounds, default=ABOVE_ALL)


def select_after_snapshot(
    table: TableSpec,
    projections: str,
    key: tuple[str, str, int, str | None],
    streams: Sequence[Stream[Any]],
    as_of: int | datetime | None,
) -> tuple[str, list[Any]]:
    """A snapshot, if there is one, as a row with its `latest_event_id` as id and no type; and the events
    after it.

    Args:
        table: The events table.
        projections: The quoted name of the snapshot's table.
        key: The snapshot's type, id, version and shape.
        streams: Merged streams.
        as_of: Up to where, if not up to now.
    """
    snapshot = (
        "SELECT latest_event_id, coalesce(exact, data::text) AS data, created_at, updated_at "
        f"FROM {projections} WHERE type = %s AND id = %s AND version = %s AND shape = %s"
    )
    params: list[Any] = [*key]
    if isinstance(as_of, int):
        snapshot += " AND latest_event_id <= %s"
        params.append(as_of)
    elif as_of is not None:  # times need not follow the order of ids, so no snapshot is of a time
        snapshot += " AND false"
    after = "coalesce((SELECT latest_event_id FROM snapshot), 0)"
    select, stream_params = select_events(table, streams, after, as_of, "ORDER BY id")
    sql = (
        f"WITH snapshot AS ({snapshot})\n"
        "SELECT latest_event_id, NULL, data, NULL, created_at::text, updated_at::text FROM snapshot\n"
        f"UNION ALL\n({select})"
    )
    return sql, params + stream_params


@remembered("statements about events")
def _select_sql(table: TableSpec, shapes: tuple[tuple[Shape, tuple[str, ...]], ...], tail: str) -> str:
    branches = [_branch_sql(table, shape, bounds, tail) for shape, bounds in shapes]
    if not branches:
        return f"SELECT NULL::bigint AS id{NO_EVENT} WHERE false"
    if len(branches) == 1:
        return branches[0]
    every = "\nUNION ALL\n".join(f"({branch})" for branch in branches)
    return f"SELECT DISTINCT ON (id) * FROM (\n{every}\n) AS every {tail}"


def _list_of(table: TableSpec, fields: tuple[str, ...]) -> str | None:
    """The field of a stream along whose list of values it is read: its first data index, if that is one."""
    first = next((field for field in table.data_indexes if field in fields), None)
    return first if first in table.lists else None


def _branch_sql(table: TableSpec, shape: Shape, bounds: tuple[str, ...], tail: str) -> str:
    """The events of one stream. Along a list of values the ids come first, in order, and then each event by
    its id: a join that the planner may turn round would read all events for a value that few have."""
    listed = _list_of(table, tuple([field for field, _ in shape[0]]))
    where = " AND ".join(
        [where_sql(shape, table, id_sql="ids.id" if listed else "", besides=listed), *bounds]
    )
    if listed is None:
        return f"SELECT {COLUMNS} FROM {table.qualified()} WHERE {where} {tail}"
    is_one = (listed, False) in shape[0]
    below = " AND ".join(bound for bound in bounds if bound.startswith("id "))
    ids = (
        f"SELECT {'' if is_one else 'DISTINCT '}id FROM {table.qualified('_lists')} "
        f"WHERE field = '{listed}' AND value = {'%s' if is_one else 'ANY(%s)'} AND {below}"
    )
    event = (
        f"SELECT type, data, metadata, created_at, updated_at FROM {table.qualified()} AS e "
        "WHERE e.id = ids.id OFFSET 0"
    )
    return f"SELECT {COLUMNS} FROM ({ids}) AS ids, LATERAL ({event}) AS e WHERE {where} {tail}"


def keyed_select(select: str, table: TableSpec) -> str:
    """A statement of events by id with the idempotency key of each as one more column."""
    return (
        f"SELECT e.*, k.idempotency_key FROM ({select}) AS e JOIN {table.qualified()} AS k ON k.id = e.id "
        "ORDER BY e.id"
    )
