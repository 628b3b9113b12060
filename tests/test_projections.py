"""Projections: folded from their events, saved as snapshots that are exact, queried by their fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest
from attrs import field, frozen

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    Event,
    EventClient,
    EventEncodeError,
    MultiStreamProjectionBase,
    Pipeline,
    ProjectionBase,
    StagedEventsError,
    Stream,
    create_multi_stream_projection_base_class,
    create_projection_base_class,
    pipeline,
    stream,
)

from .shop import (
    CartCreated,
    CartEvent,
    CartItem,
    CartProjection,
    CartView,
    ItemAddedToCart,
    to_items,
    to_user_id,
)

Make = Callable[..., EventClient]


def added(product: str = "p1", cart: str = "c1") -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, 5)


def products(view: CartView) -> list[str]:
    return [item.product_id for item in view.items]


# -- folding ------------------------------------------------------------


def test_a_view_of_nothing_is_the_initial_one(client: EventClient) -> None:
    """Without events, view and JSON are what `initial_view` says."""
    cart = CartProjection("c1", client)
    assert cart.view == CartView("c1")
    assert cart.as_json() == {"id": "c1", "user_id": "", "items": [], "is_checked_out": False, "total": 0}
    assert cart.saved_projection is None
    assert cart.projection_events == []


def test_a_view_is_folded_from_its_own_events(client: EventClient) -> None:
    """Only events of its types and its id are folded, in order."""
    client.save_events(
        [
            CartCreated("c1", "u1"),
            CartCreated("c2", "u2"),
            added("p1"),
            added("p2"),
            {"type": "X", "data": {"cart_id": "c1"}},
        ]
    )
    cart = CartProjection("c1", client)
    assert cart.view == CartView("c1", "u1", (CartItem("p1", 1, 5), CartItem("p2", 1, 5)), False, 10)
    assert cart.as_json()["items"][1] == {"product_id": "p2", "quantity": 1, "price_at_time": 5}
    assert [one.id for one in cart.projection_events] == [1, 3, 4]


def test_a_projection_reads_once_until_it_is_refreshed(client: EventClient) -> None:
    """What was read stays as it is; `refresh()` reads again."""
    cart = CartProjection("c1", client)
    assert products(cart.view) == []
    client.save_event(added())
    assert products(cart.view) == []
    assert products(cart.refresh().view) == ["p1"]


def test_the_position_validates_what_the_projection_has_read(client: EventClient) -> None:
    """A save against a projection's position is refused if anything came after, before and after a
    snapshot."""
    client.save_event(CartCreated("c1", "u1"))
    for _ in range(2):
        cart = CartProjection("c1", client)
        client.save_event_with_stream_validation(added(), cart.position)
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(added(), cart.position)
        cart.save_projection()
    assert len(client.get_event_stream()) == 3


def test_staged_events_come_after_history(client: EventClient) -> None:
    """Staged events are folded last, whatever was saved meanwhile, and are saved by nobody."""
    client.save_events([CartCreated("c1", "u1"), added("p1")])
    cart = CartProjection("c1", client).apply(
        added("staged"),
        {
            "type": "ITEM_ADDED_TO_CART",
            "data": {"cart_id": "c1", "product_id": "dict", "quantity": 1, "price_at_time": 5},
        },
    )
    assert products(cart.view) == ["p1", "staged", "dict"]
    client.save_event(added("p2"))
    assert products(cart.refresh().view) == ["p1", "p2", "staged", "dict"]
    assert [one.id for one in cart.projection_events] == [1, 2, 3, 0, 0]
    assert cart.position.last_id == 3
    CartProjection("c1", client).save_projection()
    assert products(cart.refresh().view) == ["p1", "p2", "staged", "dict"]
    assert len(client.get_event_stream()) == 3


def test_from_history_needs_no_database() -> None:
    """A projection of given events is folded from them alone; staged ones come after."""
    now = datetime.now(timezone.utc)
    history = [Event(7, "CART_CREATED", CartCreated("c1", "u1"), {}, now, now)]
    cart = CartProjection.from_history("c1", history)
    assert cart.view.user_id == "u1"
    assert cart.saved_projection is None
    staged = Event(0, "ITEM_ADDED_TO_CART", added(), {}, now, now)
    assert products(cart.apply(staged).view) == ["p1"] if cart.client else True
    for ask in (lambda: cart.position, cart.save_projection):
        with pytest.raises((StagedEventsError, ConfigurationError)):
            ask()


def test_reduce_events_folds_by_a_function_of_ones_own(client: EventClient) -> None:
    """One reducer can be folded over what the projection knows, from a snapshot's field or a default."""
    client.save_events([CartCreated("c1", "u1"), added("p1")])
    CartProjection("c1", client).save_projection()
    client.save_event(added("p2"))
    cart = CartProjection("c1", client)
    items = cart.reduce_events(to_items, cart.from_projection_or_default("items", ()))
    assert [item.product_id for item in items] == ["p1", "p2"]
    assert CartProjection("c2", client).from_projection_or_default("items", ()) == ()
    with pytest.raises(ConfigurationError, match="CartProjection has no field 'itmes'; did you mean"):
        cart.from_projection_or_default("itmes", ())


