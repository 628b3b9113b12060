"""One step of a worker: a few lanes, their next events, the handler's writes and the places in one commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.errors import ConfigurationError, UnsupportedTransactionError
from pgevents.subscriptions import control, parking
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.handling import Hand, StopHereError, give_all
from pgevents.subscriptions.lanes import Batch, Item, Lane, QuestionChangedError, claim, move, read
from pgevents.subscriptions.pace import NEVER, Outcome, Pace
from pgevents.subscriptions.transient import is_deadlock, is_transient, let_go

__all__ = ["step"]

UNCOUNTED = 3
"""So many errors of the database at one place count for nothing."""
SUSPECT_EVENTS = 200
"""At most so many events are given one by one where a worker died."""
SUSPECT_RETRIES = 20
"""So many more if the worker may have died of a retry."""


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
    hand = Hand()
    refused: Exception | None = None
    try:
        with work.client.session.atomic():
            try:
                outcome = _step(work, numbers, share, pace, stop, hand)
            except (QuestionChangedError, ConfigurationError) as error:
                if hand.error is not None:
                    raise
                # The transaction is committed: an aborted one would look as if its worker had died.
                outcome, refused = Outcome(), error
        if refused is not None:
            raise refused
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
    work: Work, numbers: Sequence[int], share: int, pace: Pace, stop: threading.Event, hand: Hand
) -> Outcome:
    hand.lanes = lanes = claim(work, numbers, share, alone=pace.is_alone)
    if not lanes:
        return Outcome()
    cut_off = [lane for lane in lanes if lane.was_cut_off]
    if cut_off:
        for lane in cut_off:
            hand.failure = _suspect(work, lane) or hand.failure
        return Outcome(claimed=len(lanes), is_more=True)
    together = _together(lanes, pace)
    is_careful = _is_careful(together[0])
    batch = read(work, together, 1 if is_careful else pace.size)
    if is_careful and batch.items:
        together = [lane for lane in together if lane.number == batch.items[0].lane]
    tried = parking.due(work, lanes) if batch.has_parked else None
    if tried is not None and pace.takes_retry(batch):
        return _retry(work, tried, pace, stop, hand)
    blocked = parking.blocked(work, batch)
    if is_careful and together[0].announced is not None and batch.items:
        item = batch.items[0]
        if together[0].announced != item.id and not blocked.is_parked(item) and not blocked.is_behind(item):
            _note(work, together[0], announced=item.id)
            return Outcome(claimed=len(lanes), is_more=True)
    return _handle_batch(work, together, batch, blocked, pace, stop, hand)


def _is_careful(lane: Lane) -> bool:
    """Whether a lane's events are given one by one."""
    return lane.careful > 0 or lane.interruptions >= UNCOUNTED


def _together(lanes: Sequence[Lane], pace: Pace) -> Sequence[Lane]:
    """Those lanes that are read together: those to be careful with, which give one event, or the others.

    They take turns, so that neither waits for as long as the others have work.
    """
    careful = [lane for lane in lanes if _is_careful(lane)]
    pace.was_careful = bool(careful) and (len(careful) == len(lanes) or not pace.was_careful)
    if pace.was_careful:
        return careful
    return [lane for lane in lanes if not _is_careful(lane)]


def _handle_batch(
    work: Work,
    lanes: Sequence[Lane],
    batch: Batch,
    blocked: parking.Blocked,
    pace: Pace,
    stop: threading.Event,
    hand: Hand,
) -> Outcome:
    start = time.monotonic()
    items = batch.items
    behind = blocked.behind(items)
    aside = {item.id for item in behind} | blocked.parked
    todo = [item for item in items if item.id not in aside] if aside else items
    try:
        done = give_all(work, todo, stop, hand) if todo else 0
    except StopHereError as failed:
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
    to = todo[done - 1].id if is_cut else batch.to
    passed = [item for item in items if item.id <= to] if is_cut else items
    parking.queue(work, [item for item in behind if item.id <= to])
    move(work, lanes, to, passed)
    pace.adapt(len(passed), time.monotonic() - start, batch.is_full, work.batch_size)
    reached = {lane.number: max(to, lane.position) for lane in lanes}
    return Outcome(len(passed), len(lanes), reached, is_cut or batch.is_full)


# -- retries --------------------------------------------------------------------------------


def _retry(work: Work, tried: parking.Due, pace: Pace, stop: threading.Event, hand: Hand) -> Outcome:
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
    work: Work, tried: parking.Due, pace: Pace, stop: threading.Event, hand: Hand
) -> Outcome:
    hand.lanes = lanes = claim(work, [tried.lane.number], 1)
    if not lanes or lanes[0].generation != tried.lane.generation:
        return Outcome(is_more=True)  # it is due again later, perhaps in another lane
    if lanes[0].was_cut_off:
        hand.failure = _suspect(work, lanes[0])
        return Outcome(claimed=1, is_more=True)
    return _try_again(work, attrs.evolve(tried, lane=lanes[0]), 1, stop, hand)


def _try_again(work: Work, tried: parking.Due, limit: int, stop: threading.Event, hand: Hand) -> Outcome:
    ids = parking.waiting_behind(work, tried, limit)
    if not ids:
        return Outcome(claimed=1, is_more=True)
    found = parking.events_of(work, ids)
    todo = [
        Item(event_id, *found[event_id], tried.key, 0, tried.lane.number)
        for event_id in ids
        if event_id in found
    ]
    hand.tried = tried
    single = attrs.evolve(work, takes_batches=False)
    try:
        done = give_all(single, todo, stop, hand) if todo else 0
    except StopHereError as failed:
        item, text = todo[failed.index], parking.error_text(failed.error)
        hand.failure = parking.fail_again(work, tried.key, item.id, tried.attempts_of(item) + 1, text)
        return Outcome(claimed=1, is_more=True)
    last = todo[done - 1].id if done else ids[-1]
    passed = [event_id for event_id in ids if event_id <= last]
    parking.release(work, tried.key, passed)
    hand.tried = None
    return Outcome(handled=len(passed), claimed=1, is_more=True)


# -- what went wrong ------------------------------------------------------------------------


def _suspect(work: Work, lane: Lane) -> parking.Failure:
    """The lane's last transaction was aborted: its worker may have died of an event."""
    batch = read(work, [lane], SUSPECT_EVENTS)
    if lane.announced:
        for item in batch.items:
            if item.id == lane.announced:
                error = "its worker died while it handled this event"
                return parking.fail(work, lane, item, error, 0, suspect=True)
    # It was one of those that stand there now, or a retry.
    careful = max(lane.careful, len(batch.items) + (SUSPECT_RETRIES if batch.has_parked else 0))
    _note(work, lane, careful=careful, announced=0 if careful else None)
    return ""


def _interrupted(work: Work, hand: Hand, pace: Pace) -> Outcome:
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
        failure = ""
        if tried is not None and (counts or lane.interruptions >= UNCOUNTED):
            failure = parking.fail_again(work, tried.key, item.id, tried.attempts_of(item) + 1, text)
        elif counts or lane.interruptions >= UNCOUNTED:
            failure = parking.fail(work, lane, item, text, 0 if lane.interruptions >= UNCOUNTED else 1)
        else:
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
