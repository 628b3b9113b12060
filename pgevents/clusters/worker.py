"""What a worker does: fold one range of ids, and write the rows of its views."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import attrs

from pgevents.client import EventClient
from pgevents.clusters.dealing import deal, dealt_pages
from pgevents.clusters.ranges import Plan
from pgevents.clusters.recipe import Recipe, check_log, client_of, projection_of
from pgevents.clusters.sources import Standby, pages, wait_for_replay
from pgevents.errors import PgEventsError, RetryableError
from pgevents.store.background import Background
from pgevents.store.processing import NEXT_BY_KEY
from pgevents.subscriptions import parking, view_folding
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.far_folding import FarFold
from pgevents.subscriptions.items import Item
from pgevents.subscriptions.keeping import keep
from pgevents.subscriptions.lanes import Batch, Lane
from pgevents.subscriptions.transient import is_transient
from pgevents.subscriptions.view_folding import MOST_EVENTS
from pgevents.subscriptions.view_reading import Run, begin_runs, decode, runs_of
from pgevents.subscriptions.view_rows import Held

__all__ = ["Outcome", "RangeFold", "Task", "deal_file", "fold_range"]

NEVER_IDLE = "SELECT set_config('idle_in_transaction_session_timeout', '0', true)"
ATTEMPTS = 40
"""How often rows are written again, where a caller has locked one of them."""
PAUSE = 0.25


@attrs.frozen
class Task:
    """A range to fold: names and numbers alone.

    Attributes:
        recipe: How to make the client.
        plan: The fold.
        number: The range.
        standby: The standby to read from; None: the database.
        parquet: The folder of the export to read from.
    """

    recipe: Recipe
    plan: Plan
    number: int
    standby: Standby | None = None
    parquet: str | None = None


@attrs.frozen
class Outcome:
    """The result of a task.

    Attributes:
        kind: "done"; "again": the same may succeed later; "changed": the fold begins anew, or is over;
            "refused".
        events: How many events were folded.
        error: Why not.
    """

    kind: Literal["done", "again", "changed", "refused"]
    events: int = 0
    error: str = ""


class ChangedError(PgEventsError):
    """The log was changed under maintenance, or the fold is not noted any more."""


def fold_range(task: Task) -> Outcome:
    """Fold a range and note that it is done. Errors come back as text: not every exception can travel."""
    return _guarded(_fold, task)


def deal_file(task: Task, name: str) -> Outcome:
    """Deal out a file of the export to the ranges."""
    return _guarded(_deal, task, name)


def _guarded(call: Callable[..., int], task: Task, *arguments: Any) -> Outcome:
    opened: list[EventClient] = []
    try:
        with _rare_collections():
            return Outcome("done", call(opened, task, *arguments))
    except ChangedError as error:
        return Outcome("changed", error=str(error))
    except Exception as error:
        if isinstance(error, PgEventsError) and not is_transient(error):
            return Outcome("refused", error=str(error))
        if not is_transient(error):
            raise
        return Outcome("again", error=f"{type(error).__name__} on {socket.gethostname()}: {error}".strip())
    finally:
        for client in opened:
            if not client.db.is_closed():
                client.db.close()


def _work(opened: list[EventClient], task: Task) -> Work:
    """The kept view, with a client of this worker's."""
    cls = projection_of(task.recipe)
    client = client_of(task.recipe, task.recipe.credentials)
    opened.append(client)
    check_log(task.recipe, client)
    return keep(cls).work(client)


def _deal(opened: list[EventClient], task: Task, name: str) -> int:
    return deal(_work(opened, task), str(task.parquet), task.plan, name)


def _fold(opened: list[EventClient], task: Task) -> int:
    work, plan = _work(opened, task), task.plan
    fold = RangeFold(work, plan, task.number)
    if task.parquet is not None:
        fold.take_pages(dealt_pages(work, fold.lane, task.parquet, plan))
    else:
        reading = _reading(opened, task, work)
        if work.keeper.rule.field is not None:
            fold.read_views(reading)
        else:
            fold.take_pages(pages(reading, fold.lane, plan.bound))
    return fold.count


def _reading(opened: list[EventClient], task: Task, work: Work) -> Work:
    """The kept view, with a client that reads the log, on a connection of its own."""
    source = task.recipe.credentials if task.standby is None else task.standby.credentials
    reader = client_of(task.recipe, source)
    opened.append(reader)
    if task.standby is not None:
        wait_for_replay(work.client, reader, task.standby.position)
    return attrs.evolve(work, client=reader)


