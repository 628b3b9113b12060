"""Timers: events that are saved later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from pgevents.client.parts import ClientParts
from pgevents.timers import Later, Scheduled, ScheduledTimer

__all__ = ["TimingCalls"]


class TimingCalls(ClientParts):
    """The calls about timers."""

    def schedule(
        self,
        event: Any,
        *,
        at: datetime | None = None,
        after: timedelta | None = None,
        key: str | None = None,
        replace: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Scheduled:
        """Have an event saved later, once, by a runner.

        In a transaction the timer is part of it, as a save is. The event is stored now, by the rules of a
        save and with its plugins, and saved when the server's clock has passed the time: never before, and
        as soon after as a `Runner` can. Its `created_at` is when it was saved.

        A timer only says that time has passed. Its handler decides what follows, from the events that are
        there then: a cancellation may have come too late.

        Args:
            event: An instance of an event class, or a dict `{"type": ..., "data": {...}}`.
            at: When: a datetime with a time zone. If it has passed, the event is saved as soon as possible.
            after: Instead of it, how long after this call, by the server's clock.
            key: The timer's name, of at most 400 characters. A key fires once, for good. Without one the
                timer has a key of its own; a handler that gets its event again then schedules another.
            replace: If a timer of that key has not fired yet: put this one in its place. Without it the
                first stands, whatever its time.
            metadata: As for `save_event`.

        Returns:
            What came of it: "scheduled", "replaced", "pending", "parked" or "fired", and when it is due.

        Raises:
            ConfigurationError: No time, or two.
            InvalidValueError: Not a valid key or time.
            IdempotencyError: A timer of that key has another event, and `replace` is not set.
            EventEncodeError: An event that cannot be stored.

        Example:
            ```python
            with client.db.atomic():
                client.save_event(OrderPlaced("o1"))
                client.schedule(PaymentTimedOut("o1"), after=timedelta(minutes=30), key="payment of o1")
            ```
        """
        return self.timers.schedule(Later(event, at, after, key, replace), metadata)

    def unschedule(self, key: str) -> Literal["cancelled", "fired", "unknown"]:
        """Cancel a timer that has not fired; in a transaction as a part of it.

        It spares the event. It does not decide whether the timer fires: it may have fired just before. So
        the handler of the timer's event decides by what has happened.

        Args:
            key: The timer's name.

        Returns:
            "cancelled"; "fired": too late, the event is in the log (`get_saved("timer: " + key)`); or
            "unknown": there is and was no timer of that key.

        Raises:
            InvalidValueError: Not a valid key.

        Example:
            ```python
            client.unschedule("payment of o1")
            ```
        """
        return self.timers.unschedule(key)

    def scheduled(
        self, *, key: str | None = None, state: str | None = None, limit: int | None = 100
    ) -> list[ScheduledTimer]:
        """The timers that have not fired, those due first come first.

        Args:
            key: Only the timer of this name.
            state: Only those in this state: "scheduled", "retrying" or "parked".
            limit: At most this many; None for all.

        Raises:
            InvalidValueError: Not a valid key, state or limit.

        Example:
            ```python
            for timer in client.scheduled(state="parked"):
                print(timer.key, timer.at, timer.error)
            ```
        """
        return self.timers.scheduled(key, state, limit)

    def retry_timers(self, key: str | None = None) -> int:
        """Have timers that could not be fired tried again, at once; how many.

        Args:
            key: Only the timer of this name; by default all that are parked or wait for another try.

        Raises:
            InvalidValueError: Not a valid key.

        Example:
            ```python
            client.retry_timers("payment of o1")
            ```
        """
        return self.timers.retry(key)
