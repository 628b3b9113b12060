"""How fast the workers of one process go at a subscription, and what a step of theirs did."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import attrs

from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.lanes import Batch, Lane, claim

__all__ = ["ALONE_SECONDS", "BATCH_SECONDS", "NEVER", "Outcome", "Pace"]

BATCH_SECONDS = 0.05
"""Seconds after which a batch ends: what it has saved holds back subscriptions to the whole log."""
ALONE_SECONDS = 10.0
"""For how long batches run one at a time after a deadlock, at first; twice as long each time."""
NEVER = threading.Event()


@attrs.define(eq=False)
class Pace:
    """What the workers of one process know of a subscription; all of it may be wrong without harm.

    Attributes:
        workers: How many workers there are for it, here and elsewhere.
        size: How many events the next batch reads.
        alone_until: Until when batches run one at a time, by `time.monotonic()`.
        alone_seconds: For how long they do after the next deadlock.
        has_retried: Whether the last step was a retry: the next one is for new events, if there are any.
        batch_seconds: How long a batch takes; the last ones count most.
        has_begun: Whether lanes were taken before.
        stretch: Of kept views that are far behind: how many ids the next step covers.
        was_careful: Whether the last step gave one event alone: the next one is for other lanes, if there are
            any.
        has_careful: Whether there may be lanes that give their events one by one.
        interruptions: Of kept views: how many steps in a row ended by an error of the database.
    """

    workers: int = 1
    size: int = 50
    alone_until: float = 0.0
    alone_seconds: float = ALONE_SECONDS
    has_retried: bool = False
    batch_seconds: float = 0.0
    has_begun: bool = False
    stretch: int = 1_000_000
    was_careful: bool = False
    has_careful: bool = True
    interruptions: int = 0

    def share_of(self, lanes: int) -> int:
        """How many lanes one worker takes at once, so that there is one for each."""
        return max(1, -(-lanes // max(1, self.workers)))

    def takes_retry(self, batch: Batch) -> bool:
        """Whether a retry that is due goes before the batch: they take turns, so that neither waits long."""
        self.has_retried = not (self.has_retried and batch.items)
        return self.has_retried

    def claim(
        self, work: Work, numbers: Sequence[int], share: int, *, most_careful: int | None = None
    ) -> list[Lane]:
        """Claim lanes that give their events one by one, or others: in turns, and never both at once.

        So a worker that dies of an event takes no lane with it in which another event was announced.

        Args:
            work: The subscription.
            numbers: Lanes to choose from, in order of preference.
            share: At most this many of them.
            most_careful: At most this many of those that give their events one by one; None for as many.
        """
        is_first = self.has_careful and not self.was_careful
        for is_careful in (is_first, not is_first):
            if is_careful and not self.has_careful:
                continue
            limit = share if most_careful is None or not is_careful else most_careful
            lanes = claim(work, numbers, limit, alone=self.is_alone, careful=is_careful)
            if lanes:
                self.was_careful, self.has_careful = is_careful, lanes[0].has_careful
                return lanes
        return []

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
        """Note how long some events took: the next batch reads about as many as fit into it."""
        if handled:
            self.batch_seconds += (seconds - self.batch_seconds) * (0.2 if self.batch_seconds else 1.0)
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
