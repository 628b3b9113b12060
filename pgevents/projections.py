"""Projections: a question about the log, folded into a view, with a snapshot to start from."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import attrs

from pgevents.codec.serialization import time_of
from pgevents.errors import ConfigurationError, StagedEventsError
from pgevents.events import Event
from pgevents.hooks.details import Operation
from pgevents.reducers import Pipeline
from pgevents.snapshots import SavedProjection, SaveResult
from pgevents.store.ordering import Position
from pgevents.store.read import AsOf, check_as_of
from pgevents.streams import Stream, everything, id_text, merge_streams, stream

if TYPE_CHECKING:
    from typing_extensions import Self

    from pgevents.client import EventClient

__all__ = [
    "MultiStreamProjectionBase",
    "ProjectionBase",
    "create_multi_stream_projection_base_class",
    "create_projection_base_class",
]

V = TypeVar("V")
E = TypeVar("E")
S = TypeVar("S")
P = TypeVar("P", bound="_Projection[Any, Any]")


@attrs.define
class _Loaded(Generic[V]):
    """What one read brought: the snapshot, the events after it, and where that stands in the log."""

    saved: SavedProjection[V] | None
    events: Sequence[Event[Any]]
    position: Position


class _Projection(Generic[V, E]):
    """What the single and the multi stream projection share."""

    projection_type: ClassVar[str]
    version: ClassVar[int] = 1
    reducers: ClassVar[Pipeline] = Pipeline()
    client: EventClient | None = None

    def __init__(self, id: Any, client: EventClient | None = None, *, as_of: AsOf | None = None) -> None:
        """Ask about one id; nothing is read before it is needed.

        Args:
            id: The projection's id.
            client: The client to read with; classes made by `create_projection_base_class` bring their own.
            as_of: The state after this event id or at this time (with zone), instead of now.

        Raises:
            ConfigurationError: The class has no `projection_type`, or an `as_of` that is neither id nor time.
        """
        if not hasattr(type(self), "projection_type"):
            raise ConfigurationError(
                f'{type(self).__name__} must say under which name it is saved: projection_type = "CART"'
            )
        self.id = id
        self.client = client if client is not None else type(self).client
        self.as_of = check_as_of(as_of)
        self._staged: list[Event[Any]] = []
        self._history: Sequence[Event[Any]] | None = None
        self._loaded: _Loaded[V] | None = None
        self._folded: V | None = None

    # -- what a subclass says ------------------------------------------------------------

    def initial_view(self) -> V:
        """The view before any event."""
        raise TypeError(
            f"{type(self).__name__} must say what its view is before any event: def initial_view(self)"
        )

    def get_streams(self) -> Sequence[Stream[Any]]:
        """The streams that the projection is folded from."""
        raise NotImplementedError  # both bases have their own

    # -- what it knows ------------------------------------------------------------

    @property
    def view(self) -> V:
        """The view: snapshot, then saved events, then staged ones. An ordinary read, which waits for
        nobody."""
        if self._folded is None:
            self._folded = self._fold([*self._events(), *self._staged], self._base_view())
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
        return None if self._history is not None else self.load().saved

    @property
    def projection_events(self) -> list[Event[E]]:
        """The events folded on top of the snapshot: saved ones in order, then staged ones."""
        return [*self._events(), *self._staged]

    def as_json(self) -> dict[str, Any]:
        """The view as a JSON-ready dict."""
        return self._client().serializer.encode(self.view, type(self).__name__)

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
            ConfigurationError: The view has no such field.
        """
        saved = self.saved_projection
        if saved is None:
            return default
        if not hasattr(saved.data, field):
            raise ConfigurationError(f"{type(saved.data).__qualname__} has no field {field!r}")
        return cast(S, getattr(saved.data, field))

    # -- what it does ------------------------------------------------------------

    def apply(self, *events: Any) -> Self:
        """Stage events: they are folded after the history, and saved by nobody.

        Args:
            *events: Instances of event classes or dicts, as they would be given to `client.save_event`.
        """
        client = self._client()
        for given in events:
            staged: Any = given if type(given) is Event else client.preview(given)  # pyright: ignore[reportUnknownVariableType]
            self._staged.append(staged)
        self._folded = None
        return self

    @classmethod
    def from_history(cls, id: Any, events: Iterable[Event[E]], client: EventClient | None = None) -> Self:
        """A projection of given events, without a database.

        Args:
            id: The projection's id.
            events: In the order of the log.
            client: Only needed for `as_json` and `apply`.
        """
        made = cls(id, client)
        made._history = tuple(events)
        return made

    def refresh(self) -> Self:
        """Forget what was read; the next look reads again. Staged events stay."""
        self._loaded = self._folded = None
        return self

    def load_existing_projection(self) -> SavedProjection[V] | None:
        """Read the snapshot alone: of this version, or None."""
        return self._client().get_projection(cast(Any, type(self)), self.id)

    def save_projection(self) -> SaveResult[V]:
        """Save a snapshot: of what is final, so that it is exact for ever. Never waits for writers.

        Returns:
            The status "created", "updated" or "skipped" (an equal or newer one stands), and the row that
            stands.

        Raises:
            StagedEventsError: Staged or hand-fed events, or an `as_of` view: only the saved present is a
                snapshot.
            UnsupportedTransactionError: The transaction is not READ COMMITTED.
        """
        if self._staged or self._history is not None or self.as_of is not None:
            raise StagedEventsError(
                f"{type(self).__name__} {self.id!r} holds events that are not saved, or an as_of view; "
                "save the events, refresh(), and then the projection"
            )
        client = self._client()
        saved = self.load_existing_projection()
        after = 0 if saved is None else saved.latest_event_id
        final = client.reader.read_final(self.get_streams(), after=after)
        view = self._fold(final, self.initial_view() if saved is None else saved.data)
        last = final[-1].id if final else after
        base_saved_at = None if saved is None else saved.updated_at
        result = client.save_snapshot(type(self), id_text(self.id), view, last, final, base_saved_at)
        self._loaded = self._folded = None
        return result

    # -- how ------------------------------------------------------------

    def _client(self) -> EventClient:
        if self.client is None:
            raise ConfigurationError(
                f"{type(self).__name__}({self.id!r}) has no client: pass one, "
                "or derive the class from create_projection_base_class(client)"
            )
        return self.client

    def load(self, lock: Sequence[Stream[Any]] = (), *, is_undisturbed: bool = False) -> _Loaded[V]:
        """Read snapshot and events, unless they are read already; the first look at them does it.

        Args:
            lock: Streams that are locked before the read, for a decision.
            is_undisturbed: Whether the transaction is one that no savepoint of others can roll back in part.
        """
        if self._history is not None:
            raise StagedEventsError(f"{type(self).__name__}.from_history(...) has no place in the log")
        if self._loaded is None:
            client, kind = self._client(), type(self)
            key = (kind.projection_type, id_text(self.id), kind.version)
            row, events = client.reader.read_after_snapshot(
                client.projections.pgevents_spec,
                key,
                self.get_streams(),
                self.as_of,
                lock,
                is_undisturbed=is_undisturbed,
            )
            saved = None
            if row is not None:
                whole = (*key[:2], row[2], row[0], kind.version, time_of(row[4]), time_of(row[5]))
                saved = cast("SavedProjection[V]", client.snapshots.decode(whole, kind.view_class()))
            self._loaded = _Loaded(saved, events, events.position)
        return self._loaded

    def _events(self) -> Sequence[Event[Any]]:
        return self._history if self._history is not None else self.load().events

    def _base_view(self) -> V:
        saved = self.saved_projection
        return self.initial_view() if saved is None else saved.data

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
    def view_class(cls) -> type[Any]:
        """The view's class, from `ProjectionBase[View, Event]`."""
        return cast("type[Any]", _type_arguments(cls)[0])


