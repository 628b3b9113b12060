"""One step of a worker: a few lanes, their next events, the handler's writes and the places in one commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from pgevents.deliveries import delivering
from pgevents.errors import UnsupportedTransactionError
from pgevents.events import Event
from pgevents.subscriptions import control, parking
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.lanes import Batch, Item, Lane, claim, move, read
from pgevents.subscriptions.transient import check_ours, is_deadlock, is_transient, let_go

__all__ = ["NEVER", "Outcome", "Pace", "step"]

BATCH_SECONDS = 0.05
"""A batch ends so long after it began: what it has saved holds back whoever follows the whole log."""
UNCOUNTED = 3
"""So many errors of the database at one place count for nothing."""
SUSPECT_EVENTS = 200
"""How many events are given one by one where a worker died."""
ALONE_SECONDS = 10.0
"""For how long batches run one at a time after a deadlock, at first; twice as long each time."""
NEVER = threading.Event()


@attrs.define(eq=False)
class Pace:
    """What the workers of one process know of a subscription; all of it may be wrong without harm.

    Attributes:
        size: How many events the next batch reads.
        alone_until: Until when batches run one at a time, by `time.monotonic()`.
        alone_seconds: For how long they do after the next deadlock.
    """

    size: int = 50
    alone_until: float = 0.0
    alone_seconds: float = ALONE_SECONDS

    @property
    def is_alone(self) -> bool:
        """Whether batches run one at a time."""
        return time.monotonic() < self.alone_until

    def note_deadlock(self) -> None:
        """From now on one batch at a time, for some seconds."""
        now = time.monotonic()
        is_again = self.alone_until and now < self.alone_until + 60
        self.alone_seconds = min(self.alone_seconds * 2, 120.0) if is_again else ALONE_SECONDS
        self.alone_until = now + self.alone_seconds

    def adapt(self, handled: int, seconds: float, is_full: bool, most: int) -> None:
        """So many events took so long: read about what fits into a batch."""
        if seconds >= BATCH_SECONDS or (handled < self.size and is_full):
            self.size = max(4, min(most, handled + handled // 4))
        elif is_full and seconds < BATCH_SECONDS / 2:
            self.size = min(most, self.size * 2)


@attrs.frozen
class Outcome:
    """What a step did.

    Attributes:
        handled: How many events were handled or set aside.
        claimed: How many lanes it had.
        reached: Up to which id these lanes have nothing left.
        is_more: Whether the same lanes have more to do at once.
    """

    handled: int = 0
    claimed: int = 0
    reached: Mapping[int, int] = attrs.field(factory=dict[int, int])
    is_more: bool = False


@attrs.define
class _Hand:
    """What is in the hands of a step, should it fail."""

    lanes: Sequence[Lane] = ()
    item: Item | None = None
    tried: parking.Due | None = None
    error: Exception | None = None
    failure: parking.Failure = ""
    retry_now: parking.Due | None = None


class _StopHere(Exception):
    """A handler failed at an event, or at a whole batch (-1); the savepoint was rolled back."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error


def step(
    work: Work, numbers: Sequence[int], share: int, pace: Pace, stop: threading.Event = NEVER
) -> Outcome:
    """Take some lanes and handle their next events, in one transaction.

    Args:
        work: The subscription.
        numbers: Lanes to choose from, in order of preference.
        share: At most so many of them.
        pace: How fast it goes.
        stop: Ends the batch after the event in hand.

    Raises:
        QuestionChangedError: See there.
        Exception: An error of the database outside the handler; nothing was done.
    """
    hand = _Hand()
    try:
        with work.client.session.atomic():
            outcome = _step(work, numbers, share, pace, stop, hand)
        if hand.retry_now is not None:
            tried, hand.retry_now = hand.retry_now, None
            with work.client.session.atomic():
                outcome = _retry_announced(work, tried, pace, stop, hand)
    except Exception:  # the handler's is noted in `hand` and dealt with; any other goes on
        if hand.error is None:
            raise
        return _interrupted(work, hand, pace)
    if hand.failure:
        control.stop(work.client, work.name, hand.failure)
    return outcome


