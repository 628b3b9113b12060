"""Streams: which events a question is about."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest

from pgevents import ConfigurationError, EventClient, stream
from pgevents.merging import merge_streams

from .shop import CartCreated, ItemAddedToCart

KEY = UUID("5f0c8f0e-3f6b-4a1e-9c53-0d4f1f7c2b11")


class Size(Enum):
    LARGE = "l"


class Level(IntEnum):
    HIGH = 2


def ids(events: Any) -> list[int]:
    return [one.id for one in events]


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("text", "text"),
        ("", ""),
        ("with 'quotes' \"and\" 100 % \\ {}", "with 'quotes' \"and\" 100 % \\ {}"),
        ("žluťoučký", "žluťoučký"),
        (7, 7),
        (-7, -7),
        (10**20, 10**20),
        (True, True),
        (False, False),
        (str(KEY), KEY),
        ("l", Size.LARGE),
        (2, Level.HIGH),
    ],
)
def test_an_identifier_finds_what_was_stored(client: EventClient, stored: Any, asked: Any) -> None:
    """Text, whole numbers, truth values, UUIDs and enums find the events that carry them, and no others."""
    client.save_events(
        [
            {"type": "T", "data": {"cart_id": stored, "other": stored}},
            {"type": "T", "data": {"cart_id": "no"}},
        ]
    )
    assert ids(client.get_event_stream(cart_id=asked)) == [1]
    assert ids(client.get_event_stream(other=asked)) == [1]
    assert ids(client.get_event_stream("T", cart_id=[asked, "absent"])) == [1]
    assert client.get_latest_event(cart_id=asked).id == 1  # type: ignore[union-attr]
    seen = client.get_event_stream(cart_id=asked)
    client.save_event_with_stream_validation(
        {"type": "U", "data": {}}, seen.position, [stream(cart_id=asked)]
    )


@pytest.mark.parametrize("value", [None, 1.5, b"x", {"a": 1}, object(), ["a", None], [["a"]]])
def test_what_cannot_identify_is_refused(client: EventClient, value: Any) -> None:
    """`None` and its like are refused: a filter that vanishes would show every customer's data."""
    client.save_event(CartCreated("c1", "u1"))
    for ask in (client.get_event_stream, client.get_latest_event, client.iter_event_stream, stream):
        with pytest.raises(ConfigurationError, match="cart_id="):
            ask(cart_id=value)


def test_an_empty_list_matches_nothing(client: EventClient) -> None:
    """Any of nothing is nothing, by whatever way it is asked."""
    client.save_event(CartCreated("c1", "u1"))
    assert ids(client.get_event_stream(cart_id=[])) == []
    assert ids(client.get_event_stream(cart_id=[], final=True)) == []
    assert ids(client.iter_event_stream(cart_id=[])) == []
    assert client.get_latest_event(cart_id=[]) is None
    assert ids(client.get_event_streams([])) == []
    assert ids(client.get_event_streams([stream(cart_id=[]), stream(CartCreated)])) == [1]


def test_several_fields_must_all_match(client: EventClient) -> None:
    """Two identifiers in one stream mean both."""
    client.save_events(
        [ItemAddedToCart(cart, product, 1, 5) for cart in ("c1", "c2") for product in ("p1", "p2")]
    )
    assert ids(client.get_event_stream(cart_id="c1", product_id="p2")) == [2]
    assert ids(client.get_event_stream(cart_id=["c1", "c2"], product_id="p2")) == [2, 4]
    assert ids(client.get_event_stream(quantity=1, cart_id="c2")) == [3, 4]


def test_several_streams_are_merged_in_order_without_repetition(client: EventClient) -> None:
    """An event that several streams match comes once, and all come by id."""
    client.save_events(
        [ItemAddedToCart(cart, product, 1, 5) for cart in ("c1", "c2") for product in ("p1", "p2")]
    )
    streams = [
        stream(product_id="p2"),
        stream(cart_id="c1"),
        stream("ITEM_ADDED_TO_CART", product_id="p2"),
        stream(quantity=9),
    ]
    assert ids(client.get_event_streams(streams)) == [1, 2, 4]
    assert ids(client.iter_event_streams(streams)) == [1, 2, 4]
    assert ids(client.get_event_streams(streams, final=True)) == [1, 2, 4]


