"""A projection of what the log holds: reads its snapshot and events, saves its snapshot."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

import attrs

from pgevents.client import EventClient
from pgevents.codec.serialization import dump_json, time_of
from pgevents.errors import ConfigurationError, RetryableError, StagedEventsError, shown
from pgevents.events import Event
from pgevents.folding import E, Folding, I, V
from pgevents.ids import id_text
from pgevents.projection_classes import Declaration, check_event_classes
from pgevents.snapshots import SavedProjection, SaveResult, SnapshotKey, Snapshots
from pgevents.store.options import AsOf, ReadOptions, check_as_of
from pgevents.store.ordering import Position
from pgevents.streams import Stream
from pgevents.type_registry import EventTypes
from pgevents.views import is_dict_class

if TYPE_CHECKING:
    from typing_extensions import Self


__all__ = [
    "LogFolding",
]

P = TypeVar("P", bound="LogFolding[Any, Any, Any]")
P_co = TypeVar("P_co", bound="LogFolding[Any, Any, Any]", covariant=True)
USUAL = frozenset(
    "id client as_of _uses_snapshot _loaded _position "
    "_staged _history _saved_part _folded _is_folding".split()
)
"""The attributes of a projection whose class gives it no others."""
FOLDS = 5
"""How often a snapshot is folded anew when the log is changed under maintenance meanwhile."""


@attrs.define
class _Loaded:
    """What one read brought: the snapshot, the events after it, and where that stands in the log."""

    row: tuple[Any, ...] | None
    events: Sequence[Event[Any]]
    position: Position
    redactions: str | None = None
    """How often the log had been changed under maintenance, if it was read under locks."""


class _FromClass(Protocol[P_co]):
    def __call__(self, id: Any, events: Iterable[Any], client: EventClient | None = None) -> P_co: ...


class _FromInstance(Protocol[P_co]):
    def __call__(self, events: Iterable[Any]) -> P_co: ...


class _FromHistory:
    """A projection of given events, without a database.

    Of a class: `CartProjection.from_history("c1", events, client=None)`. Of a projection:
    `CartProjection("c1", client).from_history(events)` takes the events in place of what is saved.

    Args:
        id: The projection's id.
        events: In the order of the log: events in their envelopes, instances of event classes, or dicts.
        client: Its classes and converters are used; without one, all classes made by `@event`.
    """

    @overload
    def __get__(self, instance: None, owner: type[P]) -> _FromClass[P]: ...
    @overload
    def __get__(self, instance: P, owner: type[P]) -> _FromInstance[P]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        def of_class(id: Any, events: Iterable[Any], client: EventClient | None = None) -> Any:
            return owner(id, client).take_history(events)

        return of_class if instance is None else instance.take_history


class LogFolding(Folding[V, E, I]):
    """What the single and the multi stream projection share: a folding of what the database holds."""

    from_history = _FromHistory()

    def __init__(
        self,
        id: I,
        client: EventClient | None = None,
        *,
        as_of: AsOf | None = None,
        load_existing_projection: bool = True,
    ) -> None:
        """Ask about one id; nothing is read before it is needed.

        Args:
            id: The projection's id: str, int, bool, UUID, Enum, or a tuple of these.
            client: The client to read with; classes made by `create_projection_base_class` bring their own.
            as_of: The state after this event id or at this time (with zone), instead of now.
            load_existing_projection: False: fold from the start, even if there is a snapshot.

        Raises:
            ConfigurationError: The class has no `projection_type`, the client is not an `EventClient`, or
                `as_of` is neither id nor time.
        """
        kind = getattr(type(self), "projection_type", None)
        if not isinstance(kind, str) or not kind:
            raise ConfigurationError(
                f'{type(self).__name__} must say under which name it is saved: projection_type = "CART"'
            )
        self.id = id
        self.client = client if client is not None else type(self).client
        if self.client is not None and not isinstance(self.client, EventClient):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _not_a_client(type(self).__name__, id, self.client)
        self.as_of = check_as_of(as_of)
        self._uses_snapshot = load_existing_projection
        self._loaded: _Loaded | None = None
        self._position: Position | None = None
        super().__init__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'id', '')!r})"

    def _forget(self) -> None:
        super()._forget()
        self._loaded = None
        self._position = None

    def get_streams(self) -> Sequence[Stream[Any]]:
        """The streams that the projection is folded from."""
        raise NotImplementedError  # both bases have their own

    # -- what it knows ------------------------------------------------------------

    def _tell_fold(self) -> None:
        client = self.client
        if client is not None and "pgevents_after_fold" in client.plugins.implemented:
            if not self.has_staged_events and self.as_of is None:
                client.plugins.notify("pgevents_after_fold", projection=self, events=self._events())

    @property
    def position(self) -> Position:
        """Where in the log the saved part of the view stands; for a validated save against it."""
        return self.load().position if self._position is None else self._position

    @property
    def saved_projection(self) -> SavedProjection[V] | None:
        """The snapshot that the view starts from, or None."""
        row = None if self._history is not None else self.load().row
        if row is None:
            return None
        declared = self._declared()
        return cast(
            "SavedProjection[V]", self._client().snapshots.decode(row, declared.view_class, declared.id_class)
        )

    def _saved_row(self) -> tuple[Any, ...] | None:
        return self.load().row

    def _saved_events(self) -> Sequence[Event[Any]]:
        return self.load().events

    # -- what it does ------------------------------------------------------------

    def refresh(self) -> Self:
        """Forget what was read; the next look reads again. Staged events stay."""
        self._forget()
        return self

    def load_existing_projection(self) -> SavedProjection[V] | None:
        """Read the snapshot alone: of this version and shape of the view, or None."""
        return self._client().snapshots.note(self.snapshot_key()).saved

    def save_projection(self) -> SaveResult[V]:
        """Save a snapshot: of what is final, so that it is exact for ever. Never waits for writers.

        Returns:
            The status "created", "updated" or "skipped" (an equal or newer one stands), and the row that
            stands.

        Raises:
            StagedEventsError: Staged or hand-fed events, or an `as_of` view: only the saved present is a
                snapshot.
            ConfigurationError: The class neither has reducers nor folds in an `as_json` of its own; or the
                installation is unsound.
            EventEncodeError: Reading the snapshot would give another view.
            RetryableError: The log is being changed under maintenance.
            UnsupportedTransactionError: The transaction is not READ COMMITTED.
        """
        if self._staged or self._history is not None or self.as_of is not None:
            raise StagedEventsError(
                f"{type(self).__name__} {self.id!r} holds events that are not saved, or an as_of view; "
                "save the events, refresh(), and then the projection"
            )
        if self.reducers.is_empty and not self._declared().folds_in_as_json:
            raise ConfigurationError(
                f"{type(self).__name__} folds nothing, so its snapshot would be its initial view for ever: "
                "give it reducers, or an as_json that folds with reduce_events"
            )
        client = self._client()
        client.check_installed()
        for _ in range(FOLDS):
            result = self._save(client)
            if result is not None:
                self._forget()
                return result
        raise RetryableError(
            f"the log was changed under maintenance again and again while {self.projection_type} "
            f"{self.id!r} was folded; no snapshot was saved: try again"
        )

    def _save(self, client: EventClient) -> SaveResult[V] | None:
        """Fold what is final and save it; None if the log was changed under maintenance meanwhile."""
        key = self.snapshot_key()
        noted = client.snapshots.note(key if self._uses_snapshot else attrs.evolve(key, shape=None))
        saved = noted.saved
        after = 0 if saved is None else saved.latest_event_id
        final = client.reader.read_final(self.get_streams(), ReadOptions(after))
        return client.save_snapshot(
            self,
            self.fold_on(noted.row, final, final.position),
            final[-1].id if final else after,
            final,
            None if saved is None else saved.updated_at,
            noted=noted,
            anew=not self._uses_snapshot,
        )

    def fold_on(self, row: tuple[Any, ...] | None, events: Sequence[Event[Any]], position: Position) -> V:
        """The view of a stored snapshot (or None) and these events. What this projection has read
        itself may be more or less, and is left alone."""
        fold = copy.copy(self)
        fold._forget()
        fold._staged = []
        fold._loaded = _Loaded(row, events, position)
        return fold._fold_all()

    def folded_on(self, view: V | None, events: Sequence[Event[Any]], initial: V | None = None) -> V:
        """The view after these events, from one that was folded before them (None: from the start). A reducer
        may change the given view in place. Who folds often gives `fixed_initial_view()` along."""
        if self._declared().folds_in_as_json:
            client, kind = self._client(), self.projection_type
            row = None
            if view is not None:
                text = dump_json(client.serializer.encode(view, kind), kind)
                at = events[0].created_at  # such a snapshot was never saved
                row = (kind, id_text(self.id), text, 0, self.version, at, at)
            return self.fold_on(row, events, Position(0, 0, 0, ()))
        if view is None:
            return self._fold(events, self._initial())
        if not self.reducers.derived:
            return self._fold(events, view)
        return self._fold(events, view, self._initial() if initial is None else initial)

    def delete_projection(self) -> bool:
        """Remove the snapshots of all versions. The events stay.

        Returns:
            Whether there was one.
        """
        return self._client().snapshots.delete(self.projection_type, id_text(self.id))

    # -- how ------------------------------------------------------------

    def _client(self) -> EventClient:
        if self.client is None:
            raise ConfigurationError(
                f"{type(self).__name__}({self.id!r}) has no client: pass one, "
                "or derive the class from create_projection_base_class(client)"
            )
        return self.client

    def load(
        self,
        lock: Sequence[Stream[Any]] = (),
        *,
        is_undisturbed: bool = False,
    ) -> _Loaded:
        """Read snapshot and events, unless they are read already; the first look at them does it.

        Args:
            lock: Streams that are locked before the read, for a decision.
            is_undisturbed: Whether the transaction is one that no savepoint of others can roll back in part.
        """
        if self._history is not None:
            raise StagedEventsError(f"{type(self).__name__}.from_history(...) has no place in the log")
        if self._loaded is None:
            client, key = self._client(), self.snapshot_key()
            row, events, redactions = client.reader.read_after_snapshot(
                client.projections.pgevents_spec,
                (key.type, key.id, key.version, key.shape if self._uses_snapshot else None),
                self.get_streams(),
                self.as_of,
                lock,
                is_undisturbed=is_undisturbed,
            )
            if row is not None:
                row = (key.type, key.id, row[2], row[0], key.version, time_of(row[4]), time_of(row[5]))
            self._loaded = _Loaded(row, events, events.position, redactions)
        return self._loaded

    def keeping_key(self) -> Hashable | None:
        """The key under which a client may keep the view between its decisions; None if only this object says
        what the view is folded from."""
        is_usual = type(self).__init__ is cast(Any, LogFolding).__init__ and vars(self).keys() == USUAL
        if not is_usual or not self._uses_snapshot or self.reducers.is_empty:
            return None
        streams = tuple(self.get_streams())
        own_id = type(self.id), id_text(self.id)  # the view may hold the id, as text or as a number
        return type(self), self.reducers, own_id, streams, self._client().types.revision

    def go_on_from(self, view: V, events: Sequence[Event[Any]], position: Position) -> None:
        """Take a view that was folded before, fold what came since, and stand at that position."""
        self._forget()
        self._saved_part = self._folded = self._fold(events, self.reducers.reopened(view, self._initial()))
        self._position = position

    def snapshot_key(self) -> SnapshotKey:
        """Where its snapshot stands."""
        client, cls = self._client(), type(self)
        declared = cls.declared_for(client.snapshots, client.types)
        shape = (
            declared.shape_of(self.initial_view()) if is_dict_class(declared.view_class) else declared.shape
        )
        return SnapshotKey(
            cls.projection_type,
            id_text(self.id),
            cls.version,
            client.snapshots.stored_shape(shape),
            declared.view_class,
            declared.id_class,
        )

    @classmethod
    def declared_for(cls, snapshots: Snapshots, types: EventTypes) -> Declaration:
        """What the class declares, once it is clear that a client's events and snapshots are its own."""
        declared = cls._declared()
        if snapshots.claim(cls, types):
            check_event_classes(cls.__name__, (declared.events, cls.event_types), types)
        return declared


def _not_a_client(name: str, id: Any, client: Any) -> ConfigurationError:
    """The error for a projection whose client is something else; it names the probable mistake."""
    text = f"the client of {name} is an EventClient, not {shown(client)}"
    if isinstance(id, EventClient):
        return ConfigurationError(f"{text}: the id comes first, {name}(id, client)")
    if isinstance(getattr(client, "client", None), EventClient):  # of asyncio, or an extension of Flask
        return ConfigurationError(f"{text}: give its .client, {name}(id, shop.client)")
    return ConfigurationError(text)
