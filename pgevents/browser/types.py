"""The page of event types: what stands in the log, and which classes this program has for it."""

from __future__ import annotations

from typing import Any

import attrs

from pgevents.browser.classes import TYPES_IN_SQL, types_in
from pgevents.browser.log import COUNT_LIMIT, iso
from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.event_types import EventType

__all__ = ["type_names", "types_page"]

SAMPLE = 100
"""How many of a type's newest events are searched for stored versions."""

TYPES_SQL = """\
SELECT t.type, found.count, first.id, first.created_at, last.id, last.created_at, newest.versions
FROM ({names}) AS t
CROSS JOIN LATERAL (
    SELECT count(*) FROM (SELECT FROM {table} WHERE type = t.type ORDER BY type, id LIMIT {limit}) AS ranged
) AS found
CROSS JOIN LATERAL (
    SELECT id, created_at FROM {table} WHERE type = t.type ORDER BY type, id LIMIT 1
) AS first
CROSS JOIN LATERAL (
    SELECT id, created_at FROM {table} WHERE type = t.type ORDER BY type DESC, id DESC LIMIT 1
) AS last
CROSS JOIN LATERAL (
    SELECT array_agg(DISTINCT coalesce(metadata->>'$version', '1')) AS versions FROM (
        SELECT metadata FROM {table} WHERE type = t.type ORDER BY type DESC, id DESC LIMIT {sample}
    ) AS ranged
) AS newest
ORDER BY t.type
"""


def type_names(client: EventClient) -> list[str]:
    """The types of the events in the log."""
    return types_in(client, client.events.pgevents_spec)


def types_page(client: EventClient) -> dict[str, Any]:
    """Every type of events in the log."""
    table = client.events.pgevents_spec.qualified()
    sql = TYPES_SQL.format(
        names=TYPES_IN_SQL.format(table=table), table=table, limit=COUNT_LIMIT + 1, sample=SAMPLE
    )
    found: list[dict[str, Any]] = []
    for row in client.session.execute(sql, None).fetchall():
        name, count, first_id, first_at, last_id, last_at, versions = row
        kind, problem = _class_of(client, name)
        found.append(
            {
                "type": name,
                "count": count,
                "first": {"id": first_id, "created_at": iso(first_at)},
                "last": {"id": last_id, "created_at": iso(last_at)},
                "stored_versions": versions,
                "version": None if kind is None else kind.version,
                "class": None if kind is None else f"{kind.cls.__module__}:{kind.cls.__qualname__}",
                "formerly": [] if kind is None else list(kind.formerly),
                "fields": [] if kind is None else _fields(kind),
                "problem": problem,
            }
        )
    return {"types": found, "count_limit": COUNT_LIMIT}


def _class_of(client: EventClient, name: str) -> tuple[EventType | None, str | None]:
    try:
        return client.types.find(name), None
    except ConfigurationError as error:
        return None, str(error)


def _fields(kind: EventType) -> list[dict[str, str]]:
    """The fields of a class, with their types as they are written."""
    if not attrs.has(kind.cls):
        return []
    return [
        {
            "name": field.name,
            "type": field.type.__name__ if isinstance(field.type, type) else str(field.type),
        }
        for field in attrs.fields(kind.cls)
    ]
