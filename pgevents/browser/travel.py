"""Time travel: a view at each of an identifier's events, and what each event changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgevents.browser.diff import changes
from pgevents.browser.log import encrypted
from pgevents.client import EventClient
from pgevents.errors import PgEventsError
from pgevents.store.processing import where_sql

__all__ = ["FOLDED", "count_folded", "is_closed", "travel_of"]

SHORT = 100
"""Up to this many events, the time line says what each of them changed: all views are folded at once."""
FOLDED = 2_000
"""A page folds at most this many events, unless the person asks for more."""


def travel_of(
    client: EventClient,
    cls: type[Any],
    value: str,
    events: Sequence[dict[str, Any]],
    place: int,
    *,
    saved: dict[str, Any] | None,
    is_patient: bool,
) -> dict[str, Any]:
    """The view at one event, the view before it, and what the event changed.

    Args:
        client: Whose log.
        cls: The projection class.
        value: The projection's id.
        events: The time line.
        place: Where in it to stop.
        saved: What is saved of the view, from which a long fold starts.
        is_patient: Whether to fold, however many events that are.

    Returns:
        `before`, `after`, `changes`, and `steps` (the changes at each event by its id, where the time line is
        short); or `closed`, `too_long` or `error`, which says why not.
    """
    at = events[place]["id"]
    if any(encrypted(event["data"]) for event in events) or is_closed(client, cls, value, events[-1]["id"]):
        return {"closed": True}
    try:
        count = count_folded(client, cls, value, 0, events[-1]["id"], SHORT)
        if count <= SHORT:
            return _short_travel(client, cls, value, at, events[-1]["id"])
        base = saved["latest_event_id"] if saved is not None and saved["latest_event_id"] < at else 0
        if not is_patient and count_folded(client, cls, value, base, at, FOLDED) > FOLDED:
            return {"too_long": FOLDED}
        return _long_travel(client, cls, value, at)
    except PgEventsError as error:
        return {"error": str(error)}
    except Exception as error:  # reducers are the application's code: whatever they raise is shown
        return {"error": f"{type(error).__name__}: {error}"}


def _short_travel(client: EventClient, cls: type[Any], value: str, at: int, last: int) -> dict[str, Any]:
    """By the views at all events."""
    whole = cls(value, client, as_of=last, load_existing_projection=False)
    folded = whole.projection_events
    views = [cls.from_history(value, folded[:count], client).as_json() for count in range(len(folded) + 1)]
    steps = {
        str(event.id): changes(before, after)
        for event, before, after in zip(folded, views, views[1:], strict=False)
    }
    place = len([event for event in folded if event.id <= at])
    is_own = str(at) in steps
    before, after = views[place - 1 if is_own else place], views[place]
    return {"before": before, "after": after, "changes": steps.get(str(at), []), "steps": steps}


def _long_travel(client: EventClient, cls: type[Any], value: str, at: int) -> dict[str, Any]:
    """By two folds, from a snapshot if there is an earlier one."""
    before = cls(value, client, as_of=at - 1).as_json()
    after = cls(value, client, as_of=at).as_json()
    return {"before": before, "after": after, "changes": changes(before, after), "steps": None}


def count_folded(client: EventClient, cls: type[Any], value: str, above: int, up_to: int, most: int) -> int:
    """How many events a fold takes, counted up to one more than `most`."""
    table, total = client.events.pgevents_spec.qualified(), 0
    for stream in client.identifiers.check(cls(value, client).get_streams()):
        condition, params = where_sql(client.events.pgevents_spec, stream)
        some = f"SELECT 1 FROM {table} AS e WHERE {condition} AND e.id > %s AND e.id <= %s LIMIT {most + 1}"
        sql = f"SELECT count(*) FROM ({some}) AS found"
        total += client.session.execute(sql, [*params, above, up_to]).fetchone()[0]
    return total


def is_closed(client: EventClient, cls: type[Any], value: str, at: int) -> bool:
    """Whether a fold would show what encrypted fields hide: this client decrypts, and one of the events up to
    an id has such a field."""
    if "pgevents_before_decode" not in client.plugins.implemented:
        return False
    table = client.events.pgevents_spec.qualified()
    for stream in client.identifiers.check(cls(value, client).get_streams()):
        condition, params = where_sql(client.events.pgevents_spec, stream)
        inside = f"SELECT FROM {table} AS e WHERE {condition} AND e.id <= %s AND e.data::text LIKE %s"
        sql = f"SELECT EXISTS ({inside})"
        if client.session.execute(sql, [*params, at, '%"$encrypted"%']).fetchone()[0]:
            return True
    return False
