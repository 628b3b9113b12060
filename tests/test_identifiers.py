"""Identifiers: what could find nothing is refused, with what to write instead; equal questions are equal."""

from __future__ import annotations

import enum
import pickle
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import attrs
import pytest
from cattrs.gen import make_dict_unstructure_fn, override

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    InvalidValueError,
    MultiStreamProjectionBase,
    ProjectionBase,
    event,
    everything,
    hookimpl,
    pipeline,
    stream,
)
from pgevents.subscriptions import Subscription, follow
from pgevents.testing import given

from .conftest import shop_client
from .shop import CartCreated, CartEvent, CartProjection, ItemAddedToCart


@attrs.frozen
class Seats:
    id: str
    count: int = 0


def seats(identifiers: Any) -> type[ProjectionBase[Seats, CartCreated]]:
    """A projection that says these are its identifiers."""

    class SeatProjection(ProjectionBase[Seats, CartCreated]):
        projection_type = "SEATS"
        reducers = pipeline(count=lambda count, event: count + 1)

        def initial_view(self) -> Seats:
            return Seats(self.id)

        def get_event_identifiers(self) -> Any:
            return identifiers

    return SeatProjection


class Misspelt(MultiStreamProjectionBase[Seats, Any]):
    projection_type = "MISSPELT"
    reducers = pipeline(count=lambda count, event: count + 1)

    def initial_view(self) -> Seats:
        return Seats(self.id)

    def get_stream_options(self) -> Any:
        return [stream(CartCreated, cart_id="c1"), stream(ItemAddedToCart, cartid="c1")]


MISSPELT: dict[str, Callable[[EventClient], object]] = {
    "stream": lambda client: client.get_event_stream(CartCreated, cartid="c1"),
    "union": lambda client: client.get_event_stream(CartEvent, data={"cartid": "c1"}),
    "list": lambda client: client.get_event_stream([CartCreated, ItemAddedToCart], cartid="c1"),
    "second of two": lambda client: client.get_event_stream(CartCreated, cart_id="c1", userid="u1"),
    "final": lambda client: client.get_event_stream(CartCreated, cartid="c1", final=True),
    "as of": lambda client: client.get_event_stream(CartCreated, cartid="c1", as_of=1),
    "streams": lambda client: client.get_event_streams(
        [stream(cart_id="c1"), stream(CartCreated, cartid="c1")]
    ),
    "iter": lambda client: list(client.iter_event_stream(CartCreated, cartid="c1")),
    "latest": lambda client: client.get_latest_event(CartCreated, cartid="c1"),
    "validated save": lambda client: client.save_event_with_stream_validation(
        CartCreated("c1", "u1"), None, [stream(CartCreated, cartid="c1")]
    ),
    "validated batch": lambda client: client.save_events_with_stream_validation(
        [CartCreated("c1", "u1")] * 2, 0, stream(CartCreated, cartid="c1")
    ),
    "view": lambda client: seats({"cartid": "c1"})("c1", client).view,
    "view of streams": lambda client: Misspelt("c1", client).view,
    "snapshot": lambda client: seats({"cartid": "c1"})("c1", client).save_projection(),
    "decide": lambda client: client.decide(
        seats({"cartid": "c1"})("c1", client), lambda view: CartCreated("c1", "u1")
    ),
    "decide in a transaction": lambda client: _decide_inside(client),
    "given": lambda client: given(seats({"cartid": "c1"})("c1"), CartCreated("c1", "u1")).view,
    "follow": lambda client: next(follow(client, [stream(CartCreated, cartid="c1")])),
    "subscription": lambda client: Subscription(client, "s", [stream(CartCreated, cartid="c1")]).process(
        print
    ),
}


def _decide_inside(client: EventClient) -> None:
    with client.db.atomic():
        client.decide(
            [CartProjection("c1", client), Misspelt("c1", client)], lambda *views: CartCreated("c1", "u1")
        )


@pytest.mark.parametrize("call", MISSPELT.values(), ids=MISSPELT)
def test_an_identifier_that_no_class_has_is_refused(
    client: EventClient, call: Callable[[EventClient], object]
) -> None:
    """It would find nothing, and a check of nothing always holds: the nearest field is named, and nothing is
    written."""
    client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(
        ConfigurationError, match=r"has a field 'cartid'.*did you mean 'cart_id'\?|userid.*user_id"
    ):
        call(client)
    assert len(client.get_event_stream()) == 1


def test_one_class_that_has_the_field_is_enough(client: EventClient) -> None:
    """The others cannot match, and need not."""
    client.save_events([CartCreated("c1", "u1"), ItemAddedToCart("c1", "p1", 1, 5)])
    assert len(client.get_event_stream(CartEvent, product_id="p1")) == 1