def _step(
    work: Work, numbers: Sequence[int], share: int, pace: Pace, stop: threading.Event, hand: _Hand
) -> Outcome:
    hand.lanes = lanes = claim(work, numbers, share, alone=pace.is_alone)
    if not lanes:
        return Outcome()
    cut_off = [lane for lane in lanes if lane.was_cut_off]
    if cut_off:
        for lane in cut_off:
            hand.failure = _suspect(work, lane) or hand.failure
        return Outcome(claimed=len(lanes), is_more=True)
    tried = parking.due(work, lanes)
    if tried is not None:
        return _retry(work, tried, pace, stop, hand)
    together = _together(lanes)
    is_careful = together[0].careful > 0 or together[0].interruptions >= UNCOUNTED
    batch = read(work, together, 1 if is_careful else pace.size)
    blocked = parking.blocked(work, together, batch.items)
    if is_careful and together[0].announced is not None and batch.items:
        item = batch.items[0]
        if together[0].announced != item.id and not blocked.is_parked(item) and not blocked.is_behind(item):
            _note(work, together[0], announced=item.id)
            return Outcome(claimed=len(lanes), is_more=True)
    return _handle_batch(work, together, batch, blocked, pace, stop, hand)


def _together(lanes: Sequence[Lane]) -> Sequence[Lane]:
    """Those lanes that are handled in one batch: a lane that is to be careful with is alone in its own."""
    if lanes[0].careful or lanes[0].interruptions >= UNCOUNTED:
        return lanes[:1]
    return [lane for lane in lanes if not lane.careful and lane.interruptions < UNCOUNTED]


def _handle_batch(
    work: Work,
    lanes: Sequence[Lane],
    batch: Batch,
    blocked: parking.Blocked,
    pace: Pace,
    stop: threading.Event,
    hand: _Hand,
) -> Outcome:
    start = time.monotonic()
    items = batch.items
    behind = [item for item in items if blocked.is_behind(item) and not blocked.is_parked(item)]
    aside = {item.id for item in behind} | blocked.parked
    todo = [item for item in items if item.id not in aside]
    try:
        done = _give_all(work, todo, stop, hand) if todo else 0
    except _StopHere as failed:
        if failed.index < 0:  # which event it was shows when they come one by one
            for lane in lanes:
                count = sum(item.lane == lane.number for item in todo)
                _note(work, lane, careful=max(count, lane.careful), error=parking.error_text(failed.error))
            return Outcome(claimed=len(lanes), is_more=True)
        item = todo[failed.index]
        lane = next(lane for lane in lanes if lane.number == item.lane)
        before = sum(other.lane == item.lane for other in todo[: failed.index])
        hand.failure = parking.fail(work, lane, item, parking.error_text(failed.error), before)
        return Outcome(claimed=len(lanes), is_more=True)
    is_cut = done < len(todo)
    to = todo[done - 1].id if is_cut and done else batch.to
    if is_cut and not done:
        return Outcome(claimed=len(lanes), is_more=True)
    passed = [item for item in items if item.id <= to]
    parking.queue(work, [item for item in behind if item.id <= to])
    move(work, lanes, to, passed)
    pace.adapt(len(passed), time.monotonic() - start, batch.is_full, work.batch_size)
    reached = {lane.number: max(to, lane.position) for lane in lanes}
    return Outcome(len(passed), len(lanes), reached, is_cut or batch.is_full)


def _give_all(work: Work, items: Sequence[Item], stop: threading.Event, hand: _Hand) -> int:
    """Give events to the handler, in a savepoint; how many, before the batch had to end.

    Raises:
        _StopHere: The handler failed; the savepoint was rolled back.
    """
    session = work.client.session
    end = time.monotonic() + BATCH_SECONDS
    session.execute("SAVEPOINT pgevents_batch")
    index = -1
    try:
        if work.takes_batches and len(items) > 1 and items[0].error is None:
            index, done = -1, next((i for i, item in enumerate(items) if item.error is not None), len(items))
            hand.item = items[0]
            _give(work, [item.event for item in items[:done] if item.event is not None])
        else:
            index = done = 0
            for item in items:
                if done and (stop.is_set() or time.monotonic() > end):
                    break
                index, hand.item = done, item
                if item.error is not None:
                    raise item.error
                assert item.event is not None
                has_saved = _give(work, [item.event])
                done += 1
                if has_saved:
                    break
        hand.item = None
        session.execute("RELEASE SAVEPOINT pgevents_batch")
    except Exception as error:
        if is_transient(error) or not _roll_back(work):
            hand.error = error
            raise
        raise _StopHere(index, error) from error
    return done


def _give(work: Work, events: Sequence[Event[Any]]) -> bool:
    """Call the handler; whether it has saved events."""
    with delivering(work.name, events[0] if len(events) == 1 else None) as delivery:
        work.handle(events)
    check_ours(work.client)
    return delivery.saves > 0


def _roll_back(work: Work) -> bool:
    """Back to the savepoint; whether that was possible."""
    try:
        work.client.session.execute("ROLLBACK TO SAVEPOINT pgevents_batch")
        work.client.session.execute("RELEASE SAVEPOINT pgevents_batch")
    except Exception:  # the handler ended the transaction, or the connection broke
        return False
    return True


