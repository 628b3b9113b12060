"""Items: the events of lanes as they are handled, each with its key, or with why it cannot be handled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, cast

import attrs

from pgevents.errors import ConfigurationError, EventDecodeError
from pgevents.events import Event, Parts, parts_of
from pgevents.subscriptions.definition import Work

__all__ = [
    "Item",
    "Layer",
    "decoded",
    "event_and_error",
    "first_part",
    "is_dropped",
    "is_passed",
    "items_of",
    "key_error",
    "unless_split",
]

Layer = tuple[int, tuple[int, ...]]
"""An earlier division: the number of lanes, and the place of each."""


@attrs.define(eq=False)
class Item:
    """An event that is to be handled. Not frozen, because that takes three times as long to make.

    Attributes:
        id: The event's id.
        event: The event; None if it cannot be decoded.
        error: Why not.
        key: The text of its key; '' where there is none.
        hash: The key's hash.
        lane: The number of its lane.
    """

    id: int
    event: Event[Any] | None
    error: Exception | None
    key: str
    hash: int
    lane: int


def items_of(
    work: Work, rows: Sequence[Any], count: int, layers: Mapping[int, tuple[Layer, ...]]
) -> list[Item]:
    """Events to be handled, from rows with their keys and hashes.

    Args:
        work: The subscription.
        rows: An event's six columns, the key's text, and the key's hash.
        count: How many lanes there are.
        layers: Of each lane its earlier divisions; what was handled under them is left out.
    """
    question = work.question
    items: list[Item] = []
    has_layers, is_keyed = any(layers.values()), bool(question.key)
    field = question.key[0] if is_keyed else ""
    # Almost all of the time of a rebuild goes by in loops like this one: it calls nothing for most events.
    for (event_id, _, _, _, _, _, key, hashed), found_event in zip(rows, decoded(work, rows), strict=True):
        number = hashed % count
        if has_layers and is_passed(layers[number], event_id, hashed):
            continue
        event: Event[Any] | None
        error: Exception | None = None
        if isinstance(found_event, Event):
            event = found_event
            if event.data.__class__ is Parts and is_dropped(event):
                continue
            # A key that is there as text has no error, if the class says so, too.
            if is_keyed and (key is None or getattr(event.data, field, None).__class__ is not str):
                error = key_error(work, key, event)
        else:
            event, error = event_and_error(found_event)
        items.append(Item(event_id, event, error, key or "", hashed, number))
    return items


def is_passed(layers: Sequence[Layer], event_id: int, hashed: int) -> bool:
    """Whether an event was handled under an earlier division into lanes."""
    return any(event_id <= places[hashed % count] for count, places in layers)


def is_dropped(event: Event[Any] | None) -> bool:
    """Whether an upcaster makes nothing of an event."""
    return event is not None and event.data.__class__ is Parts and not event.data.data


def first_part(event: Event[Any]) -> Event[Any]:
    """An event, or the first of its parts: all of them have the same identifiers."""
    return parts_of([event])[0]


def decoded(work: Work, rows: Sequence[Any]) -> Sequence[Event[Any] | Exception]:
    """Each event, or why it cannot be handled: that is an error of the one event. For kept views, one that is
    split stays one, with its `Parts`.

    A rebuild goes through here with each event, and Python's garbage collection takes longer the more objects
    there are: so no object is made for an event but the event itself.
    """
    decode = work.client.decoder.events
    checked = unless_split if work.keeper is None else _as_it_is  # a view folds all parts at once
    try:
        return [
            event if event.data.__class__ is not Parts else checked(event)
            for event in decode(map(_event_columns, rows))
        ]
    except EventDecodeError:
        found: list[Event[Any] | Exception] = []
        for row in rows:
            try:
                found.append(checked(decode([_event_columns(row)])[0]))
            except EventDecodeError as error:
                found.append(error)
        return found


_event_columns = itemgetter(0, 1, 2, 3, 4, 5)


def _as_it_is(event: Event[Any]) -> Event[Any]:
    return event


def unless_split(event: Event[Any]) -> Event[Any] | Exception:
    """An event, or why it cannot be handled: one that an upcaster splits is handled, parked and answered
    under one id, and so would do things twice or by halves."""
    if event.data.__class__ is not Parts or not event.data.data:
        return event
    return ConfigurationError(
        f"event {event.id} of type {event.type!r} is split into {len(event.data.data)} by an upcaster, and a "
        "subscription handles what is stored: follow the type without its class, and split it in the handler"
    )


def key_error(work: Work, key: str | None, event: Event[Any] | None) -> Exception | None:
    """Why an event's stored key is not the one that its class has, if so."""
    field = work.question.key[0]
    if event is None or is_dropped(event):
        return None
    data: Any = first_part(event).data
    value: object = cast(Any, data).get(field) if isinstance(data, dict) else getattr(data, field, None)
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return ConfigurationError(
            f"event {event.id}: the key {field!r} is a list or an object, not one value"
        )
    if key is None and value is not None:
        return ConfigurationError(
            f"event {event.id} is stored without the key {field!r}, which an upcaster makes: give the name "
            f"under which it is stored, too: key=({field!r}, 'old_name')"
        )
    return None


def event_and_error(found: Event[Any] | Exception) -> tuple[Event[Any] | None, Exception | None]:
    """An event and an error, of which one is None."""
    return (None, found) if isinstance(found, Exception) else (found, None)
