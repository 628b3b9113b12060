"""Questions about saved projections: by class or name, compared and ordered as what the fields are."""

from __future__ import annotations

import typing
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Literal, NamedTuple, NewType
from uuid import UUID

import pytest
from attrs import field, frozen

from pgevents import (
    ConfigurationError,
    EventClient,
    ProjectionBase,
    at_least,
    at_most,
    between,
    is_not,
    less_than,
    more_than,
    one_of,
    pipeline,
)
from pgevents.ids import id_of, id_text
from pgevents.querying import Question
from pgevents.view_kinds import ViewKind

from .shop import CartCreated, CartProjection, ItemAddedToCart


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Level(IntEnum):
    LOW = 1
    HIGH = 20


@frozen
class Order:
    id: str
    total: int = 0
    price: Decimal = Decimal(0)
    weight: float = 0.0
    due: date = date(2024, 1, 1)
    at: datetime = datetime(2024, 1, 1, tzinfo=timezone.utc)
    paid: bool = False
    size: Size = Size.SMALL
    level: Level = Level.LOW
    owner: UUID | None = None
    version: str = "a"


class Orders(ProjectionBase[Order, Any]):
    projection_type = "ORDERS"
    reducers = pipeline(total=lambda total, event: total)

    def get_event_identifiers(self) -> dict[str, Any]:
        return {"order_id": self.id}


class Others(Orders):
    projection_type = "OTHERS"


SAVED = [
    Order(
        "o1", 9, Decimal("9.5"), 9.5, date(2024, 2, 1), datetime(2024, 2, 1, 12, tzinfo=timezone.utc), True
    ),
    Order(
        "o2", 10, Decimal("10.00"), 1e16, date(2024, 10, 1), size=Size.LARGE, level=Level.HIGH, version="b"
    ),
    Order("o3", 100, Decimal("-3"), -1.0, owner=UUID(int=5)),
]


@pytest.fixture
def orders(client: EventClient) -> EventClient:
    for order in SAVED:
        client.save_snapshot(Orders(order.id, client), order, 0)
    client.save_snapshot(Others("x1", client), Order("x1", 50), 0)
    return client


def ids(found: list[Any]) -> list[str]:
    return [one.id for one in found]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"price": Decimal("10")}, ["o2"]),
        ({"price": [10, 9.5]}, ["o1", "o2"]),
        ({"weight": 9.5}, ["o1"]),
        ({"weight": 10**16}, ["o2"]),
        ({"total": 10.0}, ["o2"]),
        ({"due": date(2024, 2, 1)}, ["o1"]),
        ({"at": datetime.fromisoformat("2024-02-01T13:00:00+01:00")}, ["o1"]),
        ({"paid": True}, ["o1"]),
        ({"size": [Size.LARGE]}, ["o2"]),
        ({"level": Level.HIGH}, ["o2"]),
        ({"owner": UUID(int=5)}, ["o3"]),
        ({"data": {"version": "b"}}, ["o2"]),
    ],
)
def test_values_match_as_what_they_are(orders: EventClient, match: Any, expected: list[str]) -> None:
    """A number is a number whatever its digits, a time whatever its zone."""
    assert ids(orders.query_projections(Orders, **match)) == expected
    assert orders.count_projections(Orders, **match) == len(expected)


@pytest.mark.parametrize(
    ("field", "least", "first"),
    [
        ("total", 10, ["o2", "o3"]),
        ("price", Decimal("9.6"), ["o2"]),
        ("weight", 2.5, ["o1", "o2"]),
        ("due", date(2024, 3, 1), ["o2"]),
        ("at", datetime(2024, 1, 2, tzinfo=timezone.utc), ["o1"]),
        ("paid", True, ["o1"]),
        ("level", Level.HIGH, ["o2"]),
        ("id", "o2", ["o2", "o3"]),
    ],
)
def test_values_compare_and_order_as_what_they_are(
    orders: EventClient, field: str, least: Any, first: list[str]
) -> None:
    """By Peewee's own operators, and by name."""
    fields = orders.view_fields(Orders)
    assert ids(orders.query_projections(Orders, where=fields[field] >= least)) == first
    assert ids(orders.query_projections(Orders, where=fields[field] < least)) == sorted(
        {"o1", "o2", "o3"} - set(first)
    )
    expected = sorted(SAVED, key=lambda order: (getattr(order, field), order.id))
    assert ids(orders.query_projections(Orders, order_by=field)) == [order.id for order in expected]
    greatest = sorted(SAVED, key=lambda order: order.id)
    greatest.sort(key=lambda order: getattr(order, field), reverse=True)
    assert ids(orders.query_projections(Orders, order_by=f"-{field}")) == [order.id for order in greatest]


