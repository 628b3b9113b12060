"""How far behind subscriptions are: now, and over the last hour."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs

from pgevents.browser.log import iso
from pgevents.client import EventClient
from pgevents.codec.times import time_of
from pgevents.subscriptions.health import waiting_events
from pgevents.subscriptions.lane_rows import all_rows, statements_of

__all__ = ["EVERY", "MOST", "Samples", "Waiting", "line_of", "plot", "take_samples", "waiting_of"]

MOST = 10_000
"""Up to this many events are counted; beyond it a page says "more than 10,000"."""
EVERY = timedelta(seconds=10)
SPAN = timedelta(hours=1)


@attrs.frozen
class Waiting:
    """The events that a subscription has not dealt with.

    Attributes:
        count: How many, up to `MOST` + 1.
        times: When the first of them were saved, in order, in seconds since 1970.
    """

    count: int
    times: Sequence[float]


class Samples:
    """How many events waited for each subscription, as this process saw it: every ten seconds, for an hour.

    Nothing is written for it: each process that shows the page has its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, deque[tuple[datetime, int]]] = {}

    def add(self, counts: Mapping[str, int], now: datetime | None = None) -> None:
        """Keep what was counted, if the last sample is old enough."""
        now = now or datetime.now(timezone.utc)
        with self._lock:
            for name, count in counts.items():
                taken = self._taken.setdefault(name, deque())
                if not taken or now - taken[-1][0] >= EVERY * 0.9:
                    taken.append((now, count))
                while now - taken[0][0] > SPAN:
                    taken.popleft()
            for name in set(self._taken) - set(counts):
                del self._taken[name]

    def of(self, name: str) -> list[tuple[datetime, int]]:
        """The samples of one subscription, the oldest first."""
        with self._lock:
            return list(self._taken.get(name, ()))


def waiting_of(found: Sequence[tuple[int, float]]) -> Waiting:
    """What `waiting_events` found, as the pages need it."""
    return Waiting(len(found), sorted(time for _, time in found[:MOST]))


def take_samples(client: EventClient, samples: Samples) -> None:
    """Count what waits for each subscription, and keep the counts."""
    names = [row[0] for row in statements_of(client).rows("names")]
    samples.add({name: len(waiting_events(client, all_rows(client, name), MOST)) for name in names})


def line_of(
    taken: Sequence[tuple[datetime, int]], waiting: Waiting, now: datetime | None = None
) -> dict[str, Any]:
    """The lag over the last hour.

    Returns:
        `measured`: what this process saw; `computed`: before that, of the events that wait now, how many had
        come (more may have waited); both lists of `[time, count]`; `since`: when measuring began, or None;
        `highest`: the greatest count.
    """
    now = now or datetime.now(timezone.utc)
    start = now - SPAN
    measured = [(at, min(count, MOST + 1)) for at, count in taken if at >= start] + [(now, waiting.count)]
    until = measured[0][0]
    computed: list[tuple[datetime, int]] = []
    for step in range(61):
        at = start + SPAN * step / 60
        if at < until:
            computed.append((at, bisect_right(waiting.times, at.timestamp())))
    computed.append((until, min(measured[0][1], bisect_right(waiting.times, until.timestamp()))))
    return {
        "start": iso(start),
        "end": iso(now),
        "since": iso(until) if len(measured) > 1 else None,
        "measured": [[iso(at), count] for at, count in measured],
        "computed": [[iso(at), count] for at, count in computed],
        "highest": max(count for _, count in [*measured, *computed]),
    }


def plot(points: Sequence[Sequence[Any]], line: Mapping[str, Any], closed: bool = False) -> str:
    """Points of a line as SVG has them, in a box of 600 by 80 with the ground at 76.

    Args:
        points: Times and counts.
        line: What they are part of: where it starts and ends, and the highest count.
        closed: Whether to go down to the ground at both ends.
    """
    start, end = time_of(line["start"][:-1]), time_of(line["end"][:-1])
    found = [
        (600 * (time_of(at[:-1]) - start) / (end - start), 76 - 70 * count / max(line["highest"], 1))
        for at, count in points
    ]
    if closed:
        found = [(found[0][0], 76), *found, (found[-1][0], 76)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in found)
