"""A save, step by step: events to JSON, hooks, the append function, and what it answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs

from pgevents.codec.serialization import VERSION_KEY, Written, dump_and_load, load_json
from pgevents.errors import (
    ConcurrencyError,
    ConfigurationError,
    EventEncodeError,
    IdempotencyError,
)
from pgevents.events import Event, EventType, NewEvent, StoredEvent, is_text, make_event, make_events
from pgevents.hooks.details import Conflict, Operation
from pgevents.hooks.durability import refuse_unseen_end, when_durable
from pgevents.store.append import NO_FIELDS, Answer, Condition, Row, answer_of, saved_of
from pgevents.store.ordering import Position
from pgevents.store.read import EventStream, check_id
from pgevents.streams import Stream, merge_streams

if TYPE_CHECKING:
    from pgevents.client import EventClient

LONG_TAIL = 1_000
"""How many events a validated save counts under its locks, before it counts what is final beforehand."""

EARLIEST, LATEST = datetime(1, 1, 3, tzinfo=timezone.utc), datetime(9999, 12, 29, tzinfo=timezone.utc)
"""Between what times `created_at` may lie."""

__all__ = ["KnownClasses", "Latest", "Save", "known_names", "position_of", "save_one"]

T = TypeVar("T")
Latest = Position | EventStream[Any] | Event[Any] | int | None
Streams = Sequence[Stream[Any]] | Stream[Any] | None


def position_of(latest: Latest, streams: Streams) -> Position:
    """What a validated save is checked against: a read's own position, or "nothing above this id".

    Raises:
        ConfigurationError: No streams, streams other than those read, or something that is no position.
    """
    if streams is not None and not isinstance(streams, Stream) and not streams:
        raise ConfigurationError(
            "streams=[] would validate nothing; name the streams, or save without validation"
        )
    given = None if streams is None else merge_streams([streams] if isinstance(streams, Stream) else streams)
    if type(latest) is not int and isinstance(latest, EventStream):
        latest = latest.position
    if isinstance(latest, Position):
        if given is not None and set(given) != set(latest.streams):
            raise ConfigurationError(
                "this position was read from other streams than those given; leave the streams out, "
                "or give the id of an event"
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


def save_one(client: EventClient, event: T, expected: tuple[Latest, Streams] | None = None) -> Event[T]:
    """Save one event of which nothing more is said; most saves are of this kind, so it takes as few steps as
    it can.

    Args:
        client: Who saves.
        event: The event.
        expected: For a validated save, what the caller has read, and the streams.
    """
    known = client.known
    way = known.ways.get(event.__class__) if known.revision == client.types.revision else None
    condition = () if expected is None else _simple_condition(client, *expected)
    if way is None or condition is None:
        done = _save_of_one(client, expected).run([event])[0]
        known.learn(client, event)
        return done
    name, write = way
    text, fields = write(event) or (client.serializer.dump(event, event.__class__, name)[0], NO_FIELDS)
    answered: str = client.session.value(*client.appender.call_for_one(name, text, condition, fields=fields))
    saved = saved_of(answered)
    if saved is None:
        raise _save_of_one(client, expected).error_of(answer_of(answered), [NewEvent(name, event)])
    event_id, at = saved
    return make_event(event_id, name, event, {}, at)


@attrs.define
class KnownClasses:
    """The classes whose events are saved as they stand: saved before, of version 1, and no plugin listens.

    A client takes a new one whenever something changes that it was made under.

    Attributes:
        revision: Of the types.
        ways: By class the name of its type, and what writes an event, if it can.
    """

    revision: int
    ways: dict[type[Any], tuple[str, Callable[[Any], Written | None]]] = attrs.field(
        factory=dict[type[Any], Any]
    )

    def learn(self, client: EventClient, event: object) -> None:
        """Take up the class of an event that was just saved."""
        if self.revision != client.types.revision:
            client.forget_classes()
            return
        names = None if client.plugins.implemented else known_names(client, (event,))
        if names is not None:
            self.ways[event.__class__] = (names[0], client.serializer.write[event.__class__])


def known_names(client: EventClient, given: Sequence[object]) -> list[str] | None:
    """The names of these events' types, if all of them are encoded as they stand; None if one takes more.

    What takes more: a class of which nothing was saved before, a dict, a version that is stored with the
        event.
    """
    names: dict[type[Any], str] = {}
    for cls in {one.__class__ for one in given}:
        kind = client.types.known(cls)
        if kind is None or kind.version > 1:
            return None
        names[cls] = kind.name
    return [names[one.__class__] for one in given]


def _save_of_one(client: EventClient, expected: tuple[Latest, Streams] | None) -> Save:
    return (
        Save(client)
        if expected is None
        else Save(client, positions=[position_of(*expected)], expected=expected[0])
    )


def _simple_condition(client: EventClient, latest: Latest, streams: Streams) -> Condition | None:
    """What must hold, for the function for one event; None if that takes a closer look."""
    if isinstance(streams, list) and (latest is None or (type(latest) is int and 0 <= latest < 2**63)):
        return client.appender.above(latest or 0, 0, streams)
    position = latest.position if isinstance(latest, EventStream) else latest
    if streams is None and isinstance(position, Position) and position.count <= LONG_TAIL:
        return client.appender.condition_of([position])
    return None


@attrs.define
class Save:
    """One save of one client.

    Attributes:
        client: Who saves.
        metadata: For each of the events.
        key: The idempotency key.
        created_at: When the events happened, if not now.
        positions: What was read, for a validated save; None for a plain one.
        expected: What the caller gave for it.
        attempt: 1, or more inside a `decide`.
    """

    client: EventClient
    metadata: Mapping[str, Any] | None = None
    key: str | None = None
    created_at: datetime | None = None
    positions: Sequence[Position] | None = None
    expected: Any = None
    attempt: int = 1

    def run(self, given: Sequence[Any]) -> list[Event[Any]]:
        """Save the events, or raise; see `EventClient.save_events`."""
        self._check(given)
        given, client = tuple(given), self.client  # what the caller does to a list meanwhile is of no account
        names = None if client.plugins.implemented or self.metadata else known_names(client, given)
        if names is not None:
            return self._append_known(names, given) if names else []
        events = [self.new_event(one) for one in given]
        if not events:
            return []
        if client.plugins.implemented:
            return self._run_with_hooks(events)
        client.check_installed()
        return self._append(events, self._encode(events)[0])[1]

    def _append_known(self, names: Sequence[str], given: Sequence[Any]) -> list[Event[Any]]:
        """Append instances that are encoded as they stand."""
        client = self.client
        client.check_installed()
        lines = client.serializer.dump_batch(names, given)
        if len(given) == 1:
            answer = client.appender.append(
                [(names[0], lines, "{}")], self._shortened(), self.key, self.created_at
            )
        else:
            answer = client.appender.append_lines(
                names, lines, None, self._shortened(), self.key, self.created_at
            )
        at = answer.created_at
        if at is None:
            return self._saved_before(
                answer, [NewEvent(name, one) for name, one in zip(names, given, strict=True)]
            )
        return make_events(answer.ids, names, given, at)

    def _run_with_hooks(self, events: list[NewEvent]) -> list[Event[Any]]:
        client, plugins = self.client, self.client.plugins
        hooks = plugins.implemented
        for hook in ("pgevents_after_save", "pgevents_after_commit"):
            if hook in hooks:
                refuse_unseen_end(client, hook)
        client.check_installed()
        if "pgevents_observe" not in hooks:
            is_new, saved = self._save_with_hooks(events, hooks, None)
        else:
            with plugins.observed(self._operation(events)) as operation:
                is_new, saved = self._save_with_hooks(events, hooks, operation)
        if is_new and "pgevents_after_commit" in hooks and "pgevents_after_save" not in hooks:
            when_durable(client, saved)
        return saved

    def _save_with_hooks(
        self, events: list[NewEvent], hooks: frozenset[str], operation: Operation | None
    ) -> tuple[bool, list[Event[Any]]]:
        client, plugins = self.client, self.client.plugins
        if "pgevents_before_save" in hooks:
            events = plugins.before_save(events)
        rows, as_read = self._encode(events)
        events = [self._as_read(new, data) for new, data in zip(events, as_read, strict=True)]
        if "pgevents_after_save" not in hooks:
            return self._append(events, rows, operation)
        with client.session.atomic():
            is_new, saved = self._append(events, rows, operation)
            if is_new and "pgevents_after_commit" in hooks:  # before those of what the hook itself saves
                when_durable(client, saved)
            if is_new:
                plugins.hook.pgevents_after_save(client=client, events=saved)
            client.session.check_alive()
        return is_new, saved

    def _operation(self, events: Sequence[NewEvent]) -> Operation:
        types = tuple(dict.fromkeys(new.type for new in events))
        return Operation(
            "save" if self.positions is None else "validate", self._streams(), types, attempt=self.attempt
        )

    def _streams(self) -> tuple[Stream[Any], ...]:
        return tuple(one for position in self.positions or () for one in position.streams)

    def _as_read(self, new: NewEvent, data: Any) -> NewEvent:
        """The data as the caller gave them; what a hook put in their place as a read would give it."""
        is_replaced = isinstance(new.data, dict) and (
            isinstance(data, dict) is False or self.client.decoder.before_decode
        )
        return attrs.evolve(new, data=data) if is_replaced else new

    def _check(self, given: object) -> None:
        if not isinstance(given, list) and (
            isinstance(given, (str, bytes)) or not isinstance(given, Sequence)
        ):
            kind = type(cast(Any, given)).__name__
            raise ConfigurationError(f"events are a list, not {kind}; for one event use the singular method")
        key = self.key
        is_key = isinstance(key, str) and 0 < len(key) <= 500 and min(key) >= " " and is_text(key)
        if key is not None and not is_key:
            raise ConfigurationError(
                f"an idempotency key is a text of 1 to 500 characters without control characters, not {key!r}"
            )
        when = self.created_at
        if when is not None and (not isinstance(when, datetime) or when.tzinfo is None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"created_at is a datetime with a time zone (datetime.now(timezone.utc)), not {when!r}"
            )
        if when is not None and not EARLIEST < when < LATEST:  # in another time zone it could not be read
            raise ConfigurationError(
                f"created_at lies between {EARLIEST.date()} and {LATEST.date()}, not at {when!r}"
            )
        metadata = self.metadata
        if metadata is not None and not isinstance(metadata, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EventEncodeError(f"metadata is a JSON object (a dict), not {metadata!r}")

    def new_event(self, given: Any) -> NewEvent:
        """An instance or a dict as an event to be saved; a dict of a registered type becomes an instance."""
        client = self.client
        known = client.types.known(given.__class__)
        if known is not None:
            new = NewEvent(known.name, given)
        elif isinstance(given, Mapping):
            new = _of_dict(cast("Mapping[str, Any]", given))
            kind = client.types.find(new.type)
            if kind is not None:
                data = client.serializer.encode(new.data, new.type)
                typed = client.serializer.check(data, kind.cls, new.type)
                lost = sorted(set(data) - set(client.serializer.encode(typed, new.type)))
                if lost:
                    raise EventEncodeError(f"{new.type}: {kind.cls.__qualname__} has no field {lost[0]!r}")
                new = attrs.evolve(new, data=typed)
        else:
            new = NewEvent(client.types.of(given).name, given)
        return NewEvent(new.type, new.data, {**self.metadata, **new.metadata}) if self.metadata else new

    def _encode(self, events: Sequence[NewEvent]) -> tuple[list[Row], list[Any]]:
        """The events as they will be stored, and their data as a read will give them."""
        client, rows, loaded = self.client, list[Row](), list[Any]()
        serializer, find, undo = client.serializer, client.types.find, client.decoder.before_decode
        for new in events:
            name, metadata = new.type, new.metadata
            kind = find(name)
            # What cannot be read back would break every read of its stream; plugins may change it before it
            # is read.
            text, data = serializer.dump(
                new.data, None if kind is None or undo is not None else kind.cls, name
            )
            if metadata or (kind is not None and kind.version > 1):
                metadata_text = _metadata_text(new, kind)
            else:
                metadata_text = "{}"
            rows.append((name, text, metadata_text))
            loaded.append(data)
        return rows, loaded if undo is None else self._undone(undo, rows, loaded)

    def _undone(
        self,
        undo: Callable[[list[StoredEvent]], list[StoredEvent]],
        rows: Sequence[Row],
        loaded: Sequence[Any],
    ) -> list[Any]:
        """What plugins make of these events when they are read."""
        stored: list[StoredEvent] = []
        for (name, _, metadata_text), data in zip(rows, loaded, strict=True):
            metadata = load_json(metadata_text)
            stored.append(StoredEvent(0, name, metadata.pop(VERSION_KEY, 1), data, metadata))
        undone: list[Any] = []
        for one in undo(stored):
            kind = self.client.types.find(one.type)
            undone.append(
                one.data if kind is None else self.client.serializer.check(one.data, kind.cls, one.type)
            )
        return undone

    def _append(
        self, events: Sequence[NewEvent], rows: Sequence[Row], operation: Operation | None = None
    ) -> tuple[bool, list[Event[Any]]]:
        """Whether anything was written, and the saved events; or the error that the answer means."""
        is_timed = operation is not None
        answer = self.client.appender.append(
            rows, self._shortened(), self.key, self.created_at, is_timed=is_timed
        )
        at = answer.created_at
        if operation is not None:
            operation.status, operation.lock_wait = answer.status, answer.lock_wait
            operation.events = len(events) if answer.status in ("saved", "repeated") else 0
        if at is None:
            return False, self._saved_before(answer, events)
        found = zip(answer.ids, events, strict=True)
        return True, [make_event(event_id, new.type, new.data, new.metadata, at) for event_id, new in found]

    def _shortened(self) -> Sequence[Position] | None:
        """The positions; those with much to count have it counted now, without a lock, as far as it is
        final."""
        if self.positions is None:
            return None
        shortened = self.client.reader.shortened
        return [shortened(one) if one.count > LONG_TAIL and one.ids else one for one in self.positions]

    def _saved_before(self, answer: Answer, events: Sequence[NewEvent]) -> list[Event[Any]]:
        """What the same idempotency key saved before; or the error that the answer means."""
        if answer.status == "repeated":
            return self.client.reader.by_ids(answer.ids)
        raise self.error_of(answer, events)

    def error_of(self, answer: Answer, events: Sequence[NewEvent]) -> Exception:
        """What it means that the append function has not saved these events."""
        if answer.status == "reused":
            return IdempotencyError(
                f"idempotency key {self.key!r} saved other events before (ids {answer.ids}); "
                "use a new key for a new save",
                key=str(self.key),
                saved_ids=answer.ids,
            )
        if answer.status == "future":
            return ConfigurationError(
                f"latest_event_id is above {answer.ids[0]}, the last id issued: it comes from another log, "
                "or the database was set back. Nothing was written"
            )
        return self._refused(events, answer.ids)

    def _refused(self, events: Sequence[NewEvent], found: Sequence[int]) -> ConcurrencyError:
        client = self.client
        known = {event_id for position in self.positions or () for event_id in position.ids}
        last = max(position.last_id for position in self.positions or ())
        new = sorted(
            set(found) - known if known else [event_id for event_id in found if event_id > last] or found
        )[:100]
        delay = None
        if "pgevents_validation_conflict" in client.plugins.implemented:
            conflict = Conflict(tuple(events), self._streams(), self.expected, last, tuple(new), self.attempt)
            delay = client.plugins.retry_delay(conflict)
        return ConcurrencyError(
            f"the streams hold events that were not read (ids {new[:10]}); nothing was written: read again, "
            "decide anew",
            conflicting_ids=new,
            expected=self.expected,
            attempts=self.attempt,
            retry_after=delay,
        )


def _metadata_text(new: NewEvent, kind: EventType | None) -> str:
    metadata = new.metadata
    if any(not isinstance(name, str) or name.startswith("$") for name in metadata):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EventEncodeError(
            f"{new.type}: metadata is a JSON object, and keys that begin with $ are reserved: "
            f"{list(metadata)}"
        )
    if kind is not None and kind.version > 1:
        metadata = {**metadata, VERSION_KEY: kind.version}
    return dump_and_load(metadata, new.type)[0]


def _of_dict(given: Mapping[str, Any]) -> NewEvent:
    unknown = set(given) - {"type", "data", "metadata"}
    name, data, metadata = given.get("type"), given.get("data", {}), given.get("metadata", {})
    if (
        unknown
        or not isinstance(name, str)
        or not name
        or len(name) > 200
        or min(name) < " "
        or not is_text(name)
    ):
        raise EventEncodeError(
            'an event as a dict has the form {"type": "CART_CREATED", "data": {...}, "metadata": {...}}; '
            + (f"{sorted(map(str, unknown))} is not part of it" if unknown else f"its type is {name!r}")
        )
    if not isinstance(data, dict) or not isinstance(metadata, dict):
        raise EventEncodeError(
            f"{name}: data and metadata are JSON objects (dicts), not {data!r} and {metadata!r}"
        )
    return NewEvent(name, cast("dict[str, Any]", data), cast("dict[str, Any]", metadata))
