"""One call of the append functions: which of the two, with what arguments, and what it answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import attrs

from pgevents.database import Session
from pgevents.ordering import Position
from pgevents.serialization import load_json, time_of
from pgevents.streams import one_index_value
from pgevents.tables import TableSpec

__all__ = ["Answer", "Appender", "Row"]

Row = tuple[str, str, str]
"""Type, data and metadata of an event to be stored; the last two are JSON text."""

ONE_SQL = "SELECT {append_one}(%s, %s, {condition}, {more})"
NO_CONDITION, NOTHING_ABOVE, SO_MANY_ABOVE = "NULL, NULL, NULL, NULL, NULL", "'{field}', %s, %s, %s, 0", "'{field}', %s, %s, %s, %s"
NO_MORE, MORE = "NULL, NULL", "%s, %s"
"""All arguments are always given, for PostgreSQL would have to parse the stored defaults of the others; and none is a
parameter that need not be one, for the driver takes a microsecond for each."""
ANY_SQL = "SELECT {append}(%s, %s, %s, %s)::text"


@attrs.define
class Answer:
    """What a call of an append function came to.

    Attributes:
        status: "saved", "repeated", "conflict", "reused" or "future"; only "saved" has written anything.
        ids: Of the events that were saved, now or before; that match, in a conflict; the last one issued, if "future".
        created_at: When the events were saved; None if they were not.
        lock_wait: Seconds from the arrival at the server until the locks were held and the check was made, if asked for.
    """

    status: str
    ids: Sequence[int]
    created_at: datetime | None
    lock_wait: float | None = None


class Appender:
    """Appends to one events table."""

    def __init__(self, session: Session, spec: TableSpec) -> None:
        self._session = session
        self.data_indexes = frozenset(spec.data_indexes)
        self._any_sql = ANY_SQL.format(append=spec.qualified("_append"))
        self._one_sql, self._one_sql_with_more = (_calls_for_one(spec, more) for more in (NO_MORE, MORE))

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
        return self.append_array(_array(rows), positions, key, created_at, is_timed=is_timed)

    def append_array(
        self,
        array: str,
        positions: Sequence[Position] | None,
        key: str | None,
        created_at: datetime | None,
        *,
        is_timed: bool = False,
    ) -> Answer:
        """The same for events that are the JSON array already which the append function takes."""
        return self._call(self._any_sql, (array, _conditions(positions), key, created_at), created_at, is_timed)

    def append_one(
        self, row: Row, condition: tuple[Any, ...] = (), created_at: datetime | None = None, *, is_timed: bool = False
    ) -> Answer:
        """Append one event by the function for one; `condition` comes from `condition_of`."""
        name, text, metadata = row
        kind = condition[:1], len(condition)
        if created_at is None and metadata == "{}":
            return self._call(self._one_sql[kind], (name, text, *condition[1:]), None, is_timed)
        arguments = (name, text, *condition[1:], metadata, created_at)
        return self._call(self._one_sql_with_more[kind], arguments, created_at, is_timed)

    def append_bare(self, name: str, text: str, condition: tuple[Any, ...]) -> Answer:
        """The same of an event that is no more than its type and data, in fewer steps."""
        sql = self._one_sql[condition[:1], len(condition)]
        return _answer(self._session.execute(sql, (name, text, *condition[1:])).fetchone()[0])

    def condition_of(self, positions: Sequence[Position] | None) -> tuple[Any, ...] | None:
        """What must hold, for the function for one event; None if it is too much for that function.

        () if nothing, else field, value, types, base, and how many events above it, which is left out if it is none.
        """
        if positions is None:
            return ()
        if len(positions) != 1 or positions[0].in_transaction:
            return None
        position = positions[0]
        asked = one_index_value(position.streams, self.data_indexes)
        if asked is None:
            return None
        return (*asked, position.base, position.count) if position.count else (*asked, position.base)

    def _call(self, sql: str, arguments: tuple[Any, ...], created_at: datetime | None, is_timed: bool) -> Answer:
        if not is_timed:
            return _answer(self._session.execute(sql, arguments).fetchone()[0])
        text, arrived = self._session.execute(f"{sql}, statement_timestamp()", arguments).fetchone()
        answer = _answer(text)
        if answer.created_at is not None and created_at is None:
            answer.lock_wait = max((answer.created_at - arrived).total_seconds(), 0.0)
        return answer


def _calls_for_one(spec: TableSpec, more: str) -> dict[tuple[tuple[str, ...], int], str]:
    """The calls of the function for one event, by field and length of the condition."""
    name = spec.qualified("_append_one")
    calls: dict[tuple[tuple[str, ...], int], str] = {}
    calls[(), 0] = ONE_SQL.format(append_one=name, condition=NO_CONDITION, more=more)
    for field in spec.data_indexes:
        for length, condition in ((4, NOTHING_ABOVE), (5, SO_MANY_ABOVE)):
            sql = ONE_SQL.format(append_one=name, condition=condition.format(field=field), more=more)
            calls[(field,), length] = sql
    return calls


def _answer(text: str) -> Answer:
    if text[0] != "{":
        event_id, _, created_at = text.partition(" ")
        return Answer("saved", (int(event_id),), time_of(f"{created_at[1:-1]}+00:00"))
    found = load_json(text)
    when = found.get("created_at")
    return Answer(found["status"], found["ids"], None if when is None else datetime.fromisoformat(when))


def _array(rows: Sequence[Row]) -> str:
    """Events as the JSON that the append function takes."""
    parts = [
        f'{{"type":{_quoted(name)},"data":{data}}}'
        if metadata == "{}"
        else f'{{"type":{_quoted(name)},"data":{data},"metadata":{metadata}}}'
        for name, data, metadata in rows
    ]
    return f"[{','.join(parts)}]"


_quoted = lru_cache(maxsize=1024)(json.dumps)


def _conditions(positions: Sequence[Position] | None) -> str | None:
    return None if positions is None else json.dumps([position.as_json() for position in positions])
