"""Snapshots prove themselves: what is folded on from one is the same as folded from the start, or it is
refused."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar
from uuid import UUID

import attrs
import pytest
from attrs import field, frozen

from pgevents import (
    ConfigurationError,
    Event,
    EventClient,
    EventEncodeError,
    NotInstalledError,
    Pipeline,
    ProjectionBase,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
    derive,
    pipeline,
)
from pgevents.codec.serialization import load_json
from pgevents.log_folding import LogFolding
from pgevents.testing import check_projection
from pgevents.type_registry import EventTypes
from pgevents.views import as_jsonb, first_difference, jsonb_text, shape_text

from .shop import CartCreated, CartEvent, CartItem, CartProjection, CartView, ItemAddedToCart

Make = Callable[..., EventClient]
NOON = datetime(2024, 3, 1, 12, tzinfo=timezone.utc)


def added(product: str = "p1", cart: str = "c1", price: int = 5) -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, price)


class OfCart(ProjectionBase[Any, Any]):
    """Projections of these tests: of one cart."""

    def get_event_identifiers(self) -> dict[str, Any]:
        return {"cart_id": self.id}


def split_view(projection: Callable[[], LogFolding[Any, Any]], client: EventClient, *events: Any) -> Any:
    """The view with a snapshot after each event."""
    for one in events:
        client.save_event(one)
        projection().save_projection()
    return projection().view


# -- the round trip ------------------------------------------------------------


@frozen
class Odd:
    id: str
    prices: dict[str, Decimal] = field(factory=dict)
    recent: dict[str, int] = field(factory=dict)
    places: tuple[tuple[str, datetime], ...] = ()
    big: float = 0.0


def keep_two(recent: dict[str, int], event: Event[Any]) -> dict[str, int]:
    """Drops the oldest key: which one that is depends on the order of the keys."""
    recent = {**recent, event.data.product_id: event.id}
    return dict(list(recent.items())[-2:])


class OddProjection(OfCart, ProjectionBase[Odd, ItemAddedToCart]):
    projection_type = "ODD"
    reducers = pipeline(
        prices=lambda prices, event: {**prices, str(event.id * 7 % 5): Decimal(event.data.price_at_time) / 4},
        recent=keep_two,
        places=lambda places, event: (*places, (event.data.product_id, NOON + timedelta(hours=event.id))),
        big=lambda big, event: big * 10 + 1e16,
    )


def test_what_json_changes_comes_back_as_it_was(client: EventClient) -> None:
    """Tuples, times, Decimals, floats that jsonb writes as whole numbers, and the
    order of
    a dict's keys, which jsonb sorts by length."""
    products = ["long name", "b", "aa", "a"]
    view = split_view(lambda: OddProjection("c1", client), client, *map(added, products))
    whole = OddProjection("c1", client, load_existing_projection=False).view
    assert first_difference(view, whole) is None
    assert list(view.recent) == ["aa", "a"]
    assert (view.places[0], type(view.big)) == (("long name", NOON + timedelta(hours=1)), float)
    assert check_projection(OddProjection("c1", client)) == 4


def test_only_what_jsonb_would_change_is_kept_twice(client: EventClient) -> None:
    """A view that jsonb gives back as it is stands there once."""
    split_view(lambda: CartProjection("c1", client), client, added())
    split_view(lambda: OddProjection("c2", client), client, added("long name", "c2"), added("b", "c2"))
    kept = client.db.execute_sql("SELECT type, exact IS NOT NULL FROM my_app.views ORDER BY type").fetchall()
    assert kept == [("ODD", True), ("SHOPPING_CART", False)]
    with pytest.raises(Exception, match="views_.*check"):
        client.db.execute_sql("UPDATE my_app.views SET data = '{}' WHERE type = 'ODD'")


