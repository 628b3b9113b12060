"""Reducers and pipelines: plain functions `(state, event) -> state`, composed, and folded in one pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import reduce
from itertools import groupby, islice
from typing import Any, TypeVar, cast

import attrs

from pgevents.caches import Cache
from pgevents.errors import ConfigurationError, shown
from pgevents.events import Event
from pgevents.views import changed, field_types, has_fields, nearest, value_of

__all__ = ["Pipeline", "check_function", "derive", "pipeline"]

S = TypeVar("S")
V = TypeVar("V")
Reducer = Callable[[Any, Event[Any]], Any]
Derivation = Callable[[Any], Any]
CHUNK = 1_000
"""How many events are held at once while fields are folded."""


@attrs.frozen
class _Fields:
    """A stage that folds fields of the view, each by its own reducer."""

    reducers: tuple[tuple[str, Reducer], ...]


@attrs.frozen
class _Whole:
    """A stage that folds the whole view."""

    reducer: Reducer


@attrs.frozen
class Pipeline:
    """Reducers in order, then derivations; made by `pipeline()` and `derive()`, composed with `|`.

    Attributes:
        stages: The stages that every event passes, in order.
        derived: The fields that are computed once, from the finished view.

    Raises:
        ConfigurationError: A field is both folded and derived: a fold from a snapshot would count it twice.
    """

    stages: tuple[_Fields | _Whole, ...] = ()
    derived: tuple[tuple[str, Derivation], ...] = ()
    _merged: tuple[_Fields | _Whole, ...] = attrs.field(init=False, eq=False, repr=False)
    _fitting: Cache[type[Any], bool] = attrs.field(
        init=False, eq=False, repr=False, factory=lambda: Cache("classes that fit a pipeline")
    )

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_merged", _merge(self.stages))
        both = sorted(self.folded_fields & self.derived_fields)
        if both:
            raise ConfigurationError(
                f"{both[0]!r} is both folded and derived: the derivation would replace what was folded, "
                "and a fold from a snapshot would start from that; fold into a separate field, and derive "
                "this one from it"
            )

    @property
    def folded_fields(self) -> frozenset[str]:
        """The fields that have reducers of their own."""
        stages = [stage for stage in self.stages if isinstance(stage, _Fields)]
        return frozenset(name for stage in stages for name, _ in stage.reducers)

    @property
    def derived_fields(self) -> frozenset[str]:
        """The fields that are derived."""
        return frozenset(name for name, _ in self.derived)

    @property
    def folds_the_whole_view(self) -> bool:
        """Whether a reducer takes and returns the whole view."""
        return any(isinstance(stage, _Whole) for stage in self.stages)

    @property
    def functions(self) -> list[tuple[str, Callable[..., Any]]]:
        """All functions in order, each with the field that it is for; "" for the whole view."""
        functions: list[tuple[str, Callable[..., Any]]] = []
        for stage in self.stages:
            functions += stage.reducers if isinstance(stage, _Fields) else [("", stage.reducer)]
        return functions + [(f"derived {name}", function) for name, function in self.derived]

    @property
    def is_empty(self) -> bool:
        """Whether it leaves every view as it is."""
        return not self.stages and not self.derived

    def __or__(self, other: Pipeline | Reducer) -> Pipeline:
        if isinstance(other, Pipeline):
            return Pipeline(self.stages + other.stages, self.derived + other.derived)
        return self | pipeline(other)

    def fold(
        self, events: Iterable[Event[Any]], view: V, initial: V | None = None, name: str = "the pipeline"
    ) -> V:
        """Fold events over a view, all fields in one pass.

        Args:
            events: In the order of the log.
            view: The view to start from (of an attrs class or a dataclass, or a dict). It stays unchanged if
                reducers return new values.
            initial: The view before any event, if `view` was folded before: its derived fields get the values
                that they have there.
            name: What an error calls the fold: the type of the projection.

        Returns:
            The view after all events, derived fields included.

        Raises:
            ConfigurationError: The view has no such field, or is neither attrs class, dataclass nor dict; or
                a reducer of the whole view changes a field that is derived, or does not return a view.

        Example:
            ```python
            from attrs import frozen
            from pgevents import pipeline

            @frozen
            class Count:
                n: int = 0

            view = pipeline(n=lambda n, event: n + 1).fold(client.get_event_stream(), Count())
            ```
        """
        if isinstance(view, dict):
            self._check_names(cast("dict[str, Any]", view), "the initial view, a dict,")
        else:
            self._check_class(view.__class__)
        stages = self._merged
        reopening: dict[str, Any] = {}
        if initial is not None:
            reopening = {name: value_of(initial, name) for name, _ in self.derived}
            if len(stages) != 1 or not isinstance(stages[0], _Fields):
                view = changed(cast(Any, view), reopening)
        before = {name: value_of(view, name) for name, _ in self.derived} if self.folds_the_whole_view else {}
        folded = cast(Any, view)
        if len(stages) == 1 and isinstance(stages[0], _Fields):
            folded = _fold_fields(stages[0].reducers, events, view, reopening)
        elif stages:
            kind = folded.__class__
            for event in events:
                for stage in stages:
                    if isinstance(stage, _Whole):
                        folded = stage.reducer(folded, event)
                        if folded.__class__ is not kind:
                            _check_view(folded, kind, stage.reducer, event, name)
                            kind = folded.__class__
                    else:
                        folded = _fold_fields(stage.reducers, (event,), folded, {})
        if before:
            _check_derived(before, folded)
        for name, derivation in self.derived:
            folded = changed(folded, {name: derivation(folded)})
        return cast(V, folded)

    def reopened(self, view: V, initial: V) -> V:
        """A finished view, ready to be folded further: its derived fields get their initial values.

        Args:
            view: A view that this pipeline has folded.
            initial: The view before any event.
        """
        if not self.derived:
            return view
        return changed(view, {name: value_of(initial, name) for name, _ in self.derived})

    def _check_class(self, cls: type[Any]) -> None:
        if cls not in self._fitting:
            self._check_names(field_types(cls) or {}, cls.__qualname__)
            self._fitting[cls] = True

    def _check_names(self, fields: Collection[str], what: str) -> None:
        for name in [*sorted(self.folded_fields), *(name for name, _ in self.derived)]:
            if name not in fields:
                raise ConfigurationError(
                    f"{what} has no field {name!r} to fold into; {nearest(name, list(fields))}"
                )


def _check_view(folded: object, kind: type[Any], reducer: Reducer, event: Event[Any], name: str) -> None:
    """Check that a reducer gave a view, where it got one of another class."""
    if issubclass(folded.__class__, dict) if issubclass(kind, dict) else has_fields(folded.__class__):
        return
    hint = "; its return is missing" if folded is None else ""
    raise ConfigurationError(
        f"{name}: the reducer {_name_of(reducer)} returned {shown(cast(Any, folded))} for an event of type "
        f"{event.type!r}, and not the view{hint}"
    )


def _check_derived(values: Mapping[str, Any], folded: Any) -> None:
    for name, before in values.items():
        after = value_of(folded, name)
        if before is not after and before != after:
            raise ConfigurationError(
                f"{name!r} is derived, and a reducer of the whole view has changed it from {before!r} to "
                f"{after!r}: the derivation would replace that, and a snapshot would lose it"
            )


def _merge(stages: Iterable[_Fields | _Whole]) -> tuple[_Fields | _Whole, ...]:
    """Merge neighbouring stages of fields: fields do not depend on each other, so one pass folds them."""
    merged: list[_Fields | _Whole] = []
    for is_fields, group in groupby(stages, lambda stage: isinstance(stage, _Fields)):
        if not is_fields:
            merged += group
            continue
        by_field: dict[str, list[Reducer]] = {}
        for name, reducer in (pair for stage in group for pair in cast(_Fields, stage).reducers):
            by_field.setdefault(name, []).append(reducer)
        merged.append(_Fields(tuple((name, _in_order(reducers)) for name, reducers in by_field.items())))
    return tuple(merged)


def _in_order(reducers: Sequence[Reducer]) -> Reducer:
    """A reducer that applies all reducers of a field to each event, in order."""
    if len(reducers) == 1:
        return reducers[0]
    return lambda value, event: reduce(lambda before, reducer: reducer(before, event), reducers, value)


def _fold_fields(
    reducers: Sequence[tuple[str, Reducer]],
    events: Iterable[Event[Any]],
    view: Any,
    changes: Mapping[str, Any],
) -> Any:
    """Fold fields in one pass over chunks of events; within a chunk `functools.reduce` folds each field.
    The view gets the other changes, too: to copy it once costs half as much as twice."""
    state = {**changes}
    for name, _ in reducers:
        state[name] = value_of(view, name)
    if isinstance(events, list) and len(events) <= CHUNK:
        for name, reducer in reducers:
            state[name] = reduce(reducer, events, state[name])
        return changed(view, state)
    rest = iter(events)
    while chunk := list(islice(rest, CHUNK)):
        for name, reducer in reducers:
            state[name] = reduce(reducer, chunk, state[name])
    return changed(view, state)


def pipeline(*whole: Reducer, **fields: Reducer | Sequence[Reducer]) -> Pipeline:
    """Reducers as a pipeline.

    Args:
        *whole: Reducers of the whole view, `(view, event) -> view`.
        **fields: Reducers by field of the view, `(value, event) -> value`; a sequence runs in order.

    Example:
        ```python
        from pgevents import derive, pipeline

        reducers = pipeline(items=to_items) | derive(total=lambda cart: len(cart.items))
        ```
    """
    stages: list[_Fields | _Whole] = [_Whole(_checked(reducer, "a reducer")) for reducer in whole]
    pairs: list[tuple[str, Reducer]] = []
    for name, given in fields.items():
        reducers: Any = given if isinstance(given, Sequence) else (given,)  # pyright: ignore[reportUnknownVariableType]
        pairs += [(name, _checked(reducer, name)) for reducer in reducers]
    if pairs:
        stages.append(_Fields(tuple(pairs)))
    return Pipeline(tuple(stages))


def derive(**fields: Derivation) -> Pipeline:
    """Fields that follow from the rest of the view: computed once, when all events are folded.

    Args:
        **fields: By field of the view, a function `view -> value`. Each sees the fields derived before it.

    Example:
        ```python
        from pgevents import derive

        totals = derive(total=lambda cart: sum(item.quantity * item.price for item in cart.items))
        ```
    """
    return Pipeline(derived=tuple((name, _checked(derivation, name)) for name, derivation in fields.items()))


def _checked(function: Any, name: str) -> Any:
    check_function(function, name)
    return function


def check_function(function: Any, name: str) -> None:
    """Check that a reducer or derivation is a function whose result is there when it returns.

    Args:
        function: What was given.
        name: What an error calls it.

    Raises:
        ConfigurationError: Not callable, async, or a generator.
    """
    if not callable(function):
        raise ConfigurationError(f"{name}: a function is needed here, not {function!r}")
    for called in (function, cast(Any, type(cast(object, function))).__call__):
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            raise ConfigurationError(
                f"{name}: {_name_of(function)} is async, and nobody would await it: write a plain function"
            )
        if inspect.isgeneratorfunction(called):
            raise ConfigurationError(
                f"{name}: {_name_of(function)} yields, so a call gives a generator and no value: use return"
            )


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", None) or shown(function)
