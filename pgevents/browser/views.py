"""Pages of saved projections: which there are, a query by their fields, and one of them beside its fold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.browser.classes import saved_types
from pgevents.browser.diff import changes
from pgevents.browser.filters import LARGEST_ID, FilterError
from pgevents.browser.log import COUNT_LIMIT, iso
from pgevents.browser.travel import FOLDED, count_folded, is_closed
from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, DatabaseError
from pgevents.fields import check_view_field
from pgevents.store.kept import KeptReport
from pgevents.subscriptions import kept_views

__all__ = ["projection_page", "projection_types", "query_page"]

PAGE = 50
SORTABLE = 10_000
"""At most this many views are sorted by a field: no index has them in its order."""
COLUMNS = "id, data::text, latest_event_id, version, created_at, updated_at"


def projection_types(client: EventClient, classes: dict[str, type[Any]]) -> dict[str, Any]:
    """Each projection type with its saved versions, how many views are of the class's version already, and
    whether this program has a class for it."""
    table = client.projections.pgevents_spec.qualified()
    sql = f"""\
WITH found AS MATERIALIZED (
    SELECT id, version, updated_at FROM {table} WHERE type = %s LIMIT {COUNT_LIMIT + 1}
)
SELECT version, count(*), max(updated_at), (SELECT count(DISTINCT id) FROM found)
FROM found GROUP BY version ORDER BY version
"""
    found: list[dict[str, Any]] = []
    kept = kept_views(client)
    for name in sorted({*saved_types(client), *classes, *(report.type for report in kept)}):
        rows = client.session.execute(sql, [name]).fetchall()
        cls = classes.get(name)
        versions = [
            {"version": version, "count": count, "updated_at": iso(at)} for version, count, at, _ in rows
        ]
        total = rows[0][3] if rows else 0
        found.append(
            {
                "type": name,
                "class": None if cls is None else f"{cls.__module__}:{cls.__qualname__}",
                "version": None if cls is None else cls.version,
                "versions": versions,
                "count": total,
                "rebuilt": None if cls is None else _rebuilt(rows, total, cls.version),
                "kept": [_kept(report) for report in kept if report.type == name],
            }
        )
    return {"projections": found, "count_limit": COUNT_LIMIT}


def _kept(report: KeptReport) -> dict[str, Any]:
    """A version that runners keep: how far a rebuild is, or that it is complete."""
    return {
        "version": report.version,
        "name": report.name,
        "position": min(report.position, report.target),
        "target": report.target,
        "is_complete": report.complete_at is not None,
        "waiting": report.waiting,
    }


def _rebuilt(rows: Sequence[Any], total: int, version: int) -> dict[str, int] | None:
    """How many views are of a version already; None if all are, or if there are too many to count."""
    done = sum(row[1] for row in rows if row[0] == version)
    return None if done == total or total > COUNT_LIMIT else {"done": done, "of": total}


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
    keys = {"id": "%s"} if field == "id" else {_field_sql(field): "%s::jsonb", "id": "%s"}
    newest = f"version = (SELECT max(n.version) FROM {table} AS n WHERE n.type = p.type AND n.id = p.id)"
    conditions, params = ["type = %s", newest], list[Any]([name])
    for condition, wanted in where:
        conditions.append(f"data->>'{_checked(condition)}' = %s")
        params.append(wanted)
    if field != "id":
        some = f"SELECT 1 FROM {table} AS p WHERE {' AND '.join(conditions)} LIMIT {SORTABLE + 1}"
        if client.session.execute(f"SELECT count(*) FROM ({some}) AS found", params).fetchone()[0] > SORTABLE:
            raise FilterError(
                f"more than {SORTABLE:,} views would have to be sorted by {field}: order them by id, or ask "
                "for some of them by a field"
            )
    sign, direction = ("<", "DESC") if is_down else (">", "ASC")
    if after:
        key_value, last = _place_of(after)
        conditions.append(f"({', '.join(keys)}) {sign} ({', '.join(keys.values())})")
        params += [last] if field == "id" else [json.dumps(key_value), last]
    ordered = ", ".join(f"{key} {direction}" for key in keys)
    where_sql = " AND ".join(conditions)
    sql = f"SELECT {COLUMNS} FROM {table} AS p WHERE {where_sql} ORDER BY {ordered} LIMIT {PAGE + 1}"
    rows = client.session.execute(sql, params).fetchall()
    views = [_row(row) for row in rows[:PAGE]]
    following = None
    if len(rows) > PAGE:
        last_view = views[-1]
        value = None if field == "id" else last_view["data"].get(field)
        following = json.dumps([value, last_view["id"]], ensure_ascii=False)
    fields = list(dict.fromkeys(name for view in views for name in view["data"]))[:40]
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
    client: EventClient, name: str, view_id: str, cls: type[Any] | None, *, is_patient: bool = False
) -> dict[str, Any] | None:
    """One projection: what is saved, and, if there is a class, what a fold gives now.

    Args:
        client: Whose projections.
        name: The projection type.
        view_id: The view's id.
        cls: The class that folds it, if there is one.
        is_patient: Whether to fold, however many events that are.
    """
    table = client.projections.pgevents_spec.qualified()
    sql = f"SELECT {COLUMNS} FROM {table} WHERE type = %s AND id = %s ORDER BY version DESC"
    saved = [_row(row) for row in client.session.execute(sql, [name, view_id]).fetchall()]
    found = _Fold() if cls is None else _fold(client, cls, view_id, is_patient)
    same = [event for event in saved if cls is not None and event["version"] == cls.version]
    differences = changes(same[0]["data"], found.view) if same and found.view is not None else []
    if not saved and found.view is None:
        return None
    return {
        "type": name,
        "id": view_id,
        "saved": saved,
        "folded": found.view,
        "folded_version": None if cls is None else cls.version,
        "error": found.error,
        "closed": found.is_closed,
        "too_long": found.too_long,
        "changes": differences,
        "identifiers": _identifiers(client, cls, view_id),
    }


@attrs.frozen
class _Fold:
    """A view folded now, or why there is none."""

    view: Any = None
    error: str | None = None
    is_closed: bool = False
    too_long: int | None = None


def _fold(client: EventClient, cls: type[Any], view_id: str, is_patient: bool) -> _Fold:
    """Fold from the start: from a snapshot it would only repeat what the snapshot says."""
    try:
        if is_closed(client, cls, view_id, LARGEST_ID):
            return _Fold(is_closed=True)
        if not is_patient and count_folded(client, cls, view_id, 0, LARGEST_ID, FOLDED) > FOLDED:
            return _Fold(too_long=FOLDED)
        # As of the end: plugins see only a present view, because they may save it.
        return _Fold(cls(view_id, client, as_of=LARGEST_ID, load_existing_projection=False).as_json())
    except DatabaseError:
        raise
    except Exception as fault:  # reducers are the application's code: whatever they raise is shown
        return _Fold(error=f"{type(fault).__name__}: {fault}")


def _identifiers(client: EventClient, cls: type[Any] | None, view_id: str) -> list[dict[str, str]]:
    """The address of the page with the view's events."""
    if cls is None:
        return []
    try:
        streams = cls(view_id, client).get_streams()
    except Exception:  # the application's code, asked about an id that came from outside
        return []
    pairs = {(field, values[0]) for stream in streams for field, values in stream.match if len(values) == 1}
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
        return check_view_field(field)
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
