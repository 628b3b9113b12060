"""A page of one event: what is stored, what a program reads, what caused it and what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.browser.diff import changes
from pgevents.browser.log import encrypted, event_rows, identifiers_of, iso, row_json
from pgevents.client import EventClient
from pgevents.declarations import upcast_results
from pgevents.errors import PgEventsError
from pgevents.event_types import EventType
from pgevents.events import Event

__all__ = ["event_page"]

NEAR = 20_000
"""How many ids before and after an event are searched for what belongs to it: metadata have no index."""
RELATED = 200
"""How many related events are shown."""
VERSION = "$version"


def event_page(client: EventClient, event_id: int) -> dict[str, Any] | None:
    """All that is known of one event; None if there is none with this id."""
    rows = event_rows(client, "id = %s", [event_id])
    if not rows:
        return None
    event = row_json(rows[0])
    kind = client.types.find(event["type"])
    version = event["metadata"].get(VERSION, 1)
    is_closed = encrypted(event["data"])
    upcast, error = _upcast(kind, event["data"], version)
    event["metadata"].pop(VERSION, None)
    related = _related(client, event)
    return {
        "event": event,
        "version": version,
        "newest_version": None if kind is None else kind.version,
        "class": None if kind is None else f"{kind.cls.__module__}:{kind.cls.__qualname__}",
        "upcast": upcast,
        "upcast_changes": [] if upcast is None else changes(event["data"], upcast),
        "upcast_error": error,
        "is_encrypted": is_closed,
        "redactions": _redactions(client, event_id, event["updated_at"]),
        "identifiers": identifiers_of(client, event["data"] if upcast is None else upcast, event["metadata"]),
        "related": related,
        "edges": _edges(related),
        "given": _given(client, event, kind, is_closed),
        "json": json.dumps(event, ensure_ascii=False, indent=2),
        "neighbours": _neighbours(client, event_id),
    }


def _upcast(
    kind: EventType | None, data: dict[str, Any], version: Any
) -> tuple[dict[str, Any] | None, str | None]:
    """The data in the newest version's shape, if an older one is stored; and why that failed, if it did."""
    if kind is None or version == kind.version:
        return None, None
    upcast_data: Any = json.loads(json.dumps(data))
    try:
        for step in range(version, kind.version):
            parts = (
                upcast_results(kind.upcasters[step](upcast_data)) if step in kind.upcasters else [upcast_data]
            )
            if len(parts) != 1:
                return None, f"the upcaster from version {step} makes {len(parts)} events of it"
            upcast_data = parts[0]
        return json.loads(json.dumps(upcast_data)), None
    except Exception as error:  # an upcaster is the application's code: whatever it raises is shown
        return None, f"{type(error).__name__}: {error}"


def _redactions(client: EventClient, event_id: int, updated_at: str | None) -> list[dict[str, Any]]:
    """Who changed the event, and why: the maintenance whose trail names it, the newest first."""
    if updated_at is None:
        return []
    trail = client.events.pgevents_spec.qualified("_maintenance")
    sql = f"SELECT at, role, operation, reason FROM {trail} WHERE %s = ANY (ids) ORDER BY at DESC LIMIT 20"
    rows = client.session.execute(sql, [event_id]).fetchall()
    return [{"at": iso(at), "role": role, "operation": op, "reason": why} for at, role, op, why in rows]


def _related(client: EventClient, event: dict[str, Any]) -> list[dict[str, Any]]:
    """Causes and effects, and what shares the correlation id; the event itself among them, in order."""
    event_id, metadata = event["id"], event["metadata"]
    near = "id BETWEEN %s AND %s"
    bounds: list[Any] = [event_id - NEAR, event_id + NEAR]
    found: dict[int, Any] = {event_id: _short(event)}

    def add(rows: Sequence[Any]) -> None:
        for row in rows:
            found.setdefault(row[0], _short(row_json(row)))

    correlation = metadata.get("correlation_id")
    tail = f"ORDER BY id LIMIT {RELATED}"
    if isinstance(correlation, str):
        add(event_rows(client, f"{near} AND metadata->>'correlation_id' = %s", [*bounds, correlation], tail))
    cause = _id_of(metadata.get("causation_id"))
    while cause is not None and cause not in found and len(found) < RELATED:
        rows = event_rows(client, "id = %s", [cause])
        add(rows)
        cause = _id_of(found[cause]["causation_id"]) if rows else None
    frontier = [str(event_id)]
    while frontier and len(found) < RELATED:
        condition = "id BETWEEN %s AND %s AND metadata->>'causation_id' = ANY (%s)"
        rows = event_rows(client, condition, [event_id, event_id + NEAR, frontier], tail)
        frontier = [str(row[0]) for row in rows if row[0] not in found]
        add(rows)
    return [found[place] for place in sorted(found)] if len(found) > 1 else []


def _short(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": event["id"],
        "type": event["type"],
        "created_at": event["created_at"],
        "causation_id": event["metadata"].get("causation_id"),
    }


def _id_of(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _edges(related: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """From the place of a cause to the place of its effect, among the related events."""
    places = {event["id"]: place for place, event in enumerate(related)}
    causes = [(_id_of(event["causation_id"]), place) for place, event in enumerate(related)]
    return [(places[cause], place) for cause, place in causes if cause is not None and cause in places]


def _given(client: EventClient, event: dict[str, Any], kind: EventType | None, is_closed: bool) -> str:
    """The event as the start of a test."""
    plain = f'given({{"type": {event["type"]!r}, "data": {event["data"]!r}}})'
    if kind is None or is_closed:
        return plain
    try:
        found = client.reader.by_ids([event["id"]])
    except PgEventsError:
        return plain
    return f"given({_source(found[0])})" if found else plain


def _source(event: Event[Any]) -> str:
    """The instance as Python source, its own fields by name."""
    data: Any = event.data
    cls: type[Any] = data.__class__
    if not attrs.has(cls):
        return repr(data)
    fields = attrs.fields(cls)
    written = ", ".join(f"{field.alias or field.name}={getattr(data, field.name)!r}" for field in fields)
    return f"{cls.__qualname__}({written})"


def _neighbours(client: EventClient, event_id: int) -> dict[str, int | None]:
    table = client.events.pgevents_spec.qualified()
    sql = f"SELECT (SELECT max(id) FROM {table} WHERE id < %s), (SELECT min(id) FROM {table} WHERE id > %s)"
    before, after = client.session.execute(sql, [event_id, event_id]).fetchone()
    return {"before": before, "after": after}
