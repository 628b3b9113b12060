"""Effects outside the database: a lane is held by a lease instead of a lock, and no transaction is open
meanwhile.

The lease goes by the server's clock. Each lease raises the lane's generation; nothing is written for an
event, and no place moves, under a generation that is not the lane's any more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.deliveries import delivering
from pgevents.subscriptions import control, parking
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.holding import holder_name
from pgevents.subscriptions.items import Item
from pgevents.subscriptions.lanes import Batch, Lane, claim, drop_layers, read
from pgevents.subscriptions.pace import NEVER, Outcome, Pace
from pgevents.subscriptions.transient import let_go

__all__ = ["step"]

BATCH = 50
GONE = "its worker was gone, or took longer than its lease"


@attrs.frozen
class _Leased:
    """A lane that this worker has until its lease ends.

    Attributes:
        lane: The lane; its generation is that of the lease.
        batch: Its next events.
        blocked: What is parked of their keys.
        tried: A parked event that is to be tried again instead.
        failure: Why the subscription is to stop instead.
    """

    lane: Lane
    batch: Batch
    blocked: parking.Blocked
    tried: parking.Due | None = None
    failure: parking.Failure = ""


def step(work: Work, numbers: Sequence[int], pace: Pace, stop: threading.Event = NEVER) -> Outcome:
    """Take one lane and handle its next events, each in no transaction.

    Args:
        work: The subscription.
        numbers: Lanes to choose from, in order of preference.
        pace: Whether a retry or new events are next.
        stop: Ends it after the event in hand.
    """
    leased = _take(work, numbers, pace)
    if leased is None:
        return Outcome()
    if leased.failure:
        control.stop(work.client, work.name, leased.failure)
        return Outcome(claimed=1)
    try:
        if leased.tried is not None:
            return _try_again(work, leased.lane, leased.tried)
        return _handle_all(work, leased, stop)
    finally:
        let_go(work.client)
        _run(work, "give_back", leased.lane)


def _take(work: Work, numbers: Sequence[int], pace: Pace) -> _Leased | None:
    with work.client.session.atomic():
        lanes = claim(work, numbers, 1)
        if not lanes:
            return None
        lane = lanes[0]
        failure = ""
        if lane.announced:  # whoever announced it has not finished it
            for item in read(work, [lane], BATCH).items:
                if item.id == lane.announced:
                    failure = parking.fail(work, attrs.evolve(lane, announced=None), item, GONE, 0)
        generation = work.statements.value(
            "lease", name=work.name, lane=lane.number, lease=work.lease, holder=holder_name()
        )
        lane = attrs.evolve(lane, generation=generation, announced=None)
        if lanes[0].announced:  # it waits, or is parked now
            _run(work, "give_back", lane)
            return _Leased(lane, _nothing(lane), parking.NOTHING, None, failure)
        batch = read(work, [lane], BATCH)
        tried = parking.due(work, [lane]) if batch.has_parked else None
        if tried is not None and pace.takes_retry(batch):
            if tried.attempts >= work.policy.attempts:  # tried before, by a worker that is gone
                failure = parking.fail_again(work, tried.key, tried.event_id, tried.attempts, GONE)
                return _Leased(lane, _nothing(lane), parking.NOTHING, None, failure)
            parking.fail_again(work, tried.key, tried.event_id, tried.attempts + 1, None)
            return _Leased(lane, _nothing(lane), parking.NOTHING, tried)
        return _Leased(lane, batch, parking.blocked(work, batch))


def _nothing(lane: Lane) -> Batch:
    return Batch((), lane.position, 0, True, False)


def _handle_all(work: Work, leased: _Leased, stop: threading.Event) -> Outcome:
    lane, batch, blocked = leased.lane, leased.batch, leased.blocked
    done = 0
    for item in batch.items:
        if done and stop.is_set():
            return Outcome(done, 1, is_more=True)
        is_ours = (
            _set_aside(work, lane, item, is_behind=blocked.is_behind(item))
            if blocked.is_parked(item) or blocked.is_behind(item)
            else _handle(work, lane, item)
        )
        if not is_ours:
            return Outcome(done, 1, is_more=True)
        done += 1
    last = batch.items[-1].id if batch.items else lane.position
    if batch.to > last and lane.is_behind(batch.to):
        _run(work, "handled_outside", lane, position=batch.to)
    drop_layers(work, lane, batch.to)
    return Outcome(done, 1, {lane.number: batch.to}, batch.is_full)


def _handle(work: Work, lane: Lane, item: Item) -> bool:
    """Handle one event; whether the lane is still this worker's, and goes on."""
    if not _run(work, "announce", lane, event_id=item.id, lease=work.lease):
        return False
    try:
        _give(work, lane, item)
    except Exception as error:
        let_go(work.client)
        with work.client.session.atomic():
            if not _run(work, "hold", lane):
                return False
            failure = parking.fail(work, lane, item, parking.error_text(error), 0)
        if failure:
            control.stop(work.client, work.name, failure)
        return False
    return _run(work, "handled_outside", lane, position=item.id)


def _give(work: Work, lane: Lane, item: Item) -> None:
    if item.error is not None:
        raise item.error
    assert item.event is not None
    with delivering(work.name, item.event, lane.generation):
        work.handle([item.event])


def _set_aside(work: Work, lane: Lane, item: Item, *, is_behind: bool) -> bool:
    with work.client.session.atomic():
        if not _run(work, "hold", lane):
            return False
        if is_behind:
            parking.queue(work, [item])
        return _run(work, "handled_outside", lane, position=item.id)


def _try_again(work: Work, lane: Lane, tried: parking.Due) -> Outcome:
    """Try a parked event again; the attempt was counted before."""
    found = parking.events_of(work, [tried.event_id])
    text = None
    if tried.event_id in found:
        item = Item(tried.event_id, *found[tried.event_id], tried.key, 0, lane.number)
        if not _run(work, "announce", lane, event_id=0, lease=work.lease):
            return Outcome(claimed=1, is_more=True)
        try:
            _give(work, lane, item)
        except Exception as error:
            let_go(work.client)
            text = parking.error_text(error)
    failure = ""
    with work.client.session.atomic():
        if not _run(work, "hold", lane):
            return Outcome(claimed=1, is_more=True)
        if text is None:
            parking.release(work, tried.key, [tried.event_id])
        else:
            failure = parking.fail_again(work, tried.key, tried.event_id, tried.attempts + 1, text)
    if failure:
        control.stop(work.client, work.name, failure)
    return Outcome(1, 1, is_more=True)


def _run(work: Work, statement: str, lane: Lane, **params: Any) -> bool:
    """Run a statement that does nothing unless the lane is still this worker's; whether it was."""
    done = work.statements.run(
        statement, name=work.name, lane=lane.number, generation=lane.generation, **params
    )
    return int(done.rowcount) == 1
