"""The projection classes that pages can fold, and the types in a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgevents.client import EventClient
from pgevents.projections import MultiStreamProjectionBase, ProjectionBase
from pgevents.store.layout import TableSpec

__all__ = ["TYPES_IN_SQL", "projection_classes", "saved_types", "types_in"]

# Each type is found by a jump along an index that begins with it, so that the table's length does not matter.
TYPES_IN_SQL = """\
WITH RECURSIVE types(type) AS (
    (SELECT type FROM {table} ORDER BY type LIMIT 1)
    UNION ALL
    SELECT (SELECT t.type FROM {table} AS t WHERE t.type > types.type ORDER BY t.type LIMIT 1)
    FROM types WHERE types.type IS NOT NULL
) SELECT type FROM types WHERE type IS NOT NULL
"""


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
    """The types in the projections table."""
    return types_in(client, client.projections.pgevents_spec)


def types_in(client: EventClient, spec: TableSpec) -> list[str]:
    """The types of the rows in a table."""
    sql = TYPES_IN_SQL.format(table=spec.qualified())
    return [row[0] for row in client.session.execute(sql, None).fetchall()]