def test_identifiers_that_no_class_has_together_are_refused(client: EventClient) -> None:
    """All of them must match in one event."""
    with pytest.raises(ConfigurationError, match="has all of the fields product_id, user_id"):
        client.get_event_stream(CartCreated | ItemAddedToCart, user_id="u1", product_id="p1")


def test_types_that_are_named_by_text_may_have_any_field(client: EventClient) -> None:
    """Nobody knows what they were stored with: dict events, other programs, former versions."""
    client.save_event({"type": "NOTE", "data": {"page": 7}})
    assert len(client.get_event_stream("NOTE", page=7)) == 1
    assert len(client.get_event_stream(page=7)) == 1
    assert len(client.get_event_stream("CART_CREATED", page=7)) == 0
    assert len(client.get_event_stream([CartCreated, "NOTE"], page=7)) == 1


class Renames:
    """A plugin that stores `cart_id` as `cartId`."""

    @hookimpl
    def pgevents_configure_converter(self, converter: Any) -> None:
        converter.register_unstructure_hook(
            CartCreated, make_dict_unstructure_fn(CartCreated, converter, cart_id=override(rename="cartId"))
        )
        converter.register_structure_hook(
            CartCreated, lambda data, _: CartCreated(data["cartId"], data["user_id"])
        )


def test_fields_go_by_the_names_that_a_converter_stores(client: EventClient) -> None:
    """A plugin may store a field under another name: that one finds, and the attribute's does not."""
    client.get_event_stream(CartCreated, cart_id="c1")
    plugin = Renames()
    client.plugins.register(plugin)
    client.save_event(CartCreated("c1", "u1"))
    assert len(client.get_event_stream(CartCreated, cartId="c1")) == 1
    with pytest.raises(ConfigurationError, match="did you mean 'cartId'"):
        client.get_event_stream(CartCreated, cart_id="c1")
    client.plugins.unregister(plugin)
    client.get_event_stream(CartCreated, cart_id="c1")


def test_a_class_that_writes_itself_may_have_any_field(client: EventClient) -> None:
    """A function of the application's own may store what it likes."""

    class Writes:
        @hookimpl
        def pgevents_configure_converter(self, converter: Any) -> None:
            converter.register_unstructure_hook(
                CartCreated, lambda cart: {"id": cart.cart_id, "u": cart.user_id}
            )
            converter.register_structure_hook(CartCreated, lambda data, _: CartCreated(data["id"], data["u"]))

    client.plugins.register(Writes())
    client.save_event(CartCreated("c1", "u1"))
    assert len(client.get_event_stream(CartCreated, id="c1")) == 1


# -- identifiers that upcasters make ------------------------------------------------------------


def _pop(data: dict[str, Any]) -> dict[str, Any]:
    data = dict(data)
    data["cart_id"] = data.pop("cartId")
    return data


def _if_old(data: dict[str, Any]) -> dict[str, Any]:
    return {"cart_id": data["cartId"]} if "cartId" in data else data


RENAMING: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda data: {"cart_id": data["cartId"]},
    lambda data: {**data, "cart_id": data["cartId"]},
    _pop,
    _if_old,
    lambda data: {"cart_id": data["cart_id"] if "cart_id" in data else data["cartId"]},
    lambda data: {"cart_id": data.get("cart_id") or data.get("cartId")},
    lambda data: {"cart_id": str(data["cartId"])},
]
MAKING: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda data: {"cart_id": data["cart_id"].lower()},
    lambda data: {"cart_id": f"shop-{data['cart_id']}"},
    lambda data: {**data, "cart_id": "the only one"},
    lambda data: {"cart_id": data["carts"][0]},
]
KEEPING: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda data: {**data, "currency": "GBP"},
    lambda data: {"cart_id": data["cart_id"], "pence": round(data["price"] * 100)},
    lambda data: {"cart_id": str(data["cart_id"])},
    lambda data: dict(data, cart_id=data["cart_id"]),
    lambda data: data,
    lambda data: {"cart_id": data["cart_id"], "at": int(data["at"])},
]


