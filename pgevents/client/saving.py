"""Saves, plain and validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, TypeVar, cast

from pgevents.client.parts import ClientParts
from pgevents.events import Event
from pgevents.save_options import Latest, SaveOptions, plain_options, position_of
from pgevents.store.ordering import Position
from pgevents.streams import Stream

__all__ = ["SavingCalls"]

T = TypeVar("T")


class SavingCalls(ClientParts):
    """The calls that save events."""

    def save_event(
        self,
        event: T,
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        created_at: datetime | None = None,
    ) -> Event[T]:
        """Save one event; see `save_events`."""
        return self.saver.save([event], plain_options(metadata, idempotency_key, created_at))[0]

    def save_events(
        self,
        events: Sequence[T],
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        created_at: datetime | Sequence[datetime] | None = None,
    ) -> list[Event[T]]:
        """Save events, all or none, in one round trip.

        Args:
            events: Instances of event classes, or dicts `{"type": ..., "data": {...}}`; none is `[]`.
            metadata: A JSON object for each of them; keys that begin with `$` are reserved.
            idempotency_key: A save repeated with its key saves nothing and returns what the first one saved.
            created_at: When they happened, with a time zone (for imports): one time for all of them, or a
                list with one for each; by default now.

        Returns:
            The saved events, in the order given.

        Raises:
            EventEncodeError: Data that cannot be stored. Nothing was written.
            UnknownEventTypeError: An object that is not an event of this client.
            IdempotencyError: The key saved other events before.
            RetryableError: Nothing was written; try again.

        Example:
            ```python
            client.save_events([{"type": "CART_CREATED", "data": {"cart_id": "c1"}}])
            ```
        """
        return self.saver.save(events, plain_options(metadata, idempotency_key, created_at))

    def save_event_with_stream_validation(
        self,
        event: T,
        latest_event_id: Latest,
        streams: Sequence[Stream[Any]] | Stream[Any] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        created_at: datetime | None = None,
    ) -> Event[T]:
        """Save one event if the streams hold nothing new; see `save_events_with_stream_validation`."""
        positions = [self._position(latest_event_id, streams)]
        options = SaveOptions(metadata, idempotency_key, created_at, positions, latest_event_id)
        return self.saver.save([event], options)[0]

    def save_events_with_stream_validation(
        self,
        events: Sequence[T],
        latest_event_id: Latest,
        streams: Sequence[Stream[Any]] | Stream[Any] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        created_at: datetime | Sequence[datetime] | None = None,
    ) -> list[Event[T]]:
        """Save events only if the streams hold exactly what the caller has read.

        Args:
            events: As for `save_events`.
            latest_event_id: The read itself or its `.position`: exact. Or an event or its id: then nothing
                may stand above that id in any of the streams. None: the streams must be empty.
            streams: What the decision rests on. A read knows its own.
            metadata: As for `save_events`.
            idempotency_key: As for `save_events`; a repeated save is recognised before a conflict is
                reported.
            created_at: As for `save_events`.

        Raises:
            ConcurrencyError: Refused, with the ids of the events that the caller had not read. Nothing was
                written.
            ConfigurationError: An id above the last one issued, or streams that the position does not belong
                to.
            RetryableError: Nothing was written; try again.

        Example:
            ```python
            history = client.get_event_stream(cart_id="c1")
            checkout = {"type": "CHECKED_OUT", "data": {"cart_id": "c1"}}
            client.save_events_with_stream_validation([checkout], history)
            ```
        """
        positions = [self._position(latest_event_id, streams)]
        options = SaveOptions(metadata, idempotency_key, created_at, positions, latest_event_id)
        return self.saver.save(events, options)

    def _position(self, latest: Latest, streams: Sequence[Stream[Any]] | Stream[Any] | None) -> Position:
        if streams is not None:
            streams = self.identifiers.check([streams] if isinstance(streams, Stream) else streams)
        return position_of(latest, streams)

    def preview(self, event: T) -> Event[T]:
        """An event in its envelope as it would be saved, with id 0; nothing is written."""
        new = self.saver.encoder.new_event(event)
        now = datetime.now(timezone.utc)
        return Event(0, new.type, cast(T, new.data), new.metadata, now, now)
