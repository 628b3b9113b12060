"""Projections: a question about the log, folded into a view, with a snapshot to start from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast, overload

import attrs

from pgevents.client import EventClient, use_maker
from pgevents.codec.previews import plain_serializer, preview
from pgevents.codec.serialization import Serializer, time_of
from pgevents.errors import ConfigurationError, RetryableError, StagedEventsError
from pgevents.events import Event, EventTypes
from pgevents.hooks.details import Operation
from pgevents.ids import id_text
from pgevents.projection_classes import Declaration, check_event_classes, declaration_of
from pgevents.reducers import Pipeline, Reducer, pipeline
from pgevents.snapshots import SavedProjection, SaveResult, SnapshotKey, Snapshots
from pgevents.store.ordering import Position
from pgevents.store.read import AsOf, check_as_of
from pgevents.streams import Stream, everything, merge_streams, stream
from pgevents.views import field_types, is_dict_class, nearest, values_of

if TYPE_CHECKING:
    from typing_extensions import Self
    from typing_extensions import TypeVar as TypeVarWithDefault

    I = TypeVarWithDefault("I", default=Any)  # noqa: E741
else:
    I = TypeVar("I")  # noqa: E741

__all__ = [
    "MultiStreamProjectionBase",
    "ProjectionBase",
    "create_multi_stream_projection_base_class",
    "create_projection_base_class",
    "plain_projection",
]

V = TypeVar("V")
E = TypeVar("E")
S = TypeVar("S")
P = TypeVar("P", bound="_Projection[Any, Any, Any]")
P_co = TypeVar("P_co", bound="_Projection[Any, Any, Any]", covariant=True)
FOLDS = 5
"""How often a snapshot is folded anew when the log is changed under maintenance meanwhile."""
FIXED = (str, int, float, bool, Decimal, type(None))
"""Values of an initial view that no reducer can change in place."""


@attrs.define
class _Loaded:
    """What one read brought: the snapshot, the events after it, and where that stands in the log."""

    row: tuple[Any, ...] | None
    events: Sequence[Event[Any]]
    position: Position


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


class _Projection(Generic[V, E, I]):
    """What the single and the multi stream projection share."""

    projection_type: ClassVar[str]
    version: ClassVar[int] = 1
    reducers: ClassVar[Pipeline] = Pipeline()
    event_types: ClassVar[Any] = None
    client: EventClient | None = None
    from_history = _FromHistory()

    if not TYPE_CHECKING:

        def __class_getitem__(cls, given: Any) -> Any:
            """The id's type may be left out."""
            many = given if isinstance(given, tuple) else (given,)
            if cls.__parameters__[-1:] == (I,) and len(many) == len(cls.__parameters__) - 1:
                many = (*many, Any)
            return super().__class_getitem__(many)

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
            load_existing_projection: False: fold from the start, whatever snapshot stands.

        Raises:
            ConfigurationError: The class has no `projection_type`, or an `as_of` that is neither id nor time.
        """
        kind = getattr(type(self), "projection_type", None)
        if not isinstance(kind, str) or not kind:
            raise ConfigurationError(
                f'{type(self).__name__} must say under which name it is saved: projection_type = "CART"'
            )
        self.id = id
        self.client = client if client is not None else type(self).client
        self.as_of = check_as_of(as_of)
        self._uses_snapshot = load_existing_projection
        self._staged: list[Event[Any]] = []
        self._history: Sequence[Event[Any]] | None = None
        self._forget()

    def _forget(self) -> None:
        self._loaded: _Loaded | None = None
        self._saved_part: V | None = None
        self._folded: V | None = None
        self._is_folding = False

    # -- what a subclass says ------------------------------------------------------------

    def initial_view(self) -> V:
        """The view before any event.

        By default the view's class made with the projection's id, where it has a field `id`, or without
        arguments; of dicts an empty one.
        """
        cls = self.view_class()
        if is_dict_class(cls):
            return cast(V, {})
        known = {"id": self.id} if "id" in (field_types(cls) or {}) else {}
        try:
            return cast(V, cls(**known))
        except TypeError as error:
            raise ConfigurationError(
                f"{type(self).__name__} must say what its view is before any event, for {cls.__name__} needs "
                f"more than that ({error}): def initial_view(self)"
            ) from error

    def get_streams(self) -> Sequence[Stream[Any]]:
        """The streams that the projection is folded from."""
        raise NotImplementedError  # both bases have their own

    # -- what it knows ------------------------------------------------------------

    @property
    def view(self) -> V:
        """The view: snapshot, then saved events, then staged ones. An ordinary read, which waits for
        nobody."""
        if self._folded is None:
            self._folded = self._fold_all()
            self._tell_fold()
        return self._folded

    def _tell_fold(self) -> None:
        client = self.client
        if client is not None and "pgevents_after_fold" in client.plugins.implemented:
            if not self.has_staged_events and self.as_of is None:
                client.plugins.tell("pgevents_after_fold", projection=self, events=self._events())

    @property
    def position(self) -> Position:
        """Where in the log the saved part of the view stands; for a validated save against it."""
        return self.load().position

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

    @property
    def projection_events(self) -> list[Event[E]]:
        """The events folded on top of the snapshot: saved ones in order, then staged ones."""
        return [*self._events(), *self._staged]

    def as_json(self) -> dict[str, Any]:
        """The view as a JSON-ready dict.

        A class without reducers may fold here instead, with `reduce_events` and `from_projection_or_default`;
        what it returns is then the view.
        """
        return self._serializer().encode(self.view, type(self).__name__)

    def reduce_events(self, reducer: Callable[[S, Event[E]], S], initial: S) -> S:
        """Fold `projection_events` by one reducer, from a value of your own.

        Args:
            reducer: `(state, event) -> state`.
            initial: The state to start from; often `from_projection_or_default(...)`.
        """
        state = initial
        for event in self.projection_events:
            state = reducer(state, event)
        return state

    def from_projection_or_default(self, field: str, default: S) -> S:
        """A field of the snapshot's view, or the default if there is no snapshot.

        Raises:
            ConfigurationError: The view has no such field, or nothing folds it, so that a snapshot would hold
                its initial value for ever.
        """
        self._check_folded(field)
        saved = self.saved_projection
        if saved is None:
            return default
        values = values_of(saved.data)
        if field not in values:
            raise ConfigurationError(
                f"the view of {type(self).__name__} has no field {field!r}; {nearest(field, list(values))}"
            )
        return cast(S, values[field])

    def _check_folded(self, field: str) -> None:
        folds = self.reducers
        if not (
            folds.is_empty
            or folds.folds_the_whole_view
            or field in folds.folded_fields | folds.derived_fields
        ):
            fields = field_types(self.view_class())
            if fields is None or field in fields:
                raise ConfigurationError(
                    f"{type(self).__name__} has no reducer for {field!r}, so its snapshots hold the "
                    f"initial value: "
                    "fold it by its reducers, or fold everything in as_json and have no reducers"
                )

    # -- what it does ------------------------------------------------------------

    def apply(self, *events: Any) -> Self:
        """Stage events: they are folded after the history, and saved by nobody.

        Args:
            *events: Instances of event classes or dicts, as they would be given to `client.save_event`; or
                lists of these.
        """
        for given in events:
            several: Any = given if isinstance(given, (list, tuple)) else (given,)  # pyright: ignore[reportUnknownVariableType]
            self._staged += [self._envelope(one) for one in several]
        self._folded = None
        return self

    def take_history(self, events: Iterable[Any]) -> Self:
        """Fold these events in place of what is saved; see `from_history`."""
        self._history = tuple(self._envelope(one) for one in events)
        self._forget()
        return self

    def _envelope(self, given: Any) -> Event[Any]:
        cls: Any = given.__class__
        if cls is Event or self.client is None:
            return preview(given)
        return self.client.preview(given)

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
            EventEncodeError: The view would come back from the snapshot other than it is.
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
                f"give it "
                "reducers, or an as_json that folds with reduce_events"
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
            f"{self.id!r} was "
            "folded; no snapshot was saved: try again"
        )

    def _save(self, client: EventClient) -> SaveResult[V] | None:
        """Fold what is final and save it; None if the log was changed under maintenance meanwhile."""
        key = self.snapshot_key()
        noted = client.snapshots.note(key if self._uses_snapshot else attrs.evolve(key, shape=None))
        saved = noted.saved
        after = 0 if saved is None else saved.latest_event_id
        final = client.reader.read_final(self.get_streams(), after=after)
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
        """The view of a stored snapshot (None: of none) and these events. What this projection has read
        itself
        may be more or less, and is left alone."""
        fold = copy.copy(self)
        fold._forget()
        fold._staged = []
        fold._loaded = _Loaded(row, events, position)
        return fold._fold_all()

    def delete_projection(self) -> bool:
        """Remove the snapshot, of whatever version; whether there was one. The events stay."""
        return self._client().snapshots.delete(self.projection_type, id_text(self.id))

    # -- how ------------------------------------------------------------

    def _client(self) -> EventClient:
        if self.client is None:
            raise ConfigurationError(
                f"{type(self).__name__}({self.id!r}) has no client: pass one, "
                "or derive the class from create_projection_base_class(client)"
            )
        return self.client

    def _serializer(self) -> Serializer:
        return plain_serializer() if self.client is None else self.client.serializer

    def load(self, lock: Sequence[Stream[Any]] = (), *, is_undisturbed: bool = False) -> _Loaded:
        """Read snapshot and events, unless they are read already; the first look at them does it.

        Args:
            lock: Streams that are locked before the read, for a decision.
            is_undisturbed: Whether the transaction is one that no savepoint of others can roll back in part.
        """
        if self._history is not None:
            raise StagedEventsError(f"{type(self).__name__}.from_history(...) has no place in the log")
        if self._loaded is None:
            client, key = self._client(), self.snapshot_key()
            row, events = client.reader.read_after_snapshot(
                client.projections.pgevents_spec,
                (key.type, key.id, key.version, key.shape if self._uses_snapshot else None),
                self.get_streams(),
                self.as_of,
                lock,
                is_undisturbed=is_undisturbed,
            )
            if row is not None:
                row = (key.type, key.id, row[2], row[0], key.version, time_of(row[4]), time_of(row[5]))
            self._loaded = _Loaded(row, events, events.position)
        return self._loaded

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

    def _events(self) -> Sequence[Event[Any]]:
        return self._history if self._history is not None else self.load().events

    def _fold_all(self) -> V:
        """The view of what is loaded and staged. Each part of it is folded once, for a reducer may change its
        state in place."""
        if self._declared().folds_in_as_json:
            return self._fold_in_as_json()
        if self._saved_part is None:
            self._saved_part = self._fold(self._events(), self._base_view())
        if not self._staged:
            return self._saved_part
        base = self.reducers.reopened(copy.deepcopy(self._saved_part), self._initial())
        return self._fold(copy.deepcopy(self._staged), base)

    def _fold_in_as_json(self) -> V:
        if self._is_folding:
            raise ConfigurationError(
                f"{type(self).__name__}.as_json asks for its own view: without reducers it is as_json that "
                f"folds, "
                "with reduce_events and from_projection_or_default"
            )
        self._is_folding = True
        try:
            made = self._serializer().encode(self.as_json(), type(self).__name__)
        finally:
            self._is_folding = False
        cls = self.view_class()
        return cast(
            V, made if is_dict_class(cls) else self._serializer().check(made, cls, self.projection_type)
        )

    def _base_view(self) -> V:
        row = None if self._history is not None else self.load().row
        initial = self._initial()
        if row is None:
            return initial
        saved = self._client().snapshots.view_of(row[2], self.view_class(), self.projection_type)
        return self.reducers.reopened(cast(V, saved), initial)

    def _initial(self) -> V:
        """The initial view, of which no reducer changes anything that others see."""
        view: Any = self.initial_view()
        is_fixed = view.__class__ is not dict and all(
            isinstance(one, FIXED) or one == () for one in values_of(view).values()
        )
        return cast(V, view if is_fixed else copy.deepcopy(view))

    def _fold(self, events: Sequence[Event[Any]], view: V) -> V:
        client = self.client
        if client is None or "pgevents_observe" not in client.plugins.implemented:
            return self.reducers.fold(events, view)
        with client.plugins.observed(Operation("fold", projection=self.projection_type, events=len(events))):
            return self.reducers.fold(events, view)

    @property
    def has_staged_events(self) -> bool:
        """Whether `apply` was called."""
        return bool(self._staged) or self._history is not None

    @classmethod
    def _declared(cls) -> Declaration:
        named: Any = cls
        return declaration_of(named, _Projection)

    @classmethod
    def declared_for(cls, snapshots: Snapshots, types: EventTypes) -> Declaration:
        """What the class declares, once it is clear that a client's events and snapshots are its own."""
        declared = cls._declared()
        if snapshots.claim(cls, types):
            check_event_classes(cls.__name__, (declared.events, cls.event_types), types)
        return declared

    @classmethod
    def view_class(cls) -> type[Any]:
        """The view's class, from `ProjectionBase[View, Event]`."""
        return cast("type[Any]", cls._declared().view_class)


