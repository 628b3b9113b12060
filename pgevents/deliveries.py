"""What a handler has in its hands: whatever it saves carries the cause, and outside a transaction a key of
its own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs

from pgevents.events import Event

__all__ = ["Delivery", "current_delivery", "delivering"]


@attrs.define
class Delivery:
    """An event, or several, that a subscription's handler was given.

    Attributes:
        name: The subscription.
        event: The event, if it is one.
        generation: With effects outside, a fence for receivers: it grows whenever the event's lane changes
            hands. 0 with effects inside.
        saves: How many times the handler has saved so far.
    """

    name: str
    event: Event[Any] | None
    generation: int = 0
    saves: int = 0

    def metadata(self) -> dict[str, Any]:
        """What every event carries that the handler saves."""
        if self.event is None:
            return {}
        correlation = self.event.metadata.get("correlation_id", str(self.event.id))
        return {"causation_id": self.event.id, "correlation_id": correlation}

    def key(self) -> str | None:
        """The idempotency key of the save in hand; None in a transaction, which needs none."""
        if self.event is None or not self.generation:
            return None
        return f"{self.name}/{self.event.id}/{self.saves}"


_current: ContextVar[Delivery | None] = ContextVar("pgevents_delivery", default=None)


def current_delivery() -> Delivery | None:
    """What this thread is handling, if it is a handler's.

    Example:
        ```python
        from pgevents.subscriptions import current_delivery

        def send(event):
            api.post("/mails", fence=current_delivery().generation, key=event.id)
        ```
    """
    return _current.get()


@contextmanager
def delivering(name: str, event: Event[Any] | None, generation: int = 0) -> Generator[Delivery, None, None]:
    """For the time of the block, what is saved is caused by this event."""
    delivery = Delivery(name, event, generation)
    token = _current.set(delivery)
    try:
        yield delivery
    finally:
        _current.reset(token)
