"""Reducers and pipelines: plain functions, composed, and folded in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

import pytest
from attrs import evolve, field, frozen

from pgevents import ConfigurationError, Event, derive, pipeline
from pgevents.views import value_of

from .shop import CartCreated, CartItem, CartProjection, CartView, ItemAddedToCart, ItemRemovedFromCart

NOW = datetime(2024, 1, 1, tzinfo=timezone.utc)


@frozen
class View:
    n: int = 0
    text: str = ""
    twice: int = 0


def events(*data: Any) -> list[Event[Any]]:
    return [Event(n + 1, type(one).__name__, one, {}, NOW, NOW) for n, one in enumerate(data)]


def count(n: int, event: Event[Any]) -> int:
    return n + 1


def write(text: str, event: Event[Any]) -> str:
    return text + str(event.data)


def test_fields_are_folded_by_their_own_reducers() -> None:
    """Each field has its function `(state, event) -> state`; fields without one stay."""
    view = pipeline(n=count, text=write).fold(events(1, 2, 3), View(twice=7))
    assert view == View(3, "123", 7)


def test_all_fields_are_folded_in_one_pass() -> None:
    """The events are walked once, however many fields and pipelines there are: a generator will do."""

    def once() -> Iterator[Event[Any]]:
        yield from events(1, 2)

    assert (pipeline(n=count) | pipeline(text=write)).fold(once(), View()) == View(2, "12")


def test_the_whole_view_may_be_folded() -> None:
    """A reducer without a field's name gets and gives the whole view, in its place among the others."""

    def double(view: View, event: Event[Any]) -> View:
        return evolve(view, n=view.n * 2)

    assert (pipeline(n=count) | double).fold(events(1, 2), View()) == View(6)
    assert (pipeline(double) | pipeline(n=count)).fold(events(1, 2), View()) == View(3)
    assert pipeline(double, n=count).fold(events(1, 2), View()) == View(3)


def test_a_field_may_have_several_reducers() -> None:
    """A sequence of reducers of one field runs in order, event by event."""
    assert pipeline(n=[count, lambda n, event: n * 10]).fold(events(1, 2), View()) == View(110)


def test_derived_fields_are_computed_once_at_the_end() -> None:
    """A derivation sees the finished view, and what an earlier derivation gave."""
    seen = []

    def twice(view: View) -> int:
        seen.append(view.n)
        return view.n * 2

    folded = (pipeline(n=count) | derive(twice=twice, text=lambda view: str(view.twice))).fold(
        events(1, 2, 3), View()
    )
    assert folded == View(3, "6", 6)
    assert seen == [3]
    assert derive(twice=twice).fold([], View(5)) == View(5, "", 10)


def test_the_view_given_is_not_changed() -> None:
    """Folding gives a new view."""
    view = View()
    pipeline(n=count).fold(events(1), view)
    assert view == View()


def test_mistakes_are_named() -> None:
    """A field that the view does not have, a view without fields, or no function, is refused by name."""
    with pytest.raises(ConfigurationError, match="View has no field 'm'"):
        pipeline(m=count).fold([], View())
    with pytest.raises(ConfigurationError, match="View has no field 'm'"):
        derive(m=len).fold([], View())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="attrs class"):
        pipeline(n=count).fold([], 5)
    with pytest.raises(ConfigurationError, match="no field 'n'"):
        pipeline(n=count).fold([], {"m": 0})
    with pytest.raises(ConfigurationError, match="n: a function is needed"):
        pipeline(n=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="a function is needed"):
        pipeline("n")  # type: ignore[arg-type]


def forgets_return(view: Any, event: Event[Any]) -> Any:
    evolve(view) if isinstance(view, View) else view.update(n=1)


@pytest.mark.parametrize("view", [View(), {"n": 0}])
def test_a_forgotten_return_is_named(view: Any) -> None:
    """What is no view never goes on as one: not to the next event, the next stage or the caller."""
    for reducers in (pipeline(forgets_return), pipeline(forgets_return) | pipeline(n=count)):
        for given in (events(1), events(1, 2)):
            with pytest.raises(ConfigurationError, match="forgets_return returned None .* 'int'.*its return"):
                reducers.fold(given, view)
    with pytest.raises(ConfigurationError, match="returned 7 "):
        pipeline(lambda view, event: 7).fold(events(1), view)
    with pytest.raises(ConfigurationError, match="not the view"):
        pipeline(lambda view, event: {} if isinstance(view, View) else View()).fold(events(1), view)


def test_a_view_may_become_one_of_another_class() -> None:
    """As an open account that becomes a closed one."""
    assert pipeline(lambda view, event: Plain(1)).fold(events(1, 2), View()) == Plain(1)


