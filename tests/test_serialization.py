"""Serialisation: what goes in comes out, and what could not come out does not go in."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Literal
from uuid import UUID

import pytest
from attrs import evolve, field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgevents import EventClient, EventEncodeError, event, hookimpl
from pgevents.codec.times import parse_datetime, time_of

NOW = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=timezone.utc)


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Pence(int):
    """A number with a unit."""


class Channel(str, Enum):
    WEB = "web"
    SHOP = "shop"


@frozen
class ByCard:
    card: str


@frozen
class ByCash:
    coins: tuple[int, ...]


@frozen
class Money:
    amount: Decimal
    currency: str = "GBP"


@event("EVERYTHING")
class Everything:
    text: str = "Žluťoučký kůň \U0001f40e \\ \" ' % {} \u2028"
    whole: int = -(10**30)
    real: float = 1e21
    flag: bool = False
    price: Decimal = Decimal("19.90")
    at: datetime = NOW
    elsewhere: datetime = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    day: date = date(2024, 2, 29)
    clock: time = time(12, 30, 15, 250)
    lasted: timedelta = timedelta(days=3, microseconds=1)
    key: UUID = UUID("5f0c8f0e-3f6b-4a1e-9c53-0d4f1f7c2b11")
    size: Size = Size.LARGE
    level: Level = Level.HIGH
    channel: Channel = Channel.SHOP
    literal: Literal["a", "b"] = "b"
    pair: tuple[int, str] = (1, "x")
    many: tuple[Money, ...] = (Money(Decimal("1.10")), Money(Decimal("-0.001"), "EUR"))
    nested: list[list[Money]] = field(factory=lambda: [[Money(Decimal(1))], []])
    bag: frozenset[str] = frozenset({"a", "b"})
    named: dict[str, Money] = field(factory=lambda: {"x": Money(Decimal(2))})
    by_size: dict[Size, int] = field(factory=lambda: {Size.SMALL: 3})
    maybe: Money | None = None
    maybe_at: datetime | None = NOW
    paid: ByCard | ByCash = ByCash((5, 10))
    number_or_text: int | str = "7"
    raw: bytes = b"\x00\xff"
    anything: Any = field(factory=lambda: {"deep": [1, None, True, "x", {"y": 0.5}]})


def test_every_kind_of_value_comes_back_as_itself(client: EventClient) -> None:
    """All that events need beyond JSON is read back equal, and of the same class."""
    client.types.add(vars(Everything)["__pgevents_type__"])
    saved = client.save_event(Everything())
    (read,) = client.get_event_stream(Everything)
    assert read == saved
    for name in ("level", "channel", "price", "whole", "real", "maybe_at", "paid", "pair", "bag"):
        assert type(getattr(read.data, name)) is type(getattr(saved.data, name)), name
    assert read.data.elsewhere.utcoffset() == timedelta(hours=5, minutes=30)


def test_numbers_are_stored_as_themselves(client: EventClient) -> None:
    """In the database a number is a number, and money is text, to the penny."""
    client.types.add(vars(Everything)["__pgevents_type__"])
    client.save_event(Everything())
    row = client.db.execute_sql(
        "SELECT data->'price', (data->>'whole')::numeric, data->'level', data->'size' FROM my_app.events"
    ).fetchone()
    assert row == ("19.90", Decimal(-(10**30)), 2, "l")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)  # no -0.0
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(st.text("abc$ %'\"\\é", max_size=4), json_values, max_size=4))
def test_any_json_object_comes_back(client: EventClient, data: dict[str, Any]) -> None:
    """Whatever JSON an event holds, the same comes back."""
    saved: Any = client.save_event({"type": "ANY", "data": data})
    read = client.get_event_stream("ANY", after=saved.id - 1)[0]
    assert read.data == data


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-01-31 12:00:00+00", datetime(2026, 1, 31, 12, tzinfo=timezone.utc)),
        ("2026-01-31 12:00:00.5+00", datetime(2026, 1, 31, 12, 0, 0, 500_000, timezone.utc)),
        ("2026-01-31 17:30:00.00012+05:30", datetime(2026, 1, 31, 12, 0, 0, 120, timezone.utc)),
        ("1890-01-01 00:19:32.123456+00:19:32", datetime(1890, 1, 1, 0, 0, 0, 123_456, timezone.utc)),
        ("2026-01-31 08:30:00-03:30", datetime(2026, 1, 31, 12, tzinfo=timezone.utc)),
    ],
)
def test_times_are_read_as_postgresql_writes_them(text: str, when: datetime) -> None:
    """Trailing zeros and minutes of an offset may be missing, which Python 3.10 would not take."""
    assert parse_datetime(text) == time_of(text) == when
    with pytest.raises(ValueError, match="31.01.2026"):
        parse_datetime("31.01.2026 12:00:00 UTC")


BAD_VALUES: dict[str, tuple[Any, str]] = {
    "nan": (math.nan, "cannot be stored as JSON"),
    "infinity": (math.inf, "cannot be stored as JSON"),
    "nul": ("a\0b", "NUL character"),
    "nul in a key": ({"a\0": 1}, "NUL character"),
    "half a surrogate pair": ("\ud83d", "surrogate"),
    "an object": (object(), "not JSON serializable"),
    "a time": (NOW, "class datetime is not JSON serializable"),
    "minus zero": (-0.0, "PostgreSQL cannot hold -0.0"),
    "a tuple": (
        (1, 2),
        "list.0.deep' cannot be stored as JSON: JSON has no tuple, a read would give a list",
    ),
    "a set": ({1}, "set"),
    "bytes": (b"x", "bytes"),
    "money": (Decimal("1.10"), "Decimal"),
    "an enum": (Channel.WEB, "JSON has no Channel; give its value"),
    "a number of its own kind": (Pence(5), "JSON has no Pence, a read would give int"),
    "keys that become one": ({1: "a", "1": "b"}, "text keys, not 1"),
    "depth": (None, "nested more than 100 levels deep"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_values_without_a_json_form_are_refused(client: EventClient, case: str) -> None:
    """NaN, NUL, half characters, strange objects: refused before anything is written, also deep in a
    batch."""
    value, message = BAD_VALUES[case]
    if case == "depth":
        for _ in range(100_000):
            value = [value]
    good = {"type": "FINE", "data": {"n": 1}}
    with pytest.raises(EventEncodeError, match=message):
        client.save_events([good, {"type": "BAD", "data": {"list": [{"deep": value}]}}, good])
    with pytest.raises(EventEncodeError):
        client.save_event(good, metadata={"value": value})
    assert len(client.get_event_stream()) == 0


def test_text_that_only_looks_like_nul_is_fine(client: EventClient) -> None:
    """A backslash followed by u0000 is six characters, and stored as such."""
    client.save_event({"type": "T", "data": {"a": "\\u0000"}})
    assert client.get_event_stream()[0].data == {"a": "\\u0000"}


@pytest.mark.parametrize("data", [[1], "text", 3, None, True])
def test_data_that_is_no_object_is_refused(client: EventClient, data: Any) -> None:
    """An event's data, and its metadata, are JSON objects."""
    with pytest.raises(EventEncodeError, match="JSON objects"):
        client.save_event({"type": "T", "data": data})
    with pytest.raises(EventEncodeError):
        client.save_event({"type": "T", "data": {}, "metadata": data})
    assert len(client.get_event_stream()) == 0


