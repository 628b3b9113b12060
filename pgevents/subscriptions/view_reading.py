"""Reading for views: the next events of some lanes, with the ids of the views that they change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import attrs

from pgevents.codec.decoding import FIELD_END, rows_of
from pgevents.errors import EventDecodeError
from pgevents.events import Event
from pgevents.fields import path_of
from pgevents.store.processing import declare_by_key
from pgevents.subscriptions import lanes
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.items import Item, decoded, event_and_error, first_part, is_dropped
from pgevents.subscriptions.lanes import Batch, Lane
from pgevents.subscriptions.whose import Rule

__all__ = ["Run", "begin_runs", "dealt", "decode", "hashes_of", "having_ids", "read", "runs_of"]


def read(rule: Rule, work: Work, claimed: Sequence[Lane], limit: int, bound: int | None = None) -> Batch:
    """The next events of some lanes, each with the id of the view that it changes, once for each such
    view.

    Args:
        rule: Whose views they change.
        work: The kept view.
        claimed: The lanes.
        limit: At most so many events.
        bound: Read up to this final id only, and do not look what is parked.
    """
    if rule.field is not None:
        # Earlier divisions into lanes do not matter: what a row holds already is left out by its own place.
        batch = lanes.read(work, [attrs.evolve(lane, layers=()) for lane in claimed], limit, bound)
        return attrs.evolve(batch, items=having_ids(rule, batch.items))
    low = min(lane.position for lane in claimed)
    found = lanes.find(work, claimed, (), [low], limit, bound)
    return lanes.batch_of(found, dealt(rule, work, claimed, found.rows), limit)


@attrs.define(eq=False)
class Run:
    """Events of one view that follow each other.

    Attributes:
        key: The text of the view's id; None or '' if the events have none.
        hash: Its hash.
        lane: The number of its lane.
        texts: The events as they are stored, each as one text.
        events: The same, decoded, without those that an upcaster drops; None if one of them cannot be.
    """

    key: str | None
    hash: int
    lane: int
    texts: list[str]
    events: Sequence[Event[Any]] | None = None

    def item(self, event_id: int = 0) -> Item:
        """One of the events, without its data."""
        return Item(event_id, None, None, self.key or "", self.hash, self.lane)

    def ids(self) -> list[int]:
        """The events' ids."""
        return [int(text.partition(FIELD_END)[0]) for text in self.texts]

    def first_id(self) -> int:
        """The id of the first of them."""
        return int(self.texts[0].partition(FIELD_END)[0])

    def rows(self) -> list[Any]:
        """The events as rows, for `items_of`."""
        return [
            (int(id_), name, data, metadata or None, created, changed or None, self.key, self.hash)
            for id_, name, data, metadata, created, changed in rows_of(FIELD_END.join(self.texts))
        ]


def begin_runs(work: Work, claimed: Sequence[Lane], to: int) -> None:
    """Begin to read the events of some lanes up to a final id, those of each view together.

    Args:
        work: The kept view, whose streams have one field that is the id.
        claimed: The lanes.
        to: The last id.
    """
    places = lanes.places_of(claimed)
    declare_by_key(work.statements, work.question.streams, work.question.key, places, to)


def runs_of(rows: Sequence[Any], count: int) -> list[Run]:
    """Rows of `NEXT_BY_KEY`, those of each view together; `count` is how many lanes there are."""
    found: list[Run] = []
    texts: list[str] = []
    last: object = found
    for key, hashed, text in rows:
        if key != last:
            texts = []
            found.append(Run(key, hashed, hashed % count, texts))
            last = key
        texts.append(text)
    return found


def decode(work: Work, found: Sequence[Run]) -> None:
    """Decode all events at once, for plugins; or each run alone if an event cannot be decoded."""
    decoder = work.client.decoder
    try:
        events = decoder.events(rows_of(FIELD_END.join([text for run in found for text in run.texts])))
    except EventDecodeError:
        if len(found) > 1:
            for run in found:
                decode(work, [run])
        return
    start = 0
    for run in found:
        end = start + len(run.texts)
        run.events = events[start:end]
        start = end
        if decoder.has_parts:
            run.events = [event for event in run.events if not is_dropped(event)]


def dealt(rule: Rule, work: Work, claimed: Sequence[Lane], rows: Sequence[Any]) -> list[Item]:
    """Events of these lanes, once for each view that an event changes; the program says which these are."""
    count, by_number = claimed[0].lanes, {lane.number: lane for lane in claimed}
    of_row: list[tuple[Any, Event[Any] | None, Exception | None, list[str]]] = []
    for row, event_or_error in zip(rows, decoded(work, rows), strict=True):
        event, error = event_and_error(event_or_error)
        if is_dropped(event):
            continue
        of_row.append((row, event, error, rule.ids(row, event, error)))
    hashes = hashes_of(work, {text for *_, ids in of_row for text in ids})
    items: list[Item] = []
    for row, event, error, ids in of_row:
        event_id = int(row[0])
        for text in ids:
            mine, hashed = by_number.get(hashes[text] % count), hashes[text]
            if mine is not None and event_id > mine.position:
                items.append(Item(event_id, event, error, text, hashed, mine.number))
    return items


def having_ids(rule: Rule, items: Sequence[Item]) -> list[Item]:
    """Of the items those that change a view: no value of the field, no view."""
    return [item for item in items if item.key or item.error or _is_there(item, rule.field or "")]


def _is_there(item: Item, field: str) -> bool:
    """Whether an event without a key text has the field at all: then its text is empty."""
    if item.event is None:
        return False
    column, keys = path_of(field)
    value: Any = getattr(first_part(item.event), column)
    for key in keys:
        value = cast(Any, value).get(key) if isinstance(value, dict) else getattr(value, key, None)
    return value is not None


def hashes_of(work: Work, texts: Iterable[str]) -> dict[str, int]:
    """The hashes of ids, by which their lane is known."""
    wanted = sorted(set(texts))
    return dict(work.statements.rows("hashes", texts=wanted)) if wanted else {}
