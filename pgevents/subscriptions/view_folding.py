"""One transaction of a keeper: some lanes, their events folded into views, the rows and the places.

A view is the fold of all its final events, not of those that happen to come: of each view that is touched,
all events above its row are folded, and a row that is missing is folded from the start.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import attrs

from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.subscriptions import parking
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.items import Item
from pgevents.subscriptions.lanes import Batch, Lane, claim, move
from pgevents.subscriptions.pace import Outcome, Pace
from pgevents.subscriptions.suspects import announce_retry, charge, forget_announced, note
from pgevents.subscriptions.transient import is_transient
from pgevents.subscriptions.view_reading import hashes_of, read
from pgevents.subscriptions.view_rows import Held, earlier_events, has_snapshot_hooks, held_views, write
from pgevents.subscriptions.whose import Rule

__all__ = ["MOST_EVENTS", "PAGE", "Fold"]

PAGE = 5_000
"""Events that are read at once."""
MOST_EVENTS = 100_000
"""Events in memory that wait to be folded: a reducer is called for many at once."""
MOST_VIEWS = 20_000, 60_000
"""Views in memory until some were written, and at most; with more, all are written, and read again when they
are touched."""
MOST_TEXT = 12_000_000
"""Characters of JSON of the views in memory, judged by those that were written last."""
LONGEST = 30.0
"""Seconds after which what was folded is committed; at once if somebody waits for a lock of the keeper's."""
CAREFUL_PAGE = 200
CAREFUL_PAGES = 500
"""Where a keeper died, so many small pages are committed one by one; where it died in one, its events."""
MOST_RETRIES = 200
Failed = tuple[int, Exception]
"""The id of an event that cannot be folded, and why."""