@pytest.mark.parametrize("upcaster", RENAMING)
def test_an_identifier_that_an_upcaster_renames_finds_older_events(
    client: EventClient, upcaster: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """By the new name, in reads, in conditions and in the test kit."""

    @event("UPCAST", version=2, upcasters={1: upcaster})
    class Upcast:
        cart_id: str
        currency: str = ""

    shop_client(client.db, ()).save_event({"type": "UPCAST", "data": {"cartId": "c1"}})
    own = shop_client(client.db, [Upcast, CartCreated])
    own.save_event(Upcast("c1"))
    seen = own.get_event_stream(Upcast, cart_id="c1")
    assert [one.id for one in seen] == [1, 2]
    assert len(own.get_event_stream(Upcast | CartCreated, cart_id="c1", final=True)) == 2
    own.save_event_with_stream_validation(Upcast("c1"), seen)
    with pytest.raises(ConcurrencyError):
        own.save_event_with_stream_validation(Upcast("c1"), 1, stream(Upcast, cart_id="c1"))
    assert given(_by_cart(Upcast)("c1"), Upcast("c1"), Upcast("c2")).view.count == 1


@pytest.mark.parametrize("upcaster", MAKING)
def test_an_identifier_that_an_upcaster_makes_is_refused(
    client: EventClient, upcaster: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Streams search what is stored: older events would be missed, and a cart be created twice. The test kit
    agrees."""

    @event("UPCAST", version=2, upcasters={1: upcaster})
    class Upcast:
        cart_id: str
        currency: str = ""

    own = shop_client(client.db, [Upcast, CartCreated])
    for call in (
        lambda: own.get_event_stream(Upcast, cart_id="c1"),
        lambda: own.get_event_stream(Upcast | CartCreated, cart_id="c1"),
        lambda: own.save_event_with_stream_validation(Upcast("c1"), None, [stream(Upcast, cart_id="c1")]),
        lambda: given(_by_cart(Upcast)("c1"), Upcast("c1")).view,
    ):
        with pytest.raises(ConfigurationError, match="upcasters make that field"):
            call()
    assert len(own.get_event_stream(Upcast)) == 0


@pytest.mark.parametrize("upcaster", KEEPING)
def test_an_identifier_that_upcasters_leave_alone_is_fine(
    client: EventClient, upcaster: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Most upcasters change other fields."""

    @event("KEPT", version=3, upcasters={1: upcaster, 2: lambda data: data})
    class Kept:
        cart_id: str
        currency: str = ""

    own = shop_client(client.db, [Kept])
    own.save_event(Kept("c1"))
    assert len(own.get_event_stream(Kept, cart_id="c1")) == 1
    assert given(_by_cart(Kept)("c1"), Kept("c1")).view.count == 1


def test_a_value_that_an_upcaster_puts_in_cannot_be_asked_for(client: EventClient) -> None:
    """Events of the first version have no currency in the log, whatever a read of them shows."""

    @event("PRICED", version=2, upcasters={1: lambda data: {**data, "currency": "GBP"}})
    class Priced:
        cart_id: str
        currency: str

    own = shop_client(client.db, [Priced])
    with pytest.raises(ConfigurationError, match="'currency' does not find all events of .*Priced"):
        own.get_event_stream(Priced, currency="GBP")


def _by_cart(cls: type[Any]) -> type[ProjectionBase[Seats, Any]]:
    class ByCart(ProjectionBase[Seats, Any]):
        projection_type = "BY_CART"
        event_types = cls
        reducers = pipeline(count=lambda count, event: count + 1)

        def initial_view(self) -> Seats:
            return Seats(self.id)

        def get_event_identifiers(self) -> Mapping[str, Any]:
            return {"cart_id": self.id}

    return ByCart


# -- no identifier at all ------------------------------------------------------------


@pytest.mark.parametrize("identifiers", [None, {}, [], "c1", 7])
def test_a_projection_without_identifiers_is_refused(client: EventClient, identifiers: Any) -> None:
    """A forgotten return would fold the whole log, and show everybody's events."""
    client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(ConfigurationError, match="return everything"):
        _ = seats(identifiers)("c1", client).view
    with pytest.raises(ConfigurationError, match="return everything"):
        _ = given(seats(identifiers)("c1"), CartCreated("c1", "u1")).view


def test_everything_is_said(client: EventClient) -> None:
    """All events of the projection's types, on purpose."""
    client.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u1"), ItemAddedToCart("c1", "p1", 1, 5)])
    assert seats(everything)("all", client).view.count == 2
    assert len(client.get_event_stream(CartCreated, data=everything)) == 2
    assert stream(CartCreated, data=everything) == stream(CartCreated)
    assert pickle.loads(pickle.dumps(everything)) is everything


def test_no_streams_are_refused(client: EventClient) -> None:
    """A projection of no stream has an empty view, and a check of nothing."""

    class Nothing(Misspelt):
        def get_stream_options(self) -> Any:
            return []

    with pytest.raises(ConfigurationError, match="named no streams"):
        _ = Nothing("c1", client).view


# -- what is written ------------------------------------------------------------


@pytest.mark.parametrize(
    "keyword", ["type", "types", "event_type", "event_types", "limit", "as_of", "final", "order_by"]
)
def test_an_option_that_is_none_is_not_taken_for_an_identifier(client: EventClient, keyword: str) -> None:
    """`limit=10` would find events whose field `limit` is 10; such a field is named in `data=`."""
    with pytest.raises(ConfigurationError, match=rf"data=\{{'{keyword}': 'x'\}}"):
        stream(**{keyword: "x"})
    client.save_event({"type": "T", "data": {keyword: "x"}})
    assert len(client.get_event_stream(data={keyword: "x"})) == 1
    if keyword not in ("after", "as_of"):  # these have a value that is refused
        with pytest.raises(ConfigurationError):
            client.get_event_stream(**{keyword: "x"})
        with pytest.raises(ConfigurationError):
            client.get_latest_event(**{keyword: "x"})


@pytest.mark.parametrize(
    ("given_as", "reason"),
    [
        ({"data": "e"}, "takes identifiers by field name"),
        ({"data": {}}, "everything"),
        ({"data": {"cart_id": "c1"}, "cart_id": "c2"}, "given twice"),
    ],
)
def test_data_is_a_filter_that_does_not_vanish(given_as: dict[str, Any], reason: str) -> None:
    """An empty dict would find everybody's events; a value in its place, or two values, are slips."""
    with pytest.raises(ConfigurationError, match=reason):
        stream(CartCreated, **given_as)


def test_equal_questions_are_equal(client: EventClient) -> None:
    """The order of fields, values and types is of no meaning: one position, one stream."""
    one = stream([CartCreated, ItemAddedToCart], cart_id=["c2", "c1"], product_id="p1")
    other = stream(ItemAddedToCart | CartCreated, product_id="p1", cart_id=["c1", "c2", "c1"])
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    client.save_event(ItemAddedToCart("c1", "p1", 1, 5))
    seen = client.get_event_stream(ItemAddedToCart, cart_id="c1", product_id="p1")
    client.save_event_with_stream_validation(
        ItemAddedToCart("c1", "p1", 1, 5), seen, [stream(ItemAddedToCart, product_id="p1", cart_id="c1")]
    )
    assert len(client.get_event_streams([one, other]).position.streams) == 1


class Currency(enum.Enum):
    EUR = "eur"
    GBP = "gbp"


@event("TYPED")
class Typed:
    account: str
    currency: Currency | None
    count: int
    is_open: bool
    key: UUID


KEY = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")


@pytest.mark.parametrize(
    ("field", "fitting", "unfit", "what"),
    [
        ("currency", [Currency.EUR, "eur"], ["EUR", "nonsense", 5], "one of 'eur', 'gbp'"),
        ("count", [7, "7"], ["one", "07", True, "1.5"], "a whole number"),
        ("is_open", [True, "true"], [1, "yes"], "true or false"),
        ("key", [KEY, str(KEY)], [str(KEY).upper(), "k1"], "a UUID"),
        ("account", ["a", "7", 7], [], ""),
    ],
)
def test_a_value_that_no_event_has_is_refused(
    pgevents_tables: None,
    make_client: Callable[..., EventClient],
    field: str,
    fitting: list[Any],
    unfit: list[Any],
    what: str,
) -> None:
    """It would find nothing, and a save that is validated against it would always succeed."""
    client = make_client(event_types=Typed)
    client.save_event(Typed("7" if 7 in fitting else "a", Currency.EUR, 7, is_open=True, key=KEY))
    for value in fitting:
        assert len(client.get_event_stream(Typed, **{field: value})) == (value != "a" or field != "account")
    for value in unfit:
        with pytest.raises(InvalidValueError, match=f"'{field}' is {what}.*so no event has"):
            client.get_event_stream(Typed, **{field: ["gbp", value] if field == "currency" else value})
        with pytest.raises(InvalidValueError, match="so no event has"):
            client.save_event_with_stream_validation(
                {"type": "TYPED"}, None, [stream(Typed, **{field: value})]
            )


def test_a_plugin_may_store_values_otherwise(
    pgevents_tables: None, make_client: Callable[..., EventClient]
) -> None:
    """What an Enum's values are stored as, the converter says."""

    class Names:
        @hookimpl
        def pgevents_configure_converter(self, converter: Any) -> None:
            converter.register_unstructure_hook(Currency, lambda currency: currency.name)
            converter.register_structure_hook(Currency, lambda name, _: Currency[name])

    client = make_client(event_types=Typed, plugins=[Names()])
    client.save_event(Typed("a", Currency.EUR, 7, is_open=True, key=KEY))
    assert len(client.get_event_stream(Typed, currency="EUR")) == 1
    with pytest.raises(InvalidValueError, match="one of 'EUR', 'GBP'"):
        client.get_event_stream(Typed, currency=Currency.EUR)
