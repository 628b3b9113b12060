"""The options of a save, and what a validated save rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, cast

import attrs

from pgevents.errors import (
    ConfigurationError,
    ConnectionLostError,
    DatabaseUnavailableError,
    EventEncodeError,
    InvalidValueError,
    shown,
)
from pgevents.events import Event
from pgevents.merging import merge_streams
from pgevents.store.append import Times
from pgevents.store.options import check_id
from pgevents.store.ordering import Position
from pgevents.store.provenance import Log
from pgevents.store.results import EventStream
from pgevents.streams import Stream, refuse_for_nothing, refuse_for_reads
from pgevents.texts import is_text

__all__ = [
    "CONDITION",
    "EARLIEST",
    "LATEST",
    "Latest",
    "PLAIN",
    "SaveOptions",
    "check_key",
    "plain_options",
    "position_of",
    "refuse_other_log",
]

Latest = Position | EventStream[Any] | Event[Any] | int | None
Streams = Sequence[Stream[Any]] | Stream[Any] | None

CONDITION = (
    "a save locks what it rests on, and checks it, by single values of identifiers; who saves an event could "
    "not tell whose range it falls into"
)
"""Why a comparison is no condition of a save."""

EARLIEST, LATEST = datetime(1, 1, 3, tzinfo=timezone.utc), datetime(9999, 12, 29, tzinfo=timezone.utc)
"""Between what times `created_at` may lie."""


def position_of(latest: Latest, streams: Streams) -> Position:
    """What a validated save is checked against: a read's own position, or "nothing above this id".

    Raises:
        ConfigurationError: No streams, streams other than those read, or something that is no position.
    """
    given = None if streams is None else merge_streams([streams] if isinstance(streams, Stream) else streams)
    if given is not None:
        refuse_for_nothing(given)
        refuse_for_reads(given, CONDITION)
    # EventStream is an abstract class, of which isinstance() takes long where it is false.
    is_plain = latest is None or isinstance(latest, (int, Event))
    if not is_plain and isinstance(latest, EventStream):
        latest = latest.position
    if not is_plain and isinstance(latest, Position):
        refuse_for_nothing(latest.streams)
        refuse_for_reads(latest.streams, CONDITION)
        if given is not None and set(given) != set(latest.streams):
            raise ConfigurationError(
                "this position was read from other streams than those given; leave the streams out, "
                "or give the id of an event"
            )
        if latest.is_cut:
            raise ConfigurationError(
                "this read was cut off by its limit, so it does not know what stands after it, and a save "
                "validated against it would never be accepted: read without a limit, or the newest first "
                "(reverse=True)"
            )
        return latest
    if given is None:
        raise ConfigurationError(
            "an event or an id says nothing of streams; give streams=[stream(...), ...] with it"
        )
    if isinstance(latest, Event):
        latest = latest.id
    base = 0 if latest is None else check_id(latest, "latest_event_id")
    return Position(base, base, 0, given)


def refuse_other_log(position: Position, log: Log | None) -> None:
    """Refuse a position that was read from another log than the one that is saved into.

    Raises:
        ConfigurationError: It was, and the ids of the two have nothing to do with each other; or the server
            that it was read from does not answer, so that nobody knows.
    """
    if position.log is None or log is None:
        return
    try:
        if position.log.is_same(log):
            return
    except (ConnectionLostError, DatabaseUnavailableError) as error:
        log.identity()  # this client's own server may be the one that does not answer: then it says so
        raise ConfigurationError(
            "this position was read over another connection, whose server does not answer, so it is not "
            f"known whether it belongs to {log.name} of this database: read with the client that saves"
        ) from error
    where = "the events table of another database" if position.log.name == log.name else position.log.name
    raise ConfigurationError(
        f"this position was read from {where}, and this client saves into {log.name}: "
        "read with the client that saves"
    )


def check_key(key: Any) -> str:
    """An idempotency key.

    Raises:
        InvalidValueError: Anything else.
    """
    is_key = isinstance(key, str) and 0 < len(key) <= 500 and min(key) >= " " and is_text(key)
    if not is_key:
        raise InvalidValueError(
            f"an idempotency key is a text of 1 to 500 characters without control characters, not "
            f"{shown(key)}"
        )
    return str.__str__(key)  # of an Enum that is a str, the text


def _check_created_at(given: Any) -> None:
    times = cast("list[Any]", given if isinstance(given, (list, tuple)) else [given])
    for when in times:
        if not isinstance(when, datetime) or when.tzinfo is None:
            raise InvalidValueError(
                f"created_at is a datetime with a time zone (datetime.now(timezone.utc)), or a list with one "
                f"for each event, not {shown(when)}"
            )
        if not EARLIEST < when < LATEST:  # in another time zone it could not be read
            raise InvalidValueError(
                f"created_at lies between {EARLIEST.date()} and {LATEST.date()}, not at {shown(when)}"
            )


@attrs.frozen
class SaveOptions:
    """The options of a save.

    Attributes:
        metadata: For each of the events.
        key: The idempotency key.
        created_at: When the events happened, all of them or each of them, if not now.
        keys: Instead of `key` the stored key of each event that comes from another log; it must be new.
        positions: What was read, for a validated save; None for a plain one.
        expected: What the caller gave for it.
        attempt: 1, or more inside a `decide`.
        key_names_command: Whether a used key gives what it saved, whatever the events are now: a command that
            is decided again may be decided in another way.
    """

    metadata: Mapping[str, Any] | None = None
    key: str | None = None
    created_at: Times = None
    positions: Sequence[Position] | None = None
    expected: Any = None
    attempt: int = 1
    key_names_command: bool = False
    keys: Sequence[str | None] | None = None

    def __attrs_post_init__(self) -> None:
        if self.metadata is not None and not isinstance(self.metadata, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EventEncodeError(f"metadata is a JSON object (a dict), not {shown(self.metadata)}")
        if self.key is not None:
            check_key(self.key)
        if self.created_at is not None:
            _check_created_at(self.created_at)

    def times_of(self, count: int) -> list[datetime] | None:
        """When each of so many events happened; None if there is one time for all of them.

        Raises:
            InvalidValueError: There are more or fewer times than events.
        """
        if self.created_at is None or isinstance(self.created_at, datetime):
            return None
        if len(self.created_at) != count:
            raise InvalidValueError(
                f"created_at has {len(self.created_at)} times for {count} events: give one for each, or one "
                "datetime for all"
            )
        return [when.astimezone(timezone.utc) for when in self.created_at]

    @property
    def streams(self) -> tuple[Stream[Any], ...]:
        """What the decision rests on."""
        return tuple([stream for position in self.positions or () for stream in position.streams])


PLAIN = SaveOptions()
"""The options of a save without any."""


def plain_options(metadata: Mapping[str, Any] | None, key: str | None, created_at: Times) -> SaveOptions:
    """The options of a save that rests on nothing."""
    if metadata is None and key is None and created_at is None:
        return PLAIN
    return SaveOptions(metadata, key, created_at)
