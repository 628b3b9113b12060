"""One call of the append functions: which of them, with what arguments, and what it answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import attrs

from pgevents.codec.serialization import load_json, time_of
from pgevents.store.ordering import Position
from pgevents.store.session import Session
from pgevents.store.tables import TableSpec
from pgevents.streams import (
    Stream,
    TypesOfEach,
    array_text,
    check_field_name,
    name_argument,
    one_value,
    types_argument,
)

__all__ = ["NO_FIELDS", "Answer", "Appender", "Condition", "Row", "answer_of", "saved_of"]

Row = tuple[str, str, str]
"""Type, data and metadata of an event to be stored; the last two are JSON text."""

Condition = tuple[tuple[str, str, TypesOfEach], int, int] | tuple[()]
"""What must hold: field, value and types; base; and how many events above it. () if nothing."""

PLAIN_SQL = "SELECT {append_plain}({type}, %s)"
OWN_SQL = "SELECT {append_own}({type}, %s, '{field}', {types}, "
ONE_SQL = "SELECT {append_one}({type}, %s, '{field}', %s, {types}, "
UNCONDITIONAL_SQL = "SELECT {append_one}({type}, %s, NULL, NULL, NULL, NULL, NULL, %s, %s)"
"""No argument is left out, for PostgreSQL would have to parse its stored default; and none is a parameter
that need not be one, for the driver takes two microseconds for each."""
ANY_SQL = r"SELECT {append_rows}(%s, string_to_array(%s, E'\n'), string_to_array(%s, E'\n'), %s, %s, %s)"
digits: Callable[[int], str] = int.__repr__
"""A number as it may stand in SQL, of digits and perhaps a sign, whatever a subclass of int makes of
itself."""
NO_FIELDS: dict[str, Any] = {}
"""Of an event whose data were not written field by field."""


@attrs.define
class Answer:
    """What a call of an append function came to.

    Attributes:
        status: "saved", "repeated", "conflict", "reused" or "future"; only "saved" has written anything.
        ids: Of the events that were saved, now or before; that match, in a conflict; the last one issued, if
            "future".
        created_at: When the events were saved; None if they were not.
        lock_wait: Seconds from the arrival at the server until the locks were held and the check was made, if
            asked for.
    """

    status: str
    ids: Sequence[int]
    created_at: datetime | None
    lock_wait: float | None = None


class Appender:
    """Appends to one events table."""

    def __init__(self, session: Session, spec: TableSpec) -> None:
        self._session = session
        self._any_sql = ANY_SQL.format(append_rows=spec.qualified("_append_rows"))
        self._names = {
            name: spec.qualified(f"_{name}") for name in ("append_one", "append_own", "append_plain")
        }
        self._sql_for_one = lru_cache(maxsize=4096)(self._make_sql_for_one)
        self._data_indexes = spec.data_indexes
        self._first_index = spec.data_indexes[0] if spec.data_indexes else None

    def append(
        self,
        rows: Sequence[Row],
        positions: Sequence[Position] | None = None,
        key: str | None = None,
        created_at: datetime | None = None,
        *,
        is_timed: bool = False,
    ) -> Answer:
        """Append events in one round trip, by the function for one event where that can do it.

        Args:
            rows: The events, at least one.
            positions: What must still hold; None to append whatever has happened.
            key: The idempotency key.
            created_at: When the events happened, if not now.
            is_timed: Whether to tell how long the locks were waited for.
        """
        condition = self.condition_of(positions) if len(rows) == 1 and key is None else None
        if condition is not None:
            return self.append_one(rows[0], condition, created_at, is_timed=is_timed)
        names, data, metadata = zip(*rows, strict=True)
        more = None if all(text == "{}" for text in metadata) else "\n".join(metadata)
        return self.append_lines(names, "\n".join(data), more, positions, key, created_at, is_timed=is_timed)

    def append_lines(
        self,
        names: Sequence[str],
        data: str,
        metadata: str | None,
        positions: Sequence[Position] | None,
        key: str | None,
        created_at: datetime | None,
        *,
        is_timed: bool = False,
    ) -> Answer:
        """The same for events whose data, and metadata if any, are a line of JSON each."""
        arguments = (array_text(names), data, metadata, _conditions(positions), key, created_at)
        return self._call(self._any_sql, arguments, created_at, is_timed)

    def append_one(
        self, row: Row, condition: Condition, created_at: datetime | None = None, *, is_timed: bool = False
    ) -> Answer:
        """Append one event by the function for one; `condition` comes from `condition_of` or `above`."""
        name, text, metadata = row
        more = () if created_at is None and metadata == "{}" else (metadata, created_at)
        return self._call(*self.call_for_one(name, text, condition, more), created_at, is_timed)

    def call_for_one(
        self,
        name: str,
        text: str,
        condition: Condition,
        more: tuple[Any, ...] = (),
        fields: Mapping[str, Any] = NO_FIELDS,
    ) -> tuple[str, tuple[Any, ...]]:
        """The call of a function for one event, and its parameters.

        Args:
            name: The event's type.
            text: Its data as JSON.
            condition: What must hold.
            more: Metadata and time, or nothing.
            fields: What `text` was made of, as far as it is known.
        """
        if not condition:
            head, _, names, _ = self._sql_for_one(name, more != ())
            return head, (*names, text, *more)
        (field, value, several), base, count = condition
        own = fields.get(field)  # what is stored, if it is a str; others may have another text there
        is_same = type(own) is type(value) is str and own == value
        if is_same and count == 0 and more == () and field == self._first_index:
            head, tail, names, types = self._sql_for_one(name, False, field, several, True)
            return f"{head}'{digits(base)}'{tail}", (*names, text, *types)
        head, tail, names, types = self._sql_for_one(name, more != (), field, several)
        return f"{head}'{digits(base)}', '{digits(count)}'{tail}", (*names, text, value, *types, *more)

    def _make_sql_for_one(
        self, name: str, has_more: bool, field: str = "", several: TypesOfEach = (), is_own: bool = False
    ) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
        """The call of a function for one event, with a condition if a field is given.

        Returns:
            The SQL up to the condition's numbers, and after them; the parameter that the event's type needs,
            and the one that the condition's types need, () if none.
        """
        type_sql, names = name_argument(name)
        if not field:
            form = UNCONDITIONAL_SQL if has_more else PLAIN_SQL
            return form.format(type=type_sql, **self._names), "", names, ()
        types_sql, types = types_argument(several)
        form, tail = (OWN_SQL, ")") if is_own else (ONE_SQL, ", %s, %s)" if has_more else ", NULL, NULL)")
        head = form.format(type=type_sql, field=check_field_name(field), types=types_sql, **self._names)
        return head, tail, names, types

    def condition_of(self, positions: Sequence[Position] | None) -> Condition | None:
        """What must hold, for the function for one event; None if it is too much for that function."""
        if positions is None:
            return ()
        if len(positions) != 1 or positions[0].in_transaction:
            return None
        position = positions[0]
        return self.above(position.base, position.count, position.streams)

    def above(self, base: int, count: int, streams: Sequence[Stream[Any]]) -> Condition | None:
        """That the streams hold so many events above an id; None if it is too much for that function."""
        asked = one_value(streams, self._data_indexes)
        return None if asked is None else (asked, base, count)

    def _call(
        self, sql: str, arguments: tuple[Any, ...], created_at: datetime | None, is_timed: bool
    ) -> Answer:
        if not is_timed:
            return answer_of(self._session.execute(sql, arguments).fetchone()[0])
        text, arrived = self._session.execute(f"{sql}, statement_timestamp()", arguments).fetchone()
        answer = answer_of(text)
        if answer.created_at is not None and created_at is None:
            answer.lock_wait = max((answer.created_at - arrived).total_seconds(), 0.0)
        return answer


def saved_of(text: str) -> tuple[int, datetime] | None:
    """Id and time of an event, if the function for one has saved it; else None, and `answer_of` says more."""
    if text[0] == "{":
        return None
    event_id, at, _ = text.split('"')  # the time in UTC, in quotes
    return int(event_id), time_of(at + "+00:00")


def answer_of(text: str) -> Answer:
    """What an append function has answered."""
    if text[0] != "{":
        ids, at, _ = text.split('"')
        first, _, last = ids.partition("-")
        return Answer("saved", range(int(first), int(last or first) + 1), time_of(at + "+00:00"))
    found = load_json(text)
    when = found.get("created_at")
    return Answer(found["status"], found["ids"], None if when is None else datetime.fromisoformat(when))


def _conditions(positions: Sequence[Position] | None) -> str | None:
    return None if positions is None else json.dumps([position.as_json() for position in positions])
