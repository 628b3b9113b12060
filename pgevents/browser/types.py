"""The page of event types: what stands in the log, and which classes this program has for it."""

from __future__ import annotations

from typing import Any

import attrs

from pgevents.browser.log import COUNT_LIMIT, iso
from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.events import EventType

__all__ = ["type_names", "types_page"]

SAMPLE = 1_000
"""Of how many of its newest events the stored versions of a type are taken."""

# Each type is found by a jump along the index (type, id), so that the length of the log does not matter.
NAMES_SQL = """\
WITH RECURSIVE types(type) AS (
    (SELECT type FROM {table} ORDER BY type LIMIT 1)
    UNION ALL
    SELECT (SELECT e.type FROM {table} AS e WHERE e.type > types.type ORDER BY e.type LIMIT 1)
    FROM types WHERE types.type IS NOT NULL
) SELECT type FROM types WHERE type IS NOT NULL
"""
COUNT_SQL = "SELECT count(*) FROM (SELECT 1 FROM {table} WHERE type = %s LIMIT {limit}) AS found"
END_SQL = "SELECT id, created_at FROM {table} WHERE type = %s ORDER BY type {order}, id {order} LIMIT 1"
VERSIONS_SQL = """\
SELECT DISTINCT coalesce(metadata->>'$version', '1') FROM (
    SELECT metadata FROM {table} WHERE type = %s ORDER BY type DESC, id DESC LIMIT {sample}
) AS newest ORDER BY 1
"""


def type_names(client: EventClient) -> list[str]:
    """The types that stand in the log."""
    table = client.events.pgevents_spec.qualified()
    return [row[0] for row in client.session.execute(NAMES_SQL.format(table=table), None).fetchall()]


def types_page(client: EventClient) -> dict[str, Any]:
    """Every type that stands in the log."""
    table = client.events.pgevents_spec.qualified()
    execute = client.session.execute
    found: list[dict[str, Any]] = []
    for name in type_names(client):
        (count,) = execute(COUNT_SQL.format(table=table, limit=COUNT_LIMIT + 1), [name]).fetchone()
        ends = [
            execute(END_SQL.format(table=table, order=order), [name]).fetchone() for order in ("ASC", "DESC")
        ]
        versions = execute(VERSIONS_SQL.format(table=table, sample=SAMPLE), [name]).fetchall()
        kind, problem = _class_of(client, name)
        found.append(
            {
                "type": name,
                "count": count,
                "first": {"id": ends[0][0], "created_at": iso(ends[0][1])},
                "last": {"id": ends[1][0], "created_at": iso(ends[1][1])},
                "stored_versions": [row[0] for row in versions],
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