# -- as of ------------------------------------------------------------


def test_the_state_as_of_an_id(client: EventClient) -> None:
    """`as_of=` an id shows the state after that event; a snapshot helps only if it is not younger."""
    client.save_events([CartCreated("c1", "u1"), added("p1")])
    CartProjection("c1", client).save_projection()
    client.save_events([added("p2"), added("p3")])
    for as_of, expected in ((0, []), (1, []), (2, ["p1"]), (3, ["p1", "p2"]), (99, ["p1", "p2", "p3"])):
        cart = CartProjection("c1", client, as_of=as_of)
        assert products(cart.view) == expected
        assert (cart.saved_projection is not None) == (as_of >= 2)


def test_the_state_as_of_a_time(client: EventClient) -> None:
    """`as_of=` a time shows what had been created by then, with or without a snapshot."""
    old = datetime(2020, 1, 1, tzinfo=timezone.utc)
    for day in range(3):
        client.save_event(added(f"p{day}"), created_at=old + timedelta(days=day))
    for _ in range(2):
        assert products(CartProjection("c1", client, as_of=old + timedelta(days=1)).view) == ["p0", "p1"]
        assert products(CartProjection("c1", client, as_of=old - timedelta(days=1)).view) == []
        CartProjection("c1", client).save_projection()
    with pytest.raises(ConfigurationError, match="time zone"):
        CartProjection("c1", client, as_of=datetime(2020, 1, 1))


# -- snapshots ------------------------------------------------------------


def test_a_snapshot_is_created_updated_and_skipped(client: EventClient) -> None:
    """Saving says what came of it, and gives the row that stands."""
    client.save_events([CartCreated("c1", "u1"), added("p1")])
    cart = CartProjection("c1", client)
    created = cart.save_projection()
    assert (created.status, created.projection.latest_event_id, created.projection.data) == (
        "created",
        2,
        cart.view,
    )
    skipped = client.save_projection(cart)
    assert (skipped.status, skipped.projection) == ("skipped", created.projection)
    client.save_event(added("p2"))
    updated = cart.save_projection()
    assert (updated.status, updated.projection.latest_event_id) == ("updated", 3)
    assert updated.projection.created_at == created.projection.created_at < updated.projection.updated_at
    assert (
        client.get_projection(CartProjection, "c1") == updated.projection == cart.load_existing_projection()
    )


def test_a_client_saves_what_it_has_read_itself(client: EventClient, make_client: Make) -> None:
    """A projection of another client would be saved there."""
    other = make_client()
    with pytest.raises(ConfigurationError, match="a client of its own"):
        client.save_projection(CartProjection("c1", other))
    assert client.save_projection(CartProjection("c1", client)).status == "created"


def test_a_projection_without_events_may_be_saved(client: EventClient) -> None:
    """A snapshot of nothing stands at 0 and is folded on from there."""
    assert CartProjection("c1", client).save_projection().projection.latest_event_id == 0
    assert CartProjection("c1", client).save_projection().status == "skipped"
    client.save_event(added())
    assert products(CartProjection("c1", client).view) == ["p1"]
    assert CartProjection("c1", client).save_projection().status == "updated"


