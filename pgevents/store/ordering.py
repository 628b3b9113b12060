"""Positions (what a read has seen) and the horizon (up to which id the log is final)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import attrs

from pgevents.store.layout import TableSpec
from pgevents.store.provenance import Log
from pgevents.streams import Stream

__all__ = [
    "Horizon",
    "HorizonHolder",
    "Position",
    "digest_of",
    "holder_text",
    "horizon_of",
    "last_issued",
    "streams_json",
]


@attrs.frozen
class Position:
    """What a read has seen; a save can be validated against exactly this.

    Attributes:
        last_id: Id of the last event that was read; the base if no event was read.
        base: The id that the read started from (a snapshot's id, a final bound, or 0).
        count: How many matching events above the base were read.
        streams: The streams that were read.
        ids: Ids of the events above the base.
        uncommitted: If the transaction of the read had itself saved events at or below the base: an id below
            all of them, and the ids of the matching events between that id and the base. A rollback to a
            savepoint may still remove these events.
        is_cut: Whether a limit left out later events, so that no save can be validated against it.
        log: The log that was read; None if it is not known, as of a bare id.
    """

    last_id: int
    base: int
    count: int
    streams: tuple[Stream[Any], ...]
    ids: Sequence[int] = attrs.field(default=(), eq=False, repr=False)
    uncommitted: tuple[int, Sequence[int]] | None = attrs.field(default=None, eq=False, repr=False)
    is_cut: bool = attrs.field(default=False, kw_only=True)
    log: Log | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)

    def premise(self) -> tuple[int, int, int]:
        """What the append function checks: base, and number and id digest of the matching events above it."""
        if self.uncommitted is None:
            return self.base, self.count, digest_of(self.ids)
        base, earlier = self.uncommitted
        return base, len(earlier) + self.count, digest_of([*earlier, *self.ids])

    def as_json(self) -> dict[str, Any]:
        """The condition in the form that the append function takes."""
        base, seen, digest = self.premise()
        streams = [stream.as_json() for stream in self.streams]
        return {"base": base, "seen": seen, "digest": digest, "streams": streams}


def digest_of(ids: Iterable[int]) -> int:
    """A digest of a set of ids; the database's `<events>_digest` computes the same.

    Replacing one event of the set by another always changes the digest.
    """
    digest = 0
    for event_id in ids:
        mixed = event_id % 2147483647 * 1103515245 % 2147483647
        digest ^= mixed * mixed
    return digest


@attrs.frozen
class HorizonHolder:
    """A transaction in the middle of a save, which holds the horizon back.

    Attributes:
        pid: The backend's process id; None for a prepared transaction.
        since: When its transaction began; None where the role may not see it.
        published: Its events will have ids above this one.
        application: Its `application_name`.
    """

    pid: int | None
    since: datetime | None
    published: int
    application: str


def holder_text(holder: HorizonHolder) -> str:
    """Who holds the horizon, in words."""
    return f"backend {holder.pid} {holder.application}".strip() if holder.pid else "a prepared transaction"


@attrs.frozen
class Horizon:
    """Up to which id the log is final.

    Attributes:
        id: Every event with an id up to this one is committed and visible, or will never exist.
        last_issued: The last id that the sequence has issued; equal to `id` while no save is in progress.
        holders: The transactions that hold the horizon back, the oldest first.
    """

    id: int
    last_issued: int
    holders: tuple[HorizonHolder, ...] = ()


def streams_json(streams: Sequence[Stream[Any]]) -> str:
    """Streams in the form that the database functions take."""
    return json.dumps([stream.as_json() for stream in streams])


HORIZON_SQL = """\
SELECT a.pid, a.xact_start, coalesce(a.application_name, ''), l.pid IS NULL,
    (%(last)s + ((l.objid::bigint - (%(last)s & 2147483647) + 3221225472 & 2147483647) - 1073741824))::bigint
        AS published
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %(table)s::regclass
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND l.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY published, a.xact_start
"""


def last_issued(execute: Any, spec: TableSpec) -> int:
    """The last id that the sequence has issued."""
    sql = f"SELECT (last_value - (NOT is_called)::int)::bigint FROM {spec.qualified('_id_seq')}"
    return int(execute(sql, None).fetchone()[0])


def horizon_of(execute: Any, spec: TableSpec) -> Horizon:
    """The horizon of a log, and the transactions that hold it back."""
    last = last_issued(execute, spec)
    rows = execute(HORIZON_SQL, {"last": last, "table": spec.qualified()}).fetchall()
    holders = tuple(
        HorizonHolder(pid, since, published, application) for pid, since, application, _, published in rows
    )
    return Horizon(min([last, *(holder.published for holder in holders)]), last, holders)
