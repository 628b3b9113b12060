"""One step of a worker: a few lanes, their next events, the handler's writes and the places in one commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import attrs

from pgevents.errors import ConfigurationError, UnsupportedTransactionError
from pgevents.subscriptions import control, parking
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.handling import Hand, StopHereError, give_all
from pgevents.subscriptions.items import Item
from pgevents.subscriptions.lanes import UNCOUNTED, Batch, Lane, QuestionChangedError, claim, move, read
from pgevents.subscriptions.pace import NEVER, Outcome, Pace
from pgevents.subscriptions.suspects import announce_retry, charge, forget_announced, note
from pgevents.subscriptions.transient import is_deadlock, is_transient, let_go

__all__ = ["Step", "step"]

SUSPECT_EVENTS = 200
"""At most this many events are given one by one where a worker died."""
SUSPECT_RETRIES = 20
"""This many more if the worker may have died of a retry."""


def step(
    work: Work, numbers: Sequence[int], share: int, pace: Pace, stop: threading.Event = NEVER
) -> Outcome:
    """Take some lanes and handle their next events, in one transaction.

    Args:
        work: The subscription.
        numbers: Lanes to choose from, in order of preference.
        share: At most this many of them.
        pace: How fast it goes.
        stop: Ends the batch after the event in hand.

    Raises:
        QuestionChangedError: See there.
        Exception: An error of the database outside the handler; nothing was done.
    """
    return Step(work, pace, stop).run(numbers, share)


@attrs.define
class Step:
    """One step of a worker, of one or two transactions; attributes as the arguments of `step`."""

    work: Work
    pace: Pace
    stop: threading.Event
    hand: Hand = attrs.field(factory=Hand)
    """What has to be noted, should it fail."""

    def run(self, numbers: Sequence[int], share: int) -> Outcome:
        """Take some lanes; then, in a transaction of its own, what was announced there."""
        hand = self.hand
        try:
            outcome = self._committed(partial(self._begin, numbers, share))
            if hand.retry_now is not None:
                outcome = self._committed(partial(self._retry_announced, hand.retry_now))
            elif hand.event_now is not None:
                outcome = self._committed(partial(self._handle_announced, hand.event_now))
        except Exception:  # the handler's is noted in `hand` and dealt with; any other goes on
            if hand.error is None:
                raise
            return self._interrupted(hand.error)
        if hand.failure:
            control.stop(self.work.client, self.work.name, hand.failure)
        self.pace.has_careful |= bool(outcome.claimed and not outcome.reached)
        return outcome

    def _committed(self, call: Callable[[], Outcome]) -> Outcome:
        """Do this in a transaction, which is committed also when the program is refused: an aborted one would
        look as if its worker had died."""
        refused: Exception | None = None
        with self.work.client.session.atomic():
            try:
                outcome = call()
            except (QuestionChangedError, ConfigurationError) as error:
                if self.hand.error is not None:
                    raise
                outcome, refused = Outcome(), error
        if refused is not None:
            raise refused
        return outcome

    def _begin(self, numbers: Sequence[int], share: int) -> Outcome:
        work, pace, hand = self.work, self.pace, self.hand
        hand.lanes = lanes = pace.claim(work, numbers, share)
        if not lanes:
            return Outcome()
        # After a deadlock they are those of its victim, which is alive; what was announced is charged always.
        cut_off = [lane for lane in lanes if lane.was_cut_off and (lane.is_careful or not pace.is_alone)]
        if cut_off:
            for lane in cut_off:
                self._suspect(lane)
            return Outcome(claimed=len(lanes), is_more=True)
        is_careful = lanes[0].is_careful
        batch = read(work, lanes, 1 if is_careful else pace.size)
        tried = parking.due(work, lanes) if batch.has_parked else None
        if tried is not None and pace.takes_retry(batch):
            return self._retry(tried)
        blocked = parking.blocked(work, batch)
        if not (is_careful and batch.items):
            return self._handle_batch(lanes, batch, blocked)
        item = batch.items[0]
        lane = next(lane for lane in lanes if lane.number == item.lane)
        if blocked.is_parked(item) or blocked.is_behind(item):
            return self._handle_batch([lane], batch, blocked)
        if lane.announced not in (None, item.id):
            note(work, lane, announced=item.id)
            lane = attrs.evolve(lane, announced=item.id)
        hand.event_now = lane
        return Outcome(claimed=len(lanes), is_more=True)

    def _handle_announced(self, was: Lane) -> Outcome:
        """Handle the event that was announced, with no other lane in hand: should the worker die, only this
        event is charged."""
        self.hand.lanes = lanes = claim(self.work, [was.number], 1, alone=self.pace.is_alone)
        if not lanes or lanes[0].generation != was.generation or lanes[0].announced != was.announced:
            return Outcome(is_more=True)  # another worker has it by now
        if lanes[0].was_cut_off:
            self._suspect(lanes[0])
            return Outcome(claimed=1, is_more=True)
        batch = read(self.work, lanes, 1)
        return self._handle_batch(lanes, batch, parking.blocked(self.work, batch))

    def _handle_batch(self, lanes: Sequence[Lane], batch: Batch, blocked: parking.Blocked) -> Outcome:
        work, items, start = self.work, batch.items, time.monotonic()
        todo, behind = blocked.divided(items)
        try:
            done = give_all(work, todo, self.stop, self.hand) if todo else 0
        except StopHereError as failed:
            if failed.index < 0:  # which event it was shows when they come one by one
                for lane in lanes:
                    count = sum(item.lane == lane.number for item in todo)
                    note(work, lane, careful=max(count, lane.careful), error=parking.error_text(failed.error))
                return Outcome(claimed=len(lanes), is_more=True)
            item = todo[failed.index]
            lane = next(lane for lane in lanes if lane.number == item.lane)
            before = sum(other.lane == item.lane for other in todo[: failed.index])
            self.hand.failure = parking.fail(work, lane, item, parking.error_text(failed.error), before)
            return Outcome(claimed=len(lanes), is_more=True)
        is_cut = done < len(todo)
        to = todo[done - 1].id if is_cut else batch.to
        passed = [item for item in items if item.id <= to] if is_cut else items
        parking.queue(work, [item for item in behind if item.id <= to])
        move(work, lanes, to, passed)
        self.pace.adapt(len(passed), time.monotonic() - start, batch.is_full, work.batch_size)
        reached = {lane.number: max(to, lane.position) for lane in lanes}
        return Outcome(len(passed), len(lanes), reached, is_cut or batch.is_full)

    # -- retries --------------------------------------------------------------------------------

    def _retry(self, tried: parking.Due) -> Outcome:
        """Try a parked event again, and what waits behind it; where workers have died, announce it before."""
        if not (tried.has_killed or tried.lane.is_careful):
            return self._try_again(tried, self.pace.size)
        failure = announce_retry(self.work, tried)
        if failure is None:
            self.hand.retry_now = tried
        self.hand.failure = failure or ""
        return Outcome(handled=1, claimed=1, is_more=True)

    def _retry_announced(self, tried: parking.Due) -> Outcome:
        work = self.work
        self.hand.lanes = lanes = claim(work, [tried.lane.number], 1, alone=self.pace.is_alone)
        if not lanes or lanes[0].generation != tried.lane.generation:
            return Outcome(is_more=True)  # it is due again later, perhaps in another lane
        if lanes[0].was_cut_off:
            self._suspect(lanes[0])
            return Outcome(claimed=1, is_more=True)
        forget_announced(work, lanes[0])  # stands in the end only if the worker dies
        return self._try_again(attrs.evolve(tried, lane=lanes[0]), 1)

    def _try_again(self, tried: parking.Due, limit: int) -> Outcome:
        work = self.work
        ids = parking.waiting_behind(work, tried, limit)
        if not ids:
            return Outcome(claimed=1, is_more=True)
        found = parking.events_of(work, ids)
        todo = [
            Item(event_id, *found[event_id], tried.key, 0, tried.lane.number)
            for event_id in ids
            if event_id in found
        ]
        self.hand.tried = tried
        single = attrs.evolve(work, takes_batches=False)
        try:
            done = give_all(single, todo, self.stop, self.hand) if todo else 0
        except StopHereError as failed:
            item, text = todo[failed.index], parking.error_text(failed.error)
            self.hand.failure = parking.fail_again(
                work, tried.key, item.id, tried.attempts_of(item) + 1, text
            )
            return Outcome(claimed=1, is_more=True)
        last = todo[done - 1].id if done else ids[-1]
        passed = [event_id for event_id in ids if event_id <= last]
        parking.release(work, tried.key, passed)
        self.hand.tried = None
        return Outcome(handled=len(passed), claimed=1, is_more=True)

    # -- what went wrong ------------------------------------------------------------------------

    def _suspect(self, lane: Lane) -> None:
        """The lane's last transaction was aborted: its worker may have died of an event.

        The next event is announced in the same commit, so that it waits no longer than it must.
        """
        batch = read(self.work, [lane], SUSPECT_EVENTS)
        failure = charge(self.work, lane, batch.items)
        if failure is not None:
            self.hand.failure = failure or self.hand.failure
            return
        # It was one of those that stand there now, or a retry.
        careful = max(lane.careful, len(batch.items) + (SUSPECT_RETRIES if batch.has_parked else 0))
        announced = batch.items[0].id if batch.items else 0 if careful else None
        note(self.work, lane, careful=careful, announced=announced)
        self.pace.has_careful = True
        if announced:
            self.hand.event_now = attrs.evolve(lane, announced=announced)

    def _interrupted(self, error: Exception) -> Outcome:
        """The database ended a transaction in a handler: note it at its lane, in a transaction of its own."""
        work, hand = self.work, self.hand
        self.pace.has_careful = True
        let_go(work.client)
        if is_deadlock(error):
            self.pace.note_deadlock()
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
                note(work, lane, interruptions=interruptions, delay=0.01 * 2**interruptions, error=text)
                if hand.retry_now is not None:  # it was counted before it began
                    parking.fail_again(work, hand.retry_now.key, item.id, hand.retry_now.attempts, None)
        if failure:
            control.stop(work.client, work.name, failure)
        return Outcome(claimed=len(lanes), is_more=False)