def test_the_error_names_the_projection() -> None:
    """Wherever a projection is folded."""

    class Forgetful(CartProjection):
        reducers = pipeline(forgets_return)

        def initial_view(self) -> Any:
            return {}

    with pytest.raises(ConfigurationError, match=f"^{CartProjection.projection_type}: the reducer"):
        _ = Forgetful.from_history("c1", [CartCreated("c1", "u1")]).view


def test_what_gives_no_value_is_refused_at_once() -> None:
    """An async reducer, a generator, objects that are called as such, and derivations."""

    async def later(n: Any, event: Any = None) -> Any:
        return n

    def each(n: Any, event: Any = None) -> Any:
        yield n

    class Later:
        async def __call__(self, n: Any, event: Any = None) -> Any:
            return n

    for function, why in (
        (later, "is async"),
        (partial(later), "is async"),
        (Later(), "async"),
        (each, "yields"),
    ):
        for make in (pipeline, lambda given: pipeline(n=given), lambda given: derive(n=given)):
            with pytest.raises(ConfigurationError, match=why):
                make(function)
        with pytest.raises(ConfigurationError, match=why):
            CartProjection.from_history("c1", []).reduce_events(function, 0)


def test_a_reducers_own_error_comes_through() -> None:
    """What a reducer raises is not dressed up."""
    with pytest.raises(ZeroDivisionError):
        pipeline(n=lambda n, event: 1 // 0).fold(events(1), View())


@dataclass(frozen=True)
class Plain:
    n: int = 0
    twice: int = 0


@pytest.mark.parametrize("view", [Plain(), {"n": 0, "twice": 0}])
def test_a_view_may_be_a_dataclass_or_a_dict(view: Any) -> None:
    """Fields, the whole view and derivations work alike, and the given view stays as it was."""

    def add_ten(state: Any, event: Event[Any]) -> Any:
        return {**state, "n": state["n"] + 10} if isinstance(state, dict) else replace(state, n=state.n + 10)

    before = copy(view)
    folded = (pipeline(n=count) | pipeline(add_ten) | derive(twice=lambda v: 2 * value_of(v, "n"))).fold(
        events(1, 2), view
    )
    assert folded == ({"n": 22, "twice": 44} if isinstance(view, dict) else Plain(22, 44))
    assert view == before


def test_a_converter_sees_only_what_was_folded() -> None:
    """A converter that is not idempotent changes the fields that have a reducer, once, and no other."""

    @frozen
    class Converted:
        n: int = field(default=0, converter=lambda n: n + 100)
        m: int = field(default=0, converter=lambda m: m + 1000)
        _hidden: int = 0
        late: int = field(default=5, init=False)

    folded = pipeline(n=count, _hidden=count, late=count).fold(events(1), Converted())
    assert (folded.n, folded.m, folded._hidden, folded.late) == (201, 1000, 1, 6)


def test_a_field_is_folded_or_derived_and_not_both() -> None:
    """Composed in either order, or changed by a reducer of the whole view: refused by name."""
    for make in (
        lambda: pipeline(n=count) | derive(n=lambda view: 1),
        lambda: derive(n=len) | pipeline(n=count),
    ):
        with pytest.raises(ConfigurationError, match="'n' is both folded and derived"):
            make()

    def both(view: View, event: Event[Any]) -> View:
        return evolve(view, n=view.n + 1, twice=view.twice + 2)

    with pytest.raises(ConfigurationError, match="'twice' is derived, and a reducer of the whole view"):
        (pipeline(both) | derive(twice=lambda view: view.n * 2)).fold(events(1), View())

    def in_place(view: dict[str, int], event: Event[Any]) -> dict[str, int]:
        view["twice"] += 2
        return view

    with pytest.raises(ConfigurationError, match="'twice' is derived"):
        (pipeline(in_place) | derive(twice=lambda view: 7)).fold(events(1), {"twice": 0})


def test_a_finished_view_is_reopened_before_it_is_folded_on() -> None:
    """A reducer of the whole view that reads a derived field finds the same as from the start."""

    def remember(view: View, event: Event[Any]) -> View:
        return evolve(view, n=view.n + 1, text=view.text + str(view.twice))

    reducers = pipeline(remember) | derive(twice=lambda view: view.n * 2)
    whole = reducers.fold(events(1, 2, 3), View())
    part = reducers.fold(events(1, 2), View())
    assert reducers.fold(events(3), reducers.reopened(part, View())) == whole == View(3, "000", 6)


def test_the_cart_of_the_readme() -> None:
    """The shop's own reducers, without a database."""
    history = events(
        CartCreated("c1", "u1"),
        ItemAddedToCart("c1", "p1", 2, 1999),
        ItemAddedToCart("c1", "p2", 1, 500),
        ItemRemovedFromCart("c1", "p1", 1),
        ItemRemovedFromCart("c1", "p2", 1),
    )
    assert CartProjection.from_history("c1", history).view == CartView(
        "c1", "u1", (CartItem("p1", 1, 1999),), False, 1999
    )
