"""Events that are set aside: what failed, and what comes after it under the same key.

All of it is done under the lane's lock, by whoever has the lane. A key is blocked as long as one of its
events is parked: later ones queue behind it, in the transaction that moves the place.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from pgevents.errors import EventDecodeError
from pgevents.events import Event
from pgevents.store.processing import STACK
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.items import Item
from pgevents.subscriptions.lanes import Batch, Lane, places_of

__all__ = [
    "DIED",
    "MANY_KEYS",
    "Blocked",
    "Due",
    "Failure",
    "blocked",
    "due",
    "error_text",
    "events_of",
    "fail",
    "fail_again",
    "queue",
    "release",
    "set_aside",
    "waiting_behind",
]

MANY_KEYS = 20
"""When more keys than this fail within a minute, it is not the events: the subscription stops."""
DIED = "its worker died while it handled this event"
"""The error of an event at which a process ended."""
Failure = str
"""Why the whole subscription is to stop; empty if it is not."""
OWN_FOLDER = str(Path(__file__).parent.parent)


def error_text(error: BaseException) -> str:
    """An error and its stack as they are kept: from the handler on, without the frames that called it."""
    message = f"{type(error).__name__}: {error}"[:2000]
    frames = traceback.extract_tb(error.__traceback__)
    while len(frames) > 1 and frames[0].filename.startswith(OWN_FOLDER):
        del frames[0]
    stack = "".join(traceback.format_list(frames))[-6000:]
    return (message + STACK + stack if stack else message).replace("\0", "")


@attrs.frozen
class Blocked:
    """What is parked of the keys of a batch.

    Attributes:
        first: Each blocked key's first event.
        parked: Key and id of those events of the batch that are parked already. An event may be of several
            keys, as of several kept views, and be parked of one alone.
        is_keyed: Whether events queue behind others.
    """

    first: Mapping[str, int]
    parked: frozenset[tuple[str, int]]
    is_keyed: bool

    def is_parked(self, item: Item) -> bool:
        """Whether the event is not to be handled in its turn, for it is parked."""
        return (item.key, item.id) in self.parked

    def is_behind(self, item: Item) -> bool:
        """Whether an earlier event of its key is parked."""
        return self.is_keyed and item.key in self.first and item.id > self.first[item.key]

    def divided(self, items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
        """Those to be handled now, and those that are to queue behind others; the rest is parked."""
        if not (self.first or self.parked):
            return items, ()
        left = [item for item in items if not self.is_parked(item)]
        behind = [item for item in left if self.is_behind(item)]
        return [item for item in left if not self.is_behind(item)], behind


NOTHING = Blocked({}, frozenset(), False)


def blocked(work: Work, batch: Batch) -> Blocked:
    """What is parked of these events' keys."""
    items = batch.items
    if not items or not batch.has_parked:
        return NOTHING
    keys = list({item.key for item in items})
    of, ids = [item.key for item in items], [item.id for item in items]
    rows = work.statements.rows("blocked", name=work.name, keys=keys, of=of, ids=ids)
    return Blocked(
        {key: first for key, first, _ in rows},
        frozenset((key, event_id) for key, _, ids in rows for event_id in ids or ()),
        bool(work.question.key),
    )


def queue(work: Work, items: Sequence[Item]) -> None:
    """Put events behind the one that blocks their key.

    If that one is gone by now (discarded while the lane was leased), the first of them is tried at once.
    """
    if items:
        work.statements.run(
            "queue",
            name=work.name,
            keys=[item.key for item in items],
            ids=[item.id for item in items],
            hashes=[item.hash for item in items],
        )
        work.statements.run("promote", name=work.name, keys=list({item.key for item in items}))


def fail(work: Work, lane: Lane, item: Item, error: str, before: int, suspect: bool = False) -> Failure:
    """Note that the handler failed at an event of the log, in the transaction that has its lane.

    Args:
        work: The subscription.
        lane: Its lane.
        item: The event.
        error: Why.
        before: How many events of the lane come before it in this batch; they were rolled back with it.
        suspect: Whether its worker died of it, rather than the handler raising.
    """
    attempts = 1 + (lane.attempts if lane.failed_id == item.id else 0)
    is_last = attempts >= work.policy.attempts
    careful = max(before + 1, lane.careful)
    announced = 0 if suspect or lane.announced is not None else None
    delay = work.policy.delay_after(attempts, died=suspect)
    note: dict[str, Any] = {
        "name": work.name,
        "lane": lane.number,
        "interruptions": lane.interruptions,  # the place has not moved
        "careful": careful,
        "announced": announced,
    }
    if is_last and work.policy.then == "stop":
        work.statements.run("note", **note, attempts=attempts, failed_id=item.id, delay=0, error=error)
        return f"event {item.id}: {error}"
    if work.question.key or is_last:
        state = "parked" if is_last else "retrying"
        set_aside(work, item, state, attempts, delay, error)
        work.statements.run("note", **note, attempts=0, failed_id=None, delay=0, error=None)
        return _too_many(work, error)
    work.statements.run(
        "note", **note, attempts=attempts, failed_id=item.id, delay=0 if before else delay, error=error
    )
    return ""