@pytest.mark.parametrize(
    "given", [{}, {"type": ""}, {"type": 3}, {"type": "T", "dta": {}}, {"type": "T", "id": 1}]
)
def test_a_dict_that_is_no_event_is_refused_with_the_form(client: EventClient, given: dict[str, Any]) -> None:
    """A misspelt key or a missing type is answered with how an event as a dict looks."""
    with pytest.raises(EventEncodeError, match='has the form {"type": "CART_CREATED"'):
        client.save_event(given)


def test_text_keys_only(client: EventClient) -> None:
    """JSON objects have text keys; a dict with others is refused."""
    with pytest.raises(EventEncodeError, match="text keys"):
        client.save_event({"type": "T", "data": {1: "x"}})


@event("PARTS_COUNTED")
class PartsCounted:
    part: str
    count: int


@event("SHELVES_COUNTED")
class ShelvesCounted:
    by_shelf: dict[int, str]


@event("THING_SEEN")
class ThingSeen:
    thing: object


@pytest.mark.parametrize(
    ("unfit", "message"),
    [
        (PartsCounted("p", "3"), "PARTS_COUNTED, field 'count': expected int, got '3'"),  # type: ignore[arg-type]
        (PartsCounted(None, 3), "field 'part': expected str, got None"),  # type: ignore[arg-type]
        (PartsCounted("p", True), "field 'count': expected int, got True"),
        (ShelvesCounted({1: "nuts"}), "SHELVES_COUNTED, field 'by_shelf.1'"),
        (ThingSeen("x"), "THING_SEEN"),
        ({"type": "PARTS_COUNTED", "data": {"part": "p", "count": "3"}}, "expected int, got '3'"),
        ({"type": "PARTS_COUNTED", "data": {"part": "p"}}, "field 'count': it is missing"),
        (
            {"type": "PARTS_COUNTED", "data": {"part": "p", "count": 3, "cuont": 4}},
            "PartsCounted has no field 'cuont'",
        ),
    ],
)
def test_what_could_not_be_read_back_is_not_saved(
    make_client: Callable[..., EventClient], unfit: Any, message: str
) -> None:
    """The log keeps an event for ever: one that its class could not take back is refused, the batch with
    it."""
    client = make_client(event_types=PartsCounted | ShelvesCounted | ThingSeen)
    client.create_tables()
    with pytest.raises(EventEncodeError) as caught:
        client.save_events([PartsCounted("p", 1), unfit])
    assert message in str(caught.value)
    assert client.save_event(PartsCounted("p", 1)).id == 1


