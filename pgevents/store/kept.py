"""Kept views in the database: their names, and whether all of them are there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs

from pgevents.errors import ConfigurationError
from pgevents.store.layout import TableSpec
from pgevents.store.processing import Statements
from pgevents.store.session import Session

__all__ = [
    "KeptQuestion",
    "KeptReport",
    "KeptStatus",
    "Keeping",
    "keeping_of",
    "kept_name",
    "kept_reports",
    "status_of",
    "with_status",
]

# A place that has not moved is behind only if there is something to do above it.
STATUS_SQL = """\
SELECT count(*), bool_and(k.complete_at IS NOT NULL), min(c.position), max(k.target),
    bool_or(EXISTS (SELECT FROM {parked} AS p WHERE p.name = k.name AND p.state <> 'discarded')),
    bool_or(c.moved_at < clock_timestamp() - %s * interval '1 s' AND EXISTS (
        SELECT FROM {events} AS e
        WHERE e.id > c.position AND e.created_at < clock_timestamp() - %s * interval '1 s'
            AND (%s::text[] IS NULL OR e.type = ANY (%s::text[]))))
FROM {kept} AS k, LATERAL (
    SELECT min(position) AS position, min(moved_at) AS moved_at FROM {checkpoints} WHERE name = k.name) AS c
WHERE k.name = ANY (%s)
"""

KEEPING_SQL = """\
SELECT {view_asked}(%s), ARRAY(SELECT k.name FROM {kept} AS k WHERE k.type = %s ORDER BY k.version)
"""


@attrs.frozen
class KeptStatus:
    """How far a kept view is, as a statement saw it.

    Attributes:
        is_complete: Whether it once had all views as of the target.
        position: All of its events up to here are folded, apart from those of views that are folded anew.
        target: The last id when keeping it began.
        has_parked: Whether views of it wait to be folded anew: after an error, a redaction or a deletion.
        is_stale: Whether it has not moved for longer than was allowed, though there are events for it.
    """

    is_complete: bool
    position: int
    target: int
    has_parked: bool
    is_stale: bool

    @property
    def is_building(self) -> bool:
        """Whether it has not come to the target yet."""
        return not self.is_complete and not (self.has_parked and self.position >= self.target)

    @property
    def is_whole(self) -> bool:
        """Whether every view is there as of the position."""
        return self.is_complete and not self.has_parked


@attrs.frozen
class KeptReport:
    """A kept view, for people.

    Attributes:
        name: The name of its places, for `client.wait` and the commands on subscriptions.
        type: The projection's type.
        version: Its version.
        target: The id that it has to reach to be complete.
        began_at: When keeping it began.
        complete_at: When it had all views up to the target; None if it never had.
        read_at: When it was last queried, to the minute; None for never.
        position: All of its events up to here are folded.
        waiting: How many views wait to be folded anew.
    """

    name: str
    type: str
    version: int
    target: int
    began_at: datetime
    complete_at: datetime | None
    read_at: datetime | None
    position: int
    waiting: int

    @property
    def is_reached(self) -> bool:
        """Whether it has come to the target, but some of its views wait to be folded anew."""
        return self.waiting > 0 and self.position >= self.target

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return attrs.asdict(self)


def kept_name(projection_type: str, version: int, projections: TableSpec) -> str:
    """The name under which the places of a kept view stand.

    Raises:
        ConfigurationError: The projection's type is too long for it.
    """
    name = f"view {projection_type} {version} in {projections.name}"
    if len(name.encode()) > 200 or min(name) < " ":
        raise ConfigurationError(
            "a projection that is kept has a type without control characters and of about 140 bytes at "
            f"most, not {projection_type[:50]!r}"
        )
    return name


@attrs.frozen
class Keeping:
    """Whether the views of a type and version are kept.

    Attributes:
        name: The name of their places.
        is_kept: Whether they are.
        others: The names of other versions of the type that are kept in the same table.
    """

    name: str
    is_kept: bool
    others: tuple[str, ...]


def keeping_of(
    session: Session, events: TableSpec, projections: TableSpec, projection_type: str, version: int
) -> Keeping:
    """Whether the views of a type and version are kept; notes that they are read."""
    name = kept_name(projection_type, version, projections)
    sql = KEEPING_SQL.format(view_asked=events.qualified("_view_asked"), kept=events.qualified("_kept"))
    is_kept, names = session.execute(sql, [name, projection_type]).fetchone()
    here = f" in {projections.name}"
    others = tuple(other for other in names if other != name and other.endswith(here))
    return Keeping(name, bool(is_kept), others)


def kept_reports(session: Session, events: TableSpec, name: str | None = None) -> list[KeptReport]:
    """All kept views, or the one of this name."""
    make: Any = KeptReport
    return [make(*row) for row in Statements(session, events).rows("kept", name=name)]


@attrs.frozen
class KeptQuestion:
    """Kept views that a query is about.

    Attributes:
        names: Their names.
        types: The types that they are folded from; None for any.
        max_lag: Seconds after which a place that has not moved is stale, if there are events for it.
    """

    names: tuple[str, ...]
    types: tuple[str, ...] | None
    max_lag: float


def status_of(session: Session, events: TableSpec, question: KeptQuestion) -> KeptStatus | None:
    """How far kept views are, the least of them; None if one of them is not kept any more."""
    row = session.execute(*_status_sql(events, question)).fetchone()
    return _status(question, row)


def with_status(
    session: Session, events: TableSpec, question: KeptQuestion, statement: tuple[str, list[Any]]
) -> tuple[KeptStatus | None, list[Any]]:
    """How far kept views are, and the rows of a statement on them: both as one snapshot sees them."""
    status, params = _status_sql(events, question)
    sql = (
        f"SELECT s.*, q.* FROM ({status}) AS s (found, is_complete, position, target, has_parked, is_stale)\n"
        f"LEFT JOIN (SELECT row_number() OVER () AS n, r.* FROM ({statement[0]}) AS r) AS q ON true\n"
        "ORDER BY q.n"
    )
    rows = session.execute(sql, [*params, *statement[1]]).fetchall()
    return _status(question, rows[0][:6]), [tuple(row[7:]) for row in rows if row[6] is not None]


def _status_sql(events: TableSpec, question: KeptQuestion) -> tuple[str, list[Any]]:
    names = {suffix: events.qualified(f"_{suffix}") for suffix in ("parked", "kept", "checkpoints")}
    types = None if question.types is None else list(question.types)
    sql = STATUS_SQL.format(events=events.qualified(), **names)
    return sql, [question.max_lag, question.max_lag, types, types, list(question.names)]


def _status(question: KeptQuestion, row: Any) -> KeptStatus | None:
    found, is_complete, position, target, has_parked, is_stale = row
    if found < len(question.names):
        return None
    return KeptStatus(bool(is_complete), position or 0, target, bool(has_parked), bool(is_stale))
