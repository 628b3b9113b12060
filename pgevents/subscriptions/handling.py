"""Giving events to a handler, in a savepoint of the transaction that has their lanes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.deliveries import delivering
from pgevents.errors import DatabaseError, UnsupportedTransactionError
from pgevents.events import Event
from pgevents.subscriptions import parking
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.items import Item
from pgevents.subscriptions.lanes import Lane
from pgevents.subscriptions.pace import BATCH_SECONDS
from pgevents.subscriptions.transient import OURS_ENDED, check_ours, is_transient

__all__ = ["Hand", "StopHereError", "give_all"]


@attrs.define
class Hand:
    """What is in the hands of a step, should it fail.

    Attributes:
        lanes: The lanes of its transaction.
        item: The event that the handler has.
        tried: The retry that it is.
        error: What ended the transaction.
        failure: Why the subscription is to stop.
        retry_now: A retry that was announced, for a transaction of its own.
        event_now: The lane of an event that was announced, likewise.
    """

    lanes: Sequence[Lane] = ()
    item: Item | None = None
    tried: parking.Due | None = None
    error: Exception | None = None
    failure: parking.Failure = ""
    retry_now: parking.Due | None = None
    event_now: Lane | None = None


class StopHereError(Exception):
    """A handler failed at an event, or at a whole batch (-1); the savepoint was rolled back."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error


def give_all(work: Work, items: Sequence[Item], stop: threading.Event, hand: Hand) -> int:
    """Give events to the handler, in a savepoint; how many, before the batch had to end.

    Raises:
        StopHereError: The handler failed; the savepoint was rolled back.
    """
    session = work.client.session
    end = time.monotonic() + BATCH_SECONDS
    session.execute("SAVEPOINT pgevents_batch")
    connection = session.connection()
    index = -1
    try:
        if work.takes_batches and len(items) > 1 and items[0].error is None:
            index, done = -1, next((i for i, item in enumerate(items) if item.error is not None), len(items))
            hand.item = items[0]
            _give(work, connection, [item.event for item in items[:done] if item.event is not None])
        else:
            index = done = 0
            for item in items:
                if done and (stop.is_set() or time.monotonic() > end):
                    break
                index, hand.item = done, item
                if item.error is not None:
                    raise item.error
                assert item.event is not None
                has_saved = _give(work, connection, [item.event])
                done += 1
                if has_saved:
                    break
        _release(work)
        hand.item = None
    except Exception as error:
        if is_transient(error) or not _roll_back(work):
            hand.error = error
            raise
        raise StopHereError(index, error) from error
    return done


def _give(work: Work, connection: Any, events: Sequence[Event[Any]]) -> bool:
    """Call the handler; whether it has saved events."""
    with delivering(work.name, events[0] if len(events) == 1 else None) as delivery:
        work.handle(events)
    check_ours(connection)
    return delivery.saves > 0


def _release(work: Work) -> None:
    """Keep what was done since the savepoint.

    Raises:
        UnsupportedTransactionError: It is gone, and with it the transaction that it was in.
    """
    try:
        work.client.session.execute("RELEASE SAVEPOINT pgevents_batch")
    except DatabaseError as error:
        raise UnsupportedTransactionError(OURS_ENDED) from error


def _roll_back(work: Work) -> bool:
    """Back to the savepoint; whether that was possible."""
    try:
        work.client.session.execute("ROLLBACK TO SAVEPOINT pgevents_batch")
        work.client.session.execute("RELEASE SAVEPOINT pgevents_batch")
    except Exception:  # the handler ended the transaction, or the connection broke
        return False
    return True
