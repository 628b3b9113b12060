"""A page of the log: newest first, each page a few index ranges, however long the log is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from pgevents.browser.filters import Filter
from pgevents.client import EventClient
from pgevents.fields import texts_in

__all__ = [
    "COUNT_LIMIT",
    "WINDOW",
    "chart_of",
    "count_of",
    "encrypted",
    "event_rows",
    "identifiers_of",
    "iso",
    "is_table",
    "page_of",
    "row_json",
]

PAGE = 50
"""Events on a page."""
WINDOW = 10_000
"""How many events a page looks through for a filter that no index answers."""
COUNT_LIMIT = 10_000
"""What is counted; beyond it a page says "more than 10,000"."""
BUCKETS = 40
"""Bars of the chart."""

COLUMNS = "id, type, data::text, metadata::text, created_at, updated_at"


def page_of(client: EventClient, wanted: Filter, before: int | None, after: int | None) -> dict[str, Any]:
    """One page of matching events.

    Args:
        client: Whose log.
        wanted: Which events.
        before: Only ids below this one; the newest of them.
        after: Only ids above this one; the oldest of them.

    Returns:
        `events` (newest first), `older` and `newer` (where the next page starts, or None), and
        `searched` (how many events were looked through, if a filter has no index; else None).
    """
    is_up = after is not None and before is None
    rows, searched, end = _scan(client, wanted, after if is_up else before, is_up=is_up)
    has_more = len(rows) > PAGE
    rows = rows[:PAGE]
    onward = rows[-1][0] if has_more else end
    if is_up:
        older, newer = (rows[0][0] if rows else (after or 0) + 1), onward
        rows.reverse()
    else:
        older, newer = onward, None
        if before is not None:
            newer = rows[0][0] if rows else before - 1
    return {
        "events": [_with_identifiers(client, row_json(row)) for row in rows],
        "older": older,
        "newer": newer,
        "searched": searched,
    }


def _with_identifiers(client: EventClient, event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "identifiers": identifiers_of(client, event["data"], event["metadata"])}


def _scan(
    client: EventClient, wanted: Filter, bound: int | None, *, is_up: bool
) -> tuple[list[Any], int | None, int | None]:
    """Matching rows in the direction of paging, how many were looked through, and where that ended."""
    spec = client.events.pgevents_spec
    residual, residual_params = wanted.residual(spec)
    limit = WINDOW if residual else PAGE + 1
    order = "ASC" if is_up else "DESC"
    parts: list[str] = []
    params: list[Any] = []
    for condition, values, column in wanted.ranges(spec):
        sql = f"SELECT * FROM {spec.qualified()} WHERE {condition}"
        params += values
        if bound is not None:
            sql += f" AND id {'>' if is_up else '<'} %s"
            params.append(bound)
        in_order = f"{column} {order}, " if column else ""
        parts.append(f"({sql} ORDER BY {in_order}id {order} LIMIT {limit})")
    searched = " UNION ALL ".join(parts)
    where = " AND ".join(residual) or "true"
    farthest = "max" if is_up else "min"
    sql = f"""\
WITH searched AS MATERIALIZED (
    SELECT * FROM ({searched}) AS ranges ORDER BY id {order} LIMIT {limit}
), matching AS (
    SELECT {COLUMNS} FROM searched WHERE {where} ORDER BY id {order} LIMIT {PAGE + 1}
)
SELECT matching.*, ends.* FROM (SELECT count(*) AS count, {farthest}(id) AS last FROM searched) AS ends
LEFT JOIN matching ON true ORDER BY matching.id {order}
"""
    found = client.session.execute(sql, [*params, *residual_params]).fetchall()
    rows = [row[:6] for row in found if row[0] is not None]
    if not residual:
        return rows, None, None
    count, last = found[0][6:]
    return rows, count, last if count == limit else None


def count_of(client: EventClient, wanted: Filter) -> int | None:
    """How many events match, up to `COUNT_LIMIT` + 1; None where no index says so."""
    spec = client.events.pgevents_spec
    residual, _ = wanted.residual(spec)
    if residual:
        return None
    total = 0
    for condition, values, _ in wanted.ranges(spec):
        some = f"SELECT 1 FROM {spec.qualified()} WHERE {condition} LIMIT {COUNT_LIMIT + 1}"
        sql = f"SELECT count(*) FROM ({some}) AS found"
        total += client.session.execute(sql, values).fetchone()[0]
    return min(total, COUNT_LIMIT + 1)


CHART_SQL = """\
WITH newest AS MATERIALIZED (
    SELECT type, created_at FROM ({ranges}) AS ranges WHERE {where} ORDER BY id DESC LIMIT {limit}
), span AS (
    SELECT min(created_at) AS first, max(created_at) AS last FROM newest
)
SELECT type, least(width_bucket(
        extract(epoch FROM created_at), extract(epoch FROM first), extract(epoch FROM last) + 0.001, {buckets}
    ), {buckets}),
    count(*), min(first), max(last)