def test_all_of_peewees_comparisons_work(orders: EventClient) -> None:
    """In a list, between, equal, not, null, and several joined; Enums and UUIDs as they are."""
    order: Any = orders.view_fields(Orders)
    for where, expected in (
        (order.total.in_([9, 100]), ["o1", "o3"]),
        (order.total.between(10, 50), ["o2"]),
        (order.size == Size.LARGE, ["o2"]),
        (order.size != Size.LARGE, ["o1", "o3"]),
        (order.size.in_([Size.LARGE]), ["o2"]),
        (order.owner == UUID(int=5), ["o3"]),
        (order.owner.is_null(), ["o1", "o2"]),
        ((order.total > 9) & ~order.paid, ["o2", "o3"]),
        ((order.total > 99) | (order.price == Decimal("9.50")), ["o1", "o3"]),
        (order.id.startswith("o"), ["o1", "o2", "o3"]),
    ):
        assert ids(orders.query_projections(Orders, where=where)) == expected, where
    found = orders.query_projections(Orders, order_by=[order.paid.desc(), "-total"])
    assert ids(found) == ["o1", "o3", "o2"]


def test_pages_are_stable(orders: EventClient) -> None:
    """The id comes last in every order, so no row is met twice or passed over."""
    pages = [orders.query_projections(Orders, order_by="size", limit=1, offset=n) for n in range(4)]
    assert [ids(page) for page in pages] == [["o2"], ["o1"], ["o3"], []]
    assert orders.query_projections(Orders, limit=0) == []
    assert ids(orders.query_projections(Orders, order_by="-updated_at", limit=1)) == ["o3"]


def test_by_name_views_are_dicts(orders: EventClient) -> None:
    """Of any version or of one; a name that nobody has saved finds nothing."""
    found = orders.query_projections("ORDERS", total=[9, 100], order_by="-total")
    assert [one.data["total"] for one in found] == [100, 9]
    assert (
        orders.query_projections("ORDERS", version=1, where=orders.view_fields("ORDERS").total > 10)[0].id
        == "o3"
    )
    assert orders.query_projections("ORDERS", version=2) == []
    assert orders.count_projections("NOTHING") == 0
    one = orders.get_projection("ORDERS", "o1")
    assert one is not None and one.data["price"] == "9.5"
    assert orders.query_projections("ORDERS", weight=9.5)[0].id == "o1"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda price: price > 9, ["o1", "o2"]),
        (lambda price: price >= Decimal("9.50"), ["o1", "o2"]),
        (lambda price: price < 9.6, ["o1", "o3"]),
        (lambda price: price <= -3, ["o3"]),
        (lambda price: price == 10, ["o2"]),
        (lambda price: price != 10, ["o1", "o3"]),
        (lambda price: price.between(9, 10), ["o1", "o2"]),
        (lambda price: price.in_([10, "9.5"]), ["o1", "o2"]),
        (lambda price: price.not_in([10, "9.5"]), ["o3"]),
        (lambda price: price == "9.5", ["o1"]),
        (lambda price: price.as_text() > "9", ["o1"]),
    ],
)
def test_numbers_are_compared_as_numbers_with_fields_of_any_type(
    orders: EventClient, condition: Any, expected: list[str]
) -> None:
    """Whether they are stored as numbers, or as texts of Decimals."""
    where = condition(orders.view_fields("ORDERS").price)
    assert ids(orders.query_projections("ORDERS", where=where, order_by="id")) == expected


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"price": 10}, ["o2"]),
        ({"price": Decimal("10.0")}, ["o2"]),
        ({"price": 9.5}, ["o1"]),
        ({"price": "10.00"}, ["o2"]),
        ({"price": "10"}, []),
        ({"total": Decimal("10.0")}, ["o2"]),
        ({"weight": 10**16}, ["o2"]),
        ({"size": 1.5}, []),
        ({"version": 5}, []),
    ],
)
def test_numbers_equal_what_is_stored_as_a_number_or_a_decimal(
    orders: EventClient, match: dict[str, Any], expected: list[str]
) -> None:
    """By name, without a class that says what the fields are."""
    assert ids(orders.query_projections("ORDERS", data=match, order_by="id")) == expected


