"""One call of the append functions: which of them, with what arguments, and what it answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import attrs

from pgevents.codec.decoding import FIELD_END
from pgevents.codec.serialization import time_of
from pgevents.merging import single_value, union_of_types
from pgevents.store.layout import TableSpec
from pgevents.store.ordering import Position
from pgevents.store.session import Session
from pgevents.texts import array_text

__all__ = ["Answer", "Appender", "EventColumns", "Row", "Run", "Times", "ViewBeside"]

Row = tuple[str, str, str]
"""Type, data and metadata of an event to be stored; the last two are JSON text."""


@attrs.define
class EventColumns:
    """Events to be stored, column by column, as the append functions take them.

    Attributes:
        types: The name of each event's type.
        data: The data of each, as JSON text.
        metadata: The metadata of each, as JSON text; None if no event has any.
    """

    types: Sequence[str]
    data: Sequence[str]
    metadata: Sequence[str] | None = None

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> EventColumns:
        """The columns of these rows, at least one."""
        types, data, metadata = zip(*rows, strict=True)
        return cls(types, data, None if set(metadata) == {"{}"} else metadata)

    def rows(self) -> list[Row]:
        """Event by event."""
        return list(zip(self.types, self.data, self.metadata or ["{}"] * len(self.types), strict=True))


Times = datetime | Sequence[datetime] | None
"""When events happened: all of them, or each of them; None: now."""

Run = Callable[[str, Any], Any]
"""Runs a statement with its parameters, and returns a cursor."""

# Arguments that are not needed are NULL in the statement, because PostgreSQL would parse a stored default.
ONE_SQL = "SELECT {append_one}(%s, %s, %s, %s, %s, %s, %s)"
MANY_SQL = r"SELECT {append_many}(%s, string_to_array(%s, E'\n'), string_to_array(%s, E'\n'), %s, %s, %s, %s)"
VIEW_SQL = """\
SELECT {lock_value}(%s, %s, %s);
SELECT {view_after}({append}, %s, %s, %s, %s, %s, %s, %s, %s)"""


@attrs.frozen
class ViewBeside:
    """A view that is locked before events are appended, and read after it, in the same message.

    Attributes:
        table: The projections table, as SQL names it.
        key: Type, id, version and shape of the stored view.
        question: Field, value and types (as an array) of the events that change it.
    """

    table: str
    key: tuple[str, str, int, str | None]
    question: tuple[str, str, str | None]


@attrs.define
class Answer:
    """The answer of an append function.

    Attributes:
        status: "saved", "repeated", "conflict", "reused" or "future"; only "saved" has written anything.
        ids: Of the events that were saved, now or before; that match, in a conflict; the last one issued, if
            "future".
        created_at: When the events were saved, or the first of them; None if they were not.
        lock_wait: Seconds from the arrival at the server until the locks were held and the check was made, if
            asked for.
        view: What `<events>_fetch_view` gives after the append, if a view was asked for; empty if it is to be
            read by statements.
    """

    status: str
    ids: Sequence[int]
    created_at: datetime | None
    lock_wait: float | None = None
    view: str = ""


class Appender:
    """Appends to one events table."""

    def __init__(self, session: Session, spec: TableSpec) -> None:
        self._session = session
        functions = ("append_one", "append_many", "lock_value", "view_after", "settle")
        self._names = {name: spec.qualified(f"_{name}") for name in functions}
        self._one_sql, self._many_sql = (sql.format(**self._names) for sql in (ONE_SQL, MANY_SQL))
        self._data_indexes = spec.data_indexes

    def append(
        self,
        events: EventColumns,
        positions: Sequence[Position] | None = None,
        key: str | None = None,
        created_at: Times = None,
        keys: Sequence[str | None] | None = None,
        is_timed: bool = False,
        view: ViewBeside | None = None,
        run: Run | None = None,
    ) -> Answer:
        """Append events in one round trip, by the function for one event where that can do it.

        Args:
            events: At least one.
            positions: What must still hold; None to append whatever has happened.
            key: The idempotency key of all of them.
            created_at: When all of them happened, or each of them; None: now.
            keys: Instead of `key` the stored key of each event, which must be new.
            is_timed: Whether to measure the wait for the locks.
            view: A view to lock and read, too; in a transaction.
            run: Runs the statement, if it is the first of a transaction; by default `Session.execute`.
        """
        run = run or self._session.execute
        sql, arguments = self.call_for(events, positions, key, created_at, keys)
        if view is not None:
            sql = VIEW_SQL.format(**self._names, append=sql.removeprefix("SELECT "))
            arguments = (*view.question, *arguments, view.table, *view.key, *view.question)
        if not is_timed:
            return answer_of(run(sql, arguments).fetchone()[0])
        text, arrived = run(f"{sql}, statement_timestamp()", arguments).fetchone()
        answer = answer_of(text)
        if answer.created_at is not None and created_at is None:
            answer.lock_wait = max((answer.created_at - arrived).total_seconds(), 0.0)
        return answer

    def settle(self, key: str) -> list[int] | None:
        """Record that a decision had nothing to save under its idempotency key.

        Returns:
            None; or the ids of what the key saved before, and then nothing was recorded.
        """
        found = self._session.execute(f"SELECT {self._names['settle']}(%s)", [key]).fetchone()[0]
        return None if found is None else list(found)

    def call_for(
        self,
        events: EventColumns,
        positions: Sequence[Position] | None = None,
        key: str | None = None,
        created_at: Times = None,
        keys: Sequence[str | None] | None = None,
    ) -> tuple[str, tuple[Any, ...]]:
        """The statement that appends these events, and its parameters."""
        times = [created_at] if isinstance(created_at, datetime) else created_at
        metadata = events.metadata
        if len(events.types) == 1:
            condition = (None, None) if positions is None else self._condition_on_one_value(positions)
            if condition is not None:
                return self._one_sql, (
                    events.types[0],
                    events.data[0],
                    None if metadata is None else metadata[0],
                    keys[0] if keys else key,
                    times[0] if times else None,
                    *condition,
                )
        return self._many_sql, (
            array_text(events.types),
            "\n".join(events.data),
            None if metadata is None else "\n".join(metadata),
            None if positions is None else json.dumps([position.as_json() for position in positions]),
            key,
            None if keys is None else list(keys),
            None if times is None else array_text([at.isoformat() for at in times]),
        )

    def _condition_on_one_value(self, positions: Sequence[Position]) -> tuple[str, str] | None:
        """Field, value and types, and what must hold of them, as arrays; None if the question is about more
        than one value."""
        if len(positions) != 1:
            return None
        position = positions[0]
        question = single_value(position.streams, self._data_indexes)
        if question is None:
            return None
        field, value, types_of_each = question
        base, seen, digest = position.premise()
        types = union_of_types(types_of_each) or ()
        return array_text([field, value, *types]), f"{{{base},{seen},{digest}}}"


def answer_of(text: str) -> Answer:
    """What an append function has answered: `saved 17-19 "2026-01-31T12:00:00"`, or `conflict 3,5`; and what
    `<events>_view_after` has put behind it."""
    text, _, view = text.partition(FIELD_END)
    status, ids_text, *at = text.split(" ")
    ids: Sequence[int]
    if ids_text.isdecimal():
        ids = [int(ids_text)]
    elif "-" in ids_text:
        first, last = ids_text.split("-")
        ids = range(int(first), int(last) + 1)
    else:
        ids = [int(event_id) for event_id in ids_text.split(",") if event_id]
    return Answer(status, ids, time_of(at[0][1:-1] + "+00:00") if at else None, view=view)
