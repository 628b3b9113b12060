"""Events that happened at known times, without a store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, overload

import attrs

from pgevents.codec.previews import preview
from pgevents.errors import ConfigurationError
from pgevents.events import Event

if TYPE_CHECKING:
    from pgevents.client import EventClient

__all__ = ["History", "class_of", "history", "numbered", "shown"]


@attrs.frozen
class History(Sequence[Event[Any]]):
    """Events that happened at known times, as they would stand in a log; made by `history()`.

    Each method returns a new history, so that one past can be continued in several ways.

    Attributes:
        now: When the next events happen.
        events: What has happened so far; ids count from 1.
    """

    now: datetime
    events: tuple[Event[Any], ...] = ()

    def add(self, *events: Any, metadata: Mapping[str, Any] | None = None) -> History:
        """Let events happen now.

        Args:
            *events: Instances of event classes or dicts, as `client.save_event` takes them.
            metadata: For each of them.
        """
        envelopes = [preview(given, self.now, metadata) for given in events]
        return attrs.evolve(self, events=numbered([*self.events, *envelopes]))

    def at(self, now: datetime | str) -> History:
        """Go to a time.

        Args:
            now: With its zone; as text in ISO format.
        """
        return attrs.evolve(self, now=_time(now))

    def later(self, **duration: float) -> History:
        """Let time pass.

        Args:
            **duration: As for `datetime.timedelta`: `days=1`, `minutes=5`.
        """
        return attrs.evolve(self, now=self.now + timedelta(**duration))

    def save(self, client: EventClient) -> list[Event[Any]]:
        """Save the events, with their times.

        Args:
            client: The client of the store; its hooks see the events.

        Returns:
            The saved events, with the ids that the store gave them.
        """
        return [
            client.save_event(
                shown(event),
                metadata=event.metadata,
                created_at=event.created_at,
            )
            for event in self.events
        ]

    @overload
    def __getitem__(self, index: int) -> Event[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event[Any]]: ...
    def __getitem__(self, index: int | slice) -> Event[Any] | Sequence[Event[Any]]:
        return self.events[index]

    def __len__(self) -> int:
        return len(self.events)


def history(start: datetime | str, *events: Any) -> History:
    """Begin a history at a time.

    Args:
        start: With its zone; as text in ISO format.
        *events: What happened then.

    Raises:
        ConfigurationError: A time without a zone.

    Example:
        ```python
        past = (
            history("2024-03-01T10:00Z", CartCreated("c1", "u1"))
            .later(minutes=5)
            .add(ItemAddedToCart("c1", "p1", 2, 1999), metadata={"actor": "u1"})
        )
        cart = CartProjection.from_history("c1", past)
        ```
    """
    return History(_time(start)).add(*events)


def _time(value: datetime | str) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))
    if value.tzinfo is None:
        raise ConfigurationError(
            f"{value!r} has no time zone; write 2024-03-01T10:00Z, or give a datetime with tzinfo"
        )
    return value


def numbered(events: Iterable[Event[Any]]) -> tuple[Event[Any], ...]:
    return tuple(attrs.evolve(event, id=number) for number, event in enumerate(events, 1))


def class_of(value: Any) -> Any:
    return value.__class__


def shown(event: Event[Any]) -> Any:
    """An event as `client.save_event` takes it."""
    return {"type": event.type, "data": event.data} if class_of(event.data) is dict else event.data