def test_several_types_at_once(orders: EventClient) -> None:
    """Classes and names in one question, each view as its own; in one order."""
    found = orders.query_projections([Orders, Others], order_by="-total")
    assert [(one.type, one.id, type(one.data)) for one in found] == [
        ("ORDERS", "o3", Order),
        ("OTHERS", "x1", Order),
        ("ORDERS", "o2", Order),
        ("ORDERS", "o1", Order),
    ]
    assert [type(one.data) for one in orders.query_projections([Others, "ORDERS"], total=[50, 9])] == [
        dict,
        Order,
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.query_projections(Orders, totl=1), "no field 'totl'; did you mean 'total'"),
        (lambda c: c.query_projections(Orders, order_by="-totl"), "no field 'totl'"),
        (lambda c: c.query_projections(Orders, order_by=5), "order_by is a field's name"),
        (lambda c: c.query_projections(Orders, where="total > 5"), "where is a Peewee expression"),
        (lambda c: c.query_projections(Orders, limit=-1), "limit is a whole number"),
        (lambda c: c.query_projections(Orders, limit="3"), "limit is a whole number"),
        (lambda c: c.query_projections(Orders, offset=True), "offset is a whole number"),
        (lambda c: c.query_projections(Orders, version=2), "a class has its own version"),
        (lambda c: c.query_projections("ORDERS", version="2"), "a class has its own version"),
        (lambda c: c.query_projections(""), "named by its class or its projection_type"),
        (lambda c: c.query_projections([]), "no projection is named"),
        (lambda c: c.query_projections(Orders("o1", c)), "named by its class or its projection_type"),
        (lambda c: c.query_projections(Order), "named by its class or its projection_type"),
        (lambda c: c.query_projections(Orders, paid="yes"), "paid is true or false"),
        (lambda c: c.query_projections(Orders, price="9,5"), "price is a number"),
        (lambda c: c.query_projections(Orders, at=datetime(2024, 1, 1)), "at is a time"),
        (lambda c: c.query_projections(Orders, owner=None), "cannot identify"),
        (lambda c: c.view_fields(Orders).totl, "no field 'totl'"),
        (
            lambda c: c.query_projections([Orders, CartProjection], user_id="u1"),
            "the view of ORDERS has no field",
        ),
        (lambda c: c.query_projections("ORDERS", **{"a'b": 1}), "field names are identifiers"),
        (lambda c: c.query_projections("ORDERS", order_by="a'b"), "field names are identifiers"),
        (lambda c: c.view_fields("ORDERS")["a'b"], "field names are identifiers"),
        (lambda c: c.query_projections(Orders, price=Decimal("NaN")), "price is a number"),
        (lambda c: c.query_projections("ORDERS", price=float("inf")), "price is a number"),
        (lambda c: c.refresh_projections("ORDERS"), "by its class"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    orders: EventClient, call: Callable[[EventClient], Any], message: str
) -> None:
    """By a sentence that says what would be right."""
    with pytest.raises(ConfigurationError, match=message):
        call(orders)


# -- ids ------------------------------------------------------------


class Seat(NamedTuple):
    hall: UUID
    number: int


class BySeat(ProjectionBase[dict[str, Any], Any, Seat]):
    projection_type = "BY_SEAT"
    reducers = pipeline(lambda view, event: {"n": view["n"] + 1})

    def initial_view(self) -> dict[str, Any]:
        return {"n": 0}

    def get_event_identifiers(self) -> dict[str, Any]:
        return {"cart_id": str(self.id.hall), "product_id": str(self.id.number)}


class Annotated(Orders):
    projection_type = "ANNOTATED"
    id: int