def _type_arguments(cls: type[Any]) -> tuple[Any, ...]:
    for base in cls.__mro__:
        for origin in vars(base).get("__orig_bases__", ()):
            arguments = typing.get_args(origin)
            if len(arguments) == 2 and not any(isinstance(argument, TypeVar) for argument in arguments):
                return arguments
    raise ConfigurationError(
        f"{cls.__name__} must name its view and events: class {cls.__name__}(ProjectionBase[View, Event])"
    )


class ProjectionBase(_Projection[V, E]):
    """The state of one thing, folded from the events that carry its id.

    A subclass names its view and its events, and says by which identifiers its events are found:

    ```python
    class CartProjection(ProjectionBase[CartView, CartEvent]):
        projection_type = "SHOPPING_CART"
        version = 1
        reducers = pipeline(items=to_items)

        def initial_view(self):
            return CartView(id=self.id)

        def get_event_identifiers(self):
            return {"cart_id": self.id}
    ```

    Attributes:
        projection_type: The name under which snapshots are saved.
        version: Raise it when the reducers change: older snapshots are not used any more.
        reducers: What folds the events.
        event_types: Which events; by default those of the class's second type argument.
    """

    event_types: ClassVar[Any] = None

    def get_event_identifiers(self) -> Mapping[str, Any]:
        """The fields and values that the projection's events carry; `everything` for all events of its "
        "types."""
        raise TypeError(
            f"{type(self).__name__} must say which events are its own: "
            'def get_event_identifiers(self): return {"cart_id": self.id}'
        )

    def get_streams(self) -> Sequence[Stream[Any]]:
        """The one stream of `event_types` with the projection's identifiers."""
        types = self.event_types if self.event_types is not None else _event_argument(type(self))
        identifiers: Any = self.get_event_identifiers()
        if not isinstance(identifiers, Mapping) or (not identifiers and identifiers is not everything):
            raise ConfigurationError(
                f"{type(self).__name__}.get_event_identifiers() gave {identifiers!r}, and not the fields "
                "and values "
                "that its events carry. If it is folded from all events of its types, return everything "
                "(from pgevents import everything)"
            )
        return (stream(types, data=cast("Mapping[str, Any]", identifiers)),)


class MultiStreamProjectionBase(_Projection[V, E]):
    """A state folded from several streams: merged by id, each event once.

    A subclass has `get_stream_options` in place of `event_types` and identifiers:

    ```python
    class Availability(MultiStreamProjectionBase[Stock, StockEvent]):
        projection_type = "AVAILABILITY"

        def initial_view(self):
            return Stock(id=self.id)

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


def _event_argument(cls: type[Any]) -> Any:
    wanted = _type_arguments(cls)[1]
    return None if wanted is Any or wanted is dict or typing.get_origin(wanted) is dict else wanted


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
    class Bound(base[V, E]):  # type: ignore[misc]
        pass

    Bound.client = client
    Bound.__name__ = Bound.__qualname__ = base.__name__
    return Bound