def test_a_view_folds_on_from_its_snapshot(client: EventClient) -> None:
    """After a snapshot only newer events are read, and the view is the same as from the start."""
    client.save_events([CartCreated("c1", "u1"), added("p1")])
    CartProjection("c1", client).save_projection()
    client.save_event(added("p2"))
    cart = CartProjection("c1", client)
    assert [one.id for one in cart.projection_events] == [3]
    assert cart.saved_projection is not None and cart.saved_projection.latest_event_id == 2
    assert (
        cart.view == CartProjection.from_history("c1", client.get_event_stream(CartEvent, cart_id="c1")).view
    )


@pytest.mark.parametrize("kind", ["staged", "history", "as_of"])
def test_what_is_not_the_saved_present_is_no_snapshot(client: EventClient, kind: str) -> None:
    """Staged events, hand-fed history and the past cannot be saved as a snapshot."""
    client.save_event(added())
    projection = {
        "staged": CartProjection("c1", client).apply(added("staged")),
        "history": CartProjection.from_history("c1", client.get_event_stream(CartEvent), client),
        "as_of": CartProjection("c1", client, as_of=1),
    }[kind]
    with pytest.raises(StagedEventsError):
        projection.save_projection()
    with pytest.raises(StagedEventsError):
        client.save_projection(projection)
    assert client.get_projection(CartProjection, "c1") is None


class CartOfTwo(CartProjection):
    version = 2
    reducers = pipeline(user_id=to_user_id)


def test_a_snapshot_of_an_older_version_is_not_used(client: EventClient) -> None:
    """When the version is raised, old snapshots are passed over, and stay beside the new ones."""
    client.save_events([CartCreated("c1", "u1"), added("p1")])
    CartProjection("c1", client).save_projection()
    assert client.get_projection(CartOfTwo, "c1") is None
    assert client.query_projections(CartOfTwo) == []
    two = CartOfTwo("c1", client)
    assert (two.saved_projection, two.view) == (None, CartView("c1", "u1"))
    assert two.save_projection().status == "created"
    assert products(client.get_projection(CartProjection, "c1").data) == ["p1"]  # type: ignore[union-attr]
    assert client.get_projection(CartOfTwo, "c1") is not None


def test_versions_stand_side_by_side(client: EventClient) -> None:
    """Programs of two versions each save and see their own; by name alone it is the newest."""
    client.save_event(CartCreated("c1", "u1"))
    CartOfTwo("c1", client).save_projection()
    client.save_event(added("p1"))
    result = CartProjection("c1", client).save_projection()
    assert (result.status, result.projection.version, result.projection.latest_event_id) == ("created", 1, 2)
    for cls in (CartProjection, CartOfTwo):
        assert [(one.version, one.data) for one in client.query_projections(cls)] == [
            (cls.version, client.get_projection(cls, "c1").data)  # type: ignore[union-attr]
        ]
    assert [one.version for one in client.query_projections("SHOPPING_CART", user_id="u1")] == [2]
    assert client.count_projections("SHOPPING_CART") == 1
    assert client.get_projection("SHOPPING_CART", "c1").version == 2  # type: ignore[union-attr]
    assert [one.version for one in client.query_projections("SHOPPING_CART", version=1)] == [1]
    assert client.get_projection_ids("SHOPPING_CART") == ["c1"]
    assert products(CartProjection("c1", client).view) == ["p1"]


def test_a_later_fold_never_gives_way_to_an_earlier_one(client: EventClient, make_client: Make) -> None:
    """A slow process that folded less does not put its snapshot in the place of a later one."""
    client.save_event(added("p1"))
    early = CartProjection("c1", client).view
    client.save_event(added("p2"))
    CartProjection("c1", client).save_projection()
    result = client.save_snapshot(CartProjection("c1", client), early, 1)
    assert result is not None
    assert (result.status, result.projection.latest_event_id) == ("skipped", 2)


