"""Saved projections by class or by name: got, queried, counted and listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pgevents.errors import ConfigurationError
from pgevents.ids import id_of, id_text
from pgevents.projections import MultiStreamProjectionBase, ProjectionBase
from pgevents.querying import Asked, Question
from pgevents.snapshots import SavedProjection
from pgevents.views import is_dict_class

if TYPE_CHECKING:
    from pgevents.client import EventClient

__all__ = ["asked_of", "count", "get", "ids", "query", "several_asked"]

OTHER_SHAPE_SQL = """\
SELECT EXISTS (SELECT FROM {table} WHERE type = %s AND version = %s AND shape IS DISTINCT FROM %s)
"""


def asked_of(client: EventClient, named: Any) -> Asked:
    """What is asked for by a projection's class or by its type's name.

    Raises:
        ConfigurationError: Neither.
    """
    cls: Any = named
    if isinstance(named, str) and named:
        return Asked(named)
    if isinstance(named, type) and issubclass(cls, (ProjectionBase, MultiStreamProjectionBase)):
        declared = cls.declared_for(client)
        shape = None if is_dict_class(declared.view_class) else declared.shape
        return Asked(cls.projection_type, cls.version, shape, declared.view_class, declared.id_class)
    raise ConfigurationError(f"a projection is named by its class or its projection_type, not {cls!r}")


def several_asked(client: EventClient, projections: Any, version: int | None) -> list[Asked]:
    """The same of one or a list.

    Raises:
        ConfigurationError: An empty list, or a version of what is not a name.
    """
    several = cast("Sequence[Any]", projections if isinstance(projections, (list, tuple)) else [projections])
    if not several:
        raise ConfigurationError("no projection is named")
    kinds = [asked_of(client, one) for one in several]
    if version is None:
        return kinds
    if type(version) is not int or any(kind.version is not None for kind in kinds):
        raise ConfigurationError(
            f"version={version!r}: a class has its own version; to read another one, as dicts, name the "
            f"type: "
            f"query_projections({kinds[0].type!r}, version=1)"
        )
    return [Asked(kind.type, version) for kind in kinds]


def get(client: EventClient, projection: Any, id: Any) -> SavedProjection[Any] | None:
    """The snapshot of one projection."""
    asked = asked_of(client, projection)
    if asked.shape is not None:
        made: ProjectionBase[Any, Any] = projection(id, client)
        return made.load_existing_projection()
    return client.snapshots.get(asked.type, id_text(id), asked.version, asked.view_class, asked.id_class)


def query(client: EventClient, question: Question) -> list[SavedProjection[Any]]:
    """The snapshots that a question is about."""
    _check_shapes(client, question)
    rows = client.session.execute(*question.rows()).fetchall()
    found: list[SavedProjection[Any]] = []
    for row in rows:
        kind = next(one for one in question.kinds if one.type == row[0] and one.version in (None, row[4]))
        if kind.shape not in (None, row[7]):
            raise _other_shape(kind)
        found.append(client.snapshots.decode(row, kind.view_class, kind.id_class))
    return found


def count(client: EventClient, question: Question) -> int:
    """How many they are."""
    _check_shapes(client, question)
    (found,) = client.session.execute(*question.count()).fetchone()
    return int(found)


def ids(client: EventClient, question: Question) -> list[Any]:
    """Their ids."""
    (kind,) = question.kinds
    return [id_of(text, kind.id_class) for _, text in client.session.execute(*question.ids()).fetchall()]


def _check_shapes(client: EventClient, question: Question) -> None:
    """Whether snapshots of another shape stand, which a question would pass over; looked at once for each
    class."""
    for kind in question.kinds:
        if kind.shape is None or kind in client.snapshots.uniform:
            continue
        sql = client.snapshots.sql(OTHER_SHAPE_SQL)
        (others,) = client.session.execute(sql, [kind.type, kind.version, kind.shape]).fetchone()
        if others:
            raise _other_shape(kind)
        client.snapshots.uniform.append(kind)


def _other_shape(kind: Asked) -> ConfigurationError:
    return ConfigurationError(
        f"snapshots of {kind.type!r}, version {kind.version}, were saved before the view had its present "
        f"fields, "
        "so a query would give old values or miss them: fold them anew with "
        "client.refresh_projections(...), or "
        "raise the version"
    )
