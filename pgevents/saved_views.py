"""Saved projections by class or by name: got, queried, counted and listed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs

from pgevents.errors import ConfigurationError, IncompleteViewsError
from pgevents.ids import id_of, id_text
from pgevents.querying import Question
from pgevents.saved_terms import (
    DEFAULT_TERMS,
    Kept,
    Terms,
    incomplete,
    kept_of,
    one_version,
    status_of_kept,
    unkept,
)
from pgevents.snapshots import SavedProjection, SavedViews, SnapshotKey, Snapshots
from pgevents.store.kept import with_status
from pgevents.type_registry import EventTypes
from pgevents.view_kinds import ViewKind, view_kind

__all__ = ["count", "delete", "get", "ids", "query", "refuse_other_shapes"]

OTHER_SHAPE_SQL = """\
SELECT EXISTS (SELECT FROM {table} WHERE type = %s AND version = %s AND shape IS DISTINCT FROM %s)
"""


def get(snapshots: Snapshots, types: EventTypes, projection: Any, id: Any) -> SavedProjection[Any] | None:
    """The snapshot of one projection."""
    kind = one_version(snapshots, view_kind(snapshots, types, projection))
    saved = _get(snapshots, kind, id)
    if saved is None:  # a view that is not folded yet would look as if there were none
        error = _why_missing(snapshots, kind)
        if error is not None:
            saved = _get(snapshots, kind, id)
            if saved is None:
                raise error
    return saved


def _why_missing(snapshots: Snapshots, kind: ViewKind) -> IncompleteViewsError | None:
    """Why a view may be missing, though there are events for it; None if it cannot, or nobody knows."""
    kept = kept_of(snapshots, [kind], DEFAULT_TERMS)
    if kept.missing:
        return unkept(kept)
    status = status_of_kept(snapshots, kept.question) if kept.question is not None else None
    return None if status is None or status.is_whole else incomplete(status, kind.type)


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
    rows, kinds, found = _answer(snapshots, question, terms, Question.rows)
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
    rows, _, _ = _answer(snapshots, question, terms, Question.count)
    return int(rows[0][0])


def _answer(
    snapshots: Snapshots,
    question: Question,
    terms: Terms,
    statement_of: Callable[[Question], tuple[str, list[Any]]],
) -> tuple[list[Any], Sequence[ViewKind], SavedViews[Any]]:
    """The rows of a statement about a question, their kinds, and an empty result that says as of when they
    stand."""
    deadline = time.monotonic() + terms.timeout
    while True:
        asked = _of_one_version(snapshots, question)
        statement = statement_of(asked)
        kept = kept_of(snapshots, asked.kinds, terms)
        error = unkept(kept) if kept.missing else None
        if error is None or terms.partial == "allow":
            _check_shapes(snapshots, asked)
            looked = _look(snapshots, kept, statement, error)
            if looked is None:  # dropped since the views were found to be kept
                snapshots.kept.forget()
                continue
            rows, found, error = looked
            if error is None or terms.partial == "allow":
                return rows, asked.kinds, found
        if terms.partial == "refuse" or time.monotonic() > deadline:
            raise error
        time.sleep(0.05)
        if error.reason == "unkept":
            snapshots.kept.forget()


def _of_one_version(snapshots: Snapshots, question: Question) -> Question:
    if all(kind.version is not None for kind in question.kinds):
        return question
    return attrs.evolve(question, kinds=[one_version(snapshots, kind) for kind in question.kinds])


def _look(
    snapshots: Snapshots,
    kept: Kept,
    statement: tuple[str, list[Any]],
    error: IncompleteViewsError | None,
) -> tuple[list[Any], SavedViews[Any], IncompleteViewsError | None] | None:
    """The rows of a statement, an empty result that says as of when they stand, and why views are missing
    (the given error if there is one); None if some are not kept any more."""
    found: SavedViews[Any] = SavedViews()
    if kept.question is None:
        rows = snapshots.session.execute(*statement).fetchall()
    else:
        status, rows = with_status(snapshots.session, snapshots.events, kept.question, statement)
        if status is None:
            return None
        found.position, found.is_stale = status.position, status.is_stale
        if not status.is_whole:
            error = error or incomplete(status, ", ".join(kept.question.names))
    found.is_whole = False if error is not None else True if kept.is_all else None
    return rows, found, error


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
        refuse_other_shapes(snapshots, kind)
        snapshots.uniform[kind.type, kind.version, kind.shape] = True


def refuse_other_shapes(snapshots: Snapshots, kind: ViewKind) -> None:
    """Look for snapshots that were saved before the view had its present fields.

    Raises:
        ConfigurationError: There are some.
    """
    if kind.shape is None:
        return
    sql = snapshots.sql(OTHER_SHAPE_SQL)
    (others,) = snapshots.session.execute(sql, [kind.type, kind.version, kind.shape]).fetchone()
    if others:
        raise _other_shape(kind)


def _other_shape(kind: ViewKind) -> ConfigurationError:
    return ConfigurationError(
        f"snapshots of {kind.type!r}, version {kind.version}, were saved before the view had its present "
        "fields, so a query would give old values or miss them: fold them anew with "
        "client.refresh_projections(...), or raise the version"
    )