def test_a_snapshot_holds_only_what_is_final(client: EventClient, make_client: Make) -> None:
    """With a transaction in the middle of a save, the snapshot stops below it and misses nothing
    afterwards."""
    slow = make_client()
    client.save_event(added("p1"))
    with slow.db.atomic():
        slow.save_event(added("p2"))
        client.save_event(added("p3"))
        saved = CartProjection("c1", client).save_projection()
        assert saved.projection.latest_event_id == 1
        assert products(CartProjection("c1", client).view) == ["p1", "p3"]
    assert products(CartProjection("c1", client).view) == ["p1", "p2", "p3"]
    assert CartProjection("c1", client).save_projection().projection.latest_event_id == 3


def test_a_snapshot_in_a_savepoint_that_is_rolled_back_is_gone(client: EventClient) -> None:
    """A snapshot of events that were rolled back stands nowhere, and a later one does not contain them."""
    client.save_event(added("p1"))
    cart = CartProjection("c1", client)
    with client.db.atomic():
        with client.db.atomic() as savepoint:
            client.save_event(added("undone"))
            assert products(cart.refresh().view) == ["p1", "undone"]
            assert cart.save_projection().projection.latest_event_id == 2
            savepoint.rollback()
        assert client.get_projection(CartProjection, "c1") is None
        saved = cart.save_projection()
        assert products(saved.projection.data) == ["p1"]
    assert products(cart.refresh().view) == ["p1"]
    client.save_event(added("p2"))
    assert products(CartProjection("c1", client).view) == ["p1", "p2"]


# -- ids ------------------------------------------------------------


class Level(IntEnum):
    HIGH = 2


class Colour(Enum):
    RED = "red"


@frozen
class Tally:
    n: int = 0


class TallyProjection(ProjectionBase[Tally, Any]):
    projection_type = "TALLY"
    reducers = pipeline(n=lambda n, event: n + 1)

    def initial_view(self) -> Tally:
        return Tally()

    def get_event_identifiers(self) -> dict[str, Any]:
        return {"cart_id": self.id}


@pytest.mark.parametrize(
    ("id", "text"),
    [
        ("c1", "c1"),
        (5, "5"),
        (True, "true"),
        (UUID(int=5), str(UUID(int=5))),
        (Level.HIGH, "2"),
        (Colour.RED, "red"),
        ("with 'quotes' and 100 %", "with 'quotes' and 100 %"),
    ],
)
def test_an_id_is_text_as_in_the_events(client: EventClient, id: Any, text: str) -> None:
    """An id of any identifying kind stands in the projections table as its text in the events."""
    client.save_event({"type": "T", "data": {"cart_id": text}})
    assert TallyProjection(id, client).save_projection().projection.id == text
    found = client.get_projection(TallyProjection, id)
    assert found is not None and found.data == Tally(1)
    assert TallyProjection(text, client).saved_projection == found


@pytest.mark.parametrize("id", [None, 1.5, "a\0b", "\ud800", object()])
def test_an_id_that_cannot_identify_is_refused(client: EventClient, id: Any) -> None:
    """None and what has no single text is refused when the projection looks."""
    for ask in (
        lambda: TallyProjection(id, client).view,
        lambda: TallyProjection(id, client).save_projection(),
    ):
        with pytest.raises(ConfigurationError):
            ask()


# -- many streams ------------------------------------------------------------


class Availability(MultiStreamProjectionBase[Tally, Any]):
    projection_type = "AVAILABILITY"
    reducers = pipeline(n=lambda n, event: n * 10 + event.id)

    def initial_view(self) -> Tally:
        return Tally()

    def get_stream_options(self) -> Sequence[Stream[Any]]:
        return [stream(ItemAddedToCart, product_id=self.id), stream(CartCreated), stream(cart_id="c3")]


def test_several_streams_are_folded_in_one_order_each_event_once(client: EventClient) -> None:
    """Events of all streams are merged by id; one that several streams match is folded once, also after a
    snapshot."""
    client.save_events([added("p1"), CartCreated("c3", "u1"), added("p2"), added("p1", "c3")])
    assert Availability("p1", client).view == Tally(124)
    result = Availability("p1", client).save_projection()
    assert result.projection.latest_event_id == 4
    client.save_events([CartCreated("c1", "u1"), added("p9"), added("p1")])
    after = Availability("p1", client)
    assert [one.id for one in after.projection_events] == [5, 7]
    assert after.view == Tally(12457)
    with pytest.raises(ConcurrencyError):
        client.save_event(CartCreated("c9", "u9"))
        client.save_event_with_stream_validation(added(), after.position)


