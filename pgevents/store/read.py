"""Reads: a stream's events in one statement, in order, each once, with the position that they were read
at."""

from __future__ import annotations

import logging
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from typing import Any, Generic, Literal, TypeVar, overload

import attrs

from pgevents.codec.decoding import FIELD_END, Decoder, rows_of
from pgevents.errors import (
    ConfigurationError,
    EventDecodeError,
    InvalidValueError,
    RetryableError,
    shown,
)
from pgevents.events import Event, UndecodedData
from pgevents.hooks.details import Operation
from pgevents.store.ordering import Position, digest_of, horizon_of, last_issued, streams_json
from pgevents.store.queries import COLUMNS, NO_EVENT, select_after_snapshot, select_events
from pgevents.store.session import Session
from pgevents.store.tables import TableSpec
from pgevents.streams import Stream, array_text, merge_streams, one_value, union_of_types

__all__ = ["EventStream", "Reader"]

D_co = TypeVar("D_co", covariant=True)
AsOf = int | datetime
OnUndecodable = Literal["raise", "skip", "raw"]
"""What becomes of events that cannot be read."""

logger = logging.getLogger("pgevents")
PAGE = 5_000
FINAL_SQL = "SELECT set_config('pgevents.bound', {final_bound}(%s)::text, true);\n"
_UNOBSERVED = nullcontext(Operation("read"))


def _bound_first(row: Sequence[Any]) -> int:
    """The bound, or the snapshot, and then the events by id: so they come as a rule, and a server's sort
    would cost more."""
    return -1 if row[1] is None else int(row[0])


class EventStream(Sequence[Event[D_co]], Generic[D_co]):
    """The events of a read, in order, and the position to validate a save against.

    It equals another read of the same events, and a list of them.

    Attributes:
        undecodable: What is wrong with each event that could not be read, where the reader goes on
            (`on_undecodable`). The position counts these events, too.
    """

    __slots__ = ("_events", "_position", "undecodable")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        events: Sequence[Event[D_co]],
        position: Position | Callable[[], Position],
        undecodable: Sequence[EventDecodeError] = (),
    ) -> None:
        self._events = events
        self._position = position
        self.undecodable = tuple(undecodable)

    @property
    def position(self) -> Position:
        """Where it was read, to validate a save against; made when it is asked for."""
        position = self._position
        if not isinstance(position, Position):
            self._position = position = position()
        return position

    @overload
    def __getitem__(self, index: int) -> Event[D_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event[D_co]]: ...
    def __getitem__(self, index: int | slice) -> Event[D_co] | Sequence[Event[D_co]]:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event[D_co]]:
        return iter(self._events)

    def __eq__(self, other: object) -> bool:
        given: Any = other
        others = given if given.__class__ is not EventStream else list(given)
        return list(self._events) == others if others.__class__ is list else NotImplemented

    def __reduce__(self) -> Any:
        return EventStream, (self._events, self.position, self.undecodable)

    def __repr__(self) -> str:
        return f"<EventStream of {len(self)} events, last id {self.position.last_id}>"