def test_fields_may_be_named_in_a_dict(client: EventClient) -> None:
    """Fields that collide with arguments, or are no keywords, go through `data=`."""
    client.save_event({"type": "T", "data": {"after": 1, "class": "x", "types": "y", "self": "z"}})
    assert ids(client.get_event_stream(data={"after": 1, "class": "x", "types": "y"})) == [1]
    assert ids(client.get_event_stream("T", data={"types": "y"}, **{"class": "x"})) == [1]


@pytest.mark.parametrize(
    "field", ["a'b", 'a"b', "a%b", " a", "a..b", "", "a$b", "a;DROP TABLE x", "a->>'b", "x" * 64, 3]
)
def test_field_names_never_reach_sql_unchecked(client: EventClient, field: Any) -> None:
    """A field's name that could mean something in SQL is refused: no SQL gets in through it."""
    with pytest.raises(ConfigurationError, match="field names consist of"):
        client.get_event_stream(data={field: "x"})


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_postgresql_cannot_hold_is_refused(client: EventClient, text: str) -> None:
    """NUL and half characters are refused in identifiers and names, before the database is asked."""
    with pytest.raises(ConfigurationError):
        client.get_event_stream(cart_id=text)
    with pytest.raises(ConfigurationError):
        client.get_event_stream(text)


def test_streams_of_one_identifier_become_one() -> None:
    """Streams that differ in types or in one value are asked as one: one index range, one count."""
    merged = merge_streams(
        [stream("A", cart_id="c1"), stream("B", cart_id="c1"), stream(["B", "A"], cart_id="c2")]
    )
    assert merged == (stream(["A", "B"], cart_id=["c1", "c2"]),)
    assert merge_streams([stream("A", cart_id="c1"), stream(cart_id="c1")]) == (stream(cart_id="c1"),)
    assert merge_streams([stream("A", a="1", b="2"), stream("B", a="1", b="2")]) == (
        stream(["A", "B"], a="1", b="2"),
    )
    assert merge_streams([stream([], cart_id="c1")]) == ()
    falling_together_late = [
        stream("A", cart_id=["c1", "c2"]),
        stream("B", cart_id="c1"),
        stream("B", cart_id="c2"),
    ]
    assert merge_streams(falling_together_late) == (stream(["A", "B"], cart_id=["c1", "c2"]),)


@pytest.mark.parametrize("wrong", ["text", 3, {"cart_id": "c1"}, [{"cart_id": "c1"}], ["c1"], [None]])
def test_streams_are_a_list_of_stream(client: EventClient, wrong: Any) -> None:
    """Something else in place of streams is refused with what is expected."""
    with pytest.raises(ConfigurationError, match="streams are a list of stream"):
        client.get_event_streams(wrong)
    with pytest.raises(ConfigurationError, match="streams are a list of stream"):
        client.save_event_with_stream_validation(CartCreated("c1", "u1"), 0, wrong)
    assert len(client.get_event_stream()) == 0


def test_a_field_may_be_named_by_an_enum_of_texts(client: EventClient) -> None:
    """A `str` that is an Enum names the field that is its text, in every kind of read."""

    class Field(str, Enum):
        CART = "cart_id"

    saved = client.save_event(CartCreated("c1", "u1"))
    assert stream(data={Field.CART: "c1"}).match == stream(cart_id="c1").match
    assert type(stream(data={Field.CART: "c1"}).match[0][0]) is str
    assert list(client.iter_event_stream(data={Field.CART: "c1"})) == [saved]
    assert client.get_latest_event(data={Field.CART: "c1"}) == saved
