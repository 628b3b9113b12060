"""Folding: what a projection makes of a snapshot and the events after it; the database is not asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from pgevents.client import EventClient
from pgevents.codec.previews import plain_serializer, preview
from pgevents.codec.serialization import Serializer
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.hooks.details import OperationRecord
from pgevents.projection_classes import Declaration, check_members, declaration_of
from pgevents.reducers import Pipeline, check_function
from pgevents.snapshots import SavedProjection
from pgevents.views import field_types, is_dict_class, nearest, values_of

if TYPE_CHECKING:
    from typing_extensions import Self
    from typing_extensions import TypeVar as TypeVarWithDefault

    I = TypeVarWithDefault("I", default=Any)  # noqa: E741
else:
    I = TypeVar("I")  # noqa: E741

__all__ = ["E", "Folding", "I", "V"]

V = TypeVar("V")
E = TypeVar("E")
S = TypeVar("S")
FIXED = (str, int, float, bool, Decimal, type(None))


class Folding(Generic[V, E, I]):
    """The part of a projection that folds. A subclass says where snapshot and events come from."""

    projection_type: ClassVar[str]
    version: ClassVar[int] = 1
    reducers: ClassVar[Pipeline] = Pipeline()
    event_types: ClassVar[Any] = None
    client: EventClient | None = None
    id: I

    if not TYPE_CHECKING:

        def __class_getitem__(cls, given: Any) -> Any:
            """The id's type may be left out."""
            many = given if isinstance(given, tuple) else (given,)
            if cls.__parameters__[-1:] == (I,) and len(many) == len(cls.__parameters__) - 1:
                many = (*many, Any)
            return super().__class_getitem__(many)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        check_members(cls)

    def __init__(self) -> None:
        self._staged: list[Event[Any]] = []
        self._history: Sequence[Event[Any]] | None = None
        self._forget()

    def _forget(self) -> None:
        self._saved_part: V | None = None
        self._folded: V | None = None
        self._is_folding = False

    def _saved_row(self) -> tuple[Any, ...] | None:
        """The stored snapshot that the fold starts from, as a row of `snapshots.COLUMNS`."""
        raise NotImplementedError  # a projection reads its own

    def _saved_events(self) -> Sequence[Event[Any]]:
        """The events after it."""
        raise NotImplementedError  # a projection reads its own

    @property
    def saved_projection(self) -> SavedProjection[V] | None:
        """The snapshot that the view starts from, or None."""
        raise NotImplementedError  # a projection reads its own

    def initial_view(self) -> V:
        """The view before any event.

        By default an instance of the view's class, made with the projection's id if it has a field `id`, else
        without arguments; or an empty dict.
        """
        cls = self.view_class()
        if is_dict_class(cls):
            return cast(V, {})
        arguments = {"id": self.id} if "id" in (field_types(cls) or {}) else {}
        try:
            return cast(V, cls(**arguments))
        except TypeError as error:
            raise ConfigurationError(
                f"{type(self).__name__} must say what its view is before any event, because {cls.__name__} "
                f"needs more than its id ({error}): def initial_view(self)"
            ) from error

    @property
    def view(self) -> V:
        """The view: snapshot, then saved events, then staged ones. An ordinary read, which waits for
        nobody."""
        if self._folded is None:
            self._folded = self._fold_all()
            self._tell_fold()
        return self._folded

    def _tell_fold(self) -> None:
        """Called after a fold, for plugins."""

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

        Raises:
            ConfigurationError: The reducer is async or a generator.
        """
        check_function(reducer, type(self).__name__)
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
                    f"{type(self).__name__} has no reducer for {field!r}, so its snapshots hold the initial "
                    "value: fold it by its reducers, or fold everything in as_json and have no reducers"
                )

    # -- what it does ------------------------------------------------------------

    def apply(self, *events: Any) -> Self:
        """Stage events: they are folded after the history, and are not saved.

        Args:
            *events: Instances of event classes or dicts, as they would be given to `client.save_event`; or
                lists of these.
        """
        for given in events:
            group: Any = given if isinstance(given, (list, tuple)) else (given,)  # pyright: ignore[reportUnknownVariableType]
            self._staged += [self._envelope(event) for event in group]
        self._folded = None
        return self

    def take_history(self, events: Iterable[Any]) -> Self:
        """Fold these events in place of what is saved; see `from_history`."""
        self._history = tuple(self._envelope(event) for event in events)
        self._forget()
        return self

    def _envelope(self, given: Any) -> Event[Any]:
        cls: Any = given.__class__
        if cls is Event or self.client is None:
            return preview(given)
        return self.client.preview(given)

    # -- how ------------------------------------------------------------

    def _serializer(self) -> Serializer:
        return plain_serializer() if self.client is None else self.client.serializer

    def _events(self) -> Sequence[Event[Any]]:
        return self._history if self._history is not None else self._saved_events()

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
                "folds, with reduce_events and from_projection_or_default"
            )
        self._is_folding = True
        try:
            encoded = self._serializer().encode(self.as_json(), type(self).__name__)
        finally:
            self._is_folding = False
        cls = self.view_class()
        return cast(
            V, encoded if is_dict_class(cls) else self._serializer().check(encoded, cls, self.projection_type)
        )

    def _base_view(self) -> V:
        row = None if self._history is not None else self._saved_row()
        initial = self._initial()
        if row is None:
            return initial
        saved = cast(EventClient, self.client).snapshots.view_of(
            row[2], self.view_class(), self.projection_type
        )
        return self.reducers.reopened(cast(V, saved), initial)

    def _initial(self) -> V:
        """The initial view; a copy, if a reducer could change it in place."""
        view = self.initial_view()
        return view if _is_fixed(view) else copy.deepcopy(view)

    def fixed_initial_view(self) -> V | None:
        """The initial view, if no reducer can change it in place: many folds can share it; else None."""
        view = self.initial_view()
        return view if _is_fixed(view) else None

    def _fold(self, events: Sequence[Event[Any]], view: V, initial: V | None = None) -> V:
        """Fold events over a view; with `initial` over one that was folded before."""
        client = self.client
        if client is None or "pgevents_observe" not in client.plugins.implemented:
            return self.reducers.fold(events, view, initial, self.projection_type)
        with client.plugins.observed(
            OperationRecord("fold", projection=self.projection_type, events=len(events))
        ):
            return self.reducers.fold(events, view, initial, self.projection_type)

    @property
    def has_staged_events(self) -> bool:
        """Whether `apply` was called."""
        return bool(self._staged) or self._history is not None

    @classmethod
    def _declared(cls) -> Declaration:
        named: Any = cls
        return declaration_of(named, Folding)

    @classmethod
    def view_class(cls) -> type[Any]:
        """The view's class, from `ProjectionBase[View, Event]`."""
        return cast("type[Any]", cls._declared().view_class)


def _is_fixed(view: Any) -> bool:
    return view.__class__ is not dict and all(
        isinstance(value, FIXED) or value == () for value in values_of(view).values()
    )
