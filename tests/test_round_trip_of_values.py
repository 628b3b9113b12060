"""What is read is exactly what was saved, in value and in kind, or the save is refused before it writes."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from attrs import define, field, frozen

from pgevents import EventClient, EventDecodeError, EventEncodeError, event
from pgevents.codec.equality import difference
from pgevents.codec.serialization import Serializer, load_json

UTC = timezone.utc
NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
LONDON = ZoneInfo("Europe/London")


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Channel(str, Enum):
    WEB = "web"


class Right(IntFlag):
    READ = 4
    WRITE = 2


class Stay(NamedTuple):
    arrival: date
    price: Decimal
    colour: Colour = Colour.RED


class Name(str):
    """A text of a class of its own."""


class Moment(datetime):
    """A datetime of a class of its own, as test tools that stop the clock make them."""


@frozen
class Payment:
    amount: int


@frozen
class CardPayment(Payment):
    card: str = ""


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: Decimal


def class_with(annotation: Any) -> type[Any]:
    """An event class with one field of a type."""
    made: type[Any] = attrs.make_class("Sample", {"x": attrs.field(type=annotation)}, frozen=True)
    return made


def saved_and_read(annotation: Any, value: Any) -> Any:
    """What a read gives for a value of a field of a type; through JSON text, as PostgreSQL gives it."""
    cls = class_with(annotation)
    serializer = Serializer()
    text, as_read = serializer.dump(cls(value), cls, "T")
    read = serializer.decode_text(text, cls, "T")
    assert difference(read, as_read) is None
    return read.x


KEPT: list[tuple[Any, Any]] = [
    (str, "\x1f\x7f\u2028\ufffe\r\n"), (int, 10**400), (float, 1e16), (float, 1.2345e20), (float, 5e-324),
    (float, 1.7976931348623157e308), (int | float, 1e16), (int | float, 10**16), (Any, 1e22),
    (Decimal, Decimal("1.10")), (Decimal, Decimal("1E+3")), (Decimal, Decimal("-0")),
    (date, date(1, 1, 1)), (time, time(12, 0, 0, 5)), (time, time(12, tzinfo=UTC)),
    (datetime, NOW), (datetime, datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
    (datetime, NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))),
    (datetime, datetime(1890, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32)))),
    (timedelta, timedelta(days=99_000, microseconds=1)), (timedelta, timedelta(microseconds=-1)),
    (UUID, UUID(int=1)), (bytes, b"\x00\xff"), (Colour, Colour.RED), (Level, Level.LOW),
    (Right, Right.READ | Right.WRITE), (Name, Name("x")), (UUID | str, "plain"), (list[int | str], [1, "a"]),
    (tuple[int, str], (1, "a")), (Point, Point(1, Decimal("1.10"))),
    (deque[int], deque([1])),
    (Counter[str], Counter("aab")), (defaultdict[str, int], defaultdict(int, a=1)), (set[int], {1, 2}),
    (frozenset[Payment], frozenset({Payment(1)})), (dict[Colour, int], {Colour.RED: 2}),
    (dict[str, int], {"b": 1, "a": 2}), (Payment, Payment(1)), (Sequence[str], ("a",)),
    (Any, {"a": [1.5, None]}),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), KEPT, ids=repr)
def test_a_value_of_its_fields_type_is_read_as_it_was(annotation: Any, value: Any) -> None:
    """Equal, of the same class, and so is all that is in it."""
    read = saved_and_read(annotation, value)
    assert difference(value, read) is None
    assert read == value
    assert type(read) is type(value)


REFUSED: list[tuple[Any, Any, str]] = [
    (Payment, CardPayment(5, "4111"), "'x': it holds CardPayment, a read would give Payment"),
    (tuple[Payment, ...], (Payment(1), CardPayment(5)), "'x.1': it holds CardPayment"),
    (dict[str, Payment], {"a": CardPayment(5)}, "'x.a': it holds CardPayment"),
    (frozenset[Payment], frozenset({CardPayment(5)}), "a read would give another frozenset"),
    (date, NOW, "got the datetime"),
    (Decimal, 0.1, "it holds float, a read would give Decimal"),
    (Decimal, 5, "it holds int, a read would give Decimal"),
    (Decimal, Decimal("NaN"), "NaN equals nothing"),
    (UUID, "5F0C8F0E-3F6B-4A1E-9C53-0D4F1F7C2B11", "it holds str, a read would give UUID"),
    (tuple[str, ...], ["a"], "it holds list, a read would give tuple"),
    (list[str], ("a",), "it holds tuple, a read would give list"),
    (Sequence[str], ["a"], "it holds list, a read would give tuple"),
    (tuple[str, ...], "abc", "it holds str, a read would give tuple"),
    (tuple[int, str], (1,), "'x'"),
    (tuple[int, str], (1, "a", 2), "'x'"),
    (set[int], {1: 2}, "it holds dict, a read would give set"),
    (dict[str, int], [("a", 1)], "'x'"),
    (dict[str, Any], {1: "a", "1": "b"}, "'x'"),
    (dict[int, str], {1: "a"}, "'x"),
    (OrderedDict[str, int], OrderedDict(b=1, a=2), "PostgreSQL keeps no order of keys"),
    (UUID | str, UUID(int=1), "it holds UUID, a read would give str"),
    (Decimal | str, Decimal("1.1"), "it holds Decimal, a read would give str"),
    (datetime | str, NOW, "it holds datetime, a read would give str"),
    (Colour | str, Colour.RED, "it holds Colour, a read would give str"),
    (str, Channel.WEB, "it holds Channel, a read would give str"),
    (str, Name("x"), "it holds Name, a read would give str"),
    (int, Level.LOW, "it holds Level, a read would give int"),
    (int, True, "expected int, got True"),
    (float, True, "expected float, got True"),
    (float, 2**53 + 1, "a float cannot hold this int exactly"),
    (float, float("nan"), "JSON"),
    (float, -0.0, "cannot hold -0.0"),
    (Any, -0.0, "cannot hold -0.0"),
    (Any, NOW, "it holds datetime, a read would give str"),
    (Any, (1, 2), "it holds tuple, a read would give list"),
    (Any, {1}, "it holds set, a read would give list"),
    (Any, Payment(1), "it holds Payment, a read would give dict"),
    (time, time(12, tzinfo=LONDON), "a read would give another time"),
    (timedelta, timedelta(days=365 * 300, microseconds=1), "a read would give another timedelta"),
    (datetime, datetime(2024, 1, 1), "no time zone"),
    (object, object(), "not JSON serializable"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "message"), REFUSED, ids=repr)
def test_a_value_that_a_read_would_change_is_refused(annotation: Any, value: Any, message: str) -> None:
    """The error says at which field, what stands there, and what a read would give."""
    with pytest.raises(EventEncodeError) as caught:
        saved_and_read(annotation, value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "when",
    [
        datetime(2024, 10, 27, 1, 30, tzinfo=LONDON),  # the hour that there is twice
        datetime(2024, 10, 27, 1, 30, fold=1, tzinfo=LONDON),
        datetime(2024, 3, 31, 1, 30, tzinfo=LONDON),  # the hour that there is not
        datetime(2024, 7, 1, tzinfo=LONDON),
        Moment(2024, 7, 1, tzinfo=UTC),
    ],
    ids=str,
)
def test_a_time_with_a_named_zone_is_no_mistake(when: datetime) -> None:
    """The zone's name is not stored; date, time and offset are, also where a change of clocks makes them
    ambiguous."""
    read = saved_and_read(datetime, when)
    assert (read.replace(tzinfo=None), read.utcoffset()) == (
        when.replace(tzinfo=None, fold=0),
        when.utcoffset(),
    )


def test_an_int_in_a_float_field_is_the_float_that_it_equals() -> None:
    """Type checkers take an int for a float, so it is one from the save on."""
    serializer, cls = Serializer(), class_with(float)
    _, as_read = serializer.dump(cls(5), cls, "T")
    assert repr(as_read) == "Sample(x=5.0)"


@event("PRICE_CONVERTED")
class PriceConverted:
    cart_id: str
    pence: int = field(converter=lambda pounds: round(pounds * 100))


@event("NAME_FINISHED")
class NameFinished:
    cart_id: str
    name: str

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "name", self.name + "!")


@event("STATE_KEPT")
@define
class StateKept:
    cart_id: str
    seen: int = field(init=False, default=0)
    cache: dict[str, int] = field(init=False, eq=False, factory=dict)


def state_kept(**state: Any) -> StateKept:
    made = StateKept("c1")
    for name, value in state.items():
        setattr(made, name, value)
    return made


@event("VALIDATED")
class Validated:
    cart_id: str
    count: int = field(validator=attrs.validators.ge(1))


def invalid() -> Validated:
    made = Validated("c1", 1)
    object.__setattr__(made, "count", 0)
    return made


@pytest.mark.parametrize(
    "unfit",
    [PriceConverted("c1", 4.5), NameFinished("c1", "tea"), state_kept(seen=5), invalid()],
    ids=["converter", "post init", "init=False", "validator"],
)
def test_a_class_that_changes_its_values_each_time_is_refused(
    make_client: Callable[..., EventClient], unfit: Any
) -> None:
    """A converter that is not idempotent would be applied again by every read; nothing is written, alone or
    in a batch."""
    client = make_client(event_types=[PriceConverted, NameFinished, StateKept, Validated])
    client.create_tables()
    for _ in range(2):
        with pytest.raises(EventEncodeError):
            client.save_event(unfit)
        with pytest.raises(EventEncodeError):
            client.save_events([state_kept(), unfit])
    assert len(client.get_event_stream()) == 0


def test_what_a_class_keeps_for_itself_may_differ(make_client: Callable[..., EventClient]) -> None:
    """A field that takes no part in comparisons nor in __init__ is not stored, and is nobody's business."""
    client = make_client(event_types=[StateKept])
    client.create_tables()
    client.save_event(state_kept(cache={"a": 1}))
    assert client.get_event_stream(StateKept)[0].data == StateKept("c1")