def test_what_a_hook_puts_in_place_must_be_readable_too(make_client: Callable[..., EventClient]) -> None:
    """A hook that replaces data by what the class cannot take back is caught before the write."""

    class Clumsy:
        @hookimpl
        def pgevents_before_save(self, events: Any) -> Any:
            return [evolve(one, data={"part": "p", "count": "secret"}) for one in events]

    client = make_client(event_types=PartsCounted, plugins=[Clumsy()])
    client.create_tables()
    with pytest.raises(EventEncodeError, match="expected int, got 'secret'"):
        client.save_event(PartsCounted("p", 1))
    assert len(client.get_event_stream()) == 0


def test_a_payload_of_two_megabytes(client: EventClient) -> None:
    """Large data goes in and comes back whole."""
    text = "0123456789abcdef" * 131_072
    client.save_event({"type": "DOCUMENT_STORED", "data": {"text": text}})
    (read,) = client.get_event_stream("DOCUMENT_STORED")
    assert read.data["text"] == text


def test_metadata_is_an_object_without_reserved_keys(client: EventClient) -> None:
    """Metadata is a dict with text keys; those that begin with $ belong to pgevents."""
    event_ = {"type": "T", "data": {}}
    for metadata in ("text", [1], 3):
        with pytest.raises(EventEncodeError, match="metadata is a JSON object"):
            client.save_event(event_, metadata=metadata)  # type: ignore[arg-type]
    for metadata in ({"$version": 2}, {1: 2}):
        with pytest.raises(EventEncodeError, match="reserved"):
            client.save_event(event_, metadata=metadata)  # type: ignore[arg-type]
    assert client.save_event({**event_, "metadata": {"a": 1}}, metadata={"a": 2, "b": 2}).metadata == {
        "a": 1,
        "b": 2,
    }
