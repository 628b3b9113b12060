"""Lanes: claiming them, reading their next events, moving their places."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.caches import remembered
from pgevents.errors import ConfigurationError, PgEventsError
from pgevents.store.processing import Found, read_lanes
from pgevents.subscriptions.definition import Question, Work
from pgevents.subscriptions.holding import NAME_WORKER, holder_name
from pgevents.subscriptions.items import Item, Layer, items_of

__all__ = [
    "Batch",
    "Lane",
    "QuestionChangedError",
    "UNCOUNTED",
    "all_lanes",
    "batch_of",
    "claim",
    "drop_layers",
    "ensure",
    "find",
    "layers_of",
    "move",
    "places_of",
    "question_of",
    "read",
]

UNCOUNTED = 3
"""This many errors of the database at one place do not count. The claim's SQL has the same number."""
WRITTEN_EVERY = 1_000
"""A lane without events gets its place written when it is this many ids behind, or 10 seconds old."""


class QuestionChangedError(PgEventsError):
    """The stored streams or key are others than the program's, or keys are hashed in another way."""


@attrs.frozen
class Lane:
    """A lane that this worker has: the row as it was when it was locked.

    Attributes:
        number: From 0 on.
        lanes: How many there are.
        question: What the place answers.
        position: Every event of the lane up to here is dealt with.
        layers: Earlier divisions, as long as the lane has not passed their places.
        generation: Raised by whoever takes the lane away.
        is_hashed_otherwise: Whether the server hashes keys in another way than the one that dealt out the
            lanes.
        careful: How many events are still given one by one.
        announced: The event that was about to be handled, or tried again if it is not above the place; 0 for
            none yet; None unless workers died here.
        attempts: Failures of the event `failed_id`.
        failed_id: An event above the place whose handler failed.
        interruptions: Errors of the database at this place.
        was_cut_off: Whether the transaction that had the lane last was aborted: its worker may have died.
        is_stale: Whether the place was not written for 10 seconds.
        has_careful: Whether any lane of the subscription gives its events one by one.
    """

    number: int
    lanes: int
    question: Question
    position: int
    layers: tuple[Layer, ...]
    generation: int
    is_hashed_otherwise: bool
    careful: int
    announced: int | None
    attempts: int
    failed_id: int | None
    interruptions: int
    was_cut_off: bool
    is_stale: bool
    has_careful: bool = False

    @property
    def is_careful(self) -> bool:
        """Whether its events are given one by one."""
        return self.careful > 0 or self.interruptions >= UNCOUNTED

    def is_behind(self, to: int) -> bool:
        """Whether its place is to be written as `to` though the lane had no events."""
        return to > self.position and bool(
            self.is_stale or self.layers or to - self.position >= WRITTEN_EVERY
        )


@attrs.frozen
class Batch:
    """The next events of some lanes, in order.

    Attributes:
        items: The events.
        to: With these, everything of the lanes is read up to this id.
        bound: Everything of the streams is final up to this id.
        is_full: Whether there may be more below the bound.
        has_parked: Whether anything of the subscription is parked. (Looked up once the lanes are locked: the
            claim's snapshot may be older than the lanes that it got.)
    """

    items: Sequence[Item]
    to: int
    bound: int
    is_full: bool
    has_parked: bool


def ensure(work: Work) -> None:
    """Make the rows of a subscription that has none, at the start of the log."""
    with work.client.session.atomic():
        # Of two programs that begin with different numbers of lanes, the first one's rows stand.
        work.statements.run("gate", gate=work.gate)
        work.statements.run(
            "ensure",
            name=work.name,
            lanes=work.lanes,
            question=json.dumps(work.question.as_json()),
        )


def claim(
    work: Work, numbers: Sequence[int], limit: int, *, alone: bool = False, careful: bool | None = None
) -> list[Lane]:
    """Lock lanes that nobody else has, in this order; to be called in a transaction.

    Args:
        work: The subscription.
        numbers: The lanes.
        limit: At most this many of them.
        alone: Wait until no other worker is in a batch, and keep them out: after a deadlock.
        careful: Only lanes that give their events one by one, or only others; None for any.

    Raises:
        QuestionChangedError: See there.
    """
    statements = work.statements
    # What is claimed stays claimed however long a handler thinks.
    before = "SELECT set_config('idle_in_transaction_session_timeout', '0', true);\n" + NAME_WORKER
    holder = holder_name()
    if alone:
        (former_timeout,) = work.client.session.execute("SELECT current_setting('lock_timeout')").fetchone()
        statements.run(
            "gate",
            before=f"{before}SELECT set_config('lock_timeout', '5s', true);\n",
            gate=work.gate,
            holder=holder,
        )
        work.client.session.execute("SELECT set_config('lock_timeout', %s, true)", [former_timeout])
    rows = statements.rows(
        "claim",
        before=before,
        gate=work.gate,
        name=work.name,
        lanes=list(numbers),
        limit=limit,
        holder=holder,
        careful=careful,
    )
    lanes = [_lane(row) for row in rows]
    for lane in lanes:
        if lane.question != work.question:
            raise QuestionChangedError(f"subscription {work.name!r} asks for other events than its place")
        if lane.is_hashed_otherwise:
            raise QuestionChangedError(f"this server hashes the keys of {work.name!r} in another way")
    return lanes