@pytest.mark.parametrize(
    "value",
    [NOON, (1, 2), {1: "a"}, Decimal("1.10"), {"a", "b"}, UUID(int=5), {"at": [NOON]}, CartItem("p1", 1, 2)],
    ids=lambda value: type(value).__name__,
)
def test_what_does_not_come_back_as_it_is_is_refused(client: EventClient, value: Any) -> None:
    """In a field of any type JSON forgets what a value was; the field is named, and nothing is saved."""

    @frozen
    class Anything:
        id: str
        what: Any = None

    class AnythingProjection(OfCart, ProjectionBase[Anything, Any]):
        projection_type = "ANYTHING"
        reducers = pipeline(what=lambda what, event: value)

    client.save_event(added())
    with pytest.raises(EventEncodeError, match="ANYTHING 'c1'"):
        AnythingProjection("c1", client).save_projection()
    assert client.get_projection_ids("ANYTHING") == []
    assert AnythingProjection("c1", client).view.what == value


def test_a_converter_that_changes_values_each_time_is_refused(client: EventClient) -> None:
    """It would change the view at each reading of the snapshot."""

    @frozen
    class Growing:
        id: str
        n: int = field(default=0, converter=lambda n: n + 1)

    class GrowingProjection(OfCart, ProjectionBase[Growing, Any]):
        projection_type = "GROWING"
        reducers = pipeline(n=lambda n, event: n)

    client.save_event(added())
    with pytest.raises(EventEncodeError, match="GROWING 'c1', n: 2 would come back from a snapshot as 3"):
        GrowingProjection("c1", client).save_projection()


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": {"long": 1, "x": [{"zz": 1, "é": 2, "z": 3}]}, "": 5},
        [1e16, 1.5e300, 1e-7, 123456789012345678, -0.0, 1.0, 2.5e-300, 1e22, 0.1 + 0.2],
        {"ß": 'quo"te', "\u2028": "new\nline", "back\\slash": "\x01\x7f", "𝄞": True, "e": None},
    ],
)
def test_jsonb_is_known_as_it_is(client: EventClient, value: Any) -> None:
    """What we hold for the text that PostgreSQL gives back is what it gives back."""
    (text,) = client.db.execute_sql("SELECT %s::jsonb::text", [jsonb_text(value)]).fetchone()
    (given,) = client.db.execute_sql("SELECT %s::jsonb::text", [__import__("json").dumps(value)]).fetchone()
    assert given == text
    assert first_difference(load_json(given), as_jsonb(value)) is None


def test_a_view_of_another_time_zone_is_the_same_by_its_offset(client: EventClient) -> None:
    """A stored time keeps its offset, and another offset is another time."""
    east = datetime(2024, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert first_difference(east, datetime.fromisoformat(east.isoformat())) is None
    assert first_difference(east, east.astimezone(timezone.utc)) is not None
    assert first_difference({"a": [1, True]}, {"a": [1, 1]}) == ("a[1]", True, 1)
    assert first_difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) == ("", ["a", "b"], ["b", "a"])
    assert first_difference({1, 2}, {2, 1}) is None
    assert first_difference({1}, {True}) is not None


# -- folding on ------------------------------------------------------------


@dataclasses.dataclass
class Basket:
    id: str
    items: list[str] = dataclasses.field(default_factory=list)
    n: int = 0


def append(items: list[str], event: Event[Any]) -> list[str]:
    items.append(event.data.product_id)
    return items


class BasketProjection(OfCart, ProjectionBase[Basket, ItemAddedToCart]):
    projection_type = "BASKET"
    reducers = pipeline(items=append)


def test_a_reducer_may_change_its_state_in_place(client: EventClient) -> None:
    """Each event is folded once, whatever is looked at, staged or saved in between."""
    client.save_events([added("tea"), added("milk")])
    basket = BasketProjection("c1", client)
    assert basket.view.items == ["tea", "milk"]
    assert basket.apply(added("jam")).view.items == ["tea", "milk", "jam"]
    assert basket.apply([added("egg"), added("oil")]).view.items == ["tea", "milk", "jam", "egg", "oil"]
    BasketProjection("c1", client).save_projection()
    client.save_event(added("bun"))
    after = BasketProjection("c1", client)
    assert after.view.items == ["tea", "milk", "bun"]
    assert after.apply(added("jam")).view.items == ["tea", "milk", "bun", "jam"]
    assert after.saved_projection is not None and after.saved_projection.data.items == ["tea", "milk"]
    taken = after.from_projection_or_default("items", [])
    taken.append("mine")
    assert after.from_projection_or_default("items", []) == ["tea", "milk"]


