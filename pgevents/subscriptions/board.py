"""What the workers of one process know of the work there is. All of it may be wrong without harm.

A lane is due when an event may have come since it was looked at. What really is to do, the claim finds out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence

import attrs

from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.pace import Outcome, Pace

__all__ = ["Board", "Task"]

LOOK_AGAIN = 10.0
"""All lanes are looked at so often, in seconds, whatever the board says."""
FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.025
AFTER_ERROR = 0.25


@attrs.define(eq=False)
class Task:
    """A subscription on the board.

    Attributes:
        work: The subscription.
        lanes: How many lanes it has.
        wanted: The newest id that may concern it.
        reached: Up to where each lane was looked at.
        turn: The lane that comes first next time.
        busy: How many workers are at it now.
        not_before: When to look again after nothing could be done, by `time.monotonic()`.
        pause: For how long it was left alone then, in seconds.
        standing_by: Why it is not worked on; empty if it is.
        is_held: Whether it is paused or has stopped.
        changed_at: When somebody last did something to it, by the server's clock.
        pace: How fast it goes.
    """

    work: Work
    lanes: int = 1
    wanted: int = 0
    reached: dict[int, int] = attrs.field(factory=dict[int, int])
    turn: int = 0
    busy: int = 0
    not_before: float = 0.0
    pause: float = FIRST_PAUSE
    standing_by: str = ""
    is_held: bool = False
    changed_at: str = ""
    pace: Pace = attrs.field(factory=Pace)

    def due(self) -> list[int]:
        """The lanes that may have something to do, beginning with the one whose turn it is."""
        order = [(self.turn + i) % self.lanes for i in range(self.lanes)]
        return [lane for lane in order if self.reached.get(lane, -1) < self.wanted]

    @property
    def share(self) -> int:
        """How many lanes one worker takes at once, so that there is one for each."""
        share = self.pace.share_of(self.lanes)
        if self.work.keeper is None or self.pace.has_begun:
            return share
        # A keeper may have them for long, and others that are started with it come a moment later.
        return min(share, -(-self.lanes // 4))

    def forget(self) -> None:
        """Look at all lanes again."""
        self.reached.clear()
        self.not_before = 0.0
        self.pause = FIRST_PAUSE


class Board:
    """The tasks of a runner, and the workers that wait for one."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._idle = threading.Condition(lock)
        self._waiting = 0
        self._next = 0
        self.is_over = False

    def take(self) -> tuple[Task, list[int]] | None:
        """Wait for a task with something to do; None when the runner ends."""
        with self._changed:
            while not self.is_over:
                now = time.monotonic()
                soonest = now + 1.0
                for offset in range(len(self.tasks)):
                    at = (self._next + offset) % len(self.tasks)
                    task = self.tasks[at]
                    if task.standing_by or task.is_held or task.busy >= task.lanes:
                        continue
                    lanes = task.due()
                    if not lanes:
                        continue
                    if task.not_before > now:
                        soonest = min(soonest, task.not_before)
                        continue
                    task.busy += 1
                    task.turn = (lanes[0] + 1) % task.lanes
                    self._next = at + 1
                    return task, lanes
                self._waiting += 1
                self._idle.notify()
                self._changed.wait(max(0.0005, soonest - now))
                self._waiting -= 1
            return None

    def wait_for_idle(self, timeout: float) -> None:
        """Wait until a worker has nothing to do, or the seconds are over: before, nobody could take what
        came."""
        with self._idle:
            self._idle.wait_for(lambda: self._waiting or self.is_over, timeout)

    def done(self, task: Task, lanes: Sequence[int], outcome: Outcome | None) -> None:
        """A worker is through with a step; None when it failed."""
        with self._changed:
            task.busy -= 1
            if outcome is None:
                task.not_before = time.monotonic() + AFTER_ERROR
                return
            for lane, to in outcome.reached.items():
                task.reached[lane] = max(to, task.reached.get(lane, -1))
            is_idle = not (outcome.handled or outcome.is_more)
            if is_idle and set(lanes) - {
                lane for lane in outcome.reached if outcome.reached[lane] >= task.wanted
            }:
                # Locked by others, or not final yet: not at once again.
                if task.busy == 0 or not outcome.claimed:
                    task.not_before = time.monotonic() + task.pause
                    task.pause = min(task.pause * 2, LONGEST_PAUSE)
            else:
                task.pause = FIRST_PAUSE
            self._changed.notify()

    def arrived(self, newest: Mapping[str, int], last: int) -> None:
        """Events of these types came; the newest of each, and of all."""
        with self._changed:
            for task in self.tasks:
                wanted = max((_newest_of(types, newest, last) for types in _types(task.work)), default=0)
                if wanted > task.wanted:
                    task.wanted = wanted
                    task.not_before = 0.0
                    task.pause = FIRST_PAUSE
            self._changed.notify_all()

    def look_again(self, names: Iterable[str] | None = None, wanted: int = 0) -> None:
        """Look at all lanes of these subscriptions, or of all, whatever is known of them."""
        chosen = None if names is None else set(names)
        with self._changed:
            for task in self.tasks:
                if chosen is None or task.work.name in chosen:
                    task.forget()
                    task.wanted = max(task.wanted, wanted)
            self._changed.notify_all()

    def end(self) -> None:
        """Wake all workers and let them go."""
        with self._changed:
            self.is_over = True
            self._changed.notify_all()
            self._idle.notify_all()


def _types(work: Work) -> list[tuple[str, ...] | None]:
    return [stream.types for stream in work.question.streams]


def _newest_of(types: tuple[str, ...] | None, newest: Mapping[str, int], last: int) -> int:
    return last if types is None else max((newest.get(name, 0) for name in types), default=0)
