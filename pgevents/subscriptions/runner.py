"""`Runner`: threads that give events to subscriptions until `stop()` is called."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, DatabaseUnavailableError, shown
from pgevents.store.options import check_flag
from pgevents.subscriptions import outside, worker
from pgevents.subscriptions.board import Board, Task
from pgevents.subscriptions.change import StandsByError, settle
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.lane_rows import all_rows
from pgevents.subscriptions.lanes import QuestionChangedError
from pgevents.subscriptions.models import check_models
from pgevents.subscriptions.pace import NEVER, Outcome, Pace
from pgevents.subscriptions.polling import Poller
from pgevents.subscriptions.subscription import listed, work_of
from pgevents.subscriptions.transient import is_transient, let_go

__all__ = ["Runner", "step_of"]

log = logging.getLogger("pgevents")


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
            context: What `run` and each worker thread work in, such as Flask's `app.app_context`.
            timers: Whether it fires timers. Any number of runners may; one at a time does.

        Raises:
            ConfigurationError: Nothing to run, two of one name, or something that is not a subscription.
        """
        if not isinstance(client, EventClient):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"a runner takes an EventClient, then a list: Runner(client, [...]), not {shown(client)}"
            )
        self.client = client
        self.works = [work_of(client, subscription) for subscription in listed(subscriptions)]
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
        with self._context():
            self._run(workers, signals)

    def _run(self, workers: int, signals: bool) -> None:
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
        board = Board(tasks)
        threads = [
            threading.Thread(target=self._work, args=(board,), name=f"pgevents-worker-{n}", daemon=True)
            for n in range(workers)
        ]
        timer_context = self._context if self._timers else None
        poller = Poller(client, board, self._poll, workers, timer_context)
        self._insist(poller.come)  # before they take lanes
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
        try:
            outcome = step_of(task.work, lanes, task.share, task.pace, self._stop)
        except QuestionChangedError:
            settle(task.work)
            return Outcome(is_more=True)
        task.pace.has_begun |= bool(outcome.claimed)
        return outcome


def step_of(work: Work, lanes: list[int], share: int, pace: Pace, stop: threading.Event = NEVER) -> Outcome:
    """One step of a worker, as its work asks for it: by a keeper, without a transaction, or in one."""
    if work.keeper is not None:
        outcome: Outcome = work.keeper.step(work, lanes, share, stop, pace)
        return outcome
    if work.effects == "outside":
        return outside.step(work, lanes, pace, stop)
    return worker.step(work, lanes, share, pace, stop)
