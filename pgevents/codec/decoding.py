"""Decodes rows of the log to events: data to their classes, through upcasters and plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from pgevents.caches import RevisedCache
from pgevents.codec.jsontext import load_json
from pgevents.codec.serialization import VERSION_KEY, Serializer
from pgevents.codec.times import time_of
from pgevents.errors import EventDecodeError, PgEventsError
from pgevents.event_types import EventType
from pgevents.events import Event, Parts, StoredEvent, UndecodedData, UnfrozenEvent
from pgevents.type_registry import EventTypes

__all__ = ["FIELD_END", "Decoder", "rows_of"]

FIELD_END = "\x1f"
"""Separates the fields of events in the text that the functions of `read.sql` return. JSON escapes it."""
COLUMNS = 6
BeforeDecode = Callable[[list[StoredEvent]], list[StoredEvent]]
CachedType = tuple[EventType | None, int, Callable[[str], Any]]
"""The event type of a stored name, its newest version, and the decoder of that version's text."""


def rows_of(text: str) -> Iterator[Any]:
    """Split such a text into rows. The id is text; a missing value is an empty text."""
    fields = iter(text.split(FIELD_END) if text else ())
    return zip(*[fields] * COLUMNS, strict=True)


class Decoder:
    """Makes events of rows of `queries.COLUMNS`.

    Attributes:
        before_decode: Passes stored events through the plugins before they are decoded; None without such
            plugins.
        has_parts: Whether an upcaster has split or dropped an event so far.
    """

    def __init__(self, types: EventTypes, serializer: Serializer) -> None:
        self._serializer = serializer
        self._cached: RevisedCache[str, CachedType] = RevisedCache("event types by stored name")
        self.has_parts = False
        self.use(types)

    def use(self, types: EventTypes, before_decode: BeforeDecode | None = None) -> None:
        """From now on decode with these types and plugins."""
        self._types = types
        self.before_decode = before_decode
        self._cached.forget()

    def events(self, rows: Iterable[Any], *, keep_undecodable: bool = False) -> list[Event[Any]]:
        """Rows as events. Plugins get all of them in one call, and so can look up all that they need at once.

        Args:
            rows: Id, type, data, metadata, and the two times, as text; the id may be an int.
            keep_undecodable: Return an event that cannot be read with `UndecodedData` as its data.

        Raises:
            EventDecodeError: An event cannot be read, and `keep_undecodable` is not set.
        """
        if self.before_decode is not None:
            return self._events_through_plugins(self.before_decode, list(rows), keep_undecodable)
        cache = self._cached.at(self._types.revision)
        events: list[Event[Any]] = []
        append = events.append
        metadata: dict[str, Any]
        data: Any
        for row in rows:  # the hot loop of every read
            try:
                event_id, name, text, metadata_text, created_at, updated_at = row
                cached = cache.get(name)
                if cached is None:
                    cached = cache[name] = self._look_up(name)
                event_type, newest, decode = cached
                metadata, version = {}, 1
                if metadata_text:
                    metadata = load_json(metadata_text)
                    version = metadata.pop(VERSION_KEY, 1)
                if event_type is None:
                    data = load_json(text)
                elif version != newest:
                    data = self._serializer.decode_event(event_type, load_json(text), version, int(event_id))
                    self.has_parts = self.has_parts or data.__class__ is Parts
                else:
                    try:
                        data = decode(text)
                    except Exception:  # decode again, with the decoder that names the field at fault
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

    def _look_up(self, name: str) -> CachedType:
        event_type = self._types.find(name)
        if event_type is None:
            return None, 1, load_json
        return event_type, event_type.version, self._serializer.from_text[event_type.cls]

    def _events_through_plugins(
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
            return [self._events_through_plugins(before_decode, [row], True)[0] for row in rows]  # to find it
        for n, changed_event in zip(stored, changed, strict=True):
            try:
                events[n] = self._event_of(changed_event, rows[n])
            except Exception as error:
                events[n] = self._undecoded(rows[n], error, keep_undecodable)
        return [events[n] for n in range(len(rows))]

    def _event_of(self, stored: StoredEvent, row: Any) -> Event[Any]:
        event_type, data = self._types.find(stored.type), stored.data
        if event_type is not None:
            data = self._serializer.decode_event(event_type, data, stored.version, stored.id)
            self.has_parts = self.has_parts or data.__class__ is Parts
        created_at, updated_at = row[4], row[5] or row[4]
        return Event(stored.id, stored.type, data, stored.metadata, time_of(created_at), time_of(updated_at))


def _stored(row: Any) -> StoredEvent:
    event_id, name, text, metadata_text, _, _ = row
    metadata: dict[str, Any] = load_json(metadata_text) if metadata_text else {}
    return StoredEvent(int(event_id), name, metadata.pop(VERSION_KEY, 1), load_json(text), metadata)


def _undecoded(row: Any, error: Exception, is_kept: bool, is_personal: bool) -> Event[Any]:
    """The event of a row that cannot be decoded, as far as it can; or raise the error that names it."""
    event_id, name, text, metadata_text, created_at, updated_at = row
    if not isinstance(error, EventDecodeError):
        if isinstance(error, (PgEventsError, MemoryError)):
            raise error  # not a fault of this event
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
    except Exception:  # `error` reports the fault; metadata that cannot be read either are left out
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
    """The envelope's field at fault, if there is one, and the reason; it quotes no value of personal data."""
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