def test_an_initial_view_that_is_shared_is_not_changed(client: EventClient) -> None:
    """Also where a class gives out one view to all its projections."""
    shared = Basket("all")

    class Shared(BasketProjection):
        projection_type = "SHARED"

        def initial_view(self) -> Basket:
            return shared

    client.save_event(added("tea"))
    assert [Shared("c1", client).view.items for _ in range(2)] == [["tea"], ["tea"]]
    assert shared.items == []


def test_derived_fields_are_as_from_the_start_when_folded_on(client: EventClient) -> None:
    """A reducer of the whole view that reads a derived field sees the initial one, with a snapshot or
    without."""

    @frozen
    class Running:
        id: str
        n: int = 0
        seen: tuple[int, ...] = ()
        twice: int = 0

    def count(view: Running, event: Event[Any]) -> Running:
        return attrs.evolve(view, n=view.n + 1, seen=(*view.seen, view.twice))

    class RunningProjection(OfCart, ProjectionBase[Running, Any]):
        projection_type = "RUNNING"
        reducers = pipeline(count) | derive(twice=lambda view: view.n * 2)

    view = split_view(lambda: RunningProjection("c1", client), client, added(), added(), added())
    assert view == Running("c1", 3, (0, 0, 0), 6)
    assert RunningProjection("c1", client).apply(added()).view == Running("c1", 4, (0, 0, 0, 0), 8)


def test_a_check_finds_reducers_that_snapshots_do_not_hold(client: EventClient) -> None:
    """A reducer that keeps something outside the view folds otherwise from a snapshot."""
    seen: list[int] = []

    @frozen
    class Hidden:
        id: str
        n: int = 0

    class Hiding(OfCart, ProjectionBase[Hidden, Any]):
        projection_type = "HIDING"
        reducers = pipeline(n=lambda n, event: seen.append(event.id) or len(seen))

    client.save_events([added(), added()])
    with pytest.raises(AssertionError, match=r"Hiding\('c1'\), n: folded from the start it is 2, and 4 with"):
        check_projection(Hiding("c1", client))
    assert client.get_projection_ids("HIDING") == []
    client.save_events([added() for _ in range(10)])
    places: list[str] = []
    for seed in (1, 1, 2):  # one place each, which follows from the seed
        with pytest.raises(AssertionError) as found:
            check_projection(Hiding("c1", client), splits=1, seed=seed)
        places.append(str(found.value).rpartition("number ")[2])
    assert places[0] == places[1] != places[2]
    with pytest.raises(ConfigurationError, match="no events"):
        check_projection(CartProjection("none", client))
    with pytest.raises(ConfigurationError, match="needs a client"):
        check_projection(CartProjection("c1"))


# -- shape and kind ------------------------------------------------------------


def totals(*fields: str, kind: type[Any] = int) -> Any:
    """A class as it stands in some version of a program, with these fields of its view."""
    view = attrs.make_class(
        "Totals",
        {"id": attrs.field(type=str), **{name: attrs.field(type=kind, default=kind(0)) for name in fields}},
        frozen=True,
    )
    steps = {"total": lambda total, event: total + event.data.price_at_time, "count": lambda n, event: n + 1}

    class TotalsProjection(OfCart, ProjectionBase[view, ItemAddedToCart]):  # type: ignore[valid-type]
        projection_type = "TOTALS"
        reducers = pipeline(**{name: steps.get(name, steps["total"]) for name in fields})

    return TotalsProjection