class ProjectionBase(_Projection[V, E, I]):
    """The state of one thing, folded from the events that carry its id.

    A subclass names its view and its events (and its id's type, if that matters), and says by which
    identifiers
    its events are found. A view is an attrs class, a dataclass or a dict:

    ```python
    class CartProjection(ProjectionBase[CartView, CartEvent]):
        projection_type = "SHOPPING_CART"
        version = 1
        reducers = pipeline(items=to_items)

        def get_event_identifiers(self):
            return {"cart_id": self.id}
    ```

    Attributes:
        projection_type: The name under which snapshots are saved.
        version: Raise it when the reducers change: older snapshots are not used any more.
        reducers: What folds the events.
        event_types: Which events; by default those of the class's second type argument.
    """

    def get_event_identifiers(self) -> Mapping[str, Any]:
        """The fields and values that its events carry; `everything` for all events of its types."""
        raise TypeError(
            f"{type(self).__name__} must say which events are its own: "
            'def get_event_identifiers(self): return {"cart_id": self.id}'
        )

    def get_streams(self) -> Sequence[Stream[Any]]:
        """The one stream of `event_types` with the projection's identifiers."""
        types = self.event_types if self.event_types is not None else self._declared().events
        identifiers: Any = self.get_event_identifiers()
        if not isinstance(identifiers, Mapping) or (not identifiers and identifiers is not everything):
            raise ConfigurationError(
                f"{type(self).__name__}.get_event_identifiers() gave {identifiers!r}, and not the fields "
                "and values "
                "that its events carry. If it is folded from all events of its types, return everything "
                "(from pgevents import everything)"
            )
        return (stream(types, data=cast("Mapping[str, Any]", identifiers)),)