# -- retries --------------------------------------------------------------------------------


def _retry(work: Work, tried: parking.Due, pace: Pace, stop: threading.Event, hand: _Hand) -> Outcome:
    """Try a parked event again, and what waits behind it; where workers have died, announce it before."""
    if tried.lane.announced is None:
        return _try_again(work, tried, pace.size, stop, hand)
    if tried.attempts >= work.policy.attempts:
        error = "its worker died while it handled this event"
        hand.failure = parking.fail_again(work, tried.key, tried.event_id, tried.attempts, error)
    else:
        parking.fail_again(work, tried.key, tried.event_id, tried.attempts + 1, None)
        hand.retry_now = tried
    return Outcome(handled=1, claimed=1, is_more=True)


def _retry_announced(
    work: Work, tried: parking.Due, pace: Pace, stop: threading.Event, hand: _Hand
) -> Outcome:
    hand.lanes = lanes = claim(work, [tried.lane.number], 1)
    if not lanes or lanes[0].was_cut_off:
        return Outcome(is_more=True)  # it is due again later
    return _try_again(work, attrs.evolve(tried, lane=lanes[0]), 1, stop, hand)


def _try_again(work: Work, tried: parking.Due, limit: int, stop: threading.Event, hand: _Hand) -> Outcome:
    ids = parking.waiting_behind(work, tried, limit)
    found = parking.events_of(work, ids)
    todo = [
        Item(event_id, *found[event_id], tried.key, 0, tried.lane.number)
        for event_id in ids
        if event_id in found
    ]
    hand.tried = tried
    single = attrs.evolve(work, takes_batches=False)
    try:
        done = _give_all(single, todo, stop, hand) if todo else 0
    except _StopHere as failed:
        item, text = todo[failed.index], parking.error_text(failed.error)
        before = tried.attempts if item.id == tried.event_id else 0
        hand.failure = parking.fail_again(work, tried.key, item.id, before + 1, text)
        return Outcome(handled=failed.index, claimed=1, is_more=True)
    last = todo[done - 1].id if done else ids[-1]
    passed = [event_id for event_id in ids if event_id <= last]
    parking.release(work, tried.key, passed)
    hand.tried = None
    return Outcome(handled=len(passed), claimed=1, is_more=True)


# -- what went wrong ------------------------------------------------------------------------


def _suspect(work: Work, lane: Lane) -> parking.Failure:
    """The lane's last transaction was aborted: its worker may have died of an event."""
    if lane.announced:
        for item in read(work, [lane], SUSPECT_EVENTS).items:
            if item.id == lane.announced:
                error = "its worker died while it handled this event"
                return parking.fail(work, lane, item, error, 0, suspect=True)
    _note(work, lane, careful=max(lane.careful, SUSPECT_EVENTS), announced=0)
    return ""


def _interrupted(work: Work, hand: _Hand, pace: Pace) -> Outcome:
    """The database ended a transaction in a handler: note it at its lane, in a transaction of its own."""
    error = hand.error
    assert error is not None
    let_go(work.client)
    if is_deadlock(error):
        pace.note_deadlock()
    counts = isinstance(error, UnsupportedTransactionError) or not is_transient(error)
    text = parking.error_text(error)
    with work.client.session.atomic():
        # All of them: a lane that stays as the aborted transaction left it would be suspect.
        lanes = claim(work, [lane.number for lane in hand.lanes], len(hand.lanes))
        item, tried = hand.item, hand.tried
        if item is None:
            return Outcome(claimed=len(lanes), is_more=True)
        lane = next((lane for lane in lanes if lane.number == item.lane), None)
        was = next(lane for lane in hand.lanes if lane.number == item.lane)
        if lane is None or lane.position != was.position or lane.generation != was.generation:
            return Outcome(claimed=len(lanes), is_more=True)
        if tried is not None:
            failure = parking.fail_again(work, tried.key, tried.event_id, tried.attempts + 1, text)
        elif counts or lane.interruptions >= UNCOUNTED:
            failure = parking.fail(work, lane, item, text, 0 if lane.interruptions >= UNCOUNTED else 1)
        else:
            failure = ""
            interruptions = lane.interruptions + 1
            _note(work, lane, interruptions=interruptions, delay=0.01 * 2**interruptions, error=text)
    if failure:
        control.stop(work.client, work.name, failure)
    return Outcome(claimed=len(lanes), is_more=False)


def _note(work: Work, lane: Lane, **changed: Any) -> None:
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
