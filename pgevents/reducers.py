"""Reducers and pipelines: plain functions `(state, event) -> state`, composed, and folded in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import groupby, islice
from typing import Any, TypeVar, cast

import attrs

from pgevents.errors import ConfigurationError
from pgevents.events import Event

__all__ = ["Pipeline", "derive", "pipeline"]

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
        stages: What every event passes, in order.
        derived: What is computed once, from the finished view.
    """

    stages: tuple[_Fields | _Whole, ...] = ()
    derived: tuple[tuple[str, Derivation], ...] = ()
    _merged: tuple[_Fields | _Whole, ...] = attrs.field(init=False, eq=False, repr=False)
    _fitting: set[type[Any]] = attrs.field(init=False, eq=False, repr=False, factory=set[type[Any]])

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_merged", _merge(self.stages))

    def __or__(self, other: Pipeline | Reducer) -> Pipeline:
        if isinstance(other, Pipeline):
            return Pipeline(self.stages + other.stages, self.derived + other.derived)
        return self | pipeline(other)

    def fold(self, events: Iterable[Event[Any]], view: V) -> V:
        """Fold events over a view, all fields in one pass.

        Args:
            events: In the order of the log.
            view: An attrs instance to start from; it is not changed.

        Returns:
            The view after all events, derived fields included.

        Raises:
            ConfigurationError: The view has no such field, or is no attrs class.

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
        if view.__class__ not in self._fitting:
            self._check(view)
            self._fitting.add(view.__class__)
        stages = self._merged
        if len(stages) == 1 and isinstance(stages[0], _Fields):
            folded = _fold_fields(stages[0].reducers, events, view)
        elif stages:
            folded = view
            for event in events:
                for stage in stages:
                    if isinstance(stage, _Whole):
                        folded = stage.reducer(folded, event)
                    else:
                        folded = _fold_fields(stage.reducers, (event,), folded)
        else:
            folded = view
        for name, derivation in self.derived:
            folded = attrs.evolve(cast(Any, folded), **{name: derivation(folded)})
        return cast(V, folded)

    def _check(self, view: object) -> None:
        if not attrs.has(type(view)):
            raise ConfigurationError(
                f"a pipeline folds into an attrs class, not into {type(view).__qualname__}"
            )
        fields = {field.name for field in attrs.fields(cast(Any, type(view)))}
        named = [name for stage in self.stages if isinstance(stage, _Fields) for name, _ in stage.reducers]
        for name in [*named, *(name for name, _ in self.derived)]:
            if name not in fields:
                raise ConfigurationError(
                    f"{type(view).__qualname__} has no field {name!r} to fold into; it has {sorted(fields)}"
                )


def _merge(stages: Iterable[_Fields | _Whole]) -> tuple[_Fields | _Whole, ...]:
    """Neighbouring stages of fields as one: fields are independent of each other, so one pass serves them."""
    merged: list[_Fields | _Whole] = []
    for is_fields, several in groupby(stages, lambda stage: isinstance(stage, _Fields)):
        if not is_fields:
            merged += several
            continue
        by_field: dict[str, list[Reducer]] = {}
        for name, reducer in (pair for stage in several for pair in cast(_Fields, stage).reducers):
            by_field.setdefault(name, []).append(reducer)
        merged.append(_Fields(tuple((name, _in_order(reducers)) for name, reducers in by_field.items())))
    return tuple(merged)


def _in_order(reducers: Sequence[Reducer]) -> Reducer:
    """One reducer that does what several of a field do, one after the other on each event."""
    if len(reducers) == 1:
        return reducers[0]
    return lambda value, event: reduce(lambda before, reducer: reducer(before, event), reducers, value)


def _fold_fields(reducers: Sequence[tuple[str, Reducer]], events: Iterable[Event[Any]], view: Any) -> Any:
    """One pass in chunks: within a chunk each field is folded by itself, in C but for its reducer."""
    state = {name: getattr(view, name) for name, _ in reducers}
    rest = iter(events)
    while chunk := list(islice(rest, CHUNK)):
        for name, reducer in reducers:
            state[name] = reduce(reducer, chunk, state[name])
    return attrs.evolve(view, **state)


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
        several: Any = given if isinstance(given, Sequence) else (given,)  # pyright: ignore[reportUnknownVariableType]
        pairs += [(name, _checked(reducer, name)) for reducer in several]
    if pairs:
        stages.append(_Fields(tuple(pairs)))
    return Pipeline(tuple(stages))


def derive(**fields: Derivation) -> Pipeline:
    """Fields that follow from the rest of the view: computed once, when all events are folded.

    Args:
        **fields: By field of the view, a function `view -> value`; a later one sees what an earlier one gave.

    Example:
        ```python
        from pgevents import derive

        totals = derive(total=lambda cart: sum(item.quantity * item.price for item in cart.items))
        ```
    """
    return Pipeline(derived=tuple((name, _checked(derivation, name)) for name, derivation in fields.items()))


def _checked(function: Any, name: str) -> Any:
    if not callable(function):
        raise ConfigurationError(f"{name}: a function is needed here, not {function!r}")
    return function