class MultiStreamProjectionBase(_Projection[V, E, I]):
    """A state folded from several streams: merged by id, each event once.

    A subclass has `get_stream_options` in place of `event_types` and identifiers:

    ```python
    class Availability(MultiStreamProjectionBase[Stock, StockEvent]):
        projection_type = "AVAILABILITY"

        def get_stream_options(self):
            return [stream(Delivered, product_id=self.id), stream(ItemAddedToCart, product_id=self.id)]
    ```
    """

    def get_stream_options(self) -> Sequence[Stream[Any]]:
        """The streams, each made by `stream(...)`."""
        raise TypeError(
            f"{type(self).__name__} must name its streams: def get_stream_options(self): return [stream(...)]"
        )

    def get_streams(self) -> Sequence[Stream[Any]]:
        """What `get_stream_options` says."""
        streams: Any = self.get_stream_options()
        if not streams:
            raise ConfigurationError(
                f"{type(self).__name__}.get_stream_options() named no streams: return [stream(...), ...]"
            )
        return streams if isinstance(streams, (list, tuple)) else merge_streams(streams)  # pyright: ignore[reportUnknownVariableType]


def create_projection_base_class(client: EventClient) -> Any:
    """A `ProjectionBase` whose subclasses know their client: `CartProjection("c1")`.

    Type checkers cannot follow a base class that is made at run time; for them derive from `ProjectionBase`
    and say `client = my_client` in the class.

    Args:
        client: The client to read with.

    Example:
        ```python
        Projection = create_projection_base_class(client)

        class CartProjection(Projection[CartView, CartEvent]):
            ...
        ```
    """
    return _bound(ProjectionBase, client)