@pytest.mark.parametrize(
    ("id", "text", "kind"),
    [
        (("t1", "c1"), '["t1","c1"]', Any),
        (("t1", 5, True), '["t1",5,true]', Any),
        (("ä",), '["ä"]', Any),
        (Seat(UUID(int=1), 5), f'["{UUID(int=1)}",5]', Seat),
        ((UUID(int=1), Size.LARGE), f'["{UUID(int=1)}","l"]', tuple[UUID, Size]),
        ((date(2024, 1, 1), 1, 2), '["2024-01-01",1,2]', tuple[date, int, int]),
        ((1, 2, 3), "[1,2,3]", tuple[int, ...]),
        (5, "5", int),
        (True, "true", bool),
        (UUID(int=5), str(UUID(int=5)), UUID),
        (Size.LARGE, "l", Size),
        (Level.HIGH, "20", Level),
        (date(2024, 1, 1), "2024-01-01", date),
        ("[", "[", Any),
        ('["a", 1]', '["a", 1]', Any),
        ("[[1]]", "[[1]]", str),
    ],
)
def test_an_id_comes_back_as_it_was(id: Any, text: str, kind: Any) -> None:
    """As text and back; a tuple stays a tuple without more, and other kinds where the class says so."""
    assert id_text(id) == text
    back = id_of(text, kind)
    assert (back, type(back)) == (id, type(id))


@pytest.mark.parametrize(
    "id", ['["a",1]', (), (None,), (1.5,), (("a",),), 1.5, object(), [1], {"a": 1}, ("a\0",)]
)
def test_an_id_without_a_text_of_its_own_is_refused(id: Any) -> None:
    """Also a text that reads like a tuple's."""
    with pytest.raises(ConfigurationError):
        id_text(id)
    with pytest.raises(ConfigurationError, match="is not of type int"):
        id_of("five", int)


def test_composite_and_typed_ids_make_the_same_projection(client: EventClient) -> None:
    """What queries and lists give can be fed back."""
    seat = Seat(UUID(int=7), 5)
    client.save_event(ItemAddedToCart(str(seat.hall), "5", 1, 1))
    assert BySeat(seat, client).save_projection().projection.id == seat
    (saved,) = client.query_projections(BySeat)
    assert (saved.id, type(saved.id)) == (seat, Seat)
    assert client.get_projection_ids(BySeat) == [seat]
    client.save_event(ItemAddedToCart(str(seat.hall), "5", 1, 1))
    assert client.refresh_projections(BySeat) == {"created": 0, "updated": 1, "skipped": 0}
    assert BySeat(saved.id, client).view == {"n": 2}
    client.save_snapshot(Annotated(7, client), Order("7"), 0)
    assert client.get_projection_ids(Annotated) == [7]
    assert client.get_projection_ids("ANNOTATED") == ["7"]


# -- all of a type ------------------------------------------------------------


def test_projections_of_a_type_are_listed_refreshed_and_deleted(client: EventClient) -> None:
    """With progress; of older versions, too; and those that nobody has saved yet."""

    class Two(CartProjection):
        version = 2

    client.save_events([CartCreated(f"c{n}", "u1") for n in range(3)])
    for n in range(2):
        CartProjection(f"c{n}", client).save_projection()
    assert client.get_projection_ids(CartProjection) == ["c0", "c1"] == client.get_projection_ids(Two)
    assert client.get_projection_ids(CartProjection, user_id="u2") == []
    seen: list[tuple[int, int]] = []
    done = client.refresh_projections(Two, progress=lambda number, of: seen.append((number, of)))
    assert (done, seen) == ({"created": 2, "updated": 0, "skipped": 0}, [(1, 2), (2, 2)])
    assert client.refresh_projections(Two, ids=["c1", "c2"]) == {"created": 1, "updated": 0, "skipped": 1}
    assert client.delete_projection(Two, "c2") and not client.delete_projection("SHOPPING_CART", "c2")
    assert CartProjection("c0", client).delete_projection()
    assert ids(client.query_projections(Two)) == ["c1"]


def test_a_history_may_be_of_instances_and_dicts(client: EventClient) -> None:
    """Of a class or of a projection; and events are staged in lists."""
    created = {"type": "CART_CREATED", "data": {"cart_id": "c1", "user_id": "u1"}}
    item = ItemAddedToCart("c1", "p1", 2, 100)
    for cart in (
        CartProjection.from_history("c1", [created, item]),
        CartProjection("c1").from_history([created, item]),
        CartProjection.from_history("c1", [created], client).apply([item]),
        CartProjection("c1", client).apply(created, [item]),
    ):
        assert (cart.view.user_id, cart.view.total, cart.as_json()["total"]) == ("u1", 200, 200)
    saved = client.save_event(item)
    cart = CartProjection("c1", client)
    assert cart.view.total == 200
    assert cart.from_history([saved, created]).view.user_id == "u1"