@pytest.mark.parametrize(
    "number", [1e16, -1e22, 1.2345e20, 1e-7, 5e-324, 1.7976931348623157e308, 10**16, 0.0]
)
def test_a_number_comes_back_from_the_database_as_itself(client: EventClient, number: float) -> None:
    """jsonb makes a whole number of 1e16, and another one of 1.2345e20, unless they are written out."""
    client.save_event({"type": "N", "data": {"n": number, "text": f"{number} 1e16 -0.0"}})
    read = client.get_event_stream("N")[0].data
    assert read == {"n": number, "text": f"{number} 1e16 -0.0"}
    assert type(read["n"]) is type(number)


def test_text_that_looks_like_a_number_is_left_alone() -> None:
    """Only numbers are written out, not what stands in quotes, however it is escaped."""
    data = {'a"1e16': '\\"1e16\\', "b": ["-0.0", 1e16, "\\", 2e17, '"3e18"']}
    text, _ = Serializer().dump(data, None, "T")
    assert load_json(text) == data
    assert "10000000000000000.0" in text


def test_what_a_save_returns_does_not_change_with_what_it_was_given(client: EventClient) -> None:
    """A dict that the caller goes on to use is not the one in the saved event."""
    data = {"lines": [1]}
    saved: Any = client.save_event({"type": "T", "data": data})
    data["lines"].append(2)
    assert client.get_event_stream()[0].data == {"lines": [1]}
    assert saved.data in ({"lines": [1]}, {"lines": [1, 2]})


