"""For scripts: events of one subscription in this thread, without a runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from pgevents.deliveries import delivering
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.subscriptions import control, parking
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.items import Item
from pgevents.subscriptions.lane_rows import all_rows, refuse_stuck
from pgevents.subscriptions.lanes import Lane, all_lanes, claim, ensure, move, read
from pgevents.subscriptions.transient import check_ours, is_transient, let_go

__all__ = ["batch", "position", "process", "reset", "run"]

FIRST_PAUSE = 0.005
BATCH_SECONDS = 0.05


@contextmanager
def batch(work: Work, limit: int) -> Generator[Sequence[Event[Any]], None, None]:
    """See `Subscription.batch`."""
    _begin(work)
    with work.client.session.atomic():
        found = _next(work, limit)
        yield [_event_of(item) for item in found.items]
        move(work, found.lanes, found.to, found.items)


def process(work: Work, handler: Callable[[Event[Any]], object], limit: int) -> int:
    """See `Subscription.process`."""
    _begin(work)
    count = 0
    while count < limit:
        try:
            done = _one_batch(work, handler, limit - count, threading.Event())
        except _HandlerError as failed:
            raise failed.error from failed.error.__cause__
        if not done:
            break
        count += done
    return count


def run(
    work: Work, handler: Callable[[Event[Any]], object], poll: float, stop: threading.Event | None
) -> None:
    """See `Subscription.run`."""
    ended = stop or threading.Event()
    pause, has_begun = FIRST_PAUSE, False
    while not ended.is_set():
        try:
            if not has_begun:
                _begin(work)
                has_begun = True
            done = _one_batch(work, handler, work.batch_size, ended)
        except _HandlerError as failed:
            raise failed.error from failed.error.__cause__
        except Exception as error:
            if not is_transient(error):
                raise
            let_go(work.client)
            done, pause = 0, max(pause, 0.1)
        pause = FIRST_PAUSE if done else min(max(poll, FIRST_PAUSE), pause * 2)
        if not done:
            ended.wait(pause)


def position(work: Work) -> int:
    """See `Subscription.position`."""
    rows = all_rows(work.client, work.name)
    return min((row.position for row in rows), default=0)


def reset(work: Work, position: int) -> None:
    """See `Subscription.reset`."""
    ensure(work)
    control.reset(work.client, work.name, position, work.question)


class _HandlerError(Exception):
    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _begin(work: Work) -> None:
    if work.effects != "inside":
        raise ConfigurationError(
            f"subscription {work.name!r} has effects outside: a Runner handles its events"
        )
    work.client.check_installed()
    settle(work)
    refuse_stuck(work)


@attrs.frozen
class _Next:
    """Locked lanes, their next events without those of parked keys, and up to where that is all."""

    lanes: Sequence[Lane] = ()
    items: Sequence[Item] = ()
    to: int = 0


def _next(work: Work, limit: int) -> _Next:
    lanes = claim(work, all_lanes(work), 10_000)
    if not lanes:
        return _Next()
    found = read(work, lanes, limit)
    blocked = parking.blocked(work, found)
    items, behind = blocked.divided(found.items)
    parking.queue(work, behind)
    # Stale, so that the place is written though nothing was found: a script may not come again soon.
    return _Next([attrs.evolve(lane, is_stale=True) for lane in lanes], items, found.to)


def _one_batch(work: Work, handler: Callable[[Event[Any]], object], limit: int, stop: threading.Event) -> int:
    """Handle events in one transaction; how many."""
    with work.client.session.atomic():
        found = _next(work, limit)
        end, done = time.monotonic() + BATCH_SECONDS, 0
        for item in found.items:
            if done and (stop.is_set() or time.monotonic() > end):
                break
            event = _event_of(item)
            connection = work.client.session.connection()
            with delivering(work.name, event) as delivery:
                try:
                    handler(event)
                    check_ours(connection)
                except Exception as error:
                    if is_transient(error):
                        raise
                    raise _HandlerError(error) from error
            done += 1
            if delivery.saves > 0:
                break
        to = found.to if done == len(found.items) else found.items[done - 1].id
        move(work, found.lanes, to, found.items[:done])
    return done


def _event_of(item: Item) -> Event[Any]:
    if item.error is not None:
        raise item.error
    assert item.event is not None
    return item.event
