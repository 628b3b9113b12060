"""Saved projections by class or by name: got, queried, counted and listed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from pgevents.errors import ConfigurationError, shown
from pgevents.ids import id_of, id_text
from pgevents.projection_classes import Declaration
from pgevents.querying import Asked, Question
from pgevents.saved_terms import Terms, incomplete, kept_of, status_of_kept
from pgevents.snapshots import SavedProjection, SavedViews, SnapshotKey, Snapshots
from pgevents.store.kept import KeptQuestion, with_status
from pgevents.type_registry import EventTypes
from pgevents.views import is_dict_class

__all__ = ["asked_of", "count", "delete", "get", "ids", "query", "several_asked"]

PLAIN = Terms()
OTHER_SHAPE_SQL = """\
SELECT EXISTS (SELECT FROM {table} WHERE type = %s AND version = %s AND shape IS DISTINCT FROM %s)
"""


def asked_of(snapshots: Snapshots, types: EventTypes, named: Any) -> Asked:
    """What is asked for by a projection's class or by its type's name.

    Raises:
        ConfigurationError: Neither.
    """
    cls: Any = named
    if isinstance(named, str) and named:
        return Asked(named)
    if isinstance(named, type) and hasattr(cls, "declared_for"):
        declared: Declaration = cls.declared_for(snapshots, types)
        shape = None if is_dict_class(declared.view_class) else snapshots.stored_shape(declared.shape)
        return Asked(cls.projection_type, cls.version, shape, declared.view_class, declared.id_class)
    raise ConfigurationError(f"a projection is named by its class or its projection_type, not {shown(cls)}")


def several_asked(
    snapshots: Snapshots, types: EventTypes, projections: Any, version: int | None = None
) -> list[Asked]:
    """The same of one or a list.

    Raises:
        ConfigurationError: An empty list, or a version of what is not a name.
    """
    several = cast("Sequence[Any]", projections if isinstance(projections, (list, tuple)) else [projections])
    if not several:
        raise ConfigurationError("no projection is named")
    kinds = [asked_of(snapshots, types, one) for one in several]
    if version is None:
        return kinds
    if type(version) is not int or any(kind.version is not None for kind in kinds):
        raise ConfigurationError(
            f"version={version!r}: a class has its own version; to read another one, as dicts, name the "
            f"type: "
            f"query_projections({kinds[0].type!r}, version=1)"
        )
    return [Asked(kind.type, version) for kind in kinds]


def get(snapshots: Snapshots, types: EventTypes, projection: Any, id: Any) -> SavedProjection[Any] | None:
    """The snapshot of one projection."""
    asked = asked_of(snapshots, types, projection)
    found = _get(snapshots, asked, id)
    if found is None:  # a view that is not folded yet would look as if there were none
        status = status_of_kept(snapshots, asked)
        if status is not None and not status.is_whole:
            found = _get(snapshots, asked, id)
            if found is None:
                raise incomplete(status, asked.type)
    return found


def _get(snapshots: Snapshots, asked: Asked, id: Any) -> SavedProjection[Any] | None:
    if asked.shape is None:
        return snapshots.get(asked.type, id_text(id), asked.version, asked.view_class, asked.id_class)
    version = cast(int, asked.version)
    key = SnapshotKey(asked.type, id_text(id), version, asked.shape, asked.view_class, asked.id_class)
    return snapshots.note(key).saved


def delete(snapshots: Snapshots, types: EventTypes, projection: Any, id: Any) -> bool:
    """Remove the snapshot of one projection; whether there was one."""
    return snapshots.delete(asked_of(snapshots, types, projection).type, id_text(id))


def query(snapshots: Snapshots, question: Question, terms: Terms = PLAIN) -> SavedViews[Any]:
    """The snapshots that a question is about."""
    asked, question = kept_of(snapshots, question, terms)
    _check_shapes(snapshots, question)
    rows, found = _rows(snapshots, asked, terms, question.rows())
    for row in rows:
        kind = next(one for one in question.kinds if one.type == row[0] and one.version in (None, row[4]))
        if kind.shape not in (None, row[7]):
            raise _other_shape(kind)
        found.append(snapshots.decode(row, kind.view_class, kind.id_class))
    return found


def count(snapshots: Snapshots, question: Question, terms: Terms = PLAIN) -> int:
    """How many they are."""
    asked, question = kept_of(snapshots, question, terms)
    _check_shapes(snapshots, question)
    rows, _ = _rows(snapshots, asked, terms, question.count())
    return int(rows[0][0])


def _rows(
    snapshots: Snapshots, asked: KeptQuestion | None, terms: Terms, statement: tuple[str, list[Any]]
) -> tuple[list[Any], SavedViews[Any]]:
    """The rows of a statement, and an empty result that says as of when they stand."""
    found: SavedViews[Any] = SavedViews()
    if asked is None:
        return snapshots.session.execute(*statement).fetchall(), found
    deadline = time.monotonic() + terms.timeout
    while True:
        status, rows = with_status(snapshots.session, snapshots.events, asked, statement)
        if status is None or status.is_whole or terms.partial == "allow":
            break
        if terms.partial == "refuse" or time.monotonic() > deadline:
            raise incomplete(status, ", ".join(asked.names))
        time.sleep(0.05)
    if status is not None:
        found.position, found.is_whole, found.is_stale = status.position, status.is_whole, status.is_stale
    return rows, found


def ids(snapshots: Snapshots, question: Question) -> list[Any]:
    """Their ids."""
    (kind,) = question.kinds
    return [id_of(text, kind.id_class) for _, text in snapshots.session.execute(*question.ids()).fetchall()]


def _check_shapes(snapshots: Snapshots, question: Question) -> None:
    """Whether snapshots of another shape stand, which a question would pass over; looked at once for each
    class."""
    for kind in question.kinds:
        if kind.shape is None or kind in snapshots.uniform:
            continue
        sql = snapshots.sql(OTHER_SHAPE_SQL)
        (others,) = snapshots.session.execute(sql, [kind.type, kind.version, kind.shape]).fetchone()
        if others:
            raise _other_shape(kind)
        snapshots.uniform.append(kind)


def _other_shape(kind: Asked) -> ConfigurationError:
    return ConfigurationError(
        f"snapshots of {kind.type!r}, version {kind.version}, were saved before the view had its present "
        f"fields, "
        "so a query would give old values or miss them: fold them anew with "
        "client.refresh_projections(...), or "
        "raise the version"
    )
