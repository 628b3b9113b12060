"""Events as a caller gives them, to what is stored: type names, and JSON of data and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs

from pgevents.codec.decoding import Decoder
from pgevents.codec.serialization import VERSION_KEY, Serializer, dump_and_load
from pgevents.errors import EventEncodeError, UnknownEventTypeError, shown
from pgevents.event_types import EventType
from pgevents.events import Event, NewEvent, StoredEvent
from pgevents.store.append import EventColumns, Row
from pgevents.texts import is_text
from pgevents.type_registry import EventTypes

__all__ = ["Encoded", "EventEncoder"]


@attrs.define
class Encoded:
    """Events as they are stored, and as a read will give them.

    Attributes:
        columns: What is stored.
        types: The name of each event's type, as a read gives it.
        data: The data of each event, as a read gives them.
        metadata: The metadata of each event, as a read gives them.
    """

    columns: EventColumns
    types: Sequence[str]
    data: Sequence[Any]
    metadata: Sequence[dict[str, Any]]


@attrs.define
class EventEncoder:
    """Encodes the events of one client.

    Attributes:
        serializer: Writes events as JSON.
        decoder: Knows what plugins change in stored events.
        types: The event classes; replaced when plugins bring others.
    """

    serializer: Serializer
    decoder: Decoder
    types: EventTypes

    def new_event(self, given: Any, metadata: Mapping[str, Any] | None = None) -> NewEvent:
        """An instance or a dict as an event to be saved; a dict of a registered type becomes an instance."""
        event_type = self.types.cached(given.__class__)
        if event_type is not None:
            return NewEvent(event_type.name, given, {**metadata} if metadata else {})
        if not isinstance(given, Mapping):
            if isinstance(given, Event):
                raise UnknownEventTypeError(
                    f"this is a saved Event (id {given.id}); to save its data once more, give event.data",
                    type(cast(object, given)),
                )
            return NewEvent(self.types.of(given).name, given, {**metadata} if metadata else {})
        new = _of_dict(cast("Mapping[str, Any]", given))
        event_type = self.types.find(new.type)
        if event_type is not None:
            new = attrs.evolve(new, data=self.serializer.from_dict(new.data, event_type.cls, new.type))
        return attrs.evolve(new, metadata={**metadata, **new.metadata}) if metadata else new

    def encode(self, given: Sequence[Any], metadata: Mapping[str, Any] | None = None) -> Encoded:
        """Encode events.

        Args:
            given: Instances, dicts, or events that `new_event` has made.
            metadata: For each of those that `new_event` has not made.

        Raises:
            EventEncodeError: Data that cannot be stored, or that could not be read back: they would break
                every read of their stream.
            UnknownEventTypeError: Not an event of this client.
        """
        given = list(given)  # a lazy sequence may give others at a second look
        undo = self.decoder.before_decode
        if undo is None and not metadata:
            encoded = self._encode_together(given)
            if encoded is not None:
                return encoded
        events: list[NewEvent] = []
        rows: list[Row] = []
        read: list[StoredEvent] = []
        for item in given:  # one after the other, so that the first one at fault is reported
            event = item if type(item) is NewEvent else self.new_event(item, metadata)
            events.append(event)
            event_type = self.types.find(event.type)
            # Plugins may change the data before they are read as instances.
            cls = None if event_type is None or undo is not None else event_type.cls
            text, data = self.serializer.dump(event.data, cls, event.type)
            metadata_text, loaded = _dump_metadata(event, event_type)
            rows.append((event.type, text, metadata_text))
            version = 1 if event_type is None else event_type.version
            read.append(StoredEvent(0, event.type, version, data, loaded))
        if undo is not None:
            read = self._undone(undo(read))
            for new, old in zip(events, read, strict=True):
                if new.data.__class__ is old.data.__class__ is not dict:
                    self.serializer.require_equal(new.data, old.data, old.type)
        return Encoded(
            EventColumns.of_rows(rows),
            [event.type for event in read],
            [event.data for event in read],
            [event.metadata for event in read],
        )

    def _encode_together(self, given: list[Any]) -> Encoded | None:
        """The same of instances of version 1 without metadata, as most events are; None if there are others.

        Batches are large, so nothing is made for each event that can be made for all of them.
        """
        names: dict[type[Any], str] = {}
        for cls in set(map(type, given)):
            event_type = self.types.cached(cls)
            if event_type is None or event_type.version > 1:
                return None
            names[cls] = event_type.name
        types = [names[type(event)] for event in given]
        texts, data = self.serializer.dump_together(given), given
        if texts is None:
            dump = self.serializer.dump
            dumped = [dump(event, event.__class__, name) for name, event in zip(types, given, strict=True)]
            texts, data = [text for text, _ in dumped], [read for _, read in dumped]
        return Encoded(EventColumns(types, texts), types, data, [{} for _ in given])

    def check_replaced(self, old: NewEvent, new: NewEvent) -> None:
        """Check an instance that a hook has replaced by a dict as if it were saved.

        Raises:
            EventEncodeError: It could not be.
        """
        if isinstance(new.data, dict) and not isinstance(old.data, dict):
            self.serializer.dump(old.data, old.data.__class__, old.type)

    def _undone(self, events: Sequence[StoredEvent]) -> list[StoredEvent]:
        """The events as a read gives them, after plugins have changed the data back."""
        undone: list[StoredEvent] = []
        for event in events:
            event_type, data = self.types.find(event.type), cast(Any, event.data)
            if event_type is not None:
                data = self.serializer.check(event.data, event_type.cls, event.type)
            undone.append(attrs.evolve(event, data=data))
        return undone


def _dump_metadata(new: NewEvent, event_type: EventType | None) -> tuple[str, dict[str, Any]]:
    """Metadata as JSON text, with the version of the data's shape if it is not 1; and as a read gives
    them."""
    metadata = new.metadata
    if not metadata and (event_type is None or event_type.version == 1):
        return "{}", {}
    if any(not isinstance(name, str) or name.startswith("$") for name in metadata):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EventEncodeError(
            f"{new.type}: metadata is a JSON object, and keys that begin with $ are reserved: "
            f"{list(metadata)}"
        )
    text, as_read = dump_and_load(metadata, f"{new.type}, metadata")
    if event_type is not None and event_type.version > 1:
        text = dump_and_load({**metadata, VERSION_KEY: event_type.version}, new.type)[0]
    return text, as_read


def _of_dict(given: Mapping[str, Any]) -> NewEvent:
    unknown = set(given) - {"type", "data", "metadata"}
    name, data, metadata = given.get("type"), given.get("data", {}), given.get("metadata", {})
    if (
        unknown
        or not isinstance(name, str)
        or not name
        or len(name) > 200
        or min(name) < " "
        or not is_text(name)
    ):
        raise EventEncodeError(
            'an event as a dict has the form {"type": "CART_CREATED", "data": {...}, "metadata": {...}}; '
            + (f"{sorted(map(str, unknown))} is not part of it" if unknown else f"its type is {shown(name)}")
        )
    if not isinstance(data, dict) or not isinstance(metadata, dict):
        raise EventEncodeError(
            f"{name}: data and metadata are JSON objects (dicts), "
            f"not {shown(cast(object, data))} and {shown(cast(object, metadata))}"
        )
    text = str.__str__(name)  # of an Enum that is a str
    return NewEvent(text, cast("dict[str, Any]", data), cast("dict[str, Any]", metadata))
