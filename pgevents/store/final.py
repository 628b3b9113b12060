"""Final reads: only what can no longer change. The bound is looked at first, and the events in a later
statement."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.codec.decoding import FIELD_END, rows_of
from pgevents.errors import RetryableError
from pgevents.events import parts_of
from pgevents.merging import merge_streams
from pgevents.store.options import PLAIN, ReadOptions
from pgevents.store.ordering import Position, digest_of, horizon_of, last_issued, streams_json
from pgevents.store.queries import NO_EVENT
from pgevents.store.results import EventStream, decoded_part, stream_of_newest
from pgevents.store.source import Source
from pgevents.streams import Stream

__all__ = ["FinalReads", "by_id"]

FINAL_SQL = "SELECT set_config('pgevents.bound', {final_bound}(%s)::text, true);\n"


def by_id(row: Sequence[Any]) -> int:
    """The bound, or the snapshot, and then the events by id: so they come as a rule, and a server's sort
    would cost more."""
    return -1 if row[1] is None else int(row[0])


class FinalReads(Source):
    """Reads among whose events no late one can appear."""

    def read_final(
        self,
        streams: Sequence[Stream[Any]],
        options: ReadOptions = PLAIN,
        *,
        wait: float | None = None,
    ) -> EventStream[Any]:
        """Only what can no longer change, in one round trip; its position is exact with nothing left to
        count.

        Args:
            streams: What to read.
            options: Which part of it, in which order. The position ends with the part.
            wait: None to cut at the bound at once; else the seconds to wait until what was visible at the
                start is final.
        """
        merged = merge_streams(self.check(streams))
        with self.observed(merged) as operation:
            found = self._final_part(merged, options, wait)
            operation.events = len(found)
        return found

    def _final_part(
        self, merged: tuple[Stream[Any], ...], options: ReadOptions, wait: float | None
    ) -> EventStream[Any]:
        bound = 0

        def fetch(after: int, limit: int | None) -> tuple[list[Any], bool]:
            nonlocal bound
            part = attrs.evolve(options, after=after, limit=limit)
            read = self._newest_final_rows if options.reverse else self._final_rows
            rows, bound, is_cut = read(merged, part, wait)
            return rows, is_cut

        events, is_cut = self.collect(fetch, options)
        if options.reverse:
            return stream_of_newest(events, merged, options, self.log, is_cut=is_cut)
        shown, faults = decoded_part(events, options.on_undecodable)
        last = events[-1].id if events else options.after
        base = max(bound, options.after)
        uncommitted = self.uncommitted(merged, base)
        position = Position(last, base, 0, merged, (), uncommitted, is_cut=is_cut, log=self.log)
        return EventStream(parts_of(shown), position, faults)

    def _final_rows(
        self, merged: Sequence[Stream[Any]], options: ReadOptions, wait: float | None
    ) -> tuple[list[Any], int, bool]:
        """The oldest rows that are final, up to which id that is all of them, and whether the limit cut some
        off."""
        rows, bound = self._read_at_bound(merged, options)
        newest = max(int(rows[: options.limit][-1][0]) if rows[: options.limit] else 0, options.after)
        if newest > bound and wait is not None:
            self.await_bound(merged, newest, wait)
            rows, bound = self._read_at_bound(merged, options)
            bound = max(min(bound, newest), options.after)
        while rows and int(rows[-1][0]) > bound:
            rows.pop()
        is_cut = options.limit is not None and len(rows) > options.limit
        if is_cut:
            rows = rows[: options.limit]
            bound = min(bound, int(rows[-1][0]) if rows else options.after)
        return rows, bound, is_cut

    def _newest_final_rows(
        self, merged: Sequence[Stream[Any]], options: ReadOptions, wait: float | None
    ) -> tuple[list[Any], int, bool]:
        """The same of the newest rows, the newest first."""
        rows, bound = self._read_at_bound(merged, options)
        newest = int(rows[-1][0]) if rows else 0
        if newest > bound:
            if wait is not None:
                self.await_bound(merged, newest, wait)
                bound = newest
            rows, _ = self._read_at_bound(merged, attrs.evolve(options, as_of=bound))
        is_cut = options.limit is not None and len(rows) > options.limit
        return rows[::-1][: options.limit], bound, is_cut

    def _read_at_bound(self, merged: Sequence[Stream[Any]], options: ReadOptions) -> tuple[list[Any], int]:
        """The events by id, and the bound, looked at before them in the same message: the read's snapshot
        is the younger. Of a limited read there is one more, which says that there are more."""
        question = self.single_value(merged) if options.is_plain else None
        if question is not None:
            fetch = f"SELECT {self.spec.qualified('_fetch_final')}(%s, %s, %s, %s)"
            (text,) = self.session.execute(fetch, (*question, options.after)).fetchone()
            if text is not None:
                bound, _, events = text.partition(FIELD_END)
                return list(rows_of(events)), int(bound)
        select, params = self.select_part(merged, options)
        sql = (
            FINAL_SQL.format(final_bound=self.spec.qualified("_final_bound"))
            + f"SELECT current_setting('pgevents.bound')::bigint AS id{NO_EVENT}\nUNION ALL\n({select})"
        )
        rows = self.session.execute(sql, [streams_json(merged) if merged else "[]", *params]).fetchall()
        rows.sort(key=by_id)
        return rows[1:], rows[0][0]

    def await_bound(self, merged: Sequence[Stream[Any]], newest: int, wait: float) -> None:
        """Wait until everything up to `newest`, or up to the last id issued, is final.

        It waits for no lock, so PostgreSQL would not detect a deadlock: hence the limit.

        Raises:
            RetryableError: It took longer; the message names who is in the middle of a save.
        """
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

    def shortened(self, position: Position) -> Position:
        """The same position with less to count under the locks: from a final bound, if what was read up to it
            stands.

        What is final can be counted before, without a lock, and needs no second look.
        """
        bound_sql = f"SELECT {self.spec.qualified('_final_bound')}(%s)"
        bound = self.session.execute(bound_sql, [streams_json(position.streams)]).fetchone()[0]
        final_count = bisect_right(position.ids, bound)
        select, params = self.select(position.streams, position.base, bound)
        digest = f"{self.spec.qualified('_digest')}(array_agg(id))"
        sql = f"SELECT count(*), {digest} FROM ({select}) AS e"
        if self.session.execute(sql, params).fetchone() != (
            final_count,
            digest_of(position.ids[:final_count]),
        ):
            return position  # something was read incompletely: the append function will say what
        return attrs.evolve(
            position, base=bound, count=position.count - final_count, ids=position.ids[final_count:]
        )
