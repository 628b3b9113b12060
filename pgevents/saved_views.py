"""Saved projections by class or by name: got, queried, counted and listed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from pgevents.errors import ConfigurationError
from pgevents.ids import id_of, id_text
from pgevents.querying import Question
from pgevents.saved_terms import DEFAULT_TERMS, Terms, incomplete, kept_of, status_of_kept
from pgevents.snapshots import SavedProjection, SavedViews, SnapshotKey, Snapshots
from pgevents.store.kept import KeptQuestion, with_status
from pgevents.type_registry import EventTypes
from pgevents.view_kinds import ViewKind, view_kind

__all__ = ["count", "delete", "get", "ids", "query"]

OTHER_SHAPE_SQL = """\
SELECT EXISTS (SELECT FROM {table} WHERE type = %s AND version = %s AND shape IS DISTINCT FROM %s)
"""


def get(snapshots: Snapshots, types: EventTypes, projection: Any, id: Any) -> SavedProjection[Any] | None:
    """The snapshot of one projection."""
    kind = view_kind(snapshots, types, projection)
    saved = _get(snapshots, kind, id)
    if saved is None:  # a view that is not folded yet would look as if there were none
        status = status_of_kept(snapshots, kind)
        if status is not None and not status.is_whole:
            saved = _get(snapshots, kind, id)
            if saved is None:
                raise incomplete(status, kind.type)
    return saved


def _get(snapshots: Snapshots, kind: ViewKind, id: Any) -> SavedProjection[Any] | None:
    if kind.shape is None:
        return snapshots.get(kind.type, id_text(id), kind.version, kind.view_class, kind.id_class)
    version = cast(int, kind.version)
    key = SnapshotKey(kind.type, id_text(id), version, kind.shape, kind.view_class, kind.id_class)
    return snapshots.note(key).saved


def delete(snapshots: Snapshots, types: EventTypes, projection: Any, id: Any) -> bool:
    """Remove the snapshot of one projection; whether there was one."""
    return snapshots.delete(view_kind(snapshots, types, projection).type, id_text(id))


def query(snapshots: Snapshots, question: Question, terms: Terms = DEFAULT_TERMS) -> SavedViews[Any]:
    """The snapshots that a question is about."""
    kept, question = kept_of(snapshots, question, terms)
    _check_shapes(snapshots, question)
    rows, found = _rows(snapshots, kept, terms, question.rows())
    kinds = question.kinds
    if len(kinds) == 1:
        _decode(snapshots, kinds[0], rows, found)
    else:
        for row in rows:
            _decode(snapshots, _kind_of(row, kinds), [row], found)
    return found


def _decode(snapshots: Snapshots, kind: ViewKind, rows: Sequence[Any], found: SavedViews[Any]) -> None:
    """Add rows of one kind to what was found."""
    if kind.shape is not None and any(row[7] != kind.shape for row in rows):
        raise _other_shape(kind)
    found += map(snapshots.decoder(kind.view_class, kind.id_class), rows)


def _kind_of(row: Sequence[Any], kinds: Sequence[ViewKind]) -> ViewKind:
    """The kind that a row of a query is of."""
    return next(kind for kind in kinds if kind.type == row[0] and kind.version in (None, row[4]))


def count(snapshots: Snapshots, question: Question, terms: Terms = DEFAULT_TERMS) -> int:
    """How many they are."""
    kept, question = kept_of(snapshots, question, terms)
    _check_shapes(snapshots, question)
    rows, _ = _rows(snapshots, kept, terms, question.count())
    return int(rows[0][0])


def _rows(
    snapshots: Snapshots, kept: KeptQuestion | None, terms: Terms, statement: tuple[str, list[Any]]
) -> tuple[list[Any], SavedViews[Any]]:
    """The rows of a statement, and an empty result that says as of when they stand."""
    found: SavedViews[Any] = SavedViews()
    if kept is None:
        return snapshots.session.execute(*statement).fetchall(), found
    deadline = time.monotonic() + terms.timeout
    while True:
        status, rows = with_status(snapshots.session, snapshots.events, kept, statement)
        if status is None or status.is_whole or terms.partial == "allow":
            break
        if terms.partial == "refuse" or time.monotonic() > deadline:
            raise incomplete(status, ", ".join(kept.names))
        time.sleep(0.05)
    if status is not None:
        found.position, found.is_whole, found.is_stale = status.position, status.is_whole, status.is_stale
    return rows, found


def ids(snapshots: Snapshots, question: Question) -> list[Any]:
    """Their ids."""
    (kind,) = question.kinds
    return [id_of(text, kind.id_class) for _, text in snapshots.session.execute(*question.ids()).fetchall()]


def _check_shapes(snapshots: Snapshots, question: Question) -> None:
    """Whether there are snapshots of another shape, which a query would leave out; looked up once for each
    class."""
    for kind in question.kinds:
        if kind.shape is None or (kind.type, kind.version, kind.shape) in snapshots.uniform:
            continue
        sql = snapshots.sql(OTHER_SHAPE_SQL)
        (others,) = snapshots.session.execute(sql, [kind.type, kind.version, kind.shape]).fetchone()
        if others:
            raise _other_shape(kind)
        snapshots.uniform[kind.type, kind.version, kind.shape] = True


def _other_shape(kind: ViewKind) -> ConfigurationError:
    return ConfigurationError(
        f"snapshots of {kind.type!r}, version {kind.version}, were saved before the view had its present "
        "fields, so a query would give old values or miss them: fold them anew with "
        "client.refresh_projections(...), or raise the version"
    )
