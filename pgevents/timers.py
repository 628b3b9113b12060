"""Timers: events that are saved later, at a time by the server's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, cast
from uuid import uuid4

import attrs

from pgevents.codec.equality import difference
from pgevents.deliveries import current_delivery
from pgevents.encoding import Encoded
from pgevents.errors import ConfigurationError, IdempotencyError, InvalidValueError, shown
from pgevents.save_options import EARLIEST, LATEST, SaveOptions, check_key
from pgevents.saving import Saver
from pgevents.store.options import check_flag, check_limit
from pgevents.store.processing import Statements

__all__ = [
    "KEY_PREFIX",
    "STATES",
    "Cancel",
    "Later",
    "Scheduled",
    "ScheduledTimer",
    "Timers",
    "cancel",
    "later",
]

KEY_PREFIX = "timer: "
"""Before a timer's key in the idempotency key of the event that it saves."""
LONGEST_KEY = 400
LONGEST = timedelta(days=36_525)
State = Literal["scheduled", "retrying", "parked"]
STATES = ("scheduled", "retrying", "parked")


@attrs.frozen
class Later:
    """An event that is to be saved later; made by `later()`.

    Attributes:
        event: An instance of an event class, or a dict `{"type": ..., "data": {...}}`.
        at: When, by the server's clock; or None.
        after: How long after the call, by the server's clock; or None.
        key: The timer's name; None for a name of its own.
        replace: Whether a timer of that key that has not fired yet is replaced.
    """

    event: Any
    at: datetime | None = None
    after: timedelta | None = None
    key: str | None = None
    replace: bool = False

    def __attrs_post_init__(self) -> None:
        _check_time(self.at, self.after)
        check_flag(self.replace, "replace")
        if self.key is not None:
            check_timer_key(self.key)


@attrs.frozen
class Cancel:
    """A timer that is to be cancelled; made by `cancel()`.

    Attributes:
        key: The timer's name.
    """

    key: str

    def __attrs_post_init__(self) -> None:
        check_timer_key(self.key)


def later(
    event: Any,
    *,
    at: datetime | None = None,
    after: timedelta | None = None,
    key: str | None = None,
    replace: bool = False,
) -> Later:
    """What a decider returns to schedule an event, in the transaction of what it decides.

    Args:
        event: The event to be saved then.
        at: As for `EventClient.schedule`, and so are the others.
        after: How long after the decision.
        key: The timer's name.
        replace: Whether a timer of that key that has not fired yet is replaced.

    Raises:
        InvalidValueError: No time, two times, or not a valid key.

    Example:
        ```python
        def place(order: OrderView) -> list[object]:
            timeout = later(PaymentTimedOut(order.id), after=timedelta(minutes=30), key=f"pay {order.id}")
            return [OrderPlaced(order.id), timeout]
        ```
    """
    return Later(event, at, after, key, replace)


def cancel(key: str) -> Cancel:
    """What a decider returns to cancel a timer, in the transaction of what it decides.

    Args:
        key: The timer's name.

    Example:
        ```python
        def pay(order: OrderView) -> list[object]:
            return [OrderPaid(order.id), cancel(f"pay {order.id}")]
        ```
    """
    return Cancel(key)


@attrs.frozen
class Scheduled:
    """What came of `schedule`.

    Attributes:
        status: "scheduled"; "replaced"; "pending": a timer of that key was there, and stands; "parked": it
            was there, could not be fired, and waits for a person; "fired": it has fired before, and nothing
            was scheduled.
        key: The timer's name.
        at: When the timer that stands is due; for "fired" when its event was saved.
        event_id: The id of the event of a timer that has fired; else None.
    """

    status: Literal["scheduled", "replaced", "pending", "parked", "fired"]
    key: str
    at: datetime
    event_id: int | None = None


@attrs.frozen
class ScheduledTimer:
    """A timer that has not fired.

    Attributes:
        number: Its place among those of the same time.
        key: Its name.
        at: When it is due.
        type: The event's type.
        data: The event's data, as a read gives them; `UndecodedData` if they cannot be decoded.
        metadata: The event's metadata.
        state: "scheduled"; "retrying": it could not be fired, and is tried again; "parked": it waits for a
            person.
        attempts: How often it could not be fired.
        error: Why not.
        scheduled_at: When it was scheduled.
    """

    number: int
    key: str
    at: datetime
    type: str
    data: Any
    metadata: Mapping[str, Any]
    state: State
    attempts: int
    error: str | None
    scheduled_at: datetime