def test_a_view_with_other_fields_is_folded_from_the_start(client: EventClient) -> None:
    """A field that is added, renamed or of another type, though nobody raised the version; and back again."""
    client.save_events([added(), added()])
    totals("total")("c1", client).save_projection()
    client.save_event(added())
    assert totals("total", "count")("c1", client).view.count == 3
    assert totals("sum")("c1", client).view.sum == 15
    decimal = totals("total", kind=Decimal)("c1", client)
    assert decimal.saved_projection is None and type(decimal.view.total) is Decimal
    assert totals("total")("c1", client).saved_projection.data.total == 10
    assert totals("sum")("c1", client).save_projection().status == "updated"
    assert totals("total")("c1", client).view.total == 15


def test_a_query_does_not_pass_over_snapshots_of_another_shape(
    client: EventClient, make_client: Make
) -> None:
    """It says so, and what to do; afterwards it finds all."""
    for cart in ("c1", "c2"):
        client.save_event(added(cart=cart))
        totals("total")(cart, client).save_projection()
    later, now = make_client(), totals("total", "count")
    with pytest.raises(ConfigurationError, match=r"'TOTALS', version 1.*refresh_projections"):
        later.query_projections(now, count=1)
    with pytest.raises(ConfigurationError, match="refresh_projections"):
        later.count_projections(now)
    assert later.refresh_projections(now) == {"created": 0, "updated": 2, "skipped": 0}
    assert [one.data.count for one in later.query_projections(now, count=1)] == [1, 1]
    totals("total")("c1", client).save_projection()  # an older program, still at work
    with pytest.raises(ConfigurationError, match="refresh_projections"):
        later.query_projections(now)


def test_shapes_are_alike_however_types_are_written() -> None:
    """So a program on another Python, or with other spelling, uses the same snapshots."""

    @frozen
    class One:
        a: int | None
        b: list[CartItem]

    @frozen
    class Other:
        a: None | int
        b: list[CartItem]

    assert shape_text(One) == shape_text(Other) == "{a:None|int,b:list[{" + shape_text(CartItem)[1:] + "]}"
    assert shape_text(dict[str, Any]) == "dict[str,Any]"


def test_two_classes_do_not_share_snapshots(client: EventClient) -> None:
    """A class that was copied, and its projection_type forgotten, is refused when it is used; one that is
    defined
    again or folds alike is not."""

    class Count(CartProjection):
        reducers = pipeline(total=lambda total, event: total + 1)

    class Same(CartProjection):
        pass

    client.save_event(added())
    CartProjection("c1", client).save_projection()
    assert Same("c1", client).view.total == 5
    for use in (
        lambda: Count("c1", client).view,
        lambda: Count("c1", client).save_projection(),
        lambda: client.query_projections(Count),
        lambda: client.get_projection(Count, "c1"),
    ):
        with pytest.raises(ConfigurationError, match="two classes are saved as 'SHOPPING_CART', version 1"):
            use()
    assert CartProjection("c1", client).view.total == 5


def test_a_table_that_two_logs_share_is_read_by_its_own_log(client: EventClient) -> None:
    """A client of another log that never called `create_tables()` with that table folds from the start."""
    events = create_events_table("my_app", "others", data_indexes=["cart_id", "product_id"])
    create_event_client(client.db, events, create_projections_table("my_app", "other_views")).create_tables()
    other = create_event_client(client.db, events, client.projections, CartEvent)
    client.save_events([added(), added(), added()])
    CartProjection("c1", client).save_projection()
    other.save_event(added())
    assert (CartProjection("c1", client).view.total, CartProjection("c1", other).view.total) == (15, 5)


