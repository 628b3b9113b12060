"""One events table as something to read from: statements, rows to events, and what positions need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs

from pgevents.codec.decoding import Decoder
from pgevents.events import Event, Parts, UndecodedData
from pgevents.hooks.details import OperationRecord
from pgevents.merging import merge_streams, single_value, union_of_types
from pgevents.store.layout import TableSpec
from pgevents.store.options import AsOf, ReadOptions
from pgevents.store.provenance import Log
from pgevents.store.queries import select_events, select_of_types
from pgevents.store.session import Session
from pgevents.streams import Stream
from pgevents.texts import array_text

__all__ = ["Source"]

_UNOBSERVED = nullcontext(OperationRecord("read"))
FEW = 1_000
"""Events that a read along the index of types may fetch, of all types together."""


@attrs.define
class Source:
    """What all reads of one events table share.

    Attributes:
        session: Runs SQL.
        spec: The table.
        decoder: Makes events of rows.
        check: Refuses identifiers that would find nothing, before a read.
        observe: Tells plugins of a read, if any want to know.
        log: Which log it is, for positions.
    """

    session: Session
    spec: TableSpec
    decoder: Decoder
    check: Callable[[Iterable[Stream[Any]]], Sequence[Stream[Any]]] = merge_streams
    observe: Callable[[OperationRecord], AbstractContextManager[OperationRecord]] | None = None
    log: Log | None = None

    def observed(self, streams: tuple[Stream[Any], ...]) -> AbstractContextManager[OperationRecord]:
        """The time of a read, for plugins; its number of events is to be filled in."""
        return _UNOBSERVED if self.observe is None else self.observe(OperationRecord("read", streams))

    def select(
        self,
        streams: Sequence[Stream[Any]],
        after: int | str,
        as_of: AsOf | None,
        *,
        tail: str = "ORDER BY id",
        is_reverse: bool = False,
    ) -> tuple[str, list[Any]]:
        """The statement of a read of this table, and its parameters; rows of `COLUMNS`."""
        return select_events(self.spec, streams, after, as_of, tail, is_reverse=is_reverse)

    def select_part(self, streams: Sequence[Stream[Any]], options: ReadOptions) -> tuple[str, list[Any]]:
        """The same for a part of the streams; of a limited one there is one row more, if there are more."""
        if options.limit is None:
            tail = options.order
        elif _are_few(streams, options.limit):
            return select_of_types(
                self.spec,
                streams,
                options.after,
                options.as_of,
                options.limit + 1,
                is_reverse=options.reverse,
            )
        else:
            tail = f"{options.order} LIMIT {options.limit + 1:d}"
        return self.select(streams, options.after, options.as_of, tail=tail, is_reverse=options.reverse)

    def single_value(self, streams: Sequence[Stream[Any]]) -> tuple[str, str, str | None] | None:
        """Field, value and types of a question about one value of a data index; None if it is another."""
        question = single_value(streams, self.spec.data_indexes)
        if question is None:
            return None
        field, value, types_of_each = question
        types = union_of_types(types_of_each)
        return field, value, None if types is None else array_text(types)

    def uncommitted(self, streams: Sequence[Stream[Any]], base: int) -> tuple[int, Sequence[int]] | None:
        """What a position says of events up to its base that this transaction has saved itself, if any."""
        if not base or not self.session.in_transaction():
            return None
        published = f"{self.spec.qualified('_published')}()"
        select, params = self.select(merge_streams(streams), f"coalesce({published}, {base:d})", base)
        sql = f"SELECT {published}, array_agg(id ORDER BY id) FROM ({select}) AS e HAVING count(*) > 0"
        found = self.session.execute(sql, params).fetchone()
        return None if found is None else (found[0], found[1])

    def collect(
        self, fetch: Callable[[int, int | None], tuple[list[Any], bool]], options: ReadOptions
    ) -> tuple[list[Event[Any]], bool]:
        """As many events as the limit allows, and whether there are more. Events that are left out because
        they cannot be read, or that an upcaster drops, do not count, and one that is split counts once; so a
        page is short only if it is the last.

        Args:
            fetch: Gives rows after an id, at most a number of them, and whether there are more.
            options: The limit, and what becomes of events that cannot be read.
        """
        events: list[Event[Any]] = []
        after, missing = options.after, options.limit
        while True:
            rows, is_cut = fetch(after, missing)
            found = self.decoder.events(rows, keep_undecodable=options.keeps_undecodable)
            events += found
            if missing is None or not is_cut:
                return events, is_cut
            left_out = options.on_undecodable == "skip"
            missing -= sum(
                not (left_out and event.data.__class__ is UndecodedData)
                and (event.data.__class__ is not Parts or event.data.data != ())
                for event in found
            )
            if missing <= 0:
                return events, is_cut
            after = int(rows[-1][0])


def _are_few(streams: Sequence[Stream[Any]], limit: int) -> bool:
    """Whether streams name types alone, and only a few events of each can be wanted."""
    if not streams or any(stream.match or stream.types is None for stream in streams):
        return False
    return sum(len(stream.types or ()) for stream in streams) * limit <= FEW
