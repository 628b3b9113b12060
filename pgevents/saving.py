"""A save, from the caller's events to saved ones: JSON, hooks, the append function, and what it answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Protocol, cast

import attrs

from pgevents.codec.equality import difference
from pgevents.deliveries import Delivery, current_delivery
from pgevents.encoding import Encoded, EventEncoder
from pgevents.errors import ConcurrencyError, ConfigurationError, IdempotencyError
from pgevents.events import Event, NewEvent, make_event
from pgevents.hooks.calls import HookCalls
from pgevents.hooks.details import Conflict, OperationRecord
from pgevents.hooks.durability import AfterCommit
from pgevents.save_options import PLAIN, SaveOptions, refuse_other_log
from pgevents.store.append import Answer, Appender, EventColumns, Row, Run, ViewBeside
from pgevents.store.ordering import Position
from pgevents.store.read import Reader
from pgevents.store.session import Session
from pgevents.store.transactions import ShortTransaction

__all__ = ["Saver"]

Write = Callable[[str, Any], object]
"""Runs a statement whose result nobody needs, perhaps only with the COMMIT."""
LONG_TAIL = 1_000
"""How many events a validated save counts under its locks, before it counts what is final beforehand."""


def _caused_by(delivery: Delivery, options: SaveOptions) -> SaveOptions:
    """The options of a save in a handler: they name its cause, unless the save itself says otherwise."""
    delivery.saves += 1
    metadata = {**delivery.metadata(), **(options.metadata or {})}
    if options.key_names_command:  # of a decision, which has taken its key when it began
        return attrs.evolve(options, metadata=metadata)
    automatic = delivery.next_key()
    key, is_command = (automatic, True) if options.key is None else (options.key, False)
    return attrs.evolve(options, metadata=metadata, key=key, key_names_command=is_command)


class InlineFolder(Protocol):
    """Folds views in the transaction of a save."""

    def changed(self, rows: Sequence[Row]) -> list[Any]:
        """The views that events will change; asked before they are appended, without the database."""
        ...

    def beside(self, view: Any) -> ViewBeside | None:
        """How the append can lock and read a view; None if it cannot."""
        ...

    def lock(self, views: Sequence[Any], run: Run) -> None:
        """Lock views for an append that does not do it."""
        ...

    def fold(self, views: Sequence[Any], found: str, write: Write) -> None:
        """Fold into each view all that is above its row; `found` is what the append has read of it, if
        anything."""
        ...


@attrs.define
class ChangedViews:
    """The views that a save folds.

    Attributes:
        by_folder: Each folder, and its views.
        beside: What the append locks and reads, if there is but one view.
        found: What it has read.
    """

    by_folder: Sequence[tuple[InlineFolder, Sequence[Any]]] = ()
    beside: ViewBeside | None = None
    found: str = ""

    def fold(self, write: Write) -> None:
        """Fold what was saved into the views."""
        for folder, changed in self.by_folder:
            if changed:
                folder.fold(changed, self.found, write)


@attrs.define
class Saver:
    """Saves events to one events table: every save of a client goes through `save`.

    Attributes:
        session: The database.
        appender: Calls the append function.
        reader: Reads what an idempotency key saved before.
        encoder: Encodes events.
        hooks: The client's plugins.
        after_commit: Reports saves that are durable.
        check_installed: Raises if tables or functions are missing.
        inline: What folds views in the transaction of a save.
    """

    session: Session
    appender: Appender
    reader: Reader
    encoder: EventEncoder
    hooks: HookCalls
    after_commit: AfterCommit
    check_installed: Callable[[], None]
    inline: tuple[InlineFolder, ...] = ()

    def save(self, given: Sequence[Any], options: SaveOptions = PLAIN) -> list[Event[Any]]:
        """Save events, all or none; see `EventClient.save_events`."""
        return self.append(given, options)[1]

    def append(self, given: Sequence[Any], options: SaveOptions = PLAIN) -> tuple[bool, list[Event[Any]]]:
        """Save events, all or none; whether anything was written, and the saved events."""
        if not isinstance(given, list):
            _check_sequence(given)
        if not given:
            return False, []
        delivery = current_delivery()
        if delivery is not None:
            options = _caused_by(delivery, options)
        if self.hooks.implemented:
            events = [self.encoder.new_event(event, options.metadata) for event in given]
            return self._save_with_hooks(events, options)
        self.check_installed()
        return self._append(self.encoder.encode(given, options.metadata), options)

    def settle(self, key: str | None) -> tuple[bool, list[Event[Any]]]:
        """Record that a decision has nothing to save under its idempotency key, if it has one.

        Returns:
            Whether this is its first result; and else what was saved under the key before.
        """
        self.check_installed()
        ids = None if key is None else self.appender.settle(key)
        return ids is None, self.reader.by_ids(ids) if ids else []

    def validate(self, options: SaveOptions) -> None:
        """Check positions as a save does, under locks that stand until the transaction ends; save nothing.

        Raises:
            ConcurrencyError: They do not hold any more.
        """
        if self.hooks.implemented:
            self.hooks.check_nesting()
        self.check_installed()
        nothing = Encoded(EventColumns((), ()), (), (), ())
        self._append(nothing, attrs.evolve(options, key=None))

    # -- with plugins ------------------------------------------------------------

    def _save_with_hooks(self, events: list[NewEvent], options: SaveOptions) -> tuple[bool, list[Event[Any]]]:
        hooks = self.hooks.implemented
        self.hooks.check_nesting()
        self.check_installed()
        has_more_to_write = "pgevents_after_save" in hooks or bool(self.inline)
        is_reported = "pgevents_after_commit" in hooks and not has_more_to_write
        report = self.after_commit.expect() if is_reported else None
        types = tuple(dict.fromkeys(new.type for new in events))
        name = "save" if options.positions is None else "validate"
        with self.hooks.observed(
            OperationRecord(name, options.streams, types, attempt=options.attempt)
        ) as operation:
            if "pgevents_before_save" in hooks:
                events = self._replaced_by_hooks(events)
            encoded = self.encoder.encode(events)
            observed = operation if "pgevents_observe" in hooks else None
            if has_more_to_write:
                return self._append_and_follow(encoded, options, observed)
            is_new, saved = self._append(encoded, options, observed)
        if is_new and report is not None:
            report(saved)
        return is_new, saved

    def _append_and_follow(
        self, encoded: Encoded, options: SaveOptions, operation: OperationRecord | None
    ) -> tuple[bool, list[Event[Any]]]:
        """Append, and let plugins write more in the same transaction."""
        with ShortTransaction(self.session) as transaction:
            changes = self._changed_views(encoded.columns.rows(), transaction.execute)
            is_new, saved = self._append(encoded, options, operation, changes, transaction.execute)
            self._follow(transaction, changes, saved if is_new else None)
        return is_new, saved

    def _follow(
        self, transaction: ShortTransaction, changes: ChangedViews, saved: Sequence[Event[Any]] | None
    ) -> None:
        """After the append, in its transaction: expect the commit, fold the views, and let plugins write."""
        hooks = self.hooks.implemented
        if saved is not None and "pgevents_after_commit" in hooks:
            self.after_commit.expect()(saved)  # before those of what hooks save
        is_followed = "pgevents_after_save" in hooks  # by hooks that may look at the views
        # Also after a repeat, which saves nothing: the views may be behind.
        changes.fold(transaction.execute if is_followed else transaction.finish)
        if saved is not None and is_followed:
            self.hooks.after_save(saved)
        self.session.check_alive()

    def _changed_views(self, rows: Sequence[Row], run: Run) -> ChangedViews:
        """The views that events will change, locked; but one that stands alone is locked and read by the
        append itself."""
        changes = ChangedViews([(folder, folder.changed(rows)) for folder in self.inline])
        views = [(folder, view) for folder, changed in changes.by_folder for view in changed]
        if len(views) == 1:
            folder, view = views[0]
            changes.beside = folder.beside(view)
        if changes.beside is None:
            for folder, changed in changes.by_folder:
                folder.lock(changed, run)
        return changes

    def append_encoded(self, events: EventColumns, keys: Sequence[str]) -> Sequence[int]:
        """Append events that were encoded before, each under an idempotency key of its own, which is new;
        plugins are called as for a save. Their ids."""
        options, hooks = SaveOptions(keys=keys), self.hooks.implemented
        if not hooks:
            return self._answer(events, options, is_timed=False).ids
        types = tuple(dict.fromkeys(events.types))
        with (
            self.hooks.observed(OperationRecord("save", (), types)) as operation,
            ShortTransaction(self.session) as transaction,
        ):
            run = transaction.execute
            changes = self._changed_views(events.rows(), run)
            is_timed = "pgevents_observe" in hooks
            answer = self._answer(events, options, is_timed=is_timed, view=changes.beside, run=run)
            operation.status, operation.lock_wait = answer.status, answer.lock_wait
            operation.events = len(events.types)
            changes.found = answer.view
            is_seen = "pgevents_after_commit" in hooks or "pgevents_after_save" in hooks
            self._follow(transaction, changes, self.reader.by_ids(answer.ids) if is_seen else ())
        return answer.ids

    def encoded(self, given: Any, options: SaveOptions) -> Encoded:
        """An event as a save would store it, to be appended later."""
        self.check_installed()
        if not self.hooks.implemented:
            return self.encoder.encode([given], options.metadata)
        self.hooks.check_nesting()
        events = [self.encoder.new_event(given, options.metadata)]
        if "pgevents_before_save" in self.hooks.implemented:
            events = self._replaced_by_hooks(events)
        return self.encoder.encode(events)

    def _replaced_by_hooks(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        """The events as hooks replace them; an instance that becomes a dict is checked as if it were
        saved."""
        replaced = self.hooks.before_save(list(events))
        for old, new in zip(events, replaced, strict=False):
            self.encoder.check_replaced(old, new)
        return replaced

    # -- appending ------------------------------------------------------------

    def _append(
        self,
        encoded: Encoded,
        options: SaveOptions,
        operation: OperationRecord | None = None,
        changes: ChangedViews | None = None,
        run: Run | None = None,
    ) -> tuple[bool, list[Event[Any]]]:
        """Whether anything was written, and the saved events; or the error that the answer means."""
        count = len(encoded.types)
        times = None if options.created_at is None else options.times_of(count)
        view = None if changes is None else changes.beside
        answer = self._answer(encoded.columns, options, is_timed=operation is not None, view=view, run=run)
        if changes is not None:
            changes.found = answer.view
        if operation is not None:
            operation.status, operation.lock_wait = answer.status, answer.lock_wait
            operation.events = count if answer.status in ("saved", "repeated") else 0
        if answer.created_at is None:
            return False, self._saved_before(answer, encoded, options)
        created_at = repeat(answer.created_at) if times is None else times
        saved = map(make_event, answer.ids, encoded.types, encoded.data, encoded.metadata, created_at)
        return True, list(saved)

    def _answer(
        self,
        events: EventColumns,
        options: SaveOptions,
        *,
        is_timed: bool,
        view: ViewBeside | None = None,
        run: Run | None = None,
    ) -> Answer:
        positions = options.positions
        if positions is not None:
            for position in positions:
                refuse_other_log(position, self.reader.log)
            # Those with much to count have it counted now, without a lock.
            positions = [
                position if position.count <= LONG_TAIL else self._shortened(position)
                for position in positions
            ]
        call = events, positions, options.key, options.created_at, options.keys, is_timed, view, run
        try:
            return self.appender.append(*call)
        except IdempotencyError:  # an import brought this key along, while this save was on its way
            if options.keys is not None or self.session.in_transaction():
                raise
            return self.appender.append(*call)

    def _shortened(self, position: Position) -> Position:
        return self.reader.shortened(position) if position.ids else position

    def _saved_before(self, answer: Answer, encoded: Encoded, options: SaveOptions) -> list[Event[Any]]:
        """What the same idempotency key saved before; or the error that the answer means."""
        if answer.status == "repeated":
            return self.reader.by_ids(answer.ids)
        if answer.status == "reused":
            saved = self.reader.by_ids(answer.ids)
            if options.key_names_command or self._are_same(saved, encoded):
                return saved
            before = f"saved other events before (ids {answer.ids})" if saved else "is of an empty decision"
            raise IdempotencyError(
                f"idempotency key {options.key!r} {before}, and nothing was written now: if this is that "
                "save repeated, what it saved stands; another save has a key of its own",
                key=str(options.key),
                saved_ids=answer.ids,
            )
        if answer.status == "future":
            raise ConfigurationError(
                f"latest_event_id is above {answer.ids[0]}, the last id issued: it comes from another log, "
                "or the database was set back. Nothing was written"
            )
        raise self._refused(encoded, answer.ids, options)

    def _are_same(self, saved: Sequence[Event[Any]], encoded: Encoded) -> bool:
        """Whether a read gives what a repeated save would store. As text they may differ: a set has no order,
        and a newer version of the program writes another shape."""
        if len(saved) != len(encoded.types):
            return False
        current_name = self.encoder.types.current_name
        return all(
            current_name(old.type) == current_name(event_type) and difference(old.data, data) is None
            for old, event_type, data in zip(saved, encoded.types, encoded.data, strict=True)
        )

    def _refused(self, encoded: Encoded, found: Sequence[int], options: SaveOptions) -> ConcurrencyError:
        positions = options.positions or ()
        read = {event_id for position in positions for event_id in position.ids}
        last = max(position.last_id for position in positions)
        new = sorted(
            set(found) - read if read else [event_id for event_id in found if event_id > last] or found
        )[:100]
        delay = None
        if "pgevents_validation_conflict" in self.hooks.implemented:
            conflict = Conflict(
                tuple(map(NewEvent, encoded.types, encoded.data, encoded.metadata)),
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
