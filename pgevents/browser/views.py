"""Pages of saved projections: which there are, a query by their fields, and one of them beside its fold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pgevents.browser.diff import changes
from pgevents.browser.filters import LARGEST_ID, FilterError
from pgevents.browser.log import COUNT_LIMIT, iso
from pgevents.browser.things import saved_types
from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.streams import check_field_name

__all__ = ["projection_page", "projection_types", "query_page"]

PAGE = 50
SORTABLE = 100_000
"""Of so many views at most a page orders by a field, which has no index that does."""
COLUMNS = "id, data::text, latest_event_id, version, created_at, updated_at"


def projection_types(client: EventClient, classes: dict[str, type[Any]]) -> dict[str, Any]:
    """Each projection type with its saved versions, and whether this program has a class for it."""
    table = client.projections.pgevents_spec.qualified()
    sql = (
        f"SELECT version, count(*), max(updated_at) FROM "
        f"(SELECT version, updated_at FROM {table} WHERE type = %s LIMIT {COUNT_LIMIT + 1}) AS found "
        "GROUP BY version ORDER BY version"
    )
    found: list[dict[str, Any]] = []
    for name in sorted({*saved_types(client), *classes}):
        rows = client.session.execute(sql, [name]).fetchall()
        cls = classes.get(name)
        found.append(
            {
                "type": name,
                "class": None if cls is None else f"{cls.__module__}:{cls.__qualname__}",
                "version": None if cls is None else cls.version,
                "versions": [
                    {"version": version, "count": count, "updated_at": iso(at)} for version, count, at in rows
                ],
                "count": sum(row[1] for row in rows),
            }
        )
    return {"projections": found, "count_limit": COUNT_LIMIT}


def query_page(
    client: EventClient,
    name: str,
    where: Sequence[tuple[str, str]],
    order: str,
    after: str | None,
) -> dict[str, Any]:
    """Saved views of one type.

    Args:
        client: Whose projections.
        name: The projection type.
        where: Field and value pairs of the views; all of them.
        order: "id", or a field of the views; with a leading "-" the greatest first.
        after: Where the page starts: the JSON of the last row's key.
    """
    table = client.projections.pgevents_spec.qualified()
    is_down, field = order.startswith("-"), order.removeprefix("-")
    key, placeholder = ("id", "%s") if field == "id" else (_field_sql(field), "%s::jsonb")
    newest = f"version = (SELECT max(n.version) FROM {table} AS n WHERE n.type = p.type AND n.id = p.id)"
    conditions, params = ["type = %s", newest], list[Any]([name])
    for one, wanted in where:
        conditions.append(f"data->>'{_checked(one)}' = %s")
        params.append(wanted)
    total_sql = f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE type = %s LIMIT {SORTABLE + 1}) AS found"
    if field != "id" and client.session.execute(total_sql, [name]).fetchone()[0] > SORTABLE:
        raise FilterError(f"more than {SORTABLE:,} views of {name} are saved; they are listed by id only")
    sign, direction = ("<", "DESC") if is_down else (">", "ASC")
    if after:
        key_value, last = _place_of(after)
        if field == "id":
            conditions.append(f"id {sign} %s")
            params.append(last)
        else:
            conditions.append(f"({key}, id) {sign} ({placeholder}, %s)")
            params += [json.dumps(key_value), last]
    ordered = f"id {direction}" if field == "id" else f"{key} {direction}, id {direction}"
    where_sql = " AND ".join(conditions)
    sql = f"SELECT {COLUMNS} FROM {table} AS p WHERE {where_sql} ORDER BY {ordered} LIMIT {PAGE + 1}"
    rows = client.session.execute(sql, params).fetchall()
    views = [_row(row) for row in rows[:PAGE]]
    following = None
    if len(rows) > PAGE:
        last_view = views[-1]
        value = None if field == "id" else last_view["data"].get(field)
        following = json.dumps([value, last_view["id"]], ensure_ascii=False)
    fields = list(dict.fromkeys(name for one in views for name in one["data"]))[:40]
    return {
        "type": name,
        "views": views,
        "fields": fields,
        "where": [list(pair) for pair in where],
        "order": order,
        "after": after,
        "next": following,
    }


def projection_page(
    client: EventClient, name: str, view_id: str, cls: type[Any] | None
) -> dict[str, Any] | None:
    """One projection: what is saved, and, where a class is there, what a fold gives now."""
    table = client.projections.pgevents_spec.qualified()
    sql = f"SELECT {COLUMNS} FROM {table} WHERE type = %s AND id = %s ORDER BY version DESC"
    saved = [_row(row) for row in client.session.execute(sql, [name, view_id]).fetchall()]
    folded, error, differences = None, None, list[dict[str, Any]]()
    is_closed = cls is not None and "pgevents_before_decode" in client.plugins.implemented
    if cls is not None and not is_closed:
        try:  # as of the end: only a view of now is told to plugins, which may save it
            folded = cls(view_id, client, as_of=LARGEST_ID).as_json()
        except Exception as fault:  # reducers are the application's code: whatever they raise is shown
            error = f"{type(fault).__name__}: {fault}"
        same = [one for one in saved if one["version"] == cls.version]
        if same and folded is not None:
            differences = changes(same[0]["data"], folded)
    if not saved and folded is None:
        return None
    return {
        "type": name,
        "id": view_id,
        "saved": saved,
        "folded": folded,
        "folded_version": None if cls is None else cls.version,
        "error": error,
        "closed": is_closed,
        "changes": differences,
        "identifiers": _identifiers(client, cls, view_id),
    }


def _identifiers(client: EventClient, cls: type[Any] | None, view_id: str) -> list[dict[str, str]]:
    """Where the view's own events are to be seen."""
    if cls is None:
        return []
    try:
        streams = cls(view_id, client).get_streams()
    except Exception:  # the application's code, asked about an id that came from outside
        return []
    pairs = {(field, values[0]) for one in streams for field, values in one.match if len(values) == 1}
    return [{"field": field, "value": value} for field, value in sorted(pairs)]


def _row(row: Sequence[Any]) -> dict[str, Any]:
    view_id, data, latest, version, created_at, updated_at = row
    return {
        "id": view_id,
        "data": json.loads(data),
        "latest_event_id": latest,
        "version": version,
        "created_at": iso(created_at),
        "updated_at": iso(updated_at),
    }


def _field_sql(field: str) -> str:
    return f"coalesce(data->'{_checked(field)}', 'null')"


def _checked(field: str) -> str:
    try:
        return check_field_name(field)
    except ConfigurationError as error:
        raise FilterError(str(error)) from error


def _place_of(after: str) -> tuple[Any, str]:
    try:
        value, last = json.loads(after)
    except (ValueError, TypeError):
        raise FilterError("after is what the link to the next page says") from None
    if not isinstance(last, str):
        raise FilterError("after is what the link to the next page says")
    return value, last
