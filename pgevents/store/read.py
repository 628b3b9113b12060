"""Reads: a stream's events in one statement, in order, each once, with the position that they were read
at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs

from pgevents.codec.decoding import FIELD_END, rows_of
from pgevents.events import Event, parts_of
from pgevents.merging import merge_streams
from pgevents.store.final import FinalReads, by_id
from pgevents.store.layout import TableSpec
from pgevents.store.options import PLAIN, AsOf, OnUndecodable, ReadOptions, check_id
from pgevents.store.ordering import streams_json
from pgevents.store.queries import COLUMNS, select_after_snapshot
from pgevents.store.results import EventStream, decoded_part, position_after, stream_of_newest
from pgevents.streams import Stream

__all__ = ["Reader"]

PAGE = 5_000


class Reader(FinalReads):
    """Reads one events table and decodes its rows."""

    def read(self, streams: Sequence[Stream[Any]], options: ReadOptions = PLAIN) -> EventStream[Any]:
        """An ordinary read: one statement, no locks, nothing awaited."""
        streams = self.check(streams)
        if self.observe is None:
            return self._read(streams, options)
        merged = merge_streams(streams)
        with self.observed(merged) as operation:
            found = self._read(merged, options)
            operation.events = len(found)
        return found

    def _read(self, streams: Sequence[Stream[Any]], options: ReadOptions) -> EventStream[Any]:
        if options.limit is not None or options.reverse:
            return self._read_part(merge_streams(streams), options)
        question = self.single_value(streams)
        if question is None:
            streams = merge_streams(streams)
            question = self.single_value(streams)
        if question is not None and options.as_of is None:
            fetch = f"SELECT {self.spec.qualified('_fetch')}(%s, %s, %s, %s)"
            (text,) = self.session.execute(fetch, (*question, options.after)).fetchone()
            if text is not None:
                return self._stream(rows_of(text), streams, options)
        rows = self.session.execute(
            *self.select(merge_streams(streams), options.after, options.as_of)
        ).fetchall()
        return self._stream(rows, streams, options)

    def newest(self, streams: Sequence[Stream[Any]], lock: Sequence[Stream[Any]] = ()) -> EventStream[Any]:
        """The newest event alone, and the position that it is the newest; with streams to lock before."""
        merged = merge_streams(self.check(streams))
        with self.observed(merged) as operation:
            found = self._read_part(merged, ReadOptions(limit=1, reverse=True), self.check(lock))
            operation.events = len(found)
        return found

    def _read_part(
        self, merged: tuple[Stream[Any], ...], options: ReadOptions, lock: Sequence[Stream[Any]] = ()
    ) -> EventStream[Any]:
        """The first events in either order."""

        def fetch(after: int, limit: int | None) -> tuple[list[Any], bool]:
            part = attrs.evolve(options, after=after, limit=limit)
            rows = self._execute_after_lock(lock, *self.select_part(merged, part)).fetchall()
            return rows[:limit], limit is not None and len(rows) > limit

        events, is_cut = self.collect(fetch, options)
        if options.reverse:
            return stream_of_newest(events, merged, options, self.log, is_cut=is_cut)
        shown, faults = decoded_part(events, options.on_undecodable)
        uncommitted = self.uncommitted(merged, options.after)
        position = position_after(options.after, events, merged, uncommitted, self.log, is_cut=is_cut)
        return EventStream(parts_of(shown), position, faults)

    def latest(
        self, streams: Sequence[Stream[Any]], after: int = 0, *, wait: float | None = None
    ) -> Event[Any] | None:
        """The event with the greatest id, if it is above another one; with `wait`, once everything below it
        is final, too."""
        check_id(after, "after")
        newest = ReadOptions(limit=1, reverse=True)
        found = self.read(streams, newest) if wait is None else self.read_final(streams, newest, wait=wait)
        return found[0] if found and found[0].id > after else None

    def by_ids(self, ids: Sequence[int], on_undecodable: OnUndecodable = "raise") -> list[Event[Any]]:
        """Events by their ids, in order."""
        sql = f"SELECT {COLUMNS} FROM {self.spec.qualified()} WHERE id = ANY(%s) ORDER BY id"
        rows = self.session.execute(sql, [list(ids)]).fetchall()
        events = self.decoder.events(rows, keep_undecodable=on_undecodable != "raise")
        return parts_of(decoded_part(events, on_undecodable)[0])

    def by_key(self, key: str) -> list[Event[Any]] | None:
        """What was saved with an idempotency key, in order; nothing, if that was decided; None, if it is
        new."""
        sql = (
            f"SELECT {COLUMNS} FROM {self.spec.qualified()} WHERE idempotency_key = %s "
            "OR idempotency_key > %s AND idempotency_key < %s\n"
            "UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL "
            f"FROM {self.spec.qualified('_commands')} WHERE key = %s ORDER BY id"
        )
        # A batch has its key, and for each further event key and number.
        params = [key, f"{key}\x1f", f"{key}\x20", key]
        rows = self.session.execute(sql, params).fetchall()
        events = [row for row in rows if row[0] is not None]
        return parts_of(self.decoder.events(events)) if rows else None

    def ids_in_log(self, ids: Sequence[int]) -> set[int]:
        """Which of these ids are in the log."""
        sql = f"SELECT id FROM {self.spec.qualified()} WHERE id = ANY(%s)"
        return {row[0] for row in self.session.execute(sql, [list(ids)]).fetchall()}

    def pages(
        self, streams: Sequence[Stream[Any]], options: ReadOptions = PLAIN, *, wait: float | None = None
    ) -> Iterator[Event[Any]]:
        """Any number of events in constant memory: pages along the order, each one index range.

        Args:
            streams: What to read.
            options: Which part of it, in which order.
            wait: None for ordinary reads; else each page is final, and this is how many seconds it may take
                to become so.
        """
        return self._pages(merge_streams(self.check(streams)), options, wait)

    def _pages(
        self, merged: tuple[Stream[Any], ...], options: ReadOptions, wait: float | None
    ) -> Iterator[Event[Any]]:
        after, missing = options.after, options.limit
        while missing is None or missing > 0:
            limit = PAGE if missing is None else min(PAGE, missing)
            part = attrs.evolve(options, after=after, limit=limit)
            with self.observed(merged) as operation:
                page = self._read_part(merged, part) if wait is None else self._final_part(merged, part, wait)
                operation.events = len(page)
            yield from page
            if len(page) < limit:
                return
            after = page[-1].id
            missing = None if missing is None else missing - limit

    def read_after_snapshot(
        self,
        projections: TableSpec,
        key: tuple[str, str, int, str | None],
        streams: Sequence[Stream[Any]],
        as_of: AsOf | None,
        lock: Sequence[Stream[Any]] = (),
        *,
        is_undisturbed: bool = False,
    ) -> tuple[Any, EventStream[Any], str | None]:
        """A snapshot, if there is one, and the events after it, in one statement.

        Args:
            projections: The table of the snapshot.
            key: The snapshot's type, id, version and shape.
            streams: What to read.
            as_of: Up to where, if not up to now.
            lock: Streams to lock in a statement before, sent in the same message.
            is_undisturbed: Whether the transaction, if there is one, cannot be rolled back in part.

        Returns:
            A row like an event's, with the snapshot's `latest_event_id` as id and no type, or None; the
            events; and how often the log was changed under maintenance before, or None.
        """
        merged = merge_streams(self.check(streams))
        with self.observed(merged) as operation:
            snapshot, rows, redactions = self._load(
                projections.qualified(), key, merged, as_of, self.check(lock)
            )
            options = PLAIN if snapshot is None else ReadOptions(after=snapshot[0])
            events = self._stream(rows, merged, options, is_undisturbed=is_undisturbed)
            operation.events = len(events)
        return snapshot, events, redactions

    def read_since(
        self, streams: Sequence[Stream[Any]], after: int
    ) -> tuple[str, Sequence[Event[Any]] | None]:
        """Lock streams and read, in one message, what they hold above an id, for a decision.

        Returns:
            How often the log was changed under maintenance; and the events, None if they are too many, or the
            question is about more than one value of a data index.
        """
        merged = merge_streams(self.check(streams))
        question = self.single_value(merged)
        if question is None:
            return "", None
        names = {name: self.spec.qualified(f"_{name}") for name in ("redactions", "fetch")}
        sql = "SELECT {redactions}(), {fetch}(%s, %s, %s, %s)".format(**names)
        redactions, text = self._execute_after_lock(merged, sql, [*question, after]).fetchone()
        return redactions, None if text is None else self.decoder.events(rows_of(text))

    def lock_statement(self, streams: Sequence[Stream[Any]]) -> tuple[str, list[Any]]:
        """What locks streams for a save, and keeps maintenance out until the commit."""
        names = {name: self.spec.qualified(f"_{name}") for name in ("lock", "hold_redactions")}
        return "SELECT {lock}(%s), {hold_redactions}()".format(**names), [streams_json(streams)]

    def _load(
        self,
        projections: str,
        key: tuple[str, str, int, str | None],
        merged: Sequence[Stream[Any]],
        as_of: AsOf | None,
        lock: Sequence[Stream[Any]],
    ) -> tuple[Any, Iterable[Any], str | None]:
        question = self.single_value(merged) if as_of is None else None
        if question is not None:
            redactions = f"{self.spec.qualified('_redactions')}()" if lock else "NULL"
            fetch = f"{self.spec.qualified('_fetch_view')}(%s, %s, %s, %s, %s, %s, %s, %s)"
            params = [projections, *key, *question]
            sql = f"SELECT {fetch}, {redactions}"
            text, noted = self._execute_after_lock(lock, sql, params).fetchone()
            if text is not None:
                latest, data, created_at, updated_at, events = text.split(FIELD_END, 4)
                snapshot = (int(latest), None, data, None, created_at, updated_at) if latest else None
                return snapshot, rows_of(events), noted
        select, params = select_after_snapshot(self.spec, projections, key, merged, as_of)
        rows: list[Any] = self._execute_after_lock(lock, select, params).fetchall()
        rows.sort(key=by_id)
        return (rows.pop(0) if rows and rows[0][1] is None else None), rows, None

    def _execute_after_lock(self, lock: Sequence[Stream[Any]], sql: str, params: list[Any]) -> Any:
        if lock:
            sql = f"SELECT {self.spec.qualified('_lock')}(%s);\n{sql}"
            params = [streams_json(lock), *params]
        return self.session.execute(sql, params)

    def _stream(
        self,
        rows: Iterable[Any],
        streams: Sequence[Stream[Any]],
        options: ReadOptions,
        *,
        is_undisturbed: bool = False,
    ) -> EventStream[Any]:
        events = self.decoder.events(rows, keep_undecodable=options.keeps_undecodable)
        uncommitted = None if is_undisturbed else self.uncommitted(streams, options.after)
        position = partial(position_after, options.after, events, tuple(streams), uncommitted, self.log)
        if not options.keeps_undecodable and not self.decoder.has_parts:
            return EventStream(events, position)
        shown, faults = decoded_part(events, options.on_undecodable)
        return EventStream(parts_of(shown), position, faults)
