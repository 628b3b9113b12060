"""Read, decide, save: optimistic at first, and locked where optimism would starve."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeVar, cast

import attrs

from pgevents.busy_views import KeptViews, keep_view
from pgevents.caches import Cache
from pgevents.deliveries import current_delivery
from pgevents.errors import (
    ConcurrencyError,
    ConfigurationError,
    RetryableError,
    UnknownEventTypeError,
    shown,
)
from pgevents.events import Event
from pgevents.hooks.calls import HookCalls
from pgevents.hooks.details import OperationRecord
from pgevents.newest import LatestEvent, NewestOfStream
from pgevents.premises import Keepable, Projection, projections_of
from pgevents.save_options import CONDITION, SaveOptions
from pgevents.saving import Saver
from pgevents.store.session import Session
from pgevents.streams import Stream, refuse_for_nothing, refuse_for_reads
from pgevents.timers import Cancel, Later, Timers

__all__ = [
    "Decided",
    "DecideOptions",
    "Decider",
    "Several",
    "decided_wrongly",
    "kind_of",
]

T = TypeVar("T")
Several: TypeAlias = Sequence[T] | Iterator[T] | None
"""What a decider of several events returns: a sequence, or a generator that yields them, or None."""
Decided: TypeAlias = T | Several[T]
"""What a decider returns. Overloads name `Several` first: else mypy takes a list for one event."""


class DecideOptions(TypedDict, total=False):
    """The options of `decide`."""

    retries: int
    metadata: Mapping[str, Any] | None
    idempotency_key: str | None


OPTIMISTIC_TRIES = 2
BUSY_SECONDS = (1.0, 16.0)
"""For how long a client locks at the first try after its optimistic tries were in vain, at least and at
most. It does so for all streams of the same kind: where one cart is busy, so is the next."""
PLUGIN_TRIES = 100
"""How many more tries plugins may ask for once `retries` are used up."""

ASYNC = "async, and nobody would await it: decide calls a plain function"


Kind = tuple[tuple[tuple[str, ...] | None, tuple[str, ...]], ...]
"""The types and the fields of each stream that a decision rests on."""


@attrs.define
class Decider:
    """Decides for one client; see `EventClient.decide`.

    Attributes:
        session: The database.
        saver: Saves what was decided, and finds what a key saved before.
        timers: Schedules and cancels what was decided to be saved later.
        hooks: The client's plugins.
        check_installed: Raises if tables or functions are missing.
        views: Views of streams that were locked, so that the next decision reads only what came since.
        busy: Kinds of streams that are locked at the first try: until when by `time.monotonic()`, and for
            how many seconds that was said.
    """

    session: Session
    saver: Saver
    timers: Timers
    hooks: HookCalls
    check_installed: Callable[[], None]
    views: KeptViews = attrs.field(init=False, factory=KeptViews)
    busy: Cache[Kind, tuple[float, float]] = attrs.field(
        init=False, factory=lambda: Cache("busy kinds of streams")
    )

    def decide(
        self,
        projections: Any,
        decider: Callable[..., Any],
        retries: int = 5,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> list[Event[Any]]:
        """Try until it holds; the last conflict is raised."""
        chosen = self._premises_of(projections)
        _check_decider(decider)
        if type(retries) is not int or retries < 0:
            raise ConfigurationError(f"retries is a whole number, 0 or more, not {shown(retries)}")
        delivery = current_delivery()
        automatic = None if delivery is None else delivery.next_key()
        options = SaveOptions(metadata, automatic if key is None else key, key_names_command=True)
        if key is not None:
            self.check_installed()
            earlier = self.saver.reader.by_key(key)
            if earlier is not None:
                return earlier
        types = ", ".join(dict.fromkeys(cast(Any, projection).projection_type for projection in chosen))
        decision = _Decision(self, chosen, decider, options, key)
        streams = decision.streams
        refuse_for_nothing(streams)
        refuse_for_reads(streams, CONDITION)
        with self.hooks.observed(OperationRecord("decide", projection=types)) as operation:
            saved = self._run(decision, retries, operation)
            operation.events = len(saved)
        return saved

    def _premises_of(self, given: Any) -> Sequence[Projection[Any]]:
        """What a decision rests on, with each `latest(...)` as something that can be read."""
        named = cast("Sequence[Any]", given if isinstance(given, (list, tuple)) else (given,))
        premises = [self._newest(item) if isinstance(item, LatestEvent) else item for item in named]
        projections = projections_of(premises)
        for projection in projections:
            client: Any = getattr(projection, "client", None)
            if client is not None and not self._is_ours(client):
                raise ConfigurationError(
                    f"{shown(projection)} reads another log, or over another database object: make it with "
                    "the client that decides, which locks, reads and saves in one transaction"
                )
        return projections

    def _is_ours(self, client: Any) -> bool:
        table = client.events.pgevents_spec.qualified()
        return client.db is self.session.db and table == self.saver.reader.spec.qualified()

    def _newest(self, latest: Any) -> NewestOfStream[Any]:
        self.saver.encoder.types.require_current(latest.types)
        return NewestOfStream(latest, self.saver.reader)

    def _run(self, decision: _Decision, retries: int, operation: OperationRecord) -> list[Event[Any]]:
        # nothing is tried again: a deadlock has ended the whole transaction
        if self.session.in_transaction():
            return decision.try_locked(1, is_ours=False)
        kind = kind_of(decision.streams)
        until, _ = self.busy.get(kind, (0.0, 0.0))
        optimistic = 0 if until > time.monotonic() else OPTIMISTIC_TRIES
        attempt, last, plugin_tries = 0, retries + 1, 0
        while True:
            attempt += 1
            operation.attempt = attempt
            try:
                if attempt <= optimistic:
                    return decision.try_optimistic(attempt)
                with self.session.atomic():
                    return decision.try_locked(attempt, is_ours=True)
            except RetryableError as error:
                if attempt == optimistic:
                    self._note_busy(kind)
                delay = error.retry_after if isinstance(error, ConcurrencyError) else None
                if attempt >= last:
                    if delay is None:
                        raise
                    if plugin_tries >= PLUGIN_TRIES:
                        raise self._given_up(error, attempt) from error
                    last, plugin_tries = last + 1, plugin_tries + 1
                time.sleep(random.uniform(0, 0.005 * min(attempt, 20)) if delay is None else delay)

    def _note_busy(self, kind: Kind) -> None:
        """Lock at the first try for a while; for twice as long as before, if that was just over."""
        now = time.monotonic()
        until, seconds = self.busy.get(kind, (0.0, 0.0))
        seconds = min(2 * seconds, BUSY_SECONDS[1]) if now < until + seconds else BUSY_SECONDS[0]
        self.busy[kind] = now + seconds, seconds

    def _given_up(self, error: RetryableError, attempts: int) -> ConcurrencyError:
        conflict = cast(ConcurrencyError, error)
        names = self.hooks.plugins_of("pgevents_validation_conflict")
        return ConcurrencyError(
            f"{conflict}; given up after {attempts} tries, of which pgevents_validation_conflict of {names} "
            f"asked for {PLUGIN_TRIES}: does the decider save to the streams that it decides on?",
            conflicting_ids=conflict.conflicting_ids,
            expected=conflict.expected,
            attempts=attempts,
            retry_after=conflict.retry_after,
        )


def kind_of(streams: Sequence[Stream[Any]]) -> Kind:
    """The types and fields of streams, without their values."""
    return tuple([(stream.types, tuple([field for field, _ in stream.match])) for stream in streams])


@attrs.frozen
class _Decision:
    """One call of `decide`."""

    owner: Decider
    projections: Sequence[Projection[Any]]
    decider: Callable[..., Any]
    options: SaveOptions
    key: str | None
    """That of the command, which is recorded also if there is nothing to save."""

    @property
    def streams(self) -> tuple[Stream[Any], ...]:
        return tuple([stream for projection in self.projections for stream in projection.get_streams()])

    def try_optimistic(self, attempt: int) -> list[Event[Any]]:
        """Read without locks: what comes in between is a conflict."""
        for projection in self.projections:
            projection.refresh()
        return self._save(attempt)

    def try_locked(self, attempt: int, *, is_ours: bool) -> list[Event[Any]]:
        """Nothing can come between, for the locks stand until the commit; what is checked all the same is
        that they are still the right ones, should the data indexes be changed meanwhile."""
        self.owner.check_installed()
        first, *others = self.projections
        keeping_key = getattr(first, "keeping_key", None)  # isinstance() would look at the view
        if is_ours and not others and not self.owner.hooks.implemented and keeping_key is not None:
            key = keeping_key()
            if key is not None:
                return self._go_on(cast(Keepable, first), key, attempt)
        first.refresh()
        first.load(lock=self.streams, is_undisturbed=is_ours)
        for projection in others:
            projection.refresh()
            projection.load(is_undisturbed=is_ours)
        return self._save(attempt)

    def _go_on(self, projection: Keepable, key: Hashable, attempt: int) -> list[Event[Any]]:
        """Lock, and go on from the view that this client has kept; keep the view as it was read now.

        The locks make sure that nothing can be saved below what was read. A conflict all the same (the log is
        another one, or an event was removed) leaves nothing kept.
        """
        reader, connection = self.owner.saver.reader, self.owner.session.connection()
        kept = self.owner.views.take(key, connection)
        view = None if kept is None else kept.copy()  # before the lock: others wait for what is done under it
        projection.refresh()
        if kept is None:
            redactions = projection.load(lock=self.streams, is_undisturbed=True).redactions
        else:
            redactions, events = reader.read_since(self.streams, kept.position.last_id)
            if events is None or redactions != kept.redactions:
                kept = None
                projection.load(is_undisturbed=True)
            else:
                projection.go_on_from(view, events, kept.position_with(events))
                kept = None if events else kept
        if kept is None and redactions is not None:  # before the decider has the view, which it may change
            kept = keep_view(projection.view, projection.position, redactions, connection)
        saved = self._save(attempt)
        if kept is not None:
            self.owner.views.put(key, kept)
        return saved

    def _save(self, attempt: int) -> list[Event[Any]]:
        decided = _events_of(self.decider(*[projection.view for projection in self.projections]))
        if not decided:
            return self.owner.saver.settle(self.key)[1]
        positions = [projection.position for projection in self.projections]
        options = attrs.evolve(self.options, positions=positions, expected=positions, attempt=attempt)
        try:
            if any(isinstance(item, (Later, Cancel)) for item in decided):
                saved = self._save_with_timers(decided, options)
            else:
                saved = self.owner.saver.save(decided, options)
        except UnknownEventTypeError as error:
            raise decided_wrongly(decided, error) from error
        for projection in self.projections:
            projection.refresh()
        return saved

    def _save_with_timers(self, decided: Sequence[Any], options: SaveOptions) -> list[Event[Any]]:
        """Save the events, then schedule and cancel timers, in one transaction. Without events the positions
        are checked all the same. Of a command that is repeated all this is done already."""
        timers, saver = self.owner.timers, self.owner.saver
        events = [item for item in decided if not isinstance(item, (Later, Cancel))]
        with self.owner.session.atomic():
            is_new, saved = saver.append(events, options) if events else saver.settle(self.key)
            if not is_new:
                return saved
            if not events:
                saver.validate(options)
            for item in decided:
                if isinstance(item, Later):
                    timers.schedule(item, options.metadata)
                elif isinstance(item, Cancel):
                    timers.unschedule(item.key)
        return saved


def _check_decider(decider: object) -> None:
    if not callable(decider):
        raise ConfigurationError(
            f"a decider is a function from the view (or views) to what is to be saved, not {shown(decider)}"
        )
    if inspect.iscoroutinefunction(decider) or inspect.isasyncgenfunction(decider):
        raise ConfigurationError(f"the decider {shown(decider)} is {ASYNC}")


def _events_of(decided: Any) -> Sequence[Any]:
    """What a decider returned, or yields, as a sequence of events.

    Raises:
        ConfigurationError: A coroutine, a set, or something else that is not an event, several or None.
    """
    if decided is None:
        return ()
    if isinstance(decided, (Awaitable, AsyncIterator)):
        close: Any = getattr(cast(object, decided), "close", None)
        if close is not None:
            close()  # else Python warns that it was never awaited
        raise ConfigurationError(f"the decider is {ASYNC}")
    if isinstance(decided, (set, frozenset)):
        raise ConfigurationError("the decider returned a set, which has no order: return a list")
    if isinstance(decided, (Sequence, Iterator)) and not isinstance(decided, (str, bytes)):
        events = list(cast("Sequence[Any]", decided))
        if any(event is None for event in events):
            raise ConfigurationError(
                "the decider returned a list with None in it: leave out what is not to be saved"
            )
        return events
    return [decided]


def decided_wrongly(decided: Sequence[Any], error: UnknownEventTypeError) -> UnknownEventTypeError:
    """The same error, if it is about something that the decider returned; it says so."""
    events = [item.event if isinstance(item, Later) else item for item in decided]
    for event in events:
        if error.event_type in (event if isinstance(event, type) else type(event), event):
            return UnknownEventTypeError(
                f"the decider returned {shown(event)}, not an event, a list of events, or None: {error}",
                error.event_type,
            )
    return error