def test_a_projection_of_no_streams_is_empty(client: EventClient) -> None:
    """A projection whose identifier list is empty folds nothing."""

    class Nobody(TallyProjection):
        def get_event_identifiers(self) -> dict[str, Any]:
            return {"cart_id": []}

    client.save_event(added())
    assert Nobody("x", client).view == Tally(0)
    assert Nobody("x", client).save_projection().projection.latest_event_id == 0


# -- queries ------------------------------------------------------------


class Grade(Enum):
    FIRST = 1


@frozen
class Order:
    id: str
    status: str = "open"
    paid: bool = False
    lines: int = 0
    tags: tuple[str, ...] = ()
    matrix: list[int] = field(factory=list)
    price: Decimal = Decimal(0)
    grades: tuple[Grade, ...] = ()


class OrderProjection(ProjectionBase[Order, Any]):
    projection_type = "ORDER"

    def initial_view(self) -> Order:
        return Order(self.id)

    def get_event_identifiers(self) -> dict[str, Any]:
        return {"order_id": self.id}


@pytest.fixture
def orders(client: EventClient) -> EventClient:
    for order in (
        Order("o1", "open", False, 1, ("a", "b"), [1, 2]),
        Order("o2", "paid", True, 2, ("b", "a"), []),
        Order("o3", "sent", True, 3, ("ž", 'quo"te', "back\\slash", "new\nline", "tab\t\x01"), [3]),
        Order("o4", "a", False, 4, ("a",), grades=(Grade.FIRST,)),
    ):
        client.save_snapshot(OrderProjection(order.id, client), order, 0)
    client.save_snapshot(TallyProjection("t", client), Tally(3), 0)
    return client


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, ["o1", "o2", "o3", "o4"]),
        ({"status": "open"}, ["o1"]),
        ({"status": ["open", "sent", "none"]}, ["o1", "o3"]),
        ({"status": []}, []),
        ({"paid": True}, ["o2", "o3"]),
        ({"paid": True, "lines": [1, 2]}, ["o2"]),
        ({"lines": 3}, ["o3"]),
        ({"tags": ("a", "b")}, ["o1"]),
        ({"tags": ["b", "a"]}, ["o2"]),
        ({"tags": ["a"]}, ["o4"]),
        ({"tags": ["ž", 'quo"te', "back\\slash", "new\nline", "tab\t\x01"]}, ["o3"]),
        ({"matrix": [1, 2]}, ["o1"]),
        ({"matrix": [2, 1]}, []),
        ({"grades": [Grade.FIRST]}, ["o4"]),
        ({"status": "' OR true --"}, []),
        ({"data": {"status": "open"}}, ["o1"]),
    ],
)
def test_projections_are_queried_by_their_fields(
    orders: EventClient, match: Any, expected: list[str]
) -> None:
    """A value, any of a list, several fields, or an array exactly: rows of this class only, typed, in order
    of id."""
    found = orders.query_projections(OrderProjection, **match)
    assert [one.id for one in found] == expected
    assert all(isinstance(one.data, Order) for one in found)


def test_queries_take_order_limit_and_expressions(orders: EventClient) -> None:
    """Order, limit, offset and Peewee expressions serve for more."""
    model = orders.projections
    found = orders.query_projections(OrderProjection, order_by=model.id.desc(), limit=2, offset=1)
    assert [one.id for one in found] == ["o3", "o2"]
    every = [one.id for one in orders.query_projections(OrderProjection)]
    assert every == sorted(every)
    assert [one.id for one in orders.query_projections(OrderProjection, limit=2, offset=1)] == every[1:3]
    found = orders.query_projections(
        OrderProjection, where=model.id.in_(["o1", "o3"]) & (model.latest_event_id == 0), paid=True
    )
    assert [one.id for one in found] == ["o3"]
    found = orders.query_projections(
        OrderProjection, order_by=[model.data["status"], model.id.desc()], limit=1
    )
    assert [one.id for one in found] == ["o4"]


