"""Rows of the log made events: data into their classes, by way of upcasters and plugins where there are
any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pgevents.codec.serialization import VERSION_KEY, Serializer, load_json, time_of
from pgevents.events import Event, EventType, EventTypes, StoredEvent, UnfrozenEvent

__all__ = ["FIELD_END", "Decoder", "rows_of"]

FIELD_END = "\x1f"
"""Between the fields of all events that the functions of `ordering.sql` give as one text; JSON has it
escaped."""
COLUMNS = 6
MANY = 10_000
"""Of how many type names a decoder remembers what it found."""
BeforeDecode = Callable[[list[StoredEvent]], list[StoredEvent]]
Way = tuple[EventType | None, int, Callable[[str], Any]]
"""What is known of a stored type: itself, its newest version, and what makes an instance of that version's
    text."""


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

    def _forget(self) -> dict[str, Way]:
        revision, ways = self._types.revision, dict[str, Way]()
        self._known = revision, ways  # both at once, for other threads
        return ways

    def events(self, rows: Iterable[Any]) -> list[Event[Any]]:
        """Rows as events; plugins see them together, to look up what they need at once."""
        if self.before_decode is not None:
            return self._events_by_plugins(self.before_decode, list(rows))
        revision, ways = self._known
        if revision != self._types.revision or len(ways) > MANY:
            ways = self._forget()
        events: list[Event[Any]] = []
        append = events.append
        metadata: dict[str, Any]
        data: Any
        for event_id, name, text, metadata_text, created_at, updated_at in rows:  # the hot loop of every read
            way = ways.get(name)
            if way is None:
                way = ways[name] = self._way(name)
            kind, newest, decode = way
            metadata, version = {}, 1
            if metadata_text:
                metadata = load_json(metadata_text)
                version = metadata.pop(VERSION_KEY, 1)
            if kind is None:
                data = load_json(text)
            elif version != newest:
                data = self._serializer.decode_event(kind, load_json(text), version, int(event_id))
            else:
                try:
                    data = decode(text)
                except Exception:  # once more, with a decoder that knows the field that it is at
                    data = self._serializer.decode_event(kind, load_json(text), version, int(event_id))
            one: Any = UnfrozenEvent()
            one.id = int(event_id)
            one.type = name
            one.data = data
            one.metadata = metadata
            one.created_at = created = time_of(created_at)
            one.updated_at = time_of(updated_at) if updated_at else created
            one.__class__ = Event
            append(one)
        return events

    def _way(self, name: str) -> Way:
        kind = self._types.find(name)
        return (
            (None, 1, load_json)
            if kind is None
            else (kind, kind.version, self._serializer.from_text[kind.cls])
        )

    def _events_by_plugins(self, before_decode: BeforeDecode, rows: list[Any]) -> list[Event[Any]]:
        stored: list[StoredEvent] = []
        for event_id, name, text, metadata_text, _, _ in rows:
            metadata: dict[str, Any] = load_json(metadata_text) if metadata_text else {}
            stored.append(
                StoredEvent(int(event_id), name, metadata.pop(VERSION_KEY, 1), load_json(text), metadata)
            )
        events: list[Event[Any]] = []
        for one, row in zip(before_decode(stored) if stored else (), rows, strict=True):
            kind = self._types.find(one.type)
            data = (
                one.data
                if kind is None
                else self._serializer.decode_event(kind, one.data, one.version, one.id)
            )
            events.append(
                Event(one.id, one.type, data, one.metadata, time_of(row[4]), time_of(row[5] or row[4]))
            )
        return events
