"""What a read gives: events in order, and the position that they were read at."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from pgevents.errors import EventDecodeError
from pgevents.events import Event, Parts, UndecodedData, parts_of
from pgevents.merging import merge_streams
from pgevents.store.options import OnUndecodable, ReadOptions
from pgevents.store.ordering import Position
from pgevents.store.provenance import Log
from pgevents.streams import Stream

__all__ = ["EventStream", "decoded_part", "position_after", "position_of_newest", "stream_of_newest"]

D_co = TypeVar("D_co", covariant=True)

logger = logging.getLogger("pgevents")


class EventStream(Sequence[Event[D_co]], Generic[D_co]):
    """The events of a read, in order, and the position to validate a save against.

    It equals another read of the same events, and a list of them.

    Attributes:
        undecodable: What is wrong with each event that could not be read, where the reader goes on
            (`on_undecodable`). The position counts these events, too.
    """

    __slots__ = ("_events", "_position", "undecodable")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        events: Sequence[Event[D_co]],
        position: Position | Callable[[], Position],
        undecodable: Sequence[EventDecodeError] = (),
    ) -> None:
        self._events = events
        self._position = position
        self.undecodable = tuple(undecodable)

    @property
    def position(self) -> Position:
        """Where it was read, to validate a save against; made when it is asked for."""
        position = self._position
        if not isinstance(position, Position):
            self._position = position = position()
        return position

    @overload
    def __getitem__(self, index: int) -> Event[D_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event[D_co]]: ...
    def __getitem__(self, index: int | slice) -> Event[D_co] | Sequence[Event[D_co]]:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event[D_co]]:
        return iter(self._events)

    def __eq__(self, other: object) -> bool:
        given: Any = other
        others = given if given.__class__ is not EventStream else list(given)
        return list(self._events) == others if others.__class__ is list else NotImplemented

    def __reduce__(self) -> Any:
        return EventStream, (self._events, self.position, self.undecodable)

    def __repr__(self) -> str:
        return f"<EventStream of {len(self)} events, last id {self.position.last_id}>"


def position_after(
    after: int,
    events: Sequence[Event[Any]],
    streams: Sequence[Stream[Any]],
    uncommitted: tuple[int, Sequence[int]] | None,
    log: Log | None,
    *,
    is_cut: bool = False,
) -> Position:
    """The position of an ordinary read of these streams after an id, which found these events."""
    ids = array("q", [event.id for event in events])
    last = ids[-1] if ids else after
    return Position(last, after, len(ids), merge_streams(streams), ids, uncommitted, is_cut=is_cut, log=log)


def position_of_newest(
    events: Sequence[Event[Any]],
    streams: Sequence[Stream[Any]],
    log: Log | None,
    *,
    is_full: bool,
    is_cut: bool,
) -> Position:
    """The position of a read of the newest events, which found these, the newest first.

    It says that these are the newest, and nothing of older ones: one that commits late below them does not
    change which they are.

    Args:
        events: What was found, events that were left out among them.
        streams: What was read.
        log: From where.
        is_full: Whether it gave as many as were asked for; if not, these are all.
        is_cut: Whether there are more.
    """
    ids = array("q", [event.id for event in reversed(events)])
    base = ids[0] - 1 if ids and is_full else 0
    last = ids[-1] if ids else 0
    return Position(last, base, len(ids), merge_streams(streams), ids, is_cut=is_cut and not ids, log=log)


def decoded_part(
    events: list[Event[Any]], on_undecodable: OnUndecodable
) -> tuple[list[Event[Any]], list[EventDecodeError]]:
    """The events that a reader sees, and what is wrong with those that could not be read. One that is split
    is still one, and those that are dropped are left out."""
    events = [event for event in events if event.data.__class__ is not Parts or event.data.data]
    faults = [event.data.error for event in events if event.data.__class__ is UndecodedData]
    if on_undecodable != "skip" or not faults:
        return events, faults
    for fault in faults:
        logger.warning("left out: %s", fault)
    return [event for event in events if event.data.__class__ is not UndecodedData], faults


def stream_of_newest(
    events: list[Event[Any]],
    streams: Sequence[Stream[Any]],
    options: ReadOptions,
    log: Log | None,
    *,
    is_cut: bool,
) -> EventStream[Any]:
    """The result of a read of the newest events, the newest first. `is_cut` says whether there are more."""
    shown, faults = decoded_part(events, options.on_undecodable)
    is_full = options.limit is not None and len(shown) >= options.limit
    position = position_of_newest(events, streams, log, is_full=is_full, is_cut=is_cut)
    return EventStream(parts_of(shown, is_reverse=True), position, faults)