@attrs.define
class Reader:
    """Reads one events table and decodes its rows."""

    session: Session
    spec: TableSpec
    decoder: Decoder
    check: Callable[[Iterable[Stream[Any]]], Sequence[Stream[Any]]] = merge_streams
    """What refuses identifiers that would find nothing, before a read."""
    observe: Callable[[Operation], AbstractContextManager[Operation]] | None = None
    _fetch_sql: str = attrs.field(init=False)
    _fetch_final_sql: str = attrs.field(init=False)
    _fetch_view_sql: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        qualified = self.spec.qualified
        self._fetch_sql = f"SELECT {qualified('_fetch')}(%s, %s, %s, %s)"
        self._fetch_final_sql = f"SELECT {qualified('_fetch_final')}(%s, %s, %s, %s)"
        self._fetch_view_sql = f"SELECT {qualified('_fetch_view')}(%s, %s, %s, %s, %s, %s, %s, %s)"

    def _observed(self, streams: tuple[Stream[Any], ...]) -> AbstractContextManager[Operation]:
        return _UNOBSERVED if self.observe is None else self.observe(Operation("read", streams))

    def select(
        self,
        streams: Sequence[Stream[Any]],
        after: int | str,
        as_of: AsOf | None,
        *,
        tail: str = "ORDER BY id",
    ) -> tuple[str, list[Any]]:
        """The statement of a read of this table, and its parameters; rows of `COLUMNS`."""
        return select_events(self.spec.qualified(), streams, after, as_of, tail)

    def read(
        self,
        streams: Sequence[Stream[Any]],
        *,
        after: int = 0,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> EventStream[Any]:
        """An ordinary read: one statement, no locks, nothing awaited."""
        check_id(after, "after")
        check_on_undecodable(on_undecodable)
        if as_of is not None:
            check_as_of(as_of)
        streams = self.check(streams)
        if self.observe is None:
            return self._read(streams, after, as_of, on_undecodable)
        merged = merge_streams(streams)
        with self._observed(merged) as operation:
            found = self._read(merged, after, as_of, on_undecodable)
            operation.events = len(found)
        return found

    def _read(
        self,
        streams: Sequence[Stream[Any]],
        after: int,
        as_of: AsOf | None,
        on_undecodable: OnUndecodable,
    ) -> EventStream[Any]:
        asked = self._one_value(streams)
        if asked is None:
            streams = merge_streams(streams)
            asked = self._one_value(streams)
        if asked is not None and as_of is None:
            (text,) = self.session.execute(self._fetch_sql, (*asked, after)).fetchone()
            if text is not None:
                return self._stream(rows_of(text), streams, after, on_undecodable)
        rows = self.session.execute(*self.select(merge_streams(streams), after, as_of)).fetchall()
        return self._stream(rows, streams, after, on_undecodable)

    def read_final(
        self,
        streams: Sequence[Stream[Any]],
        *,
        after: int = 0,
        wait: float | None = None,
        limit: int | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> EventStream[Any]:
        """Only what can no longer change, in one round trip; its position is exact with nothing left to
        count.

        Args:
            streams: What to read.
            after: Events above this id.
            wait: None to cut at the bound at once; else the seconds to wait until what was visible at the
                start is final.
            limit: At most so many; the position then ends with the last of them.
            on_undecodable: What becomes of events that cannot be read.
        """
        merged = merge_streams(self.check(streams))
        check_on_undecodable(on_undecodable)
        with self._observed(merged) as operation:
            found = self._read_final(merged, check_id(after, "after"), wait, limit, on_undecodable)
            operation.events = len(found)
        return found

    def _read_final(
        self,
        merged: tuple[Stream[Any], ...],
        after: int,
        wait: float | None,
        limit: int | None,
        on_undecodable: OnUndecodable,
    ) -> EventStream[Any]:
        rows, bound = self._read_at_bound(merged, after, limit)
        newest = max(int(rows[-1][0]) if rows else 0, after)
        if newest > bound and wait is not None:
            self._await_bound(merged, newest, wait)
            rows, bound = self._read_at_bound(merged, after, limit)
            bound = max(min(bound, newest), after)
        if limit is not None and len(rows) == limit:
            bound = min(bound, rows[-1][0])
        while rows and int(rows[-1][0]) > bound:
            rows.pop()
        events = self.decoder.events(rows, keep_undecodable=on_undecodable != "raise")
        last = events[-1].id if events else after
        base = max(bound, after)
        position = Position(last, base, 0, merged, uncommitted=self._uncommitted(merged, base))
        return EventStream(*_shown(events, on_undecodable, position))

    def _read_at_bound(
        self, merged: Sequence[Stream[Any]], after: int, limit: int | None
    ) -> tuple[list[Any], int]:
        """The events in order, and the bound, looked at before them in the same message: the read's snapshot
        is the younger."""
        asked = self._one_value(merged) if limit is None else None
        if asked is not None:
            (text,) = self.session.execute(self._fetch_final_sql, (*asked, after)).fetchone()
            if text is not None:
                bound, _, events = text.partition(FIELD_END)
                return list(rows_of(events)), int(bound)
        tail = "ORDER BY id" if limit is None else f"ORDER BY id LIMIT {limit:d}"
        select, params = self.select(merged, after, None, tail=tail)
        sql = (
            FINAL_SQL.format(final_bound=self.spec.qualified("_final_bound"))
            + f"SELECT current_setting('pgevents.bound')::bigint AS id{NO_EVENT}\nUNION ALL\n({select})"
        )
        rows = self.session.execute(sql, [streams_json(merged) if merged else "[]", *params]).fetchall()
        rows.sort(key=_bound_first)
        return rows[1:], rows[0][0]

    def _await_bound(self, merged: Sequence[Stream[Any]], newest: int, wait: float) -> None:
        """Until everything up to `newest`, as far as ids were given out, is final. No lock is awaited, so no
        deadlock either: hence the limit."""
        deadline = time.monotonic() + wait
        pause = 0.001
        newest = min(newest, last_issued(self.session.execute, self.spec))
        bound_sql = f"SELECT {self.spec.qualified('_final_bound')}(%s)"
        while self.session.execute(bound_sql, [streams_json(merged)]).fetchone()[0] < newest:
            if time.monotonic() > deadline:
                holders = horizon_of(self.session.execute, self.spec).holders
                names = (
                    ", ".join(f"backend {holder.pid} (since {holder.since})" for holder in holders)
                    or "a transaction"
                )
                raise RetryableError(
                    f"event {newest} was not final within {wait} s: "
                    f"{names} is in the middle of a save; try again"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)

    def latest(self, streams: Sequence[Stream[Any]], *, final: bool, wait: float) -> Event[Any] | None:
        """The event with the greatest id; when `final`, only once everything below it is final too."""
        merged = merge_streams(self.check(streams))
        with self._observed(merged) as operation:
            found = self.decoder.events(self._latest(merged, final, wait))
            operation.events = len(found)
        return found[0] if found else None

    def _latest(self, merged: Sequence[Stream[Any]], final: bool, wait: float) -> list[Any]:
        select, params = self.select(merged, 0, None, tail="ORDER BY id DESC LIMIT 1")
        if not final:
            return list(self.session.execute(select, params).fetchall())
        sql = (
            f"SELECT set_config('pgevents.latest', coalesce((SELECT id FROM ({select}) AS e), "
            "0)::text, true);\n"
            + FINAL_SQL.format(final_bound=self.spec.qualified("_final_bound"))
            + f"SELECT {COLUMNS}, current_setting('pgevents.bound')::bigint FROM {self.spec.qualified()}"
            + " WHERE id = current_setting('pgevents.latest')::bigint"
        )
        row = self.session.execute(sql, [*params, streams_json(merged)]).fetchone()
        if row is None:
            return []
        if row[0] > row[6]:
            self._await_bound(merged, row[0], wait)
        return [row[:6]]

    def shortened(self, position: Position) -> Position:
        """The same position with less to count under the locks: from a final bound, if what was read up to it
            stands.

        What is final can be counted before, without a lock, and needs no second look.
        """
        bound_sql = f"SELECT {self.spec.qualified('_final_bound')}(%s)"
        bound = self.session.execute(bound_sql, [streams_json(position.streams)]).fetchone()[0]
        known = bisect_right(position.ids, bound)
        select, params = self.select(position.streams, position.base, bound)
        digest = f"{self.spec.qualified('_digest')}(array_agg(id))"
        sql = f"SELECT count(*), {digest} FROM ({select}) AS e"
        if self.session.execute(sql, params).fetchone() != (known, digest_of(position.ids[:known])):
            return position  # something was read incompletely: the append function will say what
        return attrs.evolve(position, base=bound, count=position.count - known, ids=position.ids[known:])

    def by_ids(self, ids: Sequence[int]) -> list[Event[Any]]:
        """Events by their ids, in order."""
        sql = f"SELECT {COLUMNS} FROM {self.spec.qualified()} WHERE id = ANY(%s) ORDER BY id"
        return self.decoder.events(self.session.execute(sql, [list(ids)]).fetchall())

    def by_key(self, key: str) -> list[Event[Any]]:
        """The events that were saved with an idempotency key, in order; none if it is new."""
        sql = (
            f"SELECT {COLUMNS} FROM {self.spec.qualified()} WHERE idempotency_key = %s "
            "OR idempotency_key > %s AND idempotency_key < %s ORDER BY id"
        )
        params = [
            key,
            f"{key}\x1f",
            f"{key}\x20",
        ]  # a batch has its key, and for each further event key and number
        return self.decoder.events(self.session.execute(sql, params).fetchall())

    def ids_in_log(self, ids: Sequence[int]) -> set[int]:
        """Which of these ids are in the log."""
        sql = f"SELECT id FROM {self.spec.qualified()} WHERE id = ANY(%s)"
        return {row[0] for row in self.session.execute(sql, [list(ids)]).fetchall()}

    def pages(
        self,
        streams: Sequence[Stream[Any]],
        after: int,
        as_of: AsOf | None,
        on_undecodable: OnUndecodable = "raise",
    ) -> Iterator[Event[Any]]:
        """Any number of events in constant memory: pages along the order, each one index range."""
        merged = merge_streams(self.check(streams))
        check_on_undecodable(on_undecodable)
        check_as_of(as_of)
        last = check_id(after, "after")
        while True:
            sql, params = self.select(merged, last, as_of, tail=f"ORDER BY id LIMIT {PAGE}")
            with self._observed(merged) as operation:
                rows = self.session.execute(sql, params).fetchall()
                operation.events = len(rows)
            events = self.decoder.events(rows, keep_undecodable=on_undecodable != "raise")
            yield from _shown(events, on_undecodable, None)[0]
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    def read_after_snapshot(
        self,
        projections: TableSpec,
        key: tuple[str, str, int, str | None],
        streams: Sequence[Stream[Any]],
        as_of: AsOf | None,
        lock: Sequence[Stream[Any]] = (),
        *,
        is_undisturbed: bool = False,
    ) -> tuple[Any, EventStream[Any]]:
        """A snapshot, if there is one, and the events after it, in one statement.

        Args:
            projections: The table of the snapshot.
            key: The snapshot's type, id, version and shape.
            streams: What to read.
            as_of: Up to where, if not up to now.
            lock: Streams to lock in a statement before, sent in the same message.
            is_undisturbed: Whether the transaction, if there is one, cannot be rolled back in part.

        Returns:
            A row like an event's, with the snapshot's `latest_event_id` as id and no type, or None; and the
            events.
        """
        merged = merge_streams(self.check(streams))
        with self._observed(merged) as operation:
            snapshot, rows = self._load(projections.qualified(), key, merged, as_of, self.check(lock))
            after = 0 if snapshot is None else snapshot[0]
            events = self._stream(rows, merged, after, is_undisturbed=is_undisturbed)
            operation.events = len(events)
        return snapshot, events

    def _load(
        self,
        projections: str,
        key: tuple[str, str, int, str | None],
        merged: Sequence[Stream[Any]],
        as_of: AsOf | None,
        lock: Sequence[Stream[Any]],
    ) -> tuple[Any, Iterable[Any]]:
        asked = self._one_value(merged) if as_of is None else None
        if asked is not None:
            params = [projections, *key, *asked]
            (text,) = self._execute_after_lock(lock, self._fetch_view_sql, params).fetchone()
            if text is not None:
                latest, data, created_at, updated_at, events = text.split(FIELD_END, 4)
                snapshot = (int(latest), None, data, None, created_at, updated_at) if latest else None
                return snapshot, rows_of(events)
        select, params = select_after_snapshot(self.spec.qualified(), projections, key, merged, as_of)
        rows: list[Any] = self._execute_after_lock(lock, select, params).fetchall()
        rows.sort(key=_bound_first)
        return (rows.pop(0) if rows and rows[0][1] is None else None), rows

    def _execute_after_lock(self, lock: Sequence[Stream[Any]], sql: str, params: list[Any]) -> Any:
        if lock:
            sql = f"SELECT {self.spec.qualified('_lock')}(%s);\n{sql}"
            params = [streams_json(lock), *params]
        return self.session.execute(sql, params)

    def _stream(
        self,
        rows: Iterable[Any],
        streams: Sequence[Stream[Any]],
        after: int,
        on_undecodable: OnUndecodable = "raise",
        *,
        is_undisturbed: bool = False,
    ) -> EventStream[Any]:
        events = self.decoder.events(rows, keep_undecodable=on_undecodable != "raise")
        uncommitted = None if is_undisturbed else self._uncommitted(streams, after)
        position = partial(_position_after, after, events, tuple(streams), uncommitted)
        if on_undecodable == "raise":
            return EventStream(events, position)
        return EventStream(*_shown(events, on_undecodable, position))

    def _one_value(self, streams: Sequence[Stream[Any]]) -> tuple[str, str, str | None] | None:
        """Field, value and types of a question about one value of a data index; None if it is another."""
        asked = one_value(streams, self.spec.data_indexes)
        if asked is None:
            return None
        field, value, types_of_each = asked
        types = union_of_types(types_of_each)
        return field, value, None if types is None else array_text(types)

    def _uncommitted(self, streams: Sequence[Stream[Any]], base: int) -> tuple[int, Sequence[int]] | None:
        """What a position says of events up to its base that this transaction has saved itself, if any."""
        if not base or not self.session.in_transaction():
            return None
        published = f"{self.spec.qualified('_published')}()"
        select, params = self.select(merge_streams(streams), f"coalesce({published}, {base:d})", base)
        sql = f"SELECT {published}, array_agg(id ORDER BY id) FROM ({select}) AS e HAVING count(*) > 0"
        found = self.session.execute(sql, params).fetchone()
        return None if found is None else (found[0], found[1])


def _position_after(
    after: int,
    events: Sequence[Event[Any]],
    streams: tuple[Stream[Any], ...],
    uncommitted: tuple[int, Sequence[int]] | None,
) -> Position:
    """The position of an ordinary read of these streams after an id, which found these events."""
    ids = array("q", [one.id for one in events])
    last = ids[-1] if ids else after
    return Position(last, after, len(ids), merge_streams(streams), ids, uncommitted)


def _shown(
    events: list[Event[Any]], on_undecodable: OnUndecodable, position: Any
) -> tuple[list[Event[Any]], Any, list[EventDecodeError]]:
    """The events that a reader sees, its position, and what is wrong with those that could not be read."""
    faults = [event.data.error for event in events if event.data.__class__ is UndecodedData]
    if on_undecodable != "skip" or not faults:
        return events, position, faults
    for fault in faults:
        logger.warning("left out: %s", fault)
    return [event for event in events if event.data.__class__ is not UndecodedData], position, faults


def check_on_undecodable(value: object) -> None:
    """That `on_undecodable` is one of the three that there are.

    Raises:
        ConfigurationError: Another text, or something else.
    """
    if value not in ("raise", "skip", "raw"):
        raise ConfigurationError(f'on_undecodable is "raise", "skip" or "raw", not {shown(value)}')


def check_id(value: object, what: str) -> int:
    """An event id as an int.

    Raises:
        InvalidValueError: Text, a bool, a negative number or anything else.
    """
    if type(value) is not int or not 0 <= value < 2**63:
        raise InvalidValueError(f"{what} is the id of an event, a whole number from 0 on, not {shown(value)}")
    return value


def check_as_of(as_of: object) -> AsOf | None:
    """An `as_of` argument: an id, or a time with its zone.

    Raises:
        ConfigurationError: Anything else.
    """
    if isinstance(as_of, datetime):
        if as_of.tzinfo is None:
            raise ConfigurationError(
                f"as_of={shown(as_of)} has no time zone; use datetime.now(timezone.utc) or alike"
            )
        return as_of
    return None if as_of is None else check_id(as_of, "as_of")
