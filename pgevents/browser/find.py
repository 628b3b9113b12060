"""The pages that show what has a given id: an event, a cart or another identifier, a view."""

from __future__ import annotations

from typing import Any

from pgevents.browser.classes import saved_types
from pgevents.browser.filters import LARGEST_ID, Filter
from pgevents.client import EventClient

__all__ = ["find"]


def find(client: EventClient, text: str) -> dict[str, Any]:
    """Where a text is an id: of an event, of a saved view, or an identifier's value; each by one index."""
    return {
        "text": text,
        "event": _event(client, text),
        "identifiers": _identifiers(client, text) if text else [],
        "views": _views(client, text) if text else [],
    }


def _event(client: EventClient, text: str) -> dict[str, Any] | None:
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= LARGEST_ID):
        return None
    sql = f"SELECT id, type FROM {client.events.pgevents_spec.qualified()} WHERE id = %s"
    row = client.session.execute(sql, [int(text)]).fetchone()
    return None if row is None else {"id": row[0], "type": row[1]}


def _identifiers(client: EventClient, text: str) -> list[dict[str, str]]:
    spec = client.events.pgevents_spec
    found: list[dict[str, str]] = []
    for field in spec.data_indexes:
        ((condition, params, _),) = Filter(where=((field, text),)).ranges(spec)
        sql = f"SELECT id FROM {spec.qualified()} WHERE {condition} LIMIT 1"
        if client.session.execute(sql, params).fetchone() is not None:
            found.append({"field": field, "value": text})
    return found


def _views(client: EventClient, text: str) -> list[dict[str, str]]:
    table = client.projections.pgevents_spec.qualified()
    sql = f"SELECT DISTINCT type FROM {table} WHERE type = ANY (%s) AND id = %s ORDER BY type"
    rows = client.session.execute(sql, [saved_types(client), text]).fetchall()
    return [{"type": row[0], "id": text} for row in rows]