@pytest.mark.parametrize(
    "match",
    [
        {"status": None},
        {"price": "a lot"},
        {"price": True},
        {"paid": 1},
        {"a'b": 1},
        {"a%b": 1},
        {"": 1},
        {"pirce": 1},
    ],
)
def test_queries_refuse_what_cannot_be_meant(orders: EventClient, match: Any) -> None:
    """None, values that the field cannot have, and fields that the view has not, are refused."""
    with pytest.raises(ConfigurationError):
        orders.query_projections(OrderProjection, data=match)


# -- classes ------------------------------------------------------------


def test_a_base_class_may_bring_its_client(client: EventClient) -> None:
    """Classes made for a client need none when they are asked."""
    client.save_event(added())

    class Mine(create_projection_base_class(client)[Tally, Any]):  # type: ignore[misc]
        projection_type = "MINE"
        event_types = [ItemAddedToCart, "OTHER"]
        reducers = pipeline(n=lambda n, event: n + 1)

        def initial_view(self) -> Tally:
            return Tally()

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"cart_id": self.id}

    class Ours(create_multi_stream_projection_base_class(client)[Tally, Any]):  # type: ignore[misc]
        projection_type = "OURS"
        reducers = pipeline(n=lambda n, event: n + 1)

        def initial_view(self) -> Tally:
            return Tally()

        def get_stream_options(self) -> Any:
            return [stream(cart_id=self.id), stream(product_id="p1")]

    client.save_event({"type": "OTHER", "data": {"cart_id": "c1"}})
    assert Mine("c1").view == Ours("c1").view == Tally(2)
    assert Mine("c1").save_projection().status == Ours("c1").save_projection().status == "created"


def test_what_a_class_lacks_is_said(client: EventClient) -> None:
    """A projection without client, initial view, identifiers, streams or view class says what it needs."""

    class Bare(ProjectionBase[Tally, Any]):
        projection_type = "BARE"

    class BareStreams(MultiStreamProjectionBase[Tally, Any]):
        projection_type = "BARE_STREAMS"

        def initial_view(self) -> Tally:
            return Tally()

    class Nameless(ProjectionBase[Tally, Any]):
        pass

    @frozen
    class Needs:
        owner: str

    class Needy(ProjectionBase[Needs, Any]):
        projection_type = "NEEDY"

    with pytest.raises(
        ConfigurationError, match='Nameless must say under which name it is saved: projection_type = "'
    ):
        Nameless("x")
    with pytest.raises(ConfigurationError, match="has no client"):
        _ = CartProjection("c1").view
    with pytest.raises(TypeError, match="get_event_identifiers"):
        _ = Bare("x", client).view
    with pytest.raises(TypeError, match="get_stream_options"):
        _ = BareStreams("x", client).view
    with pytest.raises(ConfigurationError, match="Needy must say what its view is .* def initial_view"):
        _ = Needy.from_history("x", []).view
    assert Bare.from_history("x", []).view == Tally()
    with pytest.raises(ConfigurationError, match="Bare folds nothing"):
        Bare("x", client).save_projection()
    assert Bare.reducers == Pipeline()


def test_a_view_that_could_not_be_read_back_is_no_snapshot(client: EventClient) -> None:
    """A view whose values do not fit its class is refused before the snapshot would break every later
    look."""

    class Unfit(TallyProjection):
        projection_type = "UNFIT"

        def initial_view(self) -> Tally:
            return Tally("none")  # type: ignore[arg-type]

    with pytest.raises(EventEncodeError, match="field 'n': expected int, got 'none'"):
        Unfit("c1", client).save_projection()
    assert client.get_projection("UNFIT", "c1") is None


def test_a_view_that_cannot_be_stored_is_refused(client: EventClient) -> None:
    """A view with a value that JSON cannot hold is refused by the projection's name; nothing is saved."""

    @frozen
    class Odd:
        n: float = float("nan")

    class OddProjection(ProjectionBase[Odd, Any]):
        projection_type = "ODD"
        reducers = pipeline(n=lambda n, event: n)

        def initial_view(self) -> Odd:
            return Odd()

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"cart_id": self.id}

    with pytest.raises(EventEncodeError, match="the view of ODD 'x'"):
        OddProjection("x", client).save_projection()
    assert client.db.execute_sql("SELECT count(*) FROM my_app.views").fetchone() == (0,)
