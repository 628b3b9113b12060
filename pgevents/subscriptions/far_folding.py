"""Kept views that are far behind: their events are read view by view, not in the order of the log.

So each view is folded and written once, however far apart its events lie. The server sorts the events, and
reads and writes while this process folds.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import attrs

from pgevents.errors import PgEventsError
from pgevents.store.background import Background
from pgevents.store.processing import NEXT_BY_KEY
from pgevents.subscriptions import view_folding
from pgevents.subscriptions.items import Item, items_of
from pgevents.subscriptions.lanes import Batch, move
from pgevents.subscriptions.pace import Outcome, Pace
from pgevents.subscriptions.transient import is_transient
from pgevents.subscriptions.view_folding import Fold
from pgevents.subscriptions.view_reading import Run, begin_runs, decode, having_ids, runs_of
from pgevents.subscriptions.view_rows import Held, dirty_in_order, short_lock_wait, write_statement

__all__ = ["FAR", "STRETCH", "FarFold"]

FAR = 20_000
"""Ids behind the log from which on events are read view by view."""
STRETCH = 1_000_000
"""Events, about, that are read view by view in one transaction."""
Statement = tuple[str, Any]


class FarFold(Fold):
    """One transaction of a keeper, which may be far behind."""

    def _is_far(self, batch: Batch, pace: Pace) -> bool:
        if not (batch.is_full and self.rule.field is not None and batch.bound - batch.to > FAR):
            return False
        if pace.stretch <= FAR:  # even the shortest was ended early: a page moves the places in between
            pace.stretch *= 2
            return False
        return True

    def _run_far(self, batch: Batch, end: float, pace: Pace) -> Outcome | None:
        """Fold a stretch of the log. Who has to end it early writes the views that are done, and leaves the
        places: these views are passed over the next time."""
        if not self._is_far(batch, pace):
            return None
        claimed = self.lanes
        if self._has_too_many(pace):  # before the server sorts for lanes that others are to have
            return Outcome(claimed=len(claimed), is_more=True)
        low = min(lane.position for lane in claimed)
        to = min(batch.bound, low + pace.stretch)
        shorter = max((to - low) // 2, FAR)
        try:
            with short_lock_wait(self.work.client):
                count, touched, is_whole = self._fold_stretch(batch, low, to, end, pace)
        except PgEventsError:  # such as a time limit of the server's, or one of its temporary files
            pace.stretch = shorter
            raise
        if not is_whole:
            if len(claimed) <= pace.share_of(claimed[0].lanes):  # else the next one is for fewer lanes
                pace.stretch = shorter
            return Outcome(count, len(claimed), is_more=True)
        if count < STRETCH // 2 and pace.has_begun:  # the first step has few lanes
            pace.stretch *= 2
        move(self.work, [attrs.evolve(lane, is_stale=True) for lane in claimed], to, touched)
        reached = {lane.number: max(to, lane.position) for lane in claimed}
        return Outcome(count, len(claimed), reached, is_more=to < batch.bound)

    def _fold_stretch(
        self, batch: Batch, low: int, to: int, end: float, pace: Pace
    ) -> tuple[int, list[Item], bool]:
        """How many events were folded, one of each lane, and whether these are all."""
        session, count, touched = self.work.client.session, 0, dict[int, Run]()
        background = Background(session)
        begin_runs(self.work, self.lanes, to)
        following: Statement = NEXT_BY_KEY, [view_folding.PAGE]
        background.start(following)
        statements: list[Statement] = []  # that write the views of the page before
        rows = background.wait()
        while rows:
            found = runs_of(rows, self.lanes[0].lanes)
            count += len(rows)
            touched.update({run.lane: run for run in found})
            blocked = self._bring(found, batch)
            if self._has_plugins:  # they may use the connection, and roll back to a savepoint on it
                decode(self.work, found)
            background.start(*statements, following)
            try:
                if not self._has_plugins:
                    decode(self.work, found)
                left = self._fold_runs(found, blocked)
                statements = self._writing(found, left)
            finally:
                rows = background.wait()
            self._take_left(left, to, attrs.evolve(batch, has_parked=True))
            if left or self.has_hooks:
                self._write()
                self.views.clear()
            self.reached(low + int((to - low) * (found[-1].hash + 2**63) / 2**64))
            if self._has_to_end(end, pace):
                break
        for statement in statements:
            session.execute(*statement)
        self._write()
        return count, [run.item() for run in touched.values()], not rows

    @property
    def _has_plugins(self) -> bool:
        """Whether plugins decode events."""
        return self.work.client.decoder.before_decode is not None

    def _has_to_end(self, end: float, pace: Pace) -> bool:
        if self.stop.is_set() or time.monotonic() >= end:
            return True
        return bool(self.work.statements.value("is_wanted")) or self._has_too_many(pace)

    def _bring(self, found: Sequence[Run], batch: Batch) -> set[str | None]:
        """Bring the views of these runs into memory; the keys of those that wait to be folded anew."""
        blocked: set[str | None] = {None, "", *self.blocked}
        if batch.has_parked:
            keys = [run.key for run in found]
            rows = self.work.statements.rows("blocked", name=self.work.name, keys=keys, of=[], ids=[])
            blocked.update(key for key, *_ in rows)
        first: dict[str, Item] = {}
        for run in found:
            if run.key and run.key not in blocked and run.key not in first:
                first[run.key] = run.item(run.first_id())
        self._load(first)
        return blocked | self.blocked

    def _fold_runs(self, found: Sequence[Run], blocked: set[str | None]) -> list[Run]:
        """Of decoded runs fold what can be folded, without asking the server; the other runs."""
        return [run for run in found if run.key in blocked or not self._folds(run)]

    def _writing(self, found: Sequence[Run], left: Sequence[Run]) -> list[Statement]:
        """The statements that write the views that are done, which are then no longer in memory."""
        if self.has_hooks:
            return []
        changed = dirty_in_order(self._take_done(found, but={run.key for run in left}))
        return [write_statement(self.rule, changed)[:2]] if changed else []

    def _take_done(self, found: Sequence[Run], but: Collection[str | None] = ()) -> list[Held]:
        """Take the views out of memory that have no events on the next page: they come in the order of the
        hash."""
        last = found[-1].hash
        unfinished = {run.key for run in found if run.hash == last}.union(but)
        done = [held for held in self.views.values() if held.id not in unfinished]
        for held in done:
            del self.views[held.id]
        return done

    def _folds(self, run: Run) -> bool:
        """Fold the events of a run that are above its view; whether that was possible."""
        held = self.views[run.key or ""]
        if run.events is None:
            return False
        try:
            held.fold([event for event in run.events if event.id > held.latest], has_hooks=self.has_hooks)
        except Exception as error:  # of the application's reducers: it is noted, and shown
            if is_transient(error):
                raise
            return False
        return True

    def _take_left(self, left: Sequence[Run], to: int, batch: Batch) -> None:
        """Set views aside at the event that cannot be folded, and queue what comes behind it."""
        queued: list[Run] = []
        for run in left:
            held = None if run.key is None else self.views.get(run.key)
            if held is None or run.key in self.blocked:
                queued.append(run)
                continue
            failed = self._fold_singly(held, to)
            if failed is not None:
                self._set_aside(run.item(), failed, [id_ for id_ in run.ids() if id_ > failed[0]])
        if queued:
            rows = [row for run in queued for row in run.rows()]
            items = items_of(self.work, rows, self.lanes[0].lanes, {})
            self._take_page(attrs.evolve(batch, items=having_ids(self.rule, items)))
            self._fold_pending(to)
