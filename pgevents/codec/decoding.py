"""Rows of the log made events: data into their classes, through upcasters and plugins where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from pgevents.codec.jsontext import load_json
from pgevents.codec.serialization import VERSION_KEY, Serializer
from pgevents.codec.times import time_of
from pgevents.errors import EventDecodeError, PgEventsError
from pgevents.events import Event, EventType, EventTypes, StoredEvent, UndecodedData, UnfrozenEvent

__all__ = ["FIELD_END", "Decoder", "rows_of"]

FIELD_END = "\x1f"
"""Between the fields of all events that the functions of `ordering.sql` give as one text; JSON has it
escaped."""
COLUMNS = 6
MAX_NAMES = 10_000
"""Of how many type names a decoder remembers what it found."""
BeforeDecode = Callable[[list[StoredEvent]], list[StoredEvent]]
KnownType = tuple[EventType | None, int, Callable[[str], Any]]
"""A stored type's class, its newest version, and what makes an instance of that version's text."""


def rows_of(text: str) -> Iterator[Any]:
    """Such a text as rows, in which the id is text, and empty what a row of a table would not have."""
    fields = iter(text.split(FIELD_END) if text else ())
    return zip(*[fields] * COLUMNS, strict=True)


class Decoder:
    """Makes events of rows of `selecting.COLUMNS`.

    Attributes:
        before_decode: What plugins change in stored events before that, if any do.
    """

    def __init__(self, types: EventTypes, serializer: Serializer) -> None:
        self._serializer = serializer
        self.use(types)

    def use(self, types: EventTypes, before_decode: BeforeDecode | None = None) -> None:
        """Decode with these types, and with what else has changed."""
        self._types = types
        self.before_decode = before_decode
        self._forget()

    def _forget(self) -> dict[str, KnownType]:
        revision, known = self._types.revision, dict[str, KnownType]()
        self._known = revision, known  # both at once, for other threads
        return known

    def events(self, rows: Iterable[Any], *, keep_undecodable: bool = False) -> list[Event[Any]]:
        """Rows as events; plugins see them together, to look up what they need at once.

        Args:
            rows: Id, type, data, metadata, and the two times, as text; the id may be an int.
            keep_undecodable: Whether an event that cannot be read comes with `UndecodedData` for its data.

        Raises:
            EventDecodeError: An event that cannot be read, unless it is kept.
        """
        if self.before_decode is not None:
            return self._events_by_plugins(self.before_decode, list(rows), keep_undecodable)
        revision, known = self._known
        if revision != self._types.revision or len(known) > MAX_NAMES:
            known = self._forget()
        events: list[Event[Any]] = []
        append = events.append
        metadata: dict[str, Any]
        data: Any
        for row in rows:  # the hot loop of every read
            try:
                event_id, name, text, metadata_text, created_at, updated_at = row
                found = known.get(name)
                if found is None:
                    found = known[name] = self._known_type(name)
                event_type, newest, decode = found
                metadata, version = {}, 1
                if metadata_text:
                    metadata = load_json(metadata_text)
                    version = metadata.pop(VERSION_KEY, 1)
                if event_type is None:
                    data = load_json(text)
                elif version != newest:
                    data = self._serializer.decode_event(event_type, load_json(text), version, int(event_id))
                else:
                    try:
                        data = decode(text)
                    except Exception:  # once more, with a decoder that knows the field that it is at
                        data = self._serializer.decode_event(
                            event_type, load_json(text), version, int(event_id)
                        )
                event: Any = UnfrozenEvent()
                event.id = int(event_id)
                event.type = name
                event.data = data
                event.metadata = metadata
                event.created_at = created = time_of(created_at)
                event.updated_at = time_of(updated_at) if updated_at else created
                event.__class__ = Event
            except Exception as error:
                event = self._undecoded(row, error, keep_undecodable)
            append(event)
        return events

    def _undecoded(self, row: Any, error: Exception, is_kept: bool) -> Event[Any]:
        return _undecoded(row, error, is_kept, row[1] in self._serializer.personal)

    def _known_type(self, name: str) -> KnownType:
        event_type = self._types.find(name)
        if event_type is None:
            return None, 1, load_json
        return event_type, event_type.version, self._serializer.from_text[event_type.cls]

    def _events_by_plugins(
        self, before_decode: BeforeDecode, rows: Sequence[Any], keep_undecodable: bool
    ) -> list[Event[Any]]:
        events: dict[int, Event[Any]] = {}
        stored: dict[int, StoredEvent] = {}
        for n, row in enumerate(rows):
            try:
                stored[n] = _stored(row)
            except Exception as error:
                events[n] = self._undecoded(row, error, keep_undecodable)
        try:
            changed = before_decode(list(stored.values())) if stored else []
        except EventDecodeError as error:
            if len(rows) == 1 or not keep_undecodable:
                return [self._undecoded(rows[0], error, keep_undecodable)]
            return [self._events_by_plugins(before_decode, [row], True)[0] for row in rows]  # which one it is
        for n, one in zip(stored, changed, strict=True):
            try:
                events[n] = self._event_of(one, rows[n])
            except Exception as error:
                events[n] = self._undecoded(rows[n], error, keep_undecodable)
        return [events[n] for n in range(len(rows))]

    def _event_of(self, stored: StoredEvent, row: Any) -> Event[Any]:
        event_type, data = self._types.find(stored.type), stored.data
        if event_type is not None:
            data = self._serializer.decode_event(event_type, data, stored.version, stored.id)
        created_at, updated_at = row[4], row[5] or row[4]
        return Event(stored.id, stored.type, data, stored.metadata, time_of(created_at), time_of(updated_at))


def _stored(row: Any) -> StoredEvent:
    event_id, name, text, metadata_text, _, _ = row
    metadata: dict[str, Any] = load_json(metadata_text) if metadata_text else {}
    return StoredEvent(int(event_id), name, metadata.pop(VERSION_KEY, 1), load_json(text), metadata)


def _undecoded(row: Any, error: Exception, is_kept: bool, is_personal: bool) -> Event[Any]:
    """An event that cannot be read, as far as it can; or the error that names it."""
    event_id, name, text, metadata_text, created_at, updated_at = row
    if not isinstance(error, EventDecodeError):
        if isinstance(error, (PgEventsError, MemoryError)):
            raise error  # of the program, not of this event
        field, reason = _fault(error, created_at, updated_at, is_personal)
        fault = EventDecodeError(
            f"event {event_id} of type {name!r}: {reason}",
            event_id=int(event_id),
            event_type=name,
            field=field,
        )
        fault.__cause__ = None if is_personal else error
        error = fault
    if not is_kept:
        raise error
    try:
        metadata = dict(load_json(metadata_text)) if metadata_text else {}
    except Exception:  # what is undecodable is reported in `error`; metadata that are, too, are left out
        metadata = {}
    metadata.pop(VERSION_KEY, None)
    data = UndecodedData(text, error)
    return Event(
        int(event_id),
        name,
        data,
        metadata,
        _nearest_time(created_at),
        _nearest_time(updated_at or created_at),
    )


def _fault(
    error: Exception, created_at: str, updated_at: str | None, is_personal: bool
) -> tuple[str | None, str]:
    """The field at fault, if it is one of the envelope, and what is wrong; of personal data no value."""
    for field, text in (("created_at", created_at), ("updated_at", updated_at)):
        try:
            time_of(text or created_at)
        except ValueError:
            return (
                field,
                f"its {field} {text!r} is not a time between the years 1 and 9999, as Python has them",
            )
    if isinstance(error, RecursionError):
        return None, "its JSON is nested too deeply to be read"
    shown = type(error).__name__ if is_personal else f"{type(error).__name__}: {error}"
    return None, f"it cannot be read ({shown})"


def _nearest_time(text: str) -> datetime:
    try:
        return time_of(text)
    except ValueError:
        is_past = text.startswith("-") or text.endswith("BC")
        return (datetime.min if is_past else datetime.max).replace(tzinfo=timezone.utc)
