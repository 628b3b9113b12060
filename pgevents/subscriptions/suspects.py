"""Lanes whose worker died: what was announced there, and who is charged.

Before an event of which a worker may die is handled, its id is written into the lane's row, in a commit of
its own. The transaction that handles it has no other lane. So if it is aborted, it was that event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgevents.subscriptions import parking
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.items import Item
from pgevents.subscriptions.lanes import Lane

__all__ = ["announce_retry", "charge", "forget_announced", "note"]


def note(work: Work, lane: Lane, **changed: Any) -> None:
    """Write into a lane's row what happened; the rest stays as it was when the lane was claimed."""
    values: dict[str, Any] = {
        "attempts": lane.attempts,
        "failed_id": lane.failed_id,
        "interruptions": lane.interruptions,
        "careful": lane.careful,
        "announced": lane.announced,
        "delay": 0.0,
        "error": None,
        **changed,
    }
    work.statements.run("note", name=work.name, lane=lane.number, **values)


def announce_retry(work: Work, tried: parking.Due) -> parking.Failure | None:
    """Count an attempt of which the worker may die before it begins; None if it may begin.

    Otherwise all attempts were made: it is parked now, and the result says whether the subscription stops.
    """
    if tried.attempts >= work.policy.attempts:
        return parking.fail_again(work, tried.key, tried.event_id, tried.attempts, parking.DIED)
    parking.fail_again(work, tried.key, tried.event_id, tried.attempts + 1, None, died=True)
    note(work, tried.lane, announced=tried.event_id)
    return None


def forget_announced(work: Work, lane: Lane) -> None:
    """No event is about to be handled."""
    note(work, lane, announced=0 if lane.careful else None)


def charge(work: Work, lane: Lane, items: Iterable[Item]) -> parking.Failure | None:
    """Charge what was announced in a lane whose worker died; None if nothing was that still stands there.

    Args:
        work: The subscription.
        lane: The lane, whose last transaction was aborted.
        items: Its next events.
    """
    if lane.announced and lane.announced <= lane.position:  # a retry, which was counted before it began
        forget_announced(work, lane)
        return ""
    failures = [
        parking.fail(work, lane, item, parking.DIED, 0, suspect=True)
        for item in items
        if item.id == lane.announced
    ]
    return "".join(failures[:1]) if failures else None