FROM newest, span GROUP BY 1, 2
"""


def chart_of(client: EventClient, wanted: Filter) -> dict[str, Any] | None:
    """Counts by type over time, of the newest events that match.

    Returns:
        `first`, `last` (times), `of` (how many events), `types` (name and count, the most frequent first,
        at most seven), `bars` (a list of `BUCKETS` lists of counts, in the order of `types`); None if
        nothing matches.
    """
    spec = client.events.pgevents_spec
    residual, residual_params = wanted.residual(spec)
    parts: list[str] = []
    params: list[Any] = []
    for condition, values, column in wanted.ranges(spec):
        in_order = f"{column} DESC, " if column else ""
        newest = f"ORDER BY {in_order}id DESC LIMIT {COUNT_LIMIT}"
        parts.append(f"(SELECT * FROM {spec.qualified()} WHERE {condition} {newest})")
        params += values
    sql = CHART_SQL.format(
        ranges=" UNION ALL ".join(parts),
        where=" AND ".join(residual) or "true",
        limit=COUNT_LIMIT,
        buckets=BUCKETS,
    )
    rows = client.session.execute(sql, [*params, *residual_params]).fetchall()
    if not rows:
        return None
    totals: dict[str, int] = {}
    for name, _, count, _, _ in rows:
        totals[name] = totals.get(name, 0) + count
    names = sorted(totals, key=lambda name: (-totals[name], name))
    shown, others = names[:6], names[6:]
    bars = [[0] * (len(shown) + bool(others)) for _ in range(BUCKETS)]
    for name, bucket, count, _, _ in rows:
        bars[bucket - 1][shown.index(name) if name in shown else len(shown)] += count
    types = [{"type": name, "count": totals[name]} for name in shown]
    if others:
        types.append({"type": "others", "count": sum(totals[name] for name in others)})
    return {
        "first": iso(rows[0][3]),
        "last": iso(rows[0][4]),
        "of": sum(totals.values()),
        "types": types,
        "bars": bars,
    }


def event_rows(client: EventClient, condition: str, params: Sequence[Any], tail: str = "") -> list[Any]:
    """Rows of events by a condition."""
    sql = f"SELECT {COLUMNS} FROM {client.events.pgevents_spec.qualified()} WHERE {condition} {tail}"
    return list(client.session.execute(sql, list(params)).fetchall())


def row_json(row: Sequence[Any]) -> dict[str, Any]:
    """A row of an event as plain JSON."""
    event_id, name, data, metadata, created_at, updated_at = row
    return {
        "id": event_id,
        "type": name,
        "data": json.loads(data),
        "metadata": json.loads(metadata),
        "created_at": iso(created_at),
        "updated_at": None if updated_at == created_at else iso(updated_at),
    }


def identifiers_of(
    client: EventClient, data: dict[str, Any], metadata: dict[str, Any]
) -> list[dict[str, str]]:
    """The data indexes that an event has a value of."""
    return [
        {"field": field, "value": text}
        for field in client.events.pgevents_spec.data_indexes
        for text in texts_in(field, data, metadata)
    ]


def iso(when: datetime) -> str:
    """A time in UTC, as ISO 8601 text."""
    return when.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def encrypted(data: Mapping[str, Any]) -> bool:
    """Whether stored data hold a field that is encrypted."""
    return any(isinstance(value, dict) and "$encrypted" in value for value in data.values())


def is_table(value: Sequence[Any]) -> bool:
    """Whether a list is best read as a table: several objects of the same few fields, none of them nested."""
    if len(value) < 2 or not all(isinstance(row, dict) for row in value):
        return False
    names = list(value[0])
    return 0 < len(names) <= 8 and all(
        list(row) == names and not any(isinstance(inner, (list, dict)) for inner in row.values())
        for row in value
    )