def test_a_class_that_was_reloaded_is_noticed(
    make_client: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A projection written for the former class of an event would recognise none of its events."""
    (tmp_path / "reloaded_events.py").write_text(
        "from pgevents import event\n@event('RELOADED')\nclass Reloaded:\n    cart_id: str\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(EventTypes, "everything", EventTypes())
    module = importlib.import_module("reloaded_events")
    client = make_client(event_types=None)
    client.create_tables()

    class Reloads(OfCart, ProjectionBase[Basket, module.Reloaded]):  # type: ignore[name-defined]
        projection_type = "RELOADS"
        reducers = pipeline(n=lambda n, event: n + isinstance(event.data, module.Reloaded))

    old = module.Reloaded
    client.save_event(old("c1"))
    assert Reloads("c1", client).view.n == 1
    importlib.reload(module)
    with pytest.raises(ConfigurationError, match="Reloads is written for .* it was defined again"):
        _ = Reloads("c1", client).view
    del sys.modules["reloaded_events"]


# -- what folds in as_json ------------------------------------------------------------


class Ported(OfCart, ProjectionBase[dict[str, Any], CartEvent]):
    """As it is written elsewhere: everything is folded in as_json, from the snapshot or a default."""

    projection_type = "PORTED"

    def as_json(self) -> dict[str, Any]:
        items = self.reduce_events(self.to_items, self.from_projection_or_default("items", []))
        return {"id": self.id, "items": items, "n": len(items)}

    def to_items(self, items: list[str], event: Event[Any]) -> list[str]:
        return [*items, event.data.product_id] if event.type == "ITEM_ADDED_TO_CART" else items


def test_a_projection_may_fold_in_its_own_as_json(client: EventClient) -> None:
    """What it returns is the view: saved, read, resumed, queried and decided on."""
    view = split_view(
        lambda: Ported("c1", client), client, CartCreated("c1", "u1"), added("tea"), added("jam")
    )
    assert view == Ported("c1", client).as_json() == {"id": "c1", "items": ["tea", "jam"], "n": 2}
    resumed = Ported("c1", client)
    assert resumed.projection_events == []
    client.save_event(added("bun"))
    assert [one.id for one in resumed.refresh().projection_events] == [4]
    assert resumed.as_json()["items"] == ["tea", "jam", "bun"]
    assert resumed.apply(added("egg")).view["n"] == 4
    assert [one.data["n"] for one in client.query_projections(Ported, n=2)] == [2]
    assert Ported.from_history("c1", [added("tea")]).as_json()["items"] == ["tea"]
    assert check_projection(Ported("c1", client)) == 4
    client.decide(Ported("c1", client), lambda seen: added(f"{seen['n']} items"))
    assert Ported("c1", client, load_existing_projection=False).view["items"][-1] == "3 items"


def test_a_typed_view_may_be_folded_in_as_json(client: EventClient) -> None:
    """The dict is made an instance of the view's class."""

    class Typed(Ported, ProjectionBase[Basket, CartEvent]):
        projection_type = "TYPED"

    assert split_view(lambda: Typed("c1", client), client, added("tea")) == Basket("c1", ["tea"], 1)
    assert Typed("c1", client).save_projection().projection.data == Basket("c1", ["tea"], 1)


def test_what_cannot_be_folded_in_as_json_is_refused(client: EventClient) -> None:
    """An as_json that asks for its own view; and a snapshot's field that no reducer folds."""

    class Circular(OfCart, ProjectionBase[dict[str, Any], Any]):
        projection_type = "CIRCULAR"

        def as_json(self) -> dict[str, Any]:
            return {**super().as_json(), "more": 1}

    with pytest.raises(ConfigurationError, match=r"Circular.as_json asks for its own view"):
        _ = Circular("c1", client).view

    class Both(OfCart, ProjectionBase[CartView, CartEvent]):
        projection_type = "BOTH"
        reducers = pipeline(total=lambda total, event: total + 1)

        def as_json(self) -> dict[str, Any]:
            return {
                "user": self.reduce_events(
                    lambda user, event: "u", self.from_projection_or_default("user_id", "")
                )
            }

    with pytest.raises(ConfigurationError, match="Both has no reducer for 'user_id'"):
        Both("c1", client).as_json()


# -- redaction and unsound installations ------------------------------------------------------------


class Mails(OfCart, ProjectionBase[dict[str, Any], Any]):
    projection_type = "MAILS"
    reducers = pipeline(lambda view, event: {"mails": [*view["mails"], event.data.get("mail", "-")]})
    meanwhile: Callable[[], None] | None = None

    def initial_view(self) -> dict[str, Any]:
        return {"mails": []}

    def _fold(self, events: Any, view: Any) -> Any:
        folded = super()._fold(events, view)
        meanwhile, Mails.meanwhile = Mails.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return folded


@pytest.mark.parametrize("has_base", [False, True])
def test_what_was_redacted_does_not_come_back(client: EventClient, make_client: Make, has_base: bool) -> None:
    """An erasure while a snapshot is being folded: the snapshot is folded anew, of what stands."""
    other = make_client()
    seen = [{"cart_id": "c1", "mail": "ada@example.org"}, {"cart_id": "c1"}]
    client.save_events([{"type": "SEEN", "data": data} for data in seen])
    if has_base:
        Mails("c1", client).save_projection()
        client.save_event({"type": "SEEN", "data": {"cart_id": "c1"}})

    def erase() -> None:
        with other.maintenance("erasure"):
            other.db.execute_sql("UPDATE my_app.events SET data = data - 'mail' WHERE id = 1")
            other.db.execute_sql("DELETE FROM my_app.views WHERE id = 'c1'")

    Mails.meanwhile = erase
    saved = Mails("c1", client).save_projection()
    assert (
        saved.projection.data["mails"] == Mails("c1", client).view["mails"] == ["-"] * (3 if has_base else 2)
    )


def test_a_snapshot_that_was_removed_meanwhile_does_not_come_back(
    client: EventClient, make_client: Make
) -> None:
    """Whoever removed it may have had a reason; the view is folded from the start."""
    client.save_event({"type": "SEEN", "data": {"cart_id": "c1"}})
    Mails("c1", client).save_projection()
    client.db.execute_sql('UPDATE my_app.views SET data = \'{"mails": ["old"]}\'')
    client.save_event({"type": "SEEN", "data": {"cart_id": "c1"}})
    other = make_client()
    Mails.meanwhile = lambda: (
        None if other.delete_projection(Mails, "c1") else pytest.fail("nothing to delete")
    )
    assert Mails("c1", client).save_projection().projection.data == {"mails": ["-", "-"]}


def test_while_the_log_is_changed_no_snapshot_is_saved(client: EventClient, make_client: Make) -> None:
    """It does not wait for maintenance, and can be tried again afterwards; inside it, it can be saved."""
    other = make_client()
    client.save_event(added())
    with other.maintenance("tidy up"):
        other.db.execute_sql("UPDATE my_app.events SET data = data")
        with pytest.raises(RetryableError, match="being changed under maintenance"):
            CartProjection("c1", client).save_projection()
        assert CartProjection("c1", other).save_projection().status == "created"
    assert CartProjection("c1", client).save_projection().status == "skipped"


def test_a_projection_folded_anew_replaces_what_a_redaction_left(client: EventClient) -> None:
    """Snapshots that stand from before are folded anew on request."""
    client.save_event({"type": "SEEN", "data": {"cart_id": "c1", "mail": "ada@example.org"}})
    Mails("c1", client).save_projection()
    with client.maintenance("erasure"):
        client.db.execute_sql("UPDATE my_app.events SET data = data - 'mail'")
    assert client.refresh_projections(Mails)["skipped"] == 1
    assert client.refresh_projections(Mails, anew=True)["updated"] == 1
    assert Mails("c1", client).view == {"mails": ["-"]}


def test_a_snapshot_is_not_the_first_thing_that_goes_unchecked(
    client: EventClient, make_client: Make
) -> None:
    """A client whose first act it is looks at the installation like one that saves events."""
    client.save_event(added())
    client.db.execute_sql("COMMENT ON FUNCTION my_app.events_append IS 'pgevents other'")
    with pytest.raises(NotInstalledError):
        CartProjection("c1", make_client()).save_projection()


# -- type arguments ------------------------------------------------------------

VT = TypeVar("VT")
ET = TypeVar("ET")
K = TypeVar("K")


class Mixin(Generic[K, VT]):
    pass


class Half(OfCart, ProjectionBase[VT, ItemAddedToCart], Generic[VT]):
    pass


class Swapped(OfCart, ProjectionBase[VT, ET], Generic[ET, VT]):
    pass


class Titled(TypedDict):
    id: str
    n: int


@pytest.mark.parametrize(
    "bases",
    [
        (ProjectionBase[Basket, ItemAddedToCart],),
        (Mixin[str, int], ProjectionBase[Basket, ItemAddedToCart]),
        (ProjectionBase[Basket, ItemAddedToCart], Mixin[str, int]),
        (Half[Basket],),
        (Swapped[ItemAddedToCart, Basket],),
        (ProjectionBase["Basket", "ItemAddedToCart"],),
        (ProjectionBase[Basket, ItemAddedToCart, str],),
    ],
)
def test_view_and_events_are_found_whatever_the_bases(client: EventClient, bases: tuple[Any, ...]) -> None:
    """Behind mix-ins, half-bound and swapped parameters, and forward references."""
    import types

    def identifiers(self: Any) -> dict[str, Any]:
        return {"cart_id": self.id}

    body = {
        "projection_type": "T",
        "reducers": pipeline(n=lambda n, event: n + 1),
        "get_event_identifiers": identifiers,
    }
    cls: Any = types.new_class("Sub", bases, {}, lambda namespace: namespace.update(body))
    client.save_events([CartCreated("c1", "u1"), added()])
    cls("c1", client).save_projection()
    assert cls("c1", client).view == Basket("c1", [], 1)
    assert client.query_projections(cls)[0].data == Basket("c1", [], 1)


def test_a_type_that_cannot_be_found_is_named(client: EventClient) -> None:
    """A forward reference to nothing, or no type arguments at all."""

    class Lost(OfCart, ProjectionBase["Nowhere", Any]):  # type: ignore[name-defined]  # noqa: F821
        projection_type = "LOST"

    with pytest.raises(ConfigurationError, match="Lost names 'Nowhere' as a type, which cannot be found"):
        _ = Lost("c1", client).view


def test_views_may_be_dicts_and_typed_dicts(client: EventClient) -> None:
    """With a class, or by the short form without one."""

    class TitledProjection(OfCart, ProjectionBase[Titled, Any]):
        projection_type = "TITLED"
        reducers = pipeline(n=lambda n, event: n + 1)

        def initial_view(self) -> Titled:
            return {"id": self.id, "n": 0}

    assert split_view(lambda: TitledProjection("c1", client), client, added(), added()) == {
        "id": "c1",
        "n": 2,
    }

    def add(todo: dict[str, Any], event: Event[Any]) -> dict[str, Any]:
        return {**todo, "items": [*todo["items"], event.data["text"]]}

    client.save_events([{"type": "NOTED", "data": {"list_id": "l1", "text": text}} for text in "ab"])
    todo = client.project("TODO", {"list_id": "l1"}, add, {"items": []})
    assert todo.view == {"items": ["a", "b"]}
    assert todo.save_projection().status == "created"
    again = client.project("TODO", {"list_id": "l1"}, add, dict[str, Any](items=[]))
    assert again.saved_projection is not None and again.view == todo.view
    wider = client.project("TODO", {"list_id": "l1"}, add, {"items": [], "done": 0})
    assert wider.saved_projection is None and wider.view == {"items": ["a", "b"], "done": 0}
    assert client.project("BY_TWO", {"list_id": "l1", "text": "a"}, add, {"items": []}).view == {
        "items": ["a"]
    }
    with pytest.raises(ConfigurationError, match="two classes are saved as 'TODO'"):
        client.project("TODO", {"list_id": "l1"}, Pipeline(), {"items": []}).view  # noqa: B018