@pytest.mark.parametrize("kind", [Orders, "ORDERS"])
def test_views_are_compared_as_streams_are(orders: EventClient, kind: Any) -> None:
    """`at_least` and its like, in place of a value; also of dicts, whose fields may be anything."""
    for match, expected in (
        ({"total": at_least(10)}, ["o2", "o3"]),
        ({"total": between(9, 10.5), "paid": is_not(True)}, ["o2"]),
        ({"price": less_than(Decimal("9.6"))}, ["o1", "o3"]),
        ({"due": more_than(date(2024, 1, 1))}, ["o1", "o2"]),
        ({"at": at_most(datetime(2024, 1, 31, tzinfo=timezone.utc))}, ["o2", "o3"]),
        ({"owner": is_not(UUID(int=4))}, ["o3"]),
        ({"data": {"version": between("a", "aa")}, "total": one_of(9, 10)}, ["o1"]),
    ):
        assert ids(orders.query_projections(kind, **match)) == expected  # type: ignore[arg-type]
        assert orders.count_projections(kind, **match) == len(expected)  # type: ignore[arg-type]
        assert orders.get_projection_ids(kind, **match) == expected  # type: ignore[arg-type]
    fields = orders.view_fields(Orders)
    found = orders.query_projections(
        kind, total=at_least(9), where=fields.price > 9, order_by="-total", limit=1
    )
    assert ids(found) == ["o2"]