class Fold:
    """One transaction of a keeper."""

    def __init__(self, rule: Rule, work: Work, stop: threading.Event, reached: Callable[[int], None]) -> None:
        self.rule = rule
        self.reached = reached
        self.work = work
        self.stop = stop
        self.lanes: list[Lane] = []
        self.views: dict[str, Held] = {}
        self.pending: dict[str, tuple[Item, list[Item]]] = {}
        self.pending_count = 0
        self.blocked: set[str] = set()
        self.failure = ""
        self.announced: Lane | parking.Due | None = None
        self.redactions = ""
        self.most_views = MOST_VIEWS[0]
        self.has_hooks = has_snapshot_hooks(rule.client)

    def run(self, numbers: Sequence[int], share: int, pace: Pace) -> Outcome:
        """Claim lanes and fold what there is for them; or announce the event that is to be folded alone."""
        work = self.work
        # One that is to be careful with comes alone: a keeper that dies takes no other with it.
        self.lanes = claimed = pace.claim(work, numbers, share, most_careful=1)
        if not claimed:
            return Outcome()
        self.redactions = work.statements.value("hold_redactions")  # to the commit nobody changes the log
        cut_off = [lane for lane in claimed if lane.was_cut_off]
        if cut_off:
            for lane in cut_off:
                self._suspect(lane)
            pace.has_careful = True
            return Outcome(claimed=len(claimed), is_more=True)
        lane = claimed[0]
        if lane.careful and lane.announced is not None:
            items = read(self.rule, work, [lane], 1).items
            if items:
                if lane.announced != items[0].id:
                    note(work, lane, announced=items[0].id)
                self.announced = attrs.evolve(lane, announced=items[0].id)
                return Outcome(claimed=1, is_more=True)
        if lane.careful:
            return self._run_pages(CAREFUL_PAGE, 0.0, pace)
        return self._run_pages(PAGE, LONGEST, pace)

    def run_announced(self, announced: Lane | parking.Due) -> Outcome:
        """Fold the one event, or try the one view, that was announced, with no other lane in hand."""
        was = announced.lane if isinstance(announced, parking.Due) else announced
        self.lanes = claimed = claim(self.work, [was.number], 1)
        if not claimed or claimed[0].generation != was.generation:
            return Outcome(is_more=True)
        self.redactions = self.work.statements.value("hold_redactions")
        if claimed[0].was_cut_off:
            self._suspect(claimed[0])
        elif isinstance(announced, parking.Due):
            forget_announced(self.work, claimed[0])  # stands in the end only if the keeper dies
            self._retry(attrs.evolve(announced, lane=claimed[0]))
            self._write()
        elif claimed[0].announced == was.announced:
            return self._run_pages(1, 0.0, Pace())
        return Outcome(claimed=1, is_more=True)

    def _suspect(self, lane: Lane) -> None:
        """The lane's last transaction was aborted: a reducer may have ended its keeper's process."""
        items = read(self.rule, self.work, [lane], CAREFUL_PAGE).items
        failure = charge(self.work, lane, items)
        if failure is not None:
            self.failure = failure or self.failure
        elif lane.careful:
            note(self.work, lane, careful=CAREFUL_PAGE, announced=0)
        else:
            note(self.work, lane, careful=CAREFUL_PAGES, announced=None)

    def _has_too_many(self, pace: Pace) -> bool:
        """Whether workers have come that have no lanes. Who begins a rebuild takes all, and would keep them
        to the end of a long transaction."""
        if len(self.lanes) == 1:
            return False
        counts = dict(self.work.statements.rows("workers", names=[self.work.name]))
        pace.workers = max(pace.workers, counts.get(self.work.name, 1))
        return len(self.lanes) > pace.share_of(self.lanes[0].lanes)

    def _run_pages(self, limit: int, seconds: float, pace: Pace) -> Outcome:
        work, claimed = self.work, self.lanes
        end = time.monotonic() + seconds
        retried = 0
        count, touched = 0, dict[int, Item]()
        while True:
            batch = read(self.rule, work, self.lanes, limit)
            if batch.has_parked and not count and limit > 1:  # with the lanes at their places
                retried = retried or self._retry_due()
                if self.announced is not None:
                    self._write()
                    return Outcome(handled=retried, claimed=len(claimed), is_more=True)
            outcome = self._run_far(batch, end, pace) if not count and seconds else None
            if outcome is not None:
                return outcome
            self._take_page(batch)
            count += len(batch.items)
            self.reached(batch.to)
            touched.update({item.lane: item for item in batch.items})
            self.lanes = [attrs.evolve(lane, position=max(batch.to, lane.position)) for lane in self.lanes]
            if not batch.is_full or self.stop.is_set() or time.monotonic() >= end:
                break
            if work.statements.value("is_wanted") or self._has_too_many(pace):
                break
            if self.pending_count >= MOST_EVENTS:
                self._fold_pending(batch.to)
            if len(self.views) > self.most_views:
                self._fold_pending(batch.to)
                self._write()
                self.views.clear()
        self._fold_pending(batch.to)
        self._write()
        # All places are written, for queries answer as of the least one.
        stale = [attrs.evolve(lane, is_stale=True) for lane in claimed]
        move(work, stale, batch.to, list(touched.values()))
        reached = {lane.number: lane.position for lane in self.lanes}
        return Outcome(count + retried, len(claimed), reached, batch.is_full or retried >= MOST_RETRIES)

    def _run_far(self, batch: Batch, end: float, pace: Pace) -> Outcome | None:
        """Fold view by view where there is much to fold; None if there is not. See `FarFold`."""
        return None

    # -- events of a page -----------------------------------------------------------------

    def _take_page(self, batch: Batch) -> None:
        """Note the events of each view; they are folded together with those of later pages."""
        items = batch.items
        found = parking.blocked(self.work, batch)
        self.blocked.update(found.first)
        by_id: dict[str, list[Item]] = {}
        behind: list[Item] = []
        blocked, parked = self.blocked, found.parked
        for item in items:
            key = item.key
            if parked and (key, item.id) in parked:
                continue
            if blocked and key in blocked:
                behind.append(item)
            elif key in by_id:
                by_id[key].append(item)
            else:
                by_id[key] = [item]
        self._load({text: mine[0] for text, mine in by_id.items()})
        is_shared = self.rule.field is None and len({item.id for item in items}) < len(items)
        for text, mine in by_id.items():
            if text in self.blocked:  # an event from before this page cannot be folded
                behind += mine
                continue
            latest = self.views[text].latest
            events = mine if mine[0].id > latest else [item for item in mine if item.id > latest]
            if is_shared:  # an event may change several views: a reducer must not change it for the next
                events = copy.deepcopy(events)
            waiting = self.pending.get(text)
            if waiting is None:
                self.pending[text] = mine[0], events
            else:
                waiting[1].extend(events)
            self.pending_count += len(events)
        self._queue(behind)

    def _queue(self, behind: Sequence[Item]) -> None:
        parking.queue(self.work, behind)

    def _fold_pending(self, to: int) -> None:
        pending, self.pending, self.pending_count = self.pending, {}, 0
        for text, (item, events) in pending.items():
            self._fold(self.views[text], item, events, to)

    def _load(self, first: Mapping[str, Item]) -> None:
        """Bring views into memory, with all their events up to the places of their lanes.

        Args:
            first: By id, the first of the view's events in hand, which knows its lane. At this one the view
                is set aside if the text is no id of the projection.
        """
        new = [text for text in first if text not in self.views]
        if not new:
            return
        found, refused = held_views(self.rule, new)
        for text, error in refused.items():
            self._set_aside(first[text], (first[text].id, error), [])
        self.views.update(found)
        places = {lane.number: lane.position for lane in self.lanes}
        wanted = [(held, places[first[text].lane]) for text, held in found.items()]
        wanted = [(held, place) for held, place in wanted if held.latest < place]
        for text, events in earlier_events(self.rule, wanted).items():
            item = first[text]
            self._fold(found[text], item, events, places[item.lane])

    def _fold(self, held: Held, item: Item, events: Sequence[Item], to: int) -> None:
        """Fold events into a view; the first that cannot be folded is set aside, and what comes after it.

        Args:
            held: The view.
            item: One of its events, which knows its lane.
            events: All of its events above what is folded into it, up to `to`.
            to: All up to this id is final.
        """
        good = [item.event for item in events if item.event is not None]
        failed = None
        if len(good) < len(events):
            first = next(place for place, found in enumerate(events) if found.event is None)
            failed, good = _failure(events[first]), good[:first]
        try:
            held.fold(good, has_hooks=self.has_hooks)
        except Exception as error:  # of the application's reducers: it is noted, and shown
            if is_transient(error):
                raise
            failed = self._fold_singly(held, to)
        if failed is not None:
            self._set_aside(item, failed, [later.id for later in events if later.id > failed[0]])

    def _fold_singly(self, held: Held, to: int) -> Failed | None:
        """Fold a view again from its row, up to the event that cannot be folded; this one, and why.

        What is in memory may have been changed by a reducer before it failed.
        """
        fresh = held_views(self.rule, [held.id])[0][held.id]
        held.view, held.saved_at = fresh.view, fresh.saved_at
        held.latest, held.stored = fresh.latest, fresh.stored
        held.events = []
        found = earlier_events(self.rule, [(held, to)]).get(held.id, [])
        events = [item.event for item in takewhile(lambda item: item.event is not None, found) if item.event]
        failed = self._fold_up_to_failure(held, events)
        return failed or (None if len(events) == len(found) else _failure(found[len(events)]))

    def _fold_up_to_failure(self, held: Held, events: Sequence[Event[Any]]) -> Failed | None:
        """Fold some at a time; where that fails, half as many, down to the one that cannot be folded."""
        start, size = 0, len(events)
        while start < len(events):
            part = events[start : start + size]
            before = copy.deepcopy(held.view)
            try:
                held.fold(part, has_hooks=self.has_hooks)
            except Exception as error:  # of the application's reducers: it is noted, and shown
                if is_transient(error):
                    raise
                held.view = before
                if len(part) == 1:
                    return part[0].id, error
                size = len(part) // 2
            else:
                start += size
        return None

    def _set_aside(self, item: Item, failed: Failed, later: Sequence[int]) -> None:
        event_id, error = failed
        lane = next(lane for lane in self.lanes if lane.number == item.lane)
        at = attrs.evolve(item, id=event_id)
        self.failure = parking.fail(self.work, lane, at, parking.error_text(error), 0) or self.failure
        parking.queue(self.work, [attrs.evolve(item, id=event_id) for event_id in later])
        self.blocked.add(item.key)

    # -- views that are folded anew -------------------------------------------------------

    def _retry_due(self) -> int:
        """Fold views that were set aside, or whose rows were deleted; how many."""
        for count in range(MOST_RETRIES):
            tried = parking.due(self.work, self.lanes)
            if tried is None:
                return count
            if tried.has_killed:
                failure = announce_retry(self.work, tried)
                if failure is None:
                    self.announced = tried
                    return count
                self.failure = failure or self.failure
                continue
            self._retry(tried)
        return MOST_RETRIES

    def _retry(self, tried: parking.Due) -> None:
        work, key, to = self.work, tried.key, tried.lane.position
        found, refused = held_views(self.rule, [key])
        failed = (tried.event_id, refused[key]) if refused else self._fold_singly(found[key], to)
        self.views.update(found)
        ids = [row[0] for row in work.statements.rows("behind", name=work.name, key=key, to=to)]
        if failed is None:
            parking.release(work, key, ids)
            return
        self.blocked.add(key)
        event_id, error = failed
        if event_id == tried.event_id:
            failure = parking.fail_again(work, key, event_id, tried.attempts + 1, parking.error_text(error))
            self.failure = failure or self.failure
            return
        hashed = hashes_of(work, [key])[key]
        parking.release(work, key, [*(id_ for id_ in ids if id_ < event_id), tried.event_id])
        later = [tried.event_id] if tried.event_id > event_id else []
        self._set_aside(Item(event_id, None, None, key, hashed, tried.lane.number), failed, later)

    def _write(self) -> None:
        self._write_views(list(self.views.values()))
        if self.has_hooks:  # plugins may have put other data in place of the views
            self.views.clear()

    def _write_views(self, views: Sequence[Held]) -> None:
        length = write(self.rule, views, self.redactions)
        if length:
            self.most_views = min(MOST_TEXT // length, MOST_VIEWS[1])


def _failure(item: Item) -> Failed:
    return item.id, item.error or ConfigurationError(f"event {item.id} cannot be read")