def all_lanes(work: Work) -> list[int]:
    """The numbers of the lanes that are stored."""
    return [row[0] for row in work.statements.rows("rows", name=work.name)]


def _lane(row: Sequence[Any]) -> Lane:
    number, lanes, question, position, layers, *rest, was_cut_off, is_stale, has_careful = row
    make: Any = Lane
    lane: Lane = make(
        *(number, lanes, question_of(question), position, layers_of(layers)),
        *(*rest, bool(was_cut_off), is_stale, has_careful),
    )
    return lane


@remembered("questions of subscriptions")
def question_of(text: str) -> Question:
    """A stored question."""
    return Question.from_json(json.loads(text))


@remembered("layers of lanes")
def layers_of(text: str) -> tuple[Layer, ...]:
    """Stored divisions."""
    return tuple((count, tuple(places)) for count, places in json.loads(text))


def read(work: Work, lanes: Sequence[Lane], limit: int, bound: int | None = None) -> Batch:
    """The next final events of these lanes.

    Args:
        work: The subscription.
        lanes: The lanes.
        limit: At most so many events.
        bound: Read up to this final id only, and do not look what is parked.

    Raises:
        ConfigurationError: A lane stands ahead of the log, or the key is not a field of an event.
    """
    layers = {lane.number: lane.layers for lane in lanes}
    found = find(work, lanes, work.question.key, places_of(lanes), limit, bound)
    return batch_of(found, items_of(work, found.rows, lanes[0].lanes, layers), limit)


def places_of(lanes: Sequence[Lane]) -> list[int | None]:
    """The place of each lane of the subscription; None for those that are not among these."""
    places: list[int | None] = [None] * lanes[0].lanes
    for lane in lanes:
        places[lane.number] = lane.position
    return places


def find(
    work: Work,
    lanes: Sequence[Lane],
    key: Sequence[str],
    places: Sequence[int | None],
    limit: int,
    bound: int | None,
) -> Found:
    """The rows of the next events by this key above these places; arguments else as for `read`."""
    parked_of = work.name if bound is None else ""
    streams = work.question.streams
    found = read_lanes(work.statements, streams, key, places, limit, parked_of=parked_of, bound=bound)
    for lane in lanes:
        if lane.position > found.bound:
            _check_ahead(work, lane)
    return found


def batch_of(found: Found, items: Sequence[Item], limit: int) -> Batch:
    """What was found, as items."""
    is_full = len(found.rows) == limit
    to = int(found.rows[-1][0]) if is_full else found.bound
    return Batch(items, to, found.bound, is_full, found.has_parked)


def _check_ahead(work: Work, lane: Lane) -> None:
    """Check that the log has not been set back behind a lane's place.

    Raises:
        ConfigurationError: It has.
    """
    last = work.statements.value("arrivals")
    if lane.position > last:
        raise ConfigurationError(
            f"subscription {work.name!r} stands at {lane.position} in lane {lane.number}, ahead of the log, "
            f"which ends at {last}: the database was set back, and ids will be assigned again. Reset it to "
            "an id that you are sure of"
        )


def move(work: Work, lanes: Sequence[Lane], to: int, items: Sequence[Item]) -> None:
    """Write the places of those lanes that had these events, and of those that are far behind."""
    handled: dict[int, int] = {}
    for item in items:
        handled[item.lane] = handled.get(item.lane, 0) + 1
    moved = [lane for lane in lanes if lane.is_behind(to) or (lane.number in handled and to > lane.position)]
    if not moved:
        return
    work.statements.run(
        "move",
        name=work.name,
        lanes=[lane.number for lane in moved],
        positions=[to] * len(moved),
        handled=[handled.get(lane.number, 0) for lane in moved],
    )
    for lane in moved:
        drop_layers(work, lane, to)


def drop_layers(work: Work, lane: Lane, to: int) -> None:
    """Forget the earlier divisions of a lane whose place has passed all of theirs."""
    if lane.layers and to >= max(max(places) for _, places in lane.layers):
        work.statements.run("drop_layers", name=work.name, lane=lane.number)