def set_aside(work: Work, item: Item, state: str, attempts: int, delay: float, error: str) -> None:
    """Set an event aside that has failed so many times: "retrying" after some seconds, or "parked"."""
    work.statements.run(
        "park",
        name=work.name,
        key=item.key,
        event_id=item.id,
        hash=item.hash,
        state=state,
        attempts=attempts,
        delay=delay,
        error=error,
    )


def _too_many(work: Work, error: str) -> Failure:
    if not work.question.key or work.statements.value("failing_keys", name=work.name) <= MANY_KEYS:
        return ""
    return (
        f"events of more than {MANY_KEYS} keys failed within a minute, so it is not the events; last: {error}"
    )


@attrs.frozen
class Due:
    """A parked event that is to be tried again, the first of its key.

    Attributes:
        key: Its key.
        event_id: Its id.
        attempts: How many times it has failed.
        lane: Its lane.
        has_killed: Whether its worker died of it the last time.
    """

    key: str
    event_id: int
    attempts: int
    lane: Lane
    has_killed: bool = False

    def attempts_of(self, item: Item) -> int:
        """How many times an event that is tried with it has failed: those behind it were never tried."""
        return self.attempts if item.id == self.event_id else 0


def due(work: Work, lanes: Sequence[Lane]) -> Due | None:
    """The retry that is due for longest in these lanes."""
    count = lanes[0].lanes
    text = "{" + ",".join("NULL" if place is None else str(place) for place in places_of(lanes)) + "}"
    is_keyed = bool(work.question.key)
    rows = work.statements.rows(
        "due", name=work.name, positions=text, lanes=count, is_keyed=is_keyed, died=DIED
    )
    if not rows:
        return None
    key, event_id, attempts, hashed, has_killed = rows[0]
    lane = next(lane for lane in lanes if lane.number == hashed % count)
    return Due(key, event_id, attempts, lane, has_killed)


def waiting_behind(work: Work, tried: Due, limit: int) -> list[int]:
    """The ids of the event that is tried and of those right behind it that wait for nothing else.

    None of them if it is not the first of its key any more.
    """
    if not work.question.key:
        return [tried.event_id]
    rows = work.statements.rows(
        "key_queue", name=work.name, key=tried.key, event_id=tried.event_id, limit=limit
    )
    ids: list[int] = []
    for event_id, state, _ in rows:
        if ids and state != "queued":
            break
        ids.append(event_id)
    return ids if ids[:1] == [tried.event_id] else []


def events_of(work: Work, ids: Sequence[int]) -> dict[int, tuple[Event[Any] | None, Exception | None]]:
    """Parked events, or why they cannot be decoded; those that are gone from the log are left out."""
    read = work.client.reader.by_ids
    try:
        return {event.id: (event, None) for event in read(ids)}
    except EventDecodeError:
        found: dict[int, tuple[Event[Any] | None, Exception | None]] = {}
        for event_id in ids:
            try:
                found |= {event.id: (event, None) for event in read([event_id])}
            except EventDecodeError as error:
                found[event_id] = (None, error)
        return found


def release(work: Work, key: str, ids: Sequence[int]) -> None:
    """These events were handled; with the last one the key is free, in the same commit."""
    work.statements.run("release", name=work.name, key=key, ids=list(ids))
    if work.question.key:
        work.statements.run("promote", name=work.name, keys=[key])


def fail_again(
    work: Work, key: str, event_id: int, attempts: int, error: str | None, *, died: bool = False
) -> Failure:
    """Note the outcome of a retry: `attempts` failures so far.

    Args:
        work: The subscription.
        key: The event's key.
        event_id: The event.
        attempts: How many times it has failed, this time included.
        error: Why; None while it is still being tried.
        died: Whether its worker may die of it.
    """
    is_last = attempts >= work.policy.attempts and error is not None
    work.statements.run(
        "attempt",
        name=work.name,
        key=key,
        event_id=event_id,
        attempts=attempts,
        state="parked" if is_last else "retrying",
        delay=work.policy.delay_after(max(attempts, 1), died=died),
        error=error,
    )
    return f"event {event_id}: {error}" if is_last and work.policy.then == "stop" else ""
