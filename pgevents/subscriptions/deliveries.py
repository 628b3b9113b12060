"""What is being handled: what a handler saves carries its cause, and the worker hears that it has saved."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.events import Event, NewEvent
from pgevents.hooks.specs import hookimpl

__all__ = ["Delivery", "current", "delivering", "take_part"]

PLUGIN = "pgevents-subscriptions"


@attrs.define
class Delivery:
    """Events in the hands of a handler.

    Attributes:
        name: The subscription.
        event: The event, if it is one.
        generation: With effects outside, the fence: it grows each time the lane changes hands. Else 0.
        has_saved: Whether the handler has saved events.
        saves: How many times it has.
    """

    name: str
    event: Event[Any] | None
    generation: int = 0
    has_saved: bool = False
    saves: int = 0

    def metadata(self) -> dict[str, Any]:
        """What every event carries that the handler saves."""
        if self.event is None:
            return {}
        cause = self.event.metadata
        return {
            "causation_id": self.event.id,
            "correlation_id": cause.get("correlation_id", str(self.event.id)),
        }


_current: ContextVar[Delivery | None] = ContextVar("pgevents_delivery", default=None)


def current() -> Delivery | None:
    """What this thread or task is handling."""
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


class _Causes:
    """The part of it that the client's hooks do."""

    @hookimpl(trylast=True)
    def pgevents_before_save(self, events: Sequence[NewEvent]) -> list[NewEvent] | None:
        """What the save itself or another plugin says goes before."""
        delivery = _current.get()
        if delivery is None:
            return None
        added = delivery.metadata()
        return [attrs.evolve(new, metadata={**added, **new.metadata}) for new in events] if added else None

    @hookimpl
    def pgevents_after_save(self) -> None:
        """The worker ends its batch after this event."""
        delivery = _current.get()
        if delivery is not None:
            delivery.has_saved = True
            delivery.saves += 1


def take_part(client: EventClient) -> None:
    """Let what handlers of this client save carry its cause."""
    if client.plugins.get(PLUGIN) is None:
        client.plugins.register(_Causes(), PLUGIN)