class RangeFold(FarFold):
    """The views of one range. All of their events are read from the start of the log, so a view without a row
    has none before them, but for those that were written to make room."""

    def __init__(self, work: Work, plan: Plan, number: int) -> None:
        super().__init__(work.keeper.rule, work, threading.Event(), lambda _: None)
        self.plan = plan
        self.lane = _lane(work, plan, number)
        self.lanes = [self.lane]
        self.count = 0
        self.has_written = False
        self.failed: dict[str, tuple[Item, str]] = {}

    def read_views(self, reading: Work) -> None:
        """Fold view by view, and write those of a page while the server prepares the next one.

        Args:
            reading: The kept view, with a client that reads on another connection than the one that writes.
                So rows are locked for a short time only, and maintenance does not wait for the range.
        """
        session, bound = reading.client.session, self.plan.bound
        every, background = Batch((), bound, bound, False, False), Background(session)
        following = NEXT_BY_KEY, [view_folding.PAGE]
        with session.atomic():
            session.execute(NEVER_IDLE)
            begin_runs(reading, self.lanes, bound)
            background.start(following)
            while rows := background.wait():
                background.start(following)
                try:
                    self._take_runs(runs_of(rows, self.plan.ranges), every)
                finally:
                    background.join()
        self._finish()

    def _take_runs(self, found: Sequence[Run], every: Batch) -> None:
        self.count += sum(len(run.texts) for run in found)
        decode(self.work, found)
        left = self._fold_runs(found, self._bring(found, every))
        self._take_left(left, every.to, every)
        self._flush(self._take_done(found))

    def take_pages(self, batches: Iterable[Batch]) -> None:
        """Fold pages in the order of the log."""
        for batch in batches:
            self._take(batch)
        self._fold_pending(self.plan.bound)
        self._finish()

    def _take(self, batch: Batch) -> None:
        """Fold a page of events, soon or now."""
        items = [item for item in batch.items if item.key not in self.failed]
        self._take_page(attrs.evolve(batch, items=items))
        self.count += len(items)
        if self.pending_count >= MOST_EVENTS:
            self._fold_pending(batch.to)
        if len(self.views) > self.most_views:
            self._fold_pending(batch.to)
            self._flush(self.views.values())
            self.views.clear()
            self.has_written = True
        if self.has_written:  # a view that is not in memory has its events before here in its row, or the log
            self.lanes = [attrs.evolve(self.lane, position=batch.to)]

    def _finish(self) -> None:
        """Write what is left, and note that the range is done, in one transaction."""
        self._flush(self.views.values(), is_last=True)

    def _flush(self, done: Iterable[Held], is_last: bool = False) -> None:
        views = list(done)
        stored = [held.stored for held in views]
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self.work.client.session.atomic():
                    self._check_log()
                    self._write_views(views)
                    if is_last:
                        self._note_done()
                return
            except RetryableError:  # a row that a caller has locked, or maintenance; nothing was written
                if attempt == ATTEMPTS:
                    raise
                for held, latest in zip(views, stored, strict=True):
                    held.stored = latest
                time.sleep(PAUSE)

    def _check_log(self) -> None:
        """Check that what was folded still stands in the log, and will until the rows are committed."""
        self.redactions = self.work.statements.value("hold_redactions")
        if self.redactions != self.plan.redactions:
            raise ChangedError("the log was changed under maintenance since the fold began")

    def _note_done(self) -> None:
        work, policy = self.work, self.work.policy
        for item, error in self.failed.values():
            parking.set_aside(work, item, "retrying", 1, policy.delay_after(1), error)
        noted = work.statements.run(
            "range_done", name=work.name, number=self.lane.number, fold=self.plan.fold
        )
        if not noted.rowcount:
            raise ChangedError("the fold has begun anew, or is over")

    def _queue(self, behind: Sequence[Item]) -> None:
        """Nothing waits behind a view that is set aside: when it is tried again, its events are read."""

    def _set_aside(self, item: Item, failed: tuple[int, Exception], later: Sequence[int]) -> None:
        event_id, error = failed
        self.failed[item.key] = attrs.evolve(item, id=event_id), parking.error_text(error)
        self.blocked.add(item.key)
        if len(self.failed) > parking.MANY_KEYS:
            raise PgEventsError(
                f"more than {parking.MANY_KEYS} views of one range cannot be folded, so it is not the "
                f"events; last, at event {event_id}: {type(error).__name__}: {error}"
            )


def _lane(work: Work, plan: Plan, number: int) -> Lane:
    """A range in the form of a lane, of as many as there are ranges, at the start of the log."""
    return Lane(
        number=number,
        lanes=plan.ranges,
        question=work.question,
        position=0,
        layers=(),
        generation=1,
        is_hashed_otherwise=False,
        careful=0,
        announced=None,
        attempts=0,
        failed_id=None,
        interruptions=0,
        was_cut_off=False,
        is_stale=False,
    )


@contextmanager
def _rare_collections() -> Generator[None, None, None]:
    """Let Python look for cycles less often: a fold holds many objects, which make none."""
    usual: Any = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