def create_multi_stream_projection_base_class(client: EventClient) -> Any:
    """A `MultiStreamProjectionBase` whose subclasses know their client."""
    return _bound(MultiStreamProjectionBase, client)


def _bound(base: Any, client: EventClient) -> Any:
    class Bound(base[V, E, I]):  # type: ignore[misc]
        pass

    Bound.client = client
    Bound.__name__ = Bound.__qualname__ = base.__name__
    return Bound


def plain_projection(
    client: EventClient,
    projection_type: str,
    identifiers: Mapping[str, Any],
    reducer: Reducer | Pipeline,
    initial: Any,
    types: Any,
    version: int,
) -> ProjectionBase[Any, Any]:
    """A projection without a class of its own; see `EventClient.project`."""
    values = tuple(identifiers.values())
    reducers = reducer if isinstance(reducer, Pipeline) else pipeline(reducer)

    class Plain(ProjectionBase[Any, Any]):
        event_types = types

        def initial_view(self) -> Any:
            return copy.deepcopy(initial() if callable(initial) else initial)

        def get_event_identifiers(self) -> Mapping[str, Any]:
            return identifiers

    Plain.projection_type, Plain.version, Plain.reducers = projection_type, version, reducers
    Plain.__module__ = str(getattr(reducer, "__module__", __name__))
    Plain.__qualname__ = f"{projection_type} by {getattr(reducer, '__qualname__', 'a pipeline')}"
    return Plain(values[0] if len(values) == 1 else values, client)


use_maker("plain", plain_projection)
