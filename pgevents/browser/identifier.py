"""A page of one identifier (a cart, a customer): its events on a time line, and its views at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgevents.browser.classes import saved_types
from pgevents.browser.filters import LARGEST_ID, Filter
from pgevents.browser.log import COUNT_LIMIT, WINDOW, count_of, event_rows, row_json
from pgevents.browser.travel import travel_of
from pgevents.client import EventClient
from pgevents.fields import check_field, text_sql

__all__ = ["identifier_page"]

TIMELINE = 200
"""How many events the time line shows at once."""


def identifier_page(
    client: EventClient,
    field: str,
    value: str,
    classes: dict[str, type[Any]],
    *,
    view: str | None,
    at: int | None,
    until: int | None,
    is_patient: bool = False,
) -> dict[str, Any]:
    """One identifier's events and views, and what a view looked like at one of the events.

    Args:
        client: Whose log.
        field: The identifier's field.
        value: Its value.
        classes: Projection classes by type.
        view: The projection type to travel with; by default the first that there is.
        at: The event to stop at; by default the newest of the time line.
        until: The time line ends at this event; by default with the newest.
        is_patient: Whether to fold, however many events that are.
    """
    rows, older, searched = _timeline(client, field, value, until)
    events = [row_json(row) for row in reversed(rows)]
    count = count_of(client, Filter(where=((field, value),)))
    views = _views(client, field, value, classes)
    foldable = [candidate for candidate in views if candidate["is_foldable"]]
    chosen = next((candidate for candidate in foldable if view in (None, candidate["type"])), None)
    place = _place(events, at)
    travel = None
    if chosen is not None and events:
        cls, saved = classes[chosen["type"]], chosen["saved"]
        travel = travel_of(client, cls, value, events, place, saved=saved, is_patient=is_patient)
    return {
        "field": field,
        "value": value,
        "count": count,
        "has_more_than": COUNT_LIMIT if count is not None and count > COUNT_LIMIT else None,
        "events": events,
        "older": older,
        "searched": searched,
        "until": until,
        "views": views,
        "view": None if chosen is None else chosen["type"],
        "at": events[place]["id"] if events else None,
        "place": place,
        "event": events[place] if events else None,
        "previous": events[place - 1]["id"] if place > 0 else None,
        "next": events[place + 1]["id"] if place + 1 < len(events) else None,
        "travel": travel,
    }


def _timeline(
    client: EventClient, field: str, value: str, until: int | None
) -> tuple[list[Any], int | None, int | None]:
    """The newest events of an identifier, from which one the page before goes on, and, if no index has the
    field, how many events were looked through."""
    spec, last = client.events.pgevents_spec, LARGEST_ID if until is None else until
    if field in spec.data_indexes:
        ((condition, params, column),) = Filter(where=((field, value),)).ranges(spec)
        in_order = f"{column} DESC, " if column else ""
        tail = f"ORDER BY {in_order}id DESC LIMIT {TIMELINE + 1}"
        rows = event_rows(client, f"{condition} AND id <= %s", [*params, last], tail)
        return rows[:TIMELINE], rows[TIMELINE][0] if len(rows) > TIMELINE else None, None
    window = f"SELECT * FROM {spec.qualified()} WHERE id <= %s ORDER BY id DESC LIMIT {WINDOW}"
    sql = f"""\
WITH searched AS MATERIALIZED ({window})
SELECT (SELECT count(*) FROM searched), (SELECT min(id) FROM searched), array(
    SELECT id FROM searched WHERE {text_sql(check_field(field))} = %s ORDER BY id DESC LIMIT {TIMELINE + 1})
"""
    count, lowest, ids = client.session.execute(sql, [last, value]).fetchone()
    older = ids[TIMELINE] if len(ids) > TIMELINE else lowest - 1 if count == WINDOW else None
    return event_rows(client, "id = ANY (%s)", [ids[:TIMELINE]], "ORDER BY id DESC"), older, count


def _place(events: Sequence[dict[str, Any]], at: int | None) -> int:
    """Where in the time line to stop: at the last event that is not after `at`."""
    if at is None:
        return max(len(events) - 1, 0)
    return max(len([event for event in events if event["id"] <= at]) - 1, 0)


def _views(
    client: EventClient, field: str, value: str, classes: dict[str, type[Any]]
) -> list[dict[str, Any]]:
    """The views of this identifier: those that a class folds from it, and those that are saved by its id."""
    table = client.projections.pgevents_spec.qualified()
    saved_sql = (
        f"SELECT type, version, latest_event_id FROM {table} "
        "WHERE id = %s AND type = ANY (%s) ORDER BY version"
    )
    types = sorted({*classes, *saved_types(client)})
    saved = {
        row[0]: {"version": row[1], "latest_event_id": row[2]}
        for row in client.session.execute(saved_sql, [value, types]).fetchall()
    }
    found: list[dict[str, Any]] = []
    for name, cls in classes.items():
        is_foldable = _is_of(client, cls, field, value)
        if is_foldable:
            found.append({"type": name, "is_foldable": True, "saved": saved.pop(name, None)})
    found += [{"type": name, "is_foldable": False, "saved": row} for name, row in sorted(saved.items())]
    return found


def _is_of(client: EventClient, cls: type[Any], field: str, value: str) -> bool:
    """Whether a projection with this id is folded from events that carry the identifier."""
    try:
        streams = cls(value, client).get_streams()
    except Exception:  # the application's code, asked about an id that need not be one of its own
        return False
    return any((field, (value,)) in stream.match for stream in streams)