def test_a_field_of_a_view_is_compared_with_its_own_kind(orders: EventClient) -> None:
    """What the view's class says is known."""
    for match, message in (
        ({"total": at_least("9")}, r"the field 'total' is a number, and at_least\('9'\) .* with a text"),
        ({"due": at_least(datetime.now(timezone.utc))}, "the field 'due' is a day, and .* with a time"),
        ({"size": at_least("s")}, "use one_of or is_not"),
        ({"totl": at_least(9)}, "did you mean 'total'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            orders.query_projections(Orders, **match)


UserId = NewType("UserId", str)


@frozen
class Odd:
    """A view with fields of all kinds of types."""

    user: UserId = UserId("u1")
    count: int | None = None
    state: Literal["new", "done", None] = None
    unit: Literal[1, 2] = 1
    short: typing.Annotated[int, "rest"] = 0
    mixed: int | str = 0
    anything: Any = None
    tags: tuple[str, ...] = ()
    rate: Size | None = None
    took: timedelta = timedelta()
    names: dict[str, typing.Annotated[int, []]] = field(factory=dict)


@pytest.mark.parametrize(
    ("view", "match"),
    [
        (Order, {"size": "LARGE"}),
        (Order, {"size": 5}),
        (Order, {"size": [Size.SMALL, "x"]}),
        (Order, {"level": "HIGH"}),
        (Order, {"level": 3}),
        (Order, {"level": True}),
        (Order, {"total": "one"}),
        (Order, {"total": "01"}),
        (Order, {"total": 1.5}),
        (Order, {"total": Decimal("1.5")}),
        (Order, {"total": True}),
        (Order, {"total": [1, "x"]}),
        (Order, {"total": [[1]]}),
        (Order, {"id": 7}),
        (Order, {"id": True}),
        (Order, {"id": ["a", 7]}),
        (Order, {"owner": "a"}),
        (Order, {"owner": str(UUID(int=10)).upper()}),
        (Order, {"owner": 5}),
        (Order, {"due": "2024-02-30"}),
        (Order, {"due": "soon"}),
        (Order, {"due": 5}),
        (Order, {"due": datetime(2024, 2, 1, tzinfo=timezone.utc)}),
        (Odd, {"user": 5}),
        (Odd, {"count": "x"}),
        (Odd, {"state": "old"}),
        (Odd, {"unit": 3}),
        (Odd, {"short": "x"}),
        (Odd, {"tags": "a"}),
        (Odd, {"tags": 5}),
        (Odd, {"rate": "SMALL"}),
        (Odd, {"took": "long"}),
    ],
)
def test_a_value_that_no_view_can_have_is_refused(client: EventClient, view: Any, match: Any) -> None:
    """It is not searched for: the answer would be empty, whatever is saved."""
    with pytest.raises(ConfigurationError, match=f"^the field {next(iter(match))!r} is .*, so it cannot be"):
        Question(client.projections, [ViewKind("ORDERS", 1, None, view)], match).rows()


def test_what_reads_as_a_value_is_searched_for(client: EventClient) -> None:
    """Texts of values, as a command line or a URL has them; and any value where the type is not known."""
    given: dict[Any, list[dict[str, Any]]] = {
        Order: [
            {"size": "s", "level": 20, "total": "-7", "owner": str(UUID(int=10)), "due": "2024-02-29"},
            {"size": [Size.LARGE, "s"], "level": 20.0, "total": [10.0, Level.LOW], "id": UUID(int=1)},
            {"level": [Level.LOW, 20.0], "total": 10**30, "id": Size.SMALL, "due": [date(2024, 2, 1)]},
        ],
        Odd: [
            {"user": UserId("u"), "count": 1, "state": "new", "unit": [1, "2"], "short": 1},
            {"mixed": 1.5, "anything": True, "tags": ["a"], "rate": Size.LARGE, "took": 1.5, "names": "x"},
            {"mixed": "x", "anything": ["a", 5], "tags": '["a"]', "rate": ["l"], "took": "1.5"},
        ],
        dict: [{"id": 7, "total": "x", "size": Size.SMALL}],
    }
    for view, questions in given.items():
        for match in questions:
            assert Question(client.projections, [ViewKind("ORDERS", 1, None, view)], match).rows()


def test_no_argument_of_a_question_is_passed_over(orders: EventClient) -> None:
    """What is given twice, is no dict, or is an option of another call, is refused, also by name."""
    questions: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
        (orders.query_projections, {"data": {"total": 5}, "total": 7}, "given twice"),
        (orders.query_projections, {"data": [("total", 5)]}, "a dict, not"),
        (orders.count_projections, {"limit": 5}, "limit= is not an option here"),
        (orders.count_projections, {"order_by": "total"}, "order_by= is not an option here"),
        (orders.get_projection_ids, {"version": 1}, "version= is not an option here"),
        (orders.query_projections, {"where": True, "total": at_least(1)}, "a Peewee expression"),
        (orders.query_projections, {"where": "total", "total": at_least(1)}, "a Peewee expression"),
    ]
    for ask, options, words in questions:
        for named in (Orders, "ORDERS"):
            with pytest.raises(ConfigurationError, match=words):
                ask(named, **options)
    assert orders.get_projection_ids(Orders, data={"version": "a"}) == ["o1", "o3"]
    before = orders.get_projection_ids(Orders)
    with pytest.raises(ConfigurationError, match="a list of ids, not 'o1'"):
        orders.refresh_projections(Orders, ids="o1")
    assert orders.get_projection_ids(Orders) == before


def test_a_version_is_a_whole_number(client: EventClient) -> None:
    """What the table could not hold, or would hold as another, is refused before anything is read."""
    for version in ("2", 1.0, True, -1, 2**40):

        class Versioned(CartProjection):
            pass

        Versioned.version = version  # type: ignore[assignment]
        with pytest.raises(ConfigurationError, match="Versioned.version is a whole number"):
            print(Versioned("c1", client).view)
    with pytest.raises(ConfigurationError, match="a whole number"):
        client.project("TODO", {"cart_id": "c1"}, lambda view, event: view, {}, version="2").view  # type: ignore[arg-type]  # noqa: B018
    with pytest.raises(ConfigurationError, match="a dict, not"):
        client.project("TODO", ["cart_id"], lambda view, event: view, {})  # type: ignore[arg-type]


def test_a_question_is_built_once_and_asked_with_its_own_values(client: EventClient) -> None:
    """The SQL is kept, the values are not; a value that is compared in another way makes other SQL."""

    def asked(limit: int, **match: Any) -> tuple[str, list[Any]]:
        kinds = [ViewKind("ORDERS", 1, None, Order)]
        return Question(client.projections, kinds, match, None, ["-total"], limit).rows()

    sql, params = asked(7, total=1, id="a")
    again, others = asked(8, total=2, id="b")
    assert sql is again
    assert [value for value in params if value not in others] == [["1"], ["a"], 7]
    assert [value for value in others if value not in params] == [["2"], ["b"], 8]
    as_number, numbers = asked(7, total=1.0, id="a")
    assert as_number != sql
    assert [Decimal("1.0")] in numbers
