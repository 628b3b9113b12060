"""The poller of a runner: looks for new events, and for what others did, and fires timers."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

from pgevents.client import EventClient
from pgevents.store.ordering import streams_json
from pgevents.store.processing import Statements
from pgevents.streams import stream
from pgevents.subscriptions import firing
from pgevents.subscriptions.board import LOOK_AGAIN, Board
from pgevents.subscriptions.transient import is_transient, let_go

__all__ = ["Poller"]

log = logging.getLogger("pgevents")

FIRST_POLL = 0.003
CHANGES_EVERY = 0.25
SEEN_EVERY = 5.0
FAR = 10_000
"""When the horizon is held back so far, types of late events are looked for at leisure."""


class Poller:
    """Looks for new events, for all subscriptions of a runner together, on a connection of its own."""

    def __init__(
        self,
        client: EventClient,
        board: Board,
        poll: float,
        workers: int,
        timer_context: Callable[[], AbstractContextManager[Any]] | None,
    ) -> None:
        """Nothing is asked of the database yet. Without a context for timers it fires none."""
        self.client = client
        self.board = board
        self.poll = poll
        self.statements = Statements(client.session, client.events.pgevents_spec)
        self.names = [task.work.name for task in board.tasks]
        host, pid = socket.gethostname(), os.getpid()
        self.identity: dict[str, Any] = {
            "id": f"{host}-{pid}-{uuid4().hex[:8]}",
            "host": host,
            "pid": pid,
            "workers": workers,
            "names": self.names,
        }
        self.last = -1
        self.horizon = -1
        self.pause = FIRST_POLL
        self.next_changes = self.next_seen = self.next_look = self.next_late = 0.0
        self.next_timer = math.inf
        self.timer_context = timer_context

    def come(self) -> None:
        """Say that the runner's workers are there, and see how many there are with those of others."""
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
        counts = dict(self.statements.rows("workers", names=self.names))
        for task in self.board.tasks:
            task.pace.workers = max(1, counts.get(task.work.name, 1))

    def run(self, stop: threading.Event) -> None:
        """Look again and again until it is to stop."""
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
        """Note that this runner is gone, if the database can be reached."""
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
        if self.timer_context is not None and (now >= self.next_timer or self.next_timer == math.inf):
            self._fire(now, self.timer_context)

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
        self.come()
        self.statements.run("saw", last=last)
        self.statements.run("forget_seen", last=last)
        self.statements.run("long_gone")
