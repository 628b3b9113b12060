"""`Runner`: threads that give events to subscriptions, until they are told to stop."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from uuid import uuid4

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, DatabaseUnavailableError
from pgevents.store.options import check_flag
from pgevents.store.ordering import streams_json
from pgevents.store.processing import Statements
from pgevents.streams import stream
from pgevents.subscriptions import firing, outside, worker
from pgevents.subscriptions.board import LOOK_AGAIN, Board, Task
from pgevents.subscriptions.change import StandsByError, settle
from pgevents.subscriptions.control import all_rows
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.lanes import QuestionChangedError
from pgevents.subscriptions.models import check_models
from pgevents.subscriptions.pace import Outcome, Pace
from pgevents.subscriptions.subscription import work_of
from pgevents.subscriptions.transient import is_transient, let_go

__all__ = ["Runner"]

log = logging.getLogger("pgevents")

FIRST_POLL = 0.003
CHANGES_EVERY = 0.25
SEEN_EVERY = 5.0
FAR = 10_000
"""When the horizon is held back so far, types of late events are looked for at leisure."""


class Runner:
    """Gives subscriptions their events, in worker threads; any number of runners may share the work.

    Every worker has a connection of its own, and the runner one more.

    Example:
        ```python
        from pgevents.subscriptions import Runner

        runner = Runner(client, [write_invoice, reserve, Totals])
        runner.run(workers=4)
        ```
    """

    def __init__(
        self,
        client: EventClient,
        subscriptions: Iterable[Any],
        *,
        poll: float = 0.05,
        other_databases: bool = False,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        timers: bool = True,
    ) -> None:
        """Nothing is asked of the database yet.

        Args:
            client: The client that reads, and that handlers save with.
            subscriptions: Functions made by `@subscription`, `Subscription` classes or instances, and what
                `keep(...)` gives.
            poll: Seconds between looks when nothing comes; shorter while events come.
            other_databases: Allow handlers whose models are bound to another Peewee database of the same
                server. What these write is in another transaction.
            context: What each worker thread works in, such as Flask's `app.app_context`.
            timers: Whether it fires timers. Any number of runners may; one at a time does.

        Raises:
            ConfigurationError: Nothing to run, two of one name, or something that is not a subscription.
        """
        self.client = client
        self.works = [work_of(client, subscription) for subscription in subscriptions]
        names = [work.name for work in self.works]
        if not names:
            raise ConfigurationError("a runner needs at least one subscription")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationError(f"two subscriptions are named {twice[0]!r}")
        if not 0 < poll <= 60:
            raise ConfigurationError(f"poll is a number of seconds above 0, not {poll!r}")
        self._poll = poll
        self._other_databases = other_databases
        self._context = context
        self._timers = check_flag(timers, "timers")
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._id = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its subscriptions."""
        return tuple(work.name for work in self.works)

    def run(self, workers: int = 1, *, signals: bool = False) -> None:
        """Work until `stop()` is called; connects anew when the server was gone.

        Args:
            workers: How many threads handle events.
            signals: End at SIGTERM and SIGINT; in the main thread only.

        Raises:
            ConfigurationError: A place that does not answer what its subscription asks, or that is ahead of
                the log; a key that a class lacks; models of another database object; an open transaction.
        """
        client = self.client
        self._check_call(workers, signals)
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda number, frame: self.stop())
        self._insist(client.check_installed, DatabaseUnavailableError)  # a server that was never there
        if not self._other_databases:
            check_models(client, self.works)
        tasks: list[Task] = []
        for work in self.works:
            self._insist(partial(self._begin, work, workers, tasks))
        if self._stop.is_set():
            return
        self._id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        board = Board(tasks)
        threads = [
            threading.Thread(target=self._work, args=(board,), name=f"pgevents-worker-{n}", daemon=True)
            for n in range(workers)
        ]
        poller = _Poller(client, board, self._poll, self._id, workers)
        if self._timers:
            poller.context = self._context
        for thread in threads:
            thread.start()
        try:
            self._ready.set()
            poller.run(self._stop)
        except BaseException:
            self._stop.set()
            raise
        finally:
            board.end()
            for thread in threads:
                thread.join()
            poller.leave()
            self._ready.clear()
        if self._error is not None:
            raise self._error

    def _check_call(self, workers: object, signals: bool) -> None:
        if type(workers) is not int or workers < 1:
            raise ConfigurationError(f"workers are a number from 1 on, not {workers!r}")
        if self.client.db.in_transaction():
            raise ConfigurationError(
                "a runner has transactions of its own: call run() outside of db.atomic()"
            )
        if signals and threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "signals=True works in the main thread only: call run() there, or call stop() yourself"
            )

    def stop(self) -> None:
        """Let `run()` return, from any thread or signal handler: each worker after the event in hand."""
        self._stop.set()

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until `run()`, in another thread, has begun; whether it has."""
        return self._ready.wait(timeout)

    def _insist(self, call: Callable[[], object], *but: type[Exception]) -> None:
        """Make a call until the server is not cut off in the middle of it."""
        while not self._stop.is_set():
            try:
                call()
                return
            except Exception as error:
                if not is_transient(error) or isinstance(error, but):
                    raise
                log.warning("the runner cannot begin yet: %s", str(error).strip())
                let_go(self.client)
                self._stop.wait(max(self._poll, 0.2))

    def _begin(self, work: Work, workers: int, tasks: list[Task]) -> None:
        task = Task(work, pace=Pace(workers=workers))
        try:
            settle(work)
        except StandsByError as error:
            log.warning("%s", error)
            task.standing_by = str(error)
        rows = all_rows(self.client, work.name)
        task.lanes = rows[0].lanes
        work.setup()
        tasks.append(task)

    def _work(self, board: Board) -> None:
        with self._context():
            self._work_in_context(board)

    def _work_in_context(self, board: Board) -> None:
        try:
            while not self._stop.is_set():
                taken = board.take()
                if taken is None:
                    return
                task, lanes = taken
                outcome: Outcome | None = None
                try:
                    outcome = self._step(task, lanes)
                except Exception as error:
                    if not is_transient(error):
                        log.exception("subscription %r cannot go on", task.work.name)
                        if isinstance(error, ConfigurationError):
                            task.standing_by = str(error)
                    let_go(self.client)
                finally:
                    board.done(task, lanes, outcome)
        except BaseException as error:
            self._error = error
            self._stop.set()
        finally:
            if not self.client.db.is_closed():
                self.client.db.close()

    def _step(self, task: Task, lanes: list[int]) -> Outcome:
        work = task.work
        try:
            if work.keeper is not None:
                outcome: Outcome = work.keeper.step(work, lanes, task.share, self._stop, task.pace)
                return outcome
            if work.effects == "outside":
                return outside.step(work, lanes, task.pace, self._stop)
            return worker.step(work, lanes, task.share, task.pace, self._stop)
        except QuestionChangedError:
            settle(work)
            return Outcome(is_more=True)


class _Poller:
    """Looks for new events, for all subscriptions of a runner together, on a connection of its own."""

    def __init__(self, client: EventClient, board: Board, poll: float, runner: str, workers: int) -> None:
        self.client = client
        self.board = board
        self.poll = poll
        self.statements = Statements(client.session, client.events.pgevents_spec)
        self.names = [task.work.name for task in board.tasks]
        self.identity: dict[str, Any] = {
            "id": runner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "workers": workers,
            "names": self.names,
        }
        self.last = -1
        self.horizon = -1
        self.pause = FIRST_POLL
        self.next_changes = self.next_seen = self.next_look = self.next_late = 0.0
        self.next_timer = math.inf
        self.context: Callable[[], AbstractContextManager[Any]] | None = None
        """What it fires timers in; None if it does not."""

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._look()
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("new events cannot be looked for: %s", str(error).strip())
                let_go(self.client)
                self.board.look_again()
                self.pause = max(self.poll, 0.2)
                self.next_timer = time.monotonic() + self.pause
            stop.wait(min(self.pause, self._until_timer()))
            self.board.wait_for_idle(min(self.poll, self._until_timer()))

    def _until_timer(self) -> float:
        return max(0.0, self.next_timer - time.monotonic())

    def leave(self) -> None:
        """Say that this runner is gone, if the database can be told."""
        try:
            self.statements.run("gone", id=self.identity["id"])
        except Exception as error:
            log.debug("the runner could not be signed off: %s", error)

    def _look(self) -> None:
        now = time.monotonic()
        last = self.statements.value("arrivals")
        if last < self.last or self.last < 0:  # the first look, or the log was set back
            self.horizon = self.last = last
            self.board.look_again(wanted=last)
        elif last > self.last or self.horizon < last:
            self._arrivals(last, now)
        else:
            self.pause = min(self.poll, self.pause * 1.5)
        if now >= self.next_changes:
            self.next_changes = now + CHANGES_EVERY
            self._changes()
        if now >= self.next_look:
            self.next_look = now + LOOK_AGAIN
            self.board.look_again(wanted=last)
        if now >= self.next_seen:
            self.next_seen = now + SEEN_EVERY
            self._seen(last)
        if self.context is not None and (now >= self.next_timer or self.next_timer == math.inf):
            self._fire(now, self.context)

    def _fire(self, now: float, context: Callable[[], AbstractContextManager[Any]]) -> None:
        """Save the events of timers that are due, some at a time. The server says when the next one is due;
        it is asked again soon, for its clock may be set."""
        seconds = firing.until_next(self.client)
        if seconds is None or seconds > 0:
            self.next_timer = now + min(CHANGES_EVERY, CHANGES_EVERY if seconds is None else seconds)
            return
        with context():
            has_fired = firing.fire(self.client)
        self.next_timer = now if has_fired else now + self.poll

    def _arrivals(self, last: int, now: float) -> None:
        """Wake those whose types came. Late events stand above the horizon of the look before."""
        after = self.horizon
        if last - self.horizon > FAR:
            after = self.last
            if now >= self.next_late:
                self.next_late = now + CHANGES_EVERY
                self.board.look_again(wanted=last)
        rows = self.statements.rows("came", streams=streams_json([stream()]), after=after)
        horizon = next(bound for name, bound in rows if name is None)
        newest = {name: newest for name, newest in rows if name is not None}
        is_new = last > self.last
        self.board.arrived(newest, max(newest.values(), default=0))
        self.last, self.horizon = last, horizon
        self.pause = FIRST_POLL if is_new else min(self.poll, self.pause * 1.5)

    def _changes(self) -> None:
        """What others did: resumed, reset, resized; and what has become due."""
        tasks = {task.work.name: task for task in self.board.tasks}
        rows = self.statements.rows("changes", names=self.names)
        for name, changed_at, lanes, is_active, is_due, has_careful, has_due in rows:
            task = tasks[name]
            task.pace.has_careful = has_careful or task.pace.has_careful
            task.is_held = not is_active
            if (changed_at, lanes) != (task.changed_at, task.lanes):
                if task.changed_at:
                    task.standing_by = ""
                task.changed_at, task.lanes = changed_at, lanes
                self.board.look_again([name], self.last)
            if is_due or has_due:
                self.board.look_again([name], self.last)

    def _seen(self, last: int) -> None:
        notes = {task.work.name: task.standing_by for task in self.board.tasks if task.standing_by}
        notes |= {
            task.work.name: "one batch at a time, after a deadlock"
            for task in self.board.tasks
            if task.pace.is_alone
        }
        batches = {task.work.name: task.pace.batch_seconds for task in self.board.tasks}
        self.statements.run(
            "here", **self.identity, notes=json.dumps(notes), batch_seconds=json.dumps(batches)
        )
        self.statements.run("saw", last=last)
        self.statements.run("forget_seen", last=last)
        self.statements.run("long_gone")
        counts = dict(self.statements.rows("workers", names=self.names))
        for task in self.board.tasks:
            task.pace.workers = max(1, counts.get(task.work.name, 1))
