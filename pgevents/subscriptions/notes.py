"""Notes of what people did with parked events: who, when, why. They stay when the event is handled."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.store.processing import Statements

__all__ = ["ParkingNote", "forget_old_notes", "parking_notes"]

DAYS = 365
"""For how many days notes are kept."""
MOST = 10_000
"""How many notes of a subscription are kept: the newest ones."""


@attrs.frozen
class ParkingNote:
    """What somebody did with a parked event.

    Attributes:
        number: Of the note; later notes have greater numbers.
        key: The event's key; '' without one.
        event_id: The event.
        action: "retried" or "discarded".
        by: Who did it.
        reason: Why; '' if nothing was said.
        at: When.
    """

    number: int
    key: str
    event_id: int
    action: str
    by: str
    reason: str
    at: datetime


def parking_notes(
    client: EventClient,
    name: str,
    *,
    key: str | None = None,
    event_id: int | None = None,
    before: int | None = None,
    limit: int = 1_000,
) -> list[ParkingNote]:
    """Who tried parked events again or discarded them, newest first.

    A note is kept for 365 days, and of each subscription the newest 10,000. They stand in the table
    `<events>_notes` of the same database, so a dump has them; `pgevents export` writes events only.

    Args:
        client: A client of the same events table.
        name: The subscription.
        key: Of events of this key only.
        event_id: Of this event only.
        before: With a smaller number only, for the next page.
        limit: At most this many.

    Example:
        ```python
        from pgevents.subscriptions import parking_notes

        for note in parking_notes(client, "mailer"):
            print(note.at, note.by, note.action, note.event_id, note.reason)
        ```
    """
    rows = Statements(client.session, client.events.pgevents_spec).rows(
        "notes", name=name, key=key, event_id=event_id, below=before, limit=limit
    )
    make: Any = ParkingNote
    return [make(*row) for row in rows]


def forget_old_notes(statements: Statements, name: str) -> None:
    """Remove notes beyond their limits."""
    statements.run("forget_notes", name=name, days=DAYS, most=MOST)