def test_a_pair_of_another_length_is_named_by_its_field() -> None:
    """The path to the fault holds names and indexes, nothing else."""
    with pytest.raises(EventDecodeError, match="of type 'T', field 'x': Not enough values") as caught:
        Serializer().decode_text('{"x": [1]}', class_with(tuple[int, str]), "T")
    assert caught.value.field == "x"


def test_named_tuples_are_read_as_what_they_are(make_client: Callable[..., EventClient]) -> None:
    """Also in collections, and where their annotations are texts, as in this module."""

    @event("STAYED")
    class Stayed:
        stay: Stay
        others: dict[str, Stay]
        few: tuple[Stay, ...] = ()
        maybe: Stay | None = None

    client = make_client(event_types=Stayed)
    client.create_tables()
    stay = Stay(date(2024, 2, 29), Decimal("1.50"))
    saved = client.save_event(Stayed(stay, {"a": stay}, (stay, stay), stay))
    read = client.get_event_stream(Stayed)[0]
    assert read == saved
    assert type(read.data.others["a"]) is Stay
    assert read.data.maybe == stay
    as_dict = {"stay": ["2024-02-29", "1.50", "red"], "others": {}}
    client.save_event({"type": "STAYED", "data": as_dict})
    assert client.get_event_stream(Stayed)[1].data.stay == stay
    for wrong in (["2024-02-29"], "2024-02-29", ["2024-02-29", "1.50", "green"], ["x", "1", "red"]):
        with pytest.raises(EventEncodeError, match="stay"):
            client.save_event({"type": "STAYED", "data": {**as_dict, "stay": wrong}})
