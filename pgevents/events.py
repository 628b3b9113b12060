"""An event: about to be saved, as it is stored, and in the envelope of a saved one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

import attrs

from pgevents.errors import EventDecodeError

__all__ = [
    "Event",
    "EventPart",
    "NewEvent",
    "Parts",
    "StoredEvent",
    "UndecodedData",
    "UnfrozenEvent",
    "make_event",
    "parts_of",
]

T = TypeVar("T")
D_co = TypeVar("D_co", covariant=True)


class UnfrozenEvent:
    """An event under construction: the slots of `Event` without the freeze.

    Code that makes many events sets the attributes of such an object, and then its `__class__` to `Event`.
    This is faster than `Event(...)`, whose `__init__` has to bypass the freeze for each attribute.
    """

    __slots__ = ("__weakref__", "created_at", "data", "id", "metadata", "type", "updated_at")


@attrs.frozen(unsafe_hash=True)
class Event(UnfrozenEvent, Generic[D_co]):
    """An event of the log: the envelope and, inside it, an instance of your own class.

    Two events are equal if all their fields are. Events are hashable, whatever data they hold.

    Attributes:
        id: Its place in the total order of the log.
        type: The name under which it is stored.
        data: An instance of the class registered for the type, or a dict if there is none.
        metadata: Facts about the saving of the event (correlation id, actor, ...), beside its data.
        created_at: When it was saved (or the `created_at` that the save was given); has a time zone.
        updated_at: Equal to `created_at` unless the event was redacted.
    """

    id: int
    type: str
    data: D_co = attrs.field(hash=False)
    metadata: dict[str, Any] = attrs.field(hash=False)
    created_at: datetime
    updated_at: datetime

    @property
    def part(self) -> int:
        """Which part of a stored event this is, from 0 on, if an upcaster splits that; else 0. Id and part
        together are unique."""
        return 0


@attrs.frozen(unsafe_hash=True)
class EventPart(Event[D_co], Generic[D_co]):
    """A further part of a stored event, made by an upcaster that splits it; it has the id of the whole."""

    number: int = 1

    @property
    def part(self) -> int:
        return self.number


@attrs.frozen
class Parts:
    """In place of data: what an upcaster makes of one stored event, if that is several or nothing."""

    data: tuple[Any, ...]


def parts_of(events: Sequence[Event[Any]], *, is_reverse: bool = False) -> list[Event[Any]]:
    """The events with those that are split as their parts, and without those that are dropped."""
    whole: list[Event[Any]] = []
    for event in events:
        if event.data.__class__ is not Parts:
            whole.append(event)
            continue
        parts: list[Event[Any]] = []
        for number, data in enumerate(event.data.data):
            envelope = event.id, event.type, data, event.metadata, event.created_at, event.updated_at
            parts.append(EventPart(*envelope, number) if number else Event(*envelope))
        whole += reversed(parts) if is_reverse else parts
    return whole


def make_event(id: int, type: str, data: T, metadata: dict[str, Any], at: datetime) -> Event[T]:
    """The envelope of an event that was saved at this time and never redacted."""
    unfrozen: Any = UnfrozenEvent()
    unfrozen.id = id
    unfrozen.type = type
    unfrozen.data = data
    unfrozen.metadata = metadata
    unfrozen.created_at = unfrozen.updated_at = at
    unfrozen.__class__ = Event
    saved: Event[T] = unfrozen
    return saved


@attrs.frozen
class NewEvent:
    """An event that is about to be saved, as hooks see it: no id yet.

    Attributes:
        type: The name under which it will be stored.
        data: An instance of a registered class, or a dict.
        metadata: The metadata of this event; a JSON object.
    """

    type: str
    data: Any
    metadata: dict[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen
class StoredEvent:
    """An event as it is stored, before its data become an instance: what `pgevents_before_decode` sees.

    Attributes:
        id: Its id; 0 if it is about to be saved.
        type: The name under which it is stored.
        version: The version of its data's shape.
        data: The data as a dict of JSON values.
        metadata: The metadata.
    """

    id: int
    type: str
    version: int
    data: dict[str, Any]
    metadata: dict[str, Any]


@attrs.frozen
class UndecodedData:
    """Takes the place of data that cannot be read, for a reader that continues (`on_undecodable="raw"`).

    Attributes:
        text: The data as they are stored: JSON text.
        error: What is wrong with the data, or with the envelope. A time of the envelope that a datetime
            cannot hold is replaced by the nearest datetime.
    """

    text: str
    error: EventDecodeError
