"""The delivery that a handler works on: events that it saves carry the cause, and outside a transaction an
idempotency key."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import attrs

from pgevents.events import Event

__all__ = ["Delivery", "current_delivery", "delivering"]


@attrs.define
class Delivery:
    """An event, or a batch of events, that a subscription has given to its handler.

    Attributes:
        name: The subscription.
        event: The event; None for a batch.
        generation: With effects outside, a fence for receivers: it grows whenever another worker takes the
            event's lane. 0 with effects inside.
        saves: How many times the handler has tried to save so far.
        commands: How many saves and decisions it has begun so far. A decision that saves nothing counts, too:
            when the event comes again it may save something, and those after it keep their keys.
        timers: How many timers without a key it has scheduled so far.
    """

    name: str
    event: Event[Any] | None
    generation: int = 0
    saves: int = 0
    commands: int = 0
    timers: int = 0

    def metadata(self) -> dict[str, Any]:
        """Metadata of every event that the handler saves."""
        if self.event is None:
            return {}
        correlation = self.event.metadata.get("correlation_id", str(self.event.id))
        return {"causation_id": self.event.id, "correlation_id": correlation}

    def next_key(self) -> str | None:
        """The idempotency key of a save or a decision that begins; None inside a transaction, which needs
        none."""
        self.commands += 1
        if self.event is None or not self.generation:
            return None
        return f"{self.name}/{self.event.id}/{self.commands}"

    def timer_key(self) -> str | None:
        """The key of a timer without one; None inside a transaction, with which it is rolled back."""
        if self.event is None or not self.generation:
            return None
        self.timers += 1
        return f"{self.name}/{self.event.id}/timer {self.timers}"


_current: ContextVar[Delivery | None] = ContextVar("pgevents_delivery", default=None)


def current_delivery() -> Delivery | None:
    """The delivery that this thread handles; None outside a handler.

    Example:
        ```python
        from pgevents.subscriptions import current_delivery

        def send(event):
            api.post("/mails", fence=current_delivery().generation, key=event.id)
        ```
    """
    return _current.get()


class delivering:
    """Inside the block, events that are saved name this event as their cause.

    A class, because it is used for every event and a generator is slower.
    """

    __slots__ = ("_delivery", "_token")

    def __init__(self, name: str, event: Event[Any] | None, generation: int = 0) -> None:
        self._delivery = Delivery(name, event, generation)

    def __enter__(self) -> Delivery:
        self._token = _current.set(self._delivery)
        return self._delivery

    def __exit__(self, *error: object) -> None:
        _current.reset(self._token)
