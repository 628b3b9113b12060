"""The projection classes that pages can fold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgevents.client import EventClient
from pgevents.projections import MultiStreamProjectionBase, ProjectionBase

__all__ = ["projection_classes", "saved_types"]


def projection_classes(given: Iterable[type[Any]] | None) -> dict[str, type[Any]]:
    """The projection classes that a page can fold, by projection type.

    Args:
        given: The classes to use; None for all that the program has defined.
    """
    if given is not None:
        return {cls.projection_type: cls for cls in given}
    found: dict[str, type[Any]] = {}
    pending: list[type[Any]] = [ProjectionBase, MultiStreamProjectionBase]
    while pending:
        for cls in pending.pop().__subclasses__():
            pending.append(cls)
            if "projection_type" in vars(cls):
                found[cls.projection_type] = cls
    return found


def saved_types(client: EventClient) -> list[str]:
    """The types in the projections table, each found by a jump along its key."""
    table = client.projections.pgevents_spec.qualified()
    sql = f"""\
WITH RECURSIVE types(type) AS (
    (SELECT type FROM {table} ORDER BY type LIMIT 1)
    UNION ALL
    SELECT (SELECT p.type FROM {table} AS p WHERE p.type > types.type ORDER BY p.type LIMIT 1)
    FROM types WHERE types.type IS NOT NULL
) SELECT type FROM types WHERE type IS NOT NULL
"""
    return [row[0] for row in client.session.execute(sql, None).fetchall()]
