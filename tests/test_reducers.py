"""Reducers and pipelines: plain functions, composed, and folded in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from attrs import evolve, frozen

from pgevents import ConfigurationError, Event, derive, pipeline

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
    """A field that the view does not have, a view that is no attrs class, or no function, is refused by
    name."""
    with pytest.raises(ConfigurationError, match="View has no field 'm'"):
        pipeline(m=count).fold([], View())
    with pytest.raises(ConfigurationError, match="View has no field 'm'"):
        derive(m=len).fold([], View())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="attrs class"):
        pipeline(n=count).fold([], {"n": 0})
    with pytest.raises(ConfigurationError, match="n: a function is needed"):
        pipeline(n=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="a function is needed"):
        pipeline("n")  # type: ignore[arg-type]


def test_a_reducers_own_error_comes_through() -> None:
    """What a reducer raises is not dressed up."""
    with pytest.raises(ZeroDivisionError):
        pipeline(n=lambda n, event: 1 // 0).fold(events(1), View())


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
