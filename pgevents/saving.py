"""A save, step by step: events to JSON, hooks, the append function, and what it answered."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import attrs

from pgevents.errors import (
    ConcurrencyError,
    ConfigurationError,
    EventEncodeError,
    IdempotencyError,
    UnsupportedTransactionError,
)
from pgevents.events import Event, NewEvent, is_text
from pgevents.hookspecs import Conflict
from pgevents.ordering import Position, append_sql
from pgevents.reading import EventStream, check_id
from pgevents.serialization import VERSION_KEY, dump_json
from pgevents.streams import Stream, merge_streams

if TYPE_CHECKING:
    from pgevents.client import EventClient

__all__ = ["Latest", "Save", "position_of"]

Latest = Position | EventStream[Any] | Event[Any] | int | None

log = logging.getLogger("pgevents")


def position_of(latest: Latest, streams: Sequence[Stream[Any]] | Stream[Any] | None) -> Position:
    """What a validated save is checked against: a read's own position, or "nothing above this id".

    Raises:
        ConfigurationError: No streams, streams other than those read, or something that is no position.
    """
    given = None if streams is None else merge_streams([streams] if isinstance(streams, Stream) else streams)
    if isinstance(latest, EventStream):
        latest = latest.position
    if isinstance(latest, Position):
        if given is not None and set(given) != set(latest.streams):
            raise ConfigurationError(
                "this position was read from other streams than those given; leave the streams out, "
                "or give the id of an event"
            )
        return latest
    if given is None:
        raise ConfigurationError("an event or an id says nothing of streams; give streams=[stream(...), ...] with it")
    if isinstance(latest, Event):
        latest = latest.id
    base = 0 if latest is None else check_id(latest, "latest_event_id")
    return Position(base, base, 0, given)


@attrs.frozen
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
        client = self.client
        events = [self.new_event(one) for one in given]
        if not events:
            return []
        hooks = client.plugins.implemented
        if "pgevents_before_save" in hooks:
            events = client.plugins.before_save(client, events)
        conditions = None
        if self.positions is not None:
            conditions = json.dumps([position.as_json() for position in self.positions])
        arguments = (self._payload(events), conditions, self.key, self.created_at)
        client.check_installed()
        if "pgevents_after_save" not in hooks:
            is_new, saved = self._append(events, arguments)
        else:
            with client.session.atomic():
                is_new, saved = self._append(events, arguments)
                if is_new:
                    client.plugins.hook.pgevents_after_save(client=client, events=saved)
                client.session.check_alive()
        if is_new and "pgevents_after_commit" in hooks:
            _when_durable(client, saved)
        return saved

    def _check(self, given: object) -> None:
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
            kind = type(cast(Any, given)).__name__
            raise ConfigurationError(f"events are a list, not {kind}; for one event use the singular method")
        key = self.key
        if key is not None and (not isinstance(key, str) or not 0 < len(key) <= 500 or min(key) < " " or not is_text(key)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"an idempotency key is a text of 1 to 500 characters without control characters, not {key!r}"
            )
        when: object = self.created_at
        if when is not None and (not isinstance(when, datetime) or when.tzinfo is None):
            raise ConfigurationError(f"created_at is a datetime with a time zone (datetime.now(timezone.utc)), not {when!r}")
        metadata: object = self.metadata
        if metadata is not None and not isinstance(metadata, Mapping):
            raise EventEncodeError(f"metadata is a JSON object (a dict), not {metadata!r}")

    def new_event(self, given: Any) -> NewEvent:
        """An instance or a dict as an event to be saved; a dict of a registered type becomes an instance."""
        client = self.client
        if isinstance(given, Mapping):
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
        return attrs.evolve(new, metadata={**self.metadata, **new.metadata}) if self.metadata else new

    def _payload(self, events: Sequence[NewEvent]) -> str:
        client = self.client
        rows: list[dict[str, Any]] = []
        for new in events:
            row: dict[str, Any] = {"type": new.type, "data": client.serializer.encode(new.data, new.type)}
            metadata = new.metadata
            if metadata and any(not isinstance(name, str) or name.startswith("$") for name in metadata):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise EventEncodeError(
                    f"{new.type}: metadata is a JSON object, and keys that begin with $ are reserved: {list(metadata)}"
                )
            kind = client.types.find(new.type)
            if kind is not None and kind.version > 1:
                metadata = {**metadata, VERSION_KEY: kind.version}
            if metadata:
                row["metadata"] = metadata
            rows.append(row)
        text = dump_json(rows, ", ".join(dict.fromkeys(new.type for new in events)))
        for row in json.loads(text):  # what cannot be read back would break every read of its stream, for ever
            kind = client.types.find(row["type"])
            if kind is not None:
                client.serializer.check(row["data"], kind.cls, row["type"])
        return text

    def _append(self, events: Sequence[NewEvent], arguments: tuple[Any, ...]) -> tuple[bool, list[Event[Any]]]:
        """Whether anything was written, and the saved events; or the error that the answer means."""
        client = self.client
        sql = append_sql(client.events.pgevents_spec)
        (answer,) = client.session.execute(sql, arguments).fetchone()
        status, ids = answer["status"], answer["ids"]
        if status == "saved":
            created = datetime.fromisoformat(answer["created_at"])
            return True, [
                Event(event_id, new.type, self._data(new, event_id), new.metadata, created, created)
                for event_id, new in zip(ids, events, strict=True)
            ]
        if status == "repeated":
            return False, client.reader.by_ids(ids)
        if status == "reused":
            raise IdempotencyError(
                f"idempotency key {self.key!r} saved other events before (ids {ids}); use a new key for a new save",
                key=str(self.key),
                saved_ids=ids,
            )
        if status == "future":
            raise ConfigurationError(
                f"latest_event_id is above {ids[0]}, the last id issued: it comes from another log, "
                "or the database was set back. Nothing was written"
            )
        raise self._refused(events, ids)

    def _data(self, new: NewEvent, event_id: int) -> Any:
        """The data as the caller gave it; what a hook put in its place is decoded as a read would."""
        kind = self.client.types.find(new.type)
        data: Any = new.data
        if kind is None or not isinstance(data, dict):
            return data
        stored = cast("dict[str, Any]", data)
        return self.client.serializer.decode(stored, kind.cls, event_id=event_id, event_type=new.type)

    def _refused(self, events: Sequence[NewEvent], found: Sequence[int]) -> ConcurrencyError:
        client = self.client
        known = {event_id for position in self.positions or () for event_id in position.ids}
        last = max(position.last_id for position in self.positions or ())
        new = sorted(set(found) - known if known else [event_id for event_id in found if event_id > last] or found)[:100]
        if "pgevents_validation_conflict" in client.plugins.implemented:
            conflict = Conflict(tuple(events), self.expected, tuple(new), self.attempt)
            delays = client.plugins.hook.pgevents_validation_conflict(client=client, conflict=conflict)
            delay = max((value for value in delays if value is not None), default=None)
        else:
            delay = None
        return ConcurrencyError(
            f"the streams hold events that were not read (ids {new[:10]}); nothing was written: read again, decide anew",
            conflicting_ids=new,
            expected=self.expected,
            attempts=self.attempt,
            retry_after=delay,
        )


def _of_dict(given: Mapping[str, Any]) -> NewEvent:
    unknown = set(given) - {"type", "data", "metadata"}
    name, data, metadata = given.get("type"), given.get("data", {}), given.get("metadata", {})
    if unknown or not isinstance(name, str) or not name or len(name) > 200 or min(name) < " ":
        raise EventEncodeError(
            'an event as a dict has the form {"type": "CART_CREATED", "data": {...}, "metadata": {...}}; '
            + (f"{sorted(map(str, unknown))} is not part of it" if unknown else f"its type is {name!r}")
        )
    if not isinstance(data, dict) or not isinstance(metadata, dict):
        raise EventEncodeError(f"{name}: data and metadata are JSON objects (dicts), not {data!r} and {metadata!r}")
    return NewEvent(name, cast("dict[str, Any]", data), cast("dict[str, Any]", metadata))


def _when_durable(client: EventClient, saved: Sequence[Event[Any]]) -> None:
    """Tell `pgevents_after_commit`, now or when the outermost transaction is over.

    Peewee runs its callbacks also after a COMMIT that PostgreSQL turned into a ROLLBACK, and after the rollback of
    a savepoint: so inside a transaction the log itself is asked afterwards whether the events are in it.
    """
    if not client.db.in_transaction():
        _after_commit(client, saved)
        return

    def when_committed() -> None:
        try:
            table = client.events.pgevents_spec.qualified()
            ids = [event.id for event in saved]
            sql = f"SELECT count(*) FROM {table} WHERE id = ANY(%s)"
            if client.session.execute(sql, [ids]).fetchone()[0] == len(ids):
                _after_commit(client, saved)
        except Exception:
            log.exception("whether events are durable could not be asked; pgevents_after_commit was not called")

    try:
        client.db.after_commit(when_committed)
    except ValueError as error:
        raise UnsupportedTransactionError(
            "pgevents_after_commit cannot know the end of a manual_commit() block; use db.atomic()"
        ) from error


def _after_commit(client: EventClient, saved: Sequence[Event[Any]]) -> None:
    """Each plugin by itself: an error of one neither hides the save nor keeps the next from being told."""
    for impl in reversed(client.plugins.hook.pgevents_after_commit.get_hookimpls()):
        arguments = {"client": client, "events": saved}
        try:
            impl.function(*(arguments[name] for name in impl.argnames))
        except Exception:
            log.exception("pgevents_after_commit of %s failed; the events are saved", impl.plugin_name)


