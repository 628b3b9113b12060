"""A save, from the caller's events to saved ones: JSON, hooks, the append function, and what it answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol, TypeVar, cast

import attrs

from pgevents.codec.decoding import Decoder
from pgevents.codec.equality import difference
from pgevents.codec.serialization import VERSION_KEY, Serializer, dump_and_load, load_json
from pgevents.deliveries import Delivery, current_delivery
from pgevents.errors import (
    ConcurrencyError,
    ConfigurationError,
    EventEncodeError,
    IdempotencyError,
    UnknownEventTypeError,
    shown,
)
from pgevents.event_types import EventType
from pgevents.events import Event, NewEvent, StoredEvent, make_event
from pgevents.hooks.calls import HookCalls
from pgevents.hooks.details import Conflict, Operation
from pgevents.hooks.durability import AfterCommit
from pgevents.save_options import PLAIN, SaveOptions, refuse_other_log
from pgevents.store.append import Answer, Appender, Row, ViewBeside
from pgevents.store.read import Reader
from pgevents.store.session import Session
from pgevents.texts import is_text
from pgevents.type_registry import EventTypes

__all__ = ["Saver"]

T = TypeVar("T")

LONG_TAIL = 1_000
"""How many events a validated save counts under its locks, before it counts what is final beforehand."""


def _in_answer(delivery: Delivery, options: SaveOptions) -> SaveOptions:
    """What a handler saves carries its cause; what the save itself says goes before."""
    if options.attempt == 1:
        delivery.saves += 1
    metadata = {**delivery.metadata(), **(options.metadata or {})}
    key = options.key or delivery.key()
    is_command = options.key_names_command or options.key is None
    return attrs.evolve(options, metadata=metadata, key=key, key_names_command=is_command)


Part = tuple[str, Any, dict[str, Any]]
"""Type, data and metadata of an event as a read will give them."""
Encoded = tuple[list[Row], list[Part]]
"""Events as they are stored, and as a read will give them."""


class InlineFolder(Protocol):
    """Folds views in the transaction of a save."""

    def changed(self, rows: Sequence[Row]) -> list[Any]:
        """The views that events will change; asked before they are appended, without the database."""
        ...

    def beside(self, view: Any) -> ViewBeside | None:
        """How the append can lock and read a view; None if it cannot."""
        ...

    def lock(self, views: Sequence[Any]) -> None:
        """Lock views for an append that does not do it."""
        ...

    def fold(self, views: Sequence[Any], found: str) -> None:
        """Fold into each view all that is above its row; `found` is what the append has read of it, if
        anything."""
        ...


@attrs.define
class ChangedViews:
    """The views that a save folds.

    Attributes:
        of: Each folder, and its views.
        beside: What the append locks and reads, if there is but one view.
        found: What it has read.
    """

    of: Sequence[tuple[InlineFolder, Sequence[Any]]] = ()
    beside: ViewBeside | None = None
    found: str = ""

    def fold(self) -> None:
        """Fold what was saved into the views."""
        for folder, changed in self.of:
            if changed:
                folder.fold(changed, self.found)


@attrs.define
class Saver:
    """Saves events to one events table: every save of a client goes through `save`.

    Attributes:
        session: The database.
        appender: Calls the append function.
        reader: Reads what an idempotency key saved before.
        serializer: Makes JSON of events.
        decoder: Knows what plugins change in stored events.
        hooks: The client's plugins.
        after_commit: Reports saves that are durable.
        check_installed: Raises if tables or functions are missing.
        types: The event classes; replaced when plugins bring others.
        inline: What folds views in the transaction of a save.
    """

    session: Session
    appender: Appender
    reader: Reader
    serializer: Serializer
    decoder: Decoder
    hooks: HookCalls
    after_commit: AfterCommit
    check_installed: Callable[[], None]
    types: EventTypes
    inline: tuple[InlineFolder, ...] = ()

    def save(self, given: Sequence[Any], options: SaveOptions = PLAIN) -> list[Event[Any]]:
        """Save events, all or none; see `EventClient.save_events`."""
        if not isinstance(given, list):
            _check_sequence(given)
        if not given:
            return []
        delivery = current_delivery()
        if delivery is not None:
            options = _in_answer(delivery, options)
        if self.hooks.implemented:
            return self._save_with_hooks([self.new_event(one, options.metadata) for one in given], options)
        self.check_installed()
        return self._append(self._encode(given, options.metadata), options)[1]

    # -- with plugins ------------------------------------------------------------

    def _save_with_hooks(self, events: list[NewEvent], options: SaveOptions) -> list[Event[Any]]:
        hooks = self.hooks.implemented
        self.hooks.check_nesting()
        self.check_installed()
        is_followed = "pgevents_after_save" in hooks
        is_long = is_followed or bool(self.inline)
        report = self.after_commit.expect() if "pgevents_after_commit" in hooks and not is_long else None
        types = tuple(dict.fromkeys(new.type for new in events))
        name = "save" if options.positions is None else "validate"
        with self.hooks.observed(
            Operation(name, options.streams, types, attempt=options.attempt)
        ) as operation:
            if "pgevents_before_save" in hooks:
                events = self._replaced_by_hooks(events)
            encoded = self._encode(events)
            observed = operation if "pgevents_observe" in hooks else None
            if is_long:
                return self._append_and_follow(encoded, options, observed)
            is_new, saved = self._append(encoded, options, observed)
        if is_new and report is not None:
            report(saved)
        return saved

    def _append_and_follow(
        self, encoded: Encoded, options: SaveOptions, operation: Operation | None
    ) -> list[Event[Any]]:
        """Append, and let plugins write more in the same transaction."""
        with self.session.atomic():
            is_reported = "pgevents_after_commit" in self.hooks.implemented
            report = self.after_commit.expect() if is_reported else None  # before those of what hooks save
            changes = self._changed_views(encoded[0])
            is_new, saved = self._append(encoded, options, operation, changes)
            if is_new and report is not None:
                report(saved)
            changes.fold()  # also after a repeat: the views may be behind
            if is_new and "pgevents_after_save" in self.hooks.implemented:
                self.hooks.after_save(saved)
            self.session.check_alive()
        return saved

    def _changed_views(self, rows: Sequence[Row]) -> ChangedViews:
        """The views that events will change, locked; but one that stands alone is locked and read by the
        append itself."""
        changes = ChangedViews([(folder, folder.changed(rows)) for folder in self.inline])
        views = [(folder, view) for folder, changed in changes.of for view in changed]
        if len(views) == 1:
            folder, view = views[0]
            changes.beside = folder.beside(view)
        if changes.beside is None:
            for folder, changed in changes.of:
                folder.lock(changed)
        return changes

    def append_encoded(self, rows: Sequence[Row], keys: Sequence[str]) -> Sequence[int]:
        """Append events that were encoded before, each under an idempotency key of its own, which is new;
        plugins are called as for a save. Their ids."""
        options, hooks = SaveOptions(keys=keys), self.hooks.implemented
        if not hooks:
            return self._answer(rows, options, is_timed=False).ids
        types = tuple(dict.fromkeys(row[0] for row in rows))
        with self.hooks.observed(Operation("save", (), types)) as operation, self.session.atomic():
            report = self.after_commit.expect() if "pgevents_after_commit" in hooks else None
            changes = self._changed_views(rows)
            answer = self._answer(rows, options, is_timed="pgevents_observe" in hooks, view=changes.beside)
            operation.status, operation.lock_wait, operation.events = (
                answer.status,
                answer.lock_wait,
                len(rows),
            )
            is_followed = bool(report or "pgevents_after_save" in hooks)
            saved = self.reader.by_ids(answer.ids) if is_followed else []
            if report is not None:
                report(saved)
            changes.found = answer.view
            changes.fold()
            if "pgevents_after_save" in hooks:
                self.hooks.after_save(saved)
            self.session.check_alive()
        return answer.ids

    # -- events to JSON ------------------------------------------------------------

    def encoded(self, given: Any, options: SaveOptions) -> tuple[Row, Part]:
        """An event as a save would store it, and as a read would give it; to be appended later."""
        self.check_installed()
        if not self.hooks.implemented:
            rows, as_read = self._encode([given], options.metadata)
            return rows[0], as_read[0]
        self.hooks.check_nesting()
        events = [self.new_event(given, options.metadata)]
        if "pgevents_before_save" in self.hooks.implemented:
            events = self._replaced_by_hooks(events)
        rows, as_read = self._encode(events)
        return rows[0], as_read[0]

    def new_event(self, given: Any, metadata: Mapping[str, Any] | None = None) -> NewEvent:
        """An instance or a dict as an event to be saved; a dict of a registered type becomes an instance."""
        known = self.types.cached(given.__class__)
        if known is not None:
            return NewEvent(known.name, given, {**metadata} if metadata else {})
        if not isinstance(given, Mapping):
            if isinstance(given, Event):
                raise UnknownEventTypeError(
                    f"this is a saved Event (id {given.id}); to save its data once more, give event.data",
                    type(cast(object, given)),
                )
            return NewEvent(self.types.of(given).name, given, {**metadata} if metadata else {})
        new = _of_dict(cast("Mapping[str, Any]", given))
        kind = self.types.find(new.type)
        if kind is not None:
            new = attrs.evolve(new, data=self.serializer.from_dict(new.data, kind.cls, new.type))
        return attrs.evolve(new, metadata={**metadata, **new.metadata}) if metadata else new

    def _encode(self, given: Sequence[Any], metadata: Mapping[str, Any] | None = None) -> Encoded:
        """What is stored; what could not be read back is refused, for it would break every read of its
        stream."""
        given = list(given)  # a lazy sequence may give others at a second look
        undo = self.decoder.before_decode
        if undo is None and not metadata:
            encoded = self._encode_together(given)
            if encoded is not None:
                return encoded
        rows, as_read, events = list[Row](), list[Part](), list[NewEvent]()
        for one in given:
            new = one if type(one) is NewEvent else self.new_event(one, metadata)
            events.append(new)
            kind = self.types.find(new.type)
            cls = (
                None if kind is None or undo is not None else kind.cls
            )  # plugins may change it before it is read
            text, data = self.serializer.dump(new.data, cls, new.type)
            metadata_text, loaded = _dump_metadata(new, kind)
            rows.append((new.type, text, metadata_text))
            as_read.append((new.type, data, loaded))
        if undo is None:
            return rows, as_read
        undone = self._undone(undo, rows, as_read)
        for new, (name, data, _) in zip(events, undone, strict=True):
            if new.data.__class__ is data.__class__ is not dict:
                self.serializer.require_equal(new.data, data, name)
        return rows, undone

    def _encode_together(self, given: list[Any]) -> Encoded | None:
        """The same of instances of version 1 without metadata, as most events are; None if there are others.

        Batches are large, so nothing is made for each event that can be made for all of them.
        """
        names: dict[type[Any], str] = {}
        for cls in {one.__class__ for one in given}:
            kind = self.types.cached(cls)
            if kind is None or kind.version > 1:
                return None
            names[cls] = kind.name
        types = [names[one.__class__] for one in given]
        texts, data = self.serializer.dump_together(given), given
        if texts is None:
            dump = self.serializer.dump
            dumped = [dump(one, one.__class__, name) for name, one in zip(types, given, strict=True)]
            texts, data = [text for text, _ in dumped], [read for _, read in dumped]
        rows = list(zip(types, texts, repeat("{}", len(types)), strict=True))
        return rows, [(name, read, {}) for name, read in zip(types, data, strict=True)]

    def _replaced_by_hooks(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        """The events as hooks replace them; an instance that becomes a dict is checked as if it were
        saved."""
        replaced = self.hooks.before_save(list(events))
        for old, new in zip(events, replaced, strict=False):
            if isinstance(new.data, dict) and not isinstance(old.data, dict):
                self.serializer.dump(old.data, old.data.__class__, old.type)
        return replaced

    def _undone(
        self,
        undo: Callable[[list[StoredEvent]], list[StoredEvent]],
        rows: Sequence[Row],
        stored: Sequence[Part],
    ) -> list[Part]:
        """What plugins make of these events when they are read."""
        given: list[StoredEvent] = []
        for (name, _, metadata_text), (_, data, metadata) in zip(rows, stored, strict=True):
            version = load_json(metadata_text).get(VERSION_KEY, 1)
            given.append(StoredEvent(0, name, version, data, metadata))
        undone: list[Part] = []
        for event in undo(given):
            kind = self.types.find(event.type)
            data = event.data if kind is None else self.serializer.check(event.data, kind.cls, event.type)
            undone.append((event.type, data, event.metadata))
        return undone

    # -- appending ------------------------------------------------------------

    def _append(
        self,
        encoded: Encoded,
        options: SaveOptions,
        operation: Operation | None = None,
        changes: ChangedViews | None = None,
    ) -> tuple[bool, list[Event[Any]]]:
        """Whether anything was written, and the saved events; or the error that the answer means."""
        rows, as_read = encoded
        times = options.times_of(len(rows))
        view = None if changes is None else changes.beside
        answer = self._answer(rows, options, is_timed=operation is not None, view=view)
        if changes is not None:
            changes.found = answer.view
        if operation is not None:
            operation.status, operation.lock_wait = answer.status, answer.lock_wait
            operation.events = len(rows) if answer.status in ("saved", "repeated") else 0
        at = answer.created_at
        if at is None:
            return False, self._saved_before(answer, as_read, options)
        return True, [
            make_event(event_id, name, data, metadata, when)
            for event_id, (name, data, metadata), when in zip(
                answer.ids, as_read, times or repeat(at), strict=times is not None
            )
        ]

    def _answer(
        self, rows: Sequence[Row], options: SaveOptions, *, is_timed: bool, view: ViewBeside | None = None
    ) -> Answer:
        positions = options.positions
        for one in positions or ():
            if one.log is not self.reader.log:
                refuse_other_log(one, self.reader.log)
        if positions is not None:  # those with much to count have it counted now, without a lock
            shortened = self.reader.shortened
            positions = [shortened(one) if one.count > LONG_TAIL and one.ids else one for one in positions]
        call = rows, positions, options.key, options.created_at, options.keys, is_timed, view
        try:
            return self.appender.append(*call)
        except IdempotencyError:  # an import brought this key along, while this save was on its way
            if options.keys is not None or self.session.in_transaction():
                raise
            return self.appender.append(*call)

    def _saved_before(self, answer: Answer, events: Sequence[Part], options: SaveOptions) -> list[Event[Any]]:
        """What the same idempotency key saved before; or the error that the answer means."""
        if answer.status == "repeated":
            return self.reader.by_ids(answer.ids)
        if answer.status == "reused":
            saved = self.reader.by_ids(answer.ids)
            if options.key_names_command or self._are_same(saved, events):
                return saved
            raise IdempotencyError(
                f"idempotency key {options.key!r} saved other events before (ids {answer.ids}), and "
                f"nothing was "
                "written now: if this is that save repeated, what it saved stands; another save has "
                "a key of its own",
                key=str(options.key),
                saved_ids=answer.ids,
            )
        if answer.status == "future":
            raise ConfigurationError(
                f"latest_event_id is above {answer.ids[0]}, the last id issued: it comes from another log, "
                "or the database was set back. Nothing was written"
            )
        raise self._refused(events, answer.ids, options)

    def _are_same(self, saved: Sequence[Event[Any]], events: Sequence[Part]) -> bool:
        """Whether a read gives what a repeated save would store. As text they may differ: a set has no order,
        and a newer version of the program writes another shape."""
        if len(saved) != len(events):
            return False
        return all(
            self.current_name(old.type) == self.current_name(name) and difference(old.data, data) is None
            for old, (name, data, _) in zip(saved, events, strict=True)
        )

    def current_name(self, name: str) -> str:
        """What a type is called today, whose events may have been saved under an earlier name."""
        kind = self.types.find(name)
        return name if kind is None else kind.name

    def _refused(
        self, events: Sequence[Part], found: Sequence[int], options: SaveOptions
    ) -> ConcurrencyError:
        positions = options.positions or ()
        read = {event_id for position in positions for event_id in position.ids}
        last = max(position.last_id for position in positions)
        new = sorted(
            set(found) - read if read else [event_id for event_id in found if event_id > last] or found
        )[:100]
        delay = None
        if "pgevents_validation_conflict" in self.hooks.implemented:
            conflict = Conflict(
                tuple(NewEvent(*event) for event in events),
                options.streams,
                options.expected,
                last,
                tuple(new),
                options.attempt,
            )
            delay = self.hooks.retry_delay(conflict)
        reason = f"hold events that were not read (ids {new[:10]})" if new else "lack events that were read"
        return ConcurrencyError(
            f"the streams {reason}; nothing was written: read again, decide anew",
            conflicting_ids=new,
            expected=options.expected,
            attempts=options.attempt,
            retry_after=delay,
        )


def _check_sequence(given: object) -> None:
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        kind = type(cast(Any, given)).__name__
        raise ConfigurationError(f"events are a list, not {kind}; for one event use the singular method")


def _dump_metadata(new: NewEvent, kind: EventType | None) -> tuple[str, dict[str, Any]]:
    """Metadata as JSON text, with the version of the data's shape if it is not 1; and as a read gives
    them."""
    metadata = new.metadata
    if not metadata and (kind is None or kind.version == 1):
        return "{}", {}
    if any(not isinstance(name, str) or name.startswith("$") for name in metadata):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EventEncodeError(
            f"{new.type}: metadata is a JSON object, and keys that begin with $ are reserved: "
            f"{list(metadata)}"
        )
    text, as_read = dump_and_load(metadata, f"{new.type}, metadata")
    if kind is not None and kind.version > 1:
        text = dump_and_load({**metadata, VERSION_KEY: kind.version}, new.type)[0]
    return text, as_read


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
            + (f"{sorted(map(str, unknown))} is not part of it" if unknown else f"its type is {shown(name)}")
        )
    if not isinstance(data, dict) or not isinstance(metadata, dict):
        raise EventEncodeError(
            f"{name}: data and metadata are JSON objects (dicts), "
            f"not {shown(cast(object, data))} and {shown(cast(object, metadata))}"
        )
    text = str.__str__(name)  # of an Enum that is a str
    return NewEvent(text, cast("dict[str, Any]", data), cast("dict[str, Any]", metadata))
