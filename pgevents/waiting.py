"""Waits until a subscription has handled an event."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

from pgevents.deliveries import current_delivery
from pgevents.errors import ConfigurationError, WaitError
from pgevents.events import Event
from pgevents.fields import text_sql
from pgevents.store.options import check_flag, check_id, check_seconds
from pgevents.store.ordering import horizon_of
from pgevents.store.processing import Statements, read_lanes, split_error, where_sql
from pgevents.streams import Stream

__all__ = ["Awaited", "wait_for"]

Awaited = Event[Any] | Sequence[Event[Any]] | int
FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.05


def wait_for(
    statements: Statements, name: str, awaited: Awaited, timeout: float, parked_counts: bool
) -> Literal["handled", "not followed"]:
    """See `EventClient.wait`."""
    if current_delivery() is not None or statements.session.db.in_transaction():
        raise ConfigurationError(
            "wait() in a handler or in a transaction could wait for itself: call it after the commit"
        )
    check_seconds(timeout, "timeout")
    check_flag(parked_counts, "parked_counts")
    ids = _ids_of(awaited)
    rows: list[Any] = statements.rows("rows", name=name)
    if not rows:
        raise statements.unknown(name)
    question: dict[str, Any] = json.loads(rows[0][2])
    key: list[str] = question["key"]
    is_of_views = key == ["$view"]
    if is_of_views:  # which lanes an event belongs to, the program alone knows
        key, rows = [], _least(rows)
    streams = [Stream.from_json(form) for form in question["streams"]]
    is_bare = isinstance(awaited, int)
    if is_bare and ids[0] > statements.value("arrivals"):
        raise ConfigurationError(f"event {ids[0]} is ahead of the log")
    keys = None if is_bare else _followed(statements, streams, key, ids)
    if keys is not None and not keys:
        return "not followed"
    end, pause = time.monotonic() + timeout, FIRST_PAUSE
    while True:
        if keys is None:
            missing = _first_below(statements, streams, key, rows, ids[0])
            if missing is None and not parked_counts:
                missing = _first_aside(statements, name, ids[0])
        else:
            missing = _first_missing(statements, name, keys, rows, parked_counts)
        if missing is None:
            return "handled"
        _refuse_held(name, missing, rows)
        if time.monotonic() >= end:
            raise WaitError(_why_not(statements, name, missing, timeout), reason="timeout")
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(pause * 1.5, LONGEST_PAUSE)
        rows = statements.rows("rows", name=name)
        if rows and is_of_views:
            rows = _least(rows)
        if not rows:
            raise WaitError(f"subscription {name!r} is gone", reason="missing")


def _refuse_held(name: str, missing: int, rows: Sequence[Any]) -> None:
    """Raise if a lane is paused or stopped: nobody will handle the event before it is resumed."""
    held = [row for row in rows if row[6] != "active"]
    if held:
        error = next((row[12] for row in held if row[12]), None)
        state, why = held[0][6], f": {split_error(error)[0]}" if error else ""
        raise WaitError(f"event {missing} waits: subscription {name!r} is {state}{why}", reason=state)


def _least(rows: Sequence[Any]) -> list[Any]:
    """All lanes as one that stands at the least place, without earlier divisions."""
    first: Any = min(rows, key=lambda row: row[3])
    least: list[Any] = list(first)
    least[4] = "[]"
    active = [row for row in rows if row[6] != "active"]
    if active:
        least[6], least[12] = active[0][6], active[0][12]
    return [least]


def _ids_of(awaited: Any) -> list[int]:
    if isinstance(awaited, Event):
        return [awaited.id]
    if isinstance(awaited, int):
        return [check_id(awaited, "the event")]
    is_several = isinstance(awaited, Iterable) and not isinstance(awaited, (str, bytes))
    events: list[Any] = list(cast("Iterable[Any]", awaited)) if is_several else []
    if not events or not all(isinstance(event, Event) for event in events):
        raise ConfigurationError("wait() takes an event, a list of events, or an id")
    return [event.id for event in events]


def _followed(
    statements: Statements, streams: Sequence[Stream[Any]], key: Sequence[str], ids: Sequence[int]
) -> list[tuple[int, str, int]]:
    """Those of the events that the subscription follows: id, key and the key's hash."""
    fields = ", ".join(text_sql(name, "e.") for name in key)
    text = f"coalesce({fields}, '')" if key else "''"
    parts: list[str] = []
    params: list[Any] = [list(ids)]
    for stream in streams:
        sql, values = where_sql(statements.spec, stream)
        parts.append(sql)
        params += values
    sql = (
        f"SELECT e.id, {text}, hashtextextended({text}, 0) FROM {statements.spec.qualified()} AS e "
        f"WHERE e.id = ANY (%s) AND ({' OR '.join(parts) or 'false'}) ORDER BY e.id"
    )
    return [(row[0], row[1], row[2]) for row in statements.session.execute(sql, params).fetchall()]