@attrs.define
class Timers:
    """The timers of one events table.

    Attributes:
        saver: Makes JSON of events.
        statements: Of the events table.
        ahead: By how much a test has moved its clock forward.
    """

    saver: Saver
    statements: Statements
    ahead: timedelta = timedelta(0)

    def schedule(self, later: Later, metadata: Mapping[str, Any] | None = None) -> Scheduled:
        """See `EventClient.schedule`."""
        key, delivery = later.key, current_delivery()
        if delivery is not None:
            metadata = {**delivery.metadata(), **(metadata or {})}
            key = key or delivery.timer_key()
        key = key or str(uuid4())
        encoded = self.saver.encoded(later.event, SaveOptions(metadata))
        ((event_type, data, metadata_text),) = encoded.columns.rows()
        row = self.statements.run(
            "schedule",
            type=event_type,
            data=data,
            metadata=metadata_text,
            key=key,
            at=later.at,
            after=later.after,
            replace=later.replace,
            ahead=self.ahead,
        ).fetchone()
        status, at, event_id = row[:3]
        if status in ("pending", "parked"):
            self._check_same(key, row[3:6], encoded)
        return Scheduled(status, key, at.astimezone(timezone.utc), event_id)

    def _check_same(self, key: str, stored: Sequence[Any], encoded: Encoded) -> None:
        (event,) = self.saver.encoder.decoder.events([(0, *stored, _ANY_TIME, None)], keep_undecodable=True)
        current_name = self.saver.encoder.types.current_name
        is_same = current_name(event.type) == current_name(encoded.types[0])
        if not is_same or difference(event.data, encoded.data[0]) is not None:
            raise IdempotencyError(
                f"a timer {key!r} with another event (of type {event.type}) is scheduled, and nothing was "
                "changed: give replace=True to put this one in its place, or another key",
                key=key,
            )

    def unschedule(self, key: str) -> Literal["cancelled", "fired", "unknown"]:
        """See `EventClient.unschedule`."""
        self.saver.check_installed()
        status = self.statements.value("unschedule", key=check_timer_key(key))
        return cast('Literal["cancelled", "fired", "unknown"]', status)

    def scheduled(
        self, key: str | None = None, state: str | None = None, limit: int | None = 100
    ) -> list[ScheduledTimer]:
        """See `EventClient.scheduled`."""
        self.saver.check_installed()
        if state is not None and state not in STATES:
            raise InvalidValueError(f"state is one of {', '.join(STATES)}, not {shown(state)}")
        if limit is not None:
            check_limit(limit)
        key = None if key is None else check_timer_key(key)
        rows = self.statements.rows("timers", key=key, state=state, limit=limit)
        stored = [(row[0], *row[3:6], _ANY_TIME, None) for row in rows]
        events = self.saver.encoder.decoder.events(stored, keep_undecodable=True)
        return [
            ScheduledTimer(
                number=row[0],
                key=row[1],
                at=row[2].astimezone(timezone.utc),
                type=event.type,
                data=event.data,
                metadata=event.metadata,
                state=row[6],
                attempts=row[7],
                error=row[8],
                scheduled_at=row[9].astimezone(timezone.utc),
            )
            for row, event in zip(rows, events, strict=True)
        ]

    def retry(self, key: str | None) -> int:
        """See `EventClient.retry_timers`."""
        self.saver.check_installed()
        key = None if key is None else check_timer_key(key)
        return int(self.statements.run("retry_timers", key=key).rowcount)


_ANY_TIME = "2000-01-01 00:00:00+00"
"""In the place of an event's time, which a timer's event does not have yet."""


def check_timer_key(key: Any) -> str:
    """A timer's key.

    Raises:
        InvalidValueError: Not a text, empty, too long, or with control characters.
    """
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY:
        raise InvalidValueError(f"a timer's key is a text of 1 to {LONGEST_KEY} characters, not {shown(key)}")
    return check_key(key)


def _check_time(at: Any, after: Any) -> None:
    if (at is None) == (after is None):
        raise ConfigurationError(
            "a timer needs one time: at=a datetime with a time zone, or after=a timedelta from now"
        )
    if after is not None and not (isinstance(after, timedelta) and timedelta(0) <= after <= LONGEST):
        raise InvalidValueError(
            f"after is a timedelta from 0 to {LONGEST.days} days, not {shown(after)}; for a time that has "
            "passed, give at="
        )
    if at is not None and not (isinstance(at, datetime) and at.tzinfo is not None and EARLIEST < at < LATEST):
        raise InvalidValueError(
            f"at is a datetime with a time zone, between {EARLIEST.date()} and {LATEST.date()}, not "
            f"{shown(at)}"
        )