def _first_missing(
    statements: Statements,
    name: str,
    keys: Sequence[tuple[int, str, int]],
    rows: Sequence[Any],
    parked_counts: bool,
) -> int | None:
    """The first of the events that is not handled yet; None if all are."""
    parked = {
        (key, event_id): (state, first)
        for _, key, event_id, state, first in statements.rows(
            "parked_of", name=name, ids=[event_id for event_id, _, _ in keys]
        )
    }
    for event_id, key, hashed in keys:
        found = parked.get((key, event_id)) or parked.get(("", event_id))
        if found is None and not key:  # without a key, or of views by other ids
            found = next((task for (_, of), task in parked.items() if of == event_id), None)
        state, first = found or ("", "")
        if state and state != "discarded":
            if not parked_counts:
                if first == "retrying":
                    return event_id
                raise WaitError(f"event {event_id} is {state} in subscription {name!r}", reason="parked")
            continue
        row = rows[hashed % len(rows)]
        layers: Sequence[Any] = json.loads(row[4])
        is_passed = any(event_id <= places[hashed % count] for count, places in layers)
        if row[3] < event_id and not is_passed:
            return event_id
    return None


def _first_aside(statements: Statements, name: str, event_id: int) -> int | None:
    """The first event up to an id that is set aside and is being tried again."""
    parked, first = statements.rows("parked_below", name=name, event_id=event_id)[0]
    if parked is not None:
        raise WaitError(f"event {parked} is parked in subscription {name!r}", reason="parked")
    return None if first is None else int(first)


def _first_below(
    statements: Statements,
    streams: Sequence[Stream[Any]],
    key: Sequence[str],
    rows: Sequence[Any],
    event_id: int,
) -> int | None:
    """The first event of the subscription up to an id that is not handled yet, or the id if it is not final;
    None if there is neither."""
    places = [row[3] for row in rows]
    while True:
        page = read_lanes(statements, streams, key, list(places), 1_000)
        for row in page.rows:
            layers: Sequence[Any] = json.loads(rows[row[7] % len(rows)][4])
            if row[0] > event_id:
                break
            if not any(row[0] <= reached[row[7] % count] for count, reached in layers):
                return int(row[0])
        if len(page.rows) < 1_000 or page.rows[-1][0] > event_id:
            return None if page.bound >= event_id else event_id
        places = [max(place, int(page.rows[-1][0])) for place in places]


def _why_not(statements: Statements, name: str, event_id: int, timeout: float) -> str:
    horizon = horizon_of(statements.session.execute, statements.spec)
    if horizon.id < event_id and horizon.holders:
        holder = horizon.holders[0]
        return (
            f"event {event_id} was not final within {timeout} s: "
            f"backend {holder.pid} (since {holder.since}) is in the middle of a save"
        )
    return f"subscription {name!r} has not handled event {event_id} within {timeout} s"
