"""The extra `fast`: quicker, and otherwise no different at all."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Generic, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st

from pgevents.codec import fast
from pgevents.codec.serialization import Serializer, dump_and_load, load_json
from pgevents.errors import EventEncodeError

pytest.importorskip("msgspec")
T = TypeVar("T")


class Size(IntEnum):
    SMALL = 1


class Colour(Enum):
    RED = "red"


@frozen
class Part:
    name: str
    count: int = 1


class Moment(datetime):
    """A datetime of a class of its own."""


@frozen
class Plain:
    text: str = ""
    number: int = 0
    flag: bool = False
    ratio: float = 0.0
    maybe: float | None = None
    key: UUID = UUID(int=7)
    parts: tuple[Part, ...] = ()
    names: list[str] = field(factory=list)
    counts: dict[str, int] = field(factory=dict)


@frozen
class Flat:
    text: str = ""
    number: int = 0
    flag: bool = False
    key: UUID = UUID(int=7)


@frozen
class Timed:
    at: datetime = datetime(2026, 1, 31, 12, 0, 0, 5, timezone.utc)
    until: datetime | None = datetime(999, 1, 31, tzinfo=timezone.utc)
    text: str = ""


@define
class Mutable:
    text: str


@frozen
class Dated:
    at: datetime
    on: date = date(2026, 1, 31)
    until: datetime | None = None


@frozen
class Day:
    on: date


def slow(make: Callable[[], T]) -> T:
    """The same without msgspec."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "msgspec", None)
        patch.setattr(fast, "load", json.loads)
        return make()


def outcome(make: Callable[[], Any]) -> Any:
    """What comes out, or the error."""
    try:
        return make()
    except Exception as error:
        return type(error), str(error)


def dumped(data: Any, cls: type[Any] | None) -> Any:
    text, loaded = Serializer().dump(data, cls, "T")
    return json.dumps(json.loads(text), sort_keys=True), loaded


ODD: list[Any] = [
    None, True, 1, 1.5, -0.0, 2**70, float("nan"), float("inf"), "", "é😀", "\ud800", "a\0b", b"bytes",
    Decimal("1.5"),
    UUID(int=1), datetime(2026, 1, 31, tzinfo=timezone.utc), datetime(2026, 1, 31),
    Moment(2026, 1, 31, tzinfo=timezone.utc),
    datetime(2026, 1, 31, tzinfo=timezone(timedelta(hours=2))),
    datetime(2026, 1, 31, tzinfo=ZoneInfo("UTC")), date(2026, 1, 31), timedelta(1), Size.SMALL,
    Colour.RED,
    (), (1, "a"), [Part("p")], (Part("p"),), {"a": 1}, {1: 2}, {"a"}, object(), Part("p", True),
    Part(3), # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize(
    ("cls", "name"), [(cls, one.name) for cls in (Plain, Flat, Timed) for one in attrs.fields(cls)]
)
def test_whatever_stands_in_a_field_is_stored_the_same_or_refused_the_same(
    cls: type[Any], name: str, value: Any
) -> None:
    """Every value in every field, of its type or not: the same JSON and the same instance, or the same
    error."""
    event = cls(**{name: value})
    quick, known = outcome(lambda: dumped(event, cls)), slow(lambda: outcome(lambda: dumped(event, cls)))
    assert repr(quick) == repr(known)


def test_an_instance_that_lost_a_field_is_refused() -> None:
    """Nobody but the class itself sees to it that a field has a value."""
    event = Mutable("a")
    del event.text
    for run in (lambda make: make(), slow):
        with pytest.raises(EventEncodeError, match="T, field 'text' cannot be stored"):
            run(lambda: Serializer().dump(event, Mutable, "T"))


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_dict_is_stored_the_same_or_refused_the_same(value: Any) -> None:
    """The same for dicts, which no class checks."""
    for data in ({"a": value}, {"a": {"b": [value]}}):
        write = functools.partial(outcome, functools.partial(dumped, data, None))
        quick, known = write(), slow(write)
        assert repr(quick) == repr(known)


TEXTS = [
    "{}", "[]", "null", "3", '{"text": 3}', '{"text": null}', '{"number": 2.0}', '{"number": 1e3}',
    '{"number": true}',
    '{"number": 1180591620717411303424}', '{"flag": 1}', '{"ratio": 3}', '{"ratio": 1e400}', '{"ratio": "1"}',
    '{"maybe": null}', '{"maybe": 2}', '{"key": "00000000-0000-0000-0000-000000000001"}',
    '{"key": "x"}', '{"key": 1}',
    '{"parts": [{"name": "p"}]}', '{"parts": [{"count": 2}]}',
    '{"parts": [{"name": "p", "count": "2"}]}', '{"parts": null}',
    '{"names": ["a", 1]}', '{"counts": {"a": 1}}', '{"counts": {"a": "1"}}', '{"unknown": {"a": [1]}}',
    '{"text": "a", "text": "b"}',
]  # fmt: skip
DATES = [
    '{"at": "2026-01-31T12:00:00+00:00"}', '{"at": "2026-01-31T12:00:00.500000+02:00", "on": "2026-02-01"}',
    '{"at": "2020-12-31T23:59:59.9999999Z"}', '{"at": "2026-01-31T12:00:00Z"}',
    '{"at": "2026-01-31T12:00:00"}', '{"at": 17}',
    '{"at": "2026-01-31T12:00:00.1234567Z", "note": "2026-01-31T12:00:00.123457+00:00"}',
    '{"at": "2026-01-31 12:00:00+00:00"}', '{"at": "2026-01-31t12:00:00z"}',
    '{"at": "2026-01-31T12:00:00.5+00:00"}',
    '{"at": "2026-01-31T12:00:00.1234561+00:00"}', '{"at": "2026-01-31T12:00:00+0000"}',
    '{"at": "2026-01-31"}',
    '{"at": "2026-01-31T12:00:00+00:00", "until": "2020-12-31T23:59:59.9999999+00:00"}',
    '{"at": "2026-01-31T12:00:00+00:00", "until": null}', '{"at": "2026-01-31T12:00:00-00:00"}',
    '{"at": "2026-01-31T12:00:00+05:30", "until": "2020-12-31T23:59:59.999999+00:00"}', '{"at": null}',
    '{"at": "2026-01-31T12:00:00+00:00:01"}', '{"at": "2026-01-31T24:00:00+00:00"}', '{"at": "soon"}', "{}",
]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "text"), [*((Plain, text) for text in TEXTS), *((Dated, text) for text in DATES)]
)
def test_whatever_is_stored_is_read_the_same_or_refused_the_same(cls: type[Any], text: str) -> None:
    """The same instance, down to the types in it, or the same error with the field's name."""

    def read() -> Any:
        return outcome(lambda: Serializer().decode_text(text, cls, "T"))

    assert repr(read()) == repr(slow(read))


@given(
    st.builds(Flat, st.text(), st.integers(), st.booleans(), st.uuids())
    | st.builds(
        Plain, st.text(), st.integers(), st.booleans(), st.floats(), st.none() | st.floats(), st.uuids(),
        st.lists(st.builds(Part, st.text(), st.integers())).map(tuple), st.lists(st.text()),
        st.dictionaries(st.text(), st.integers()),
    )
)  # fmt: skip
def test_any_instance_is_stored_the_same(event: Any) -> None:
    """The property behind the examples."""
    quick, known = (
        outcome(lambda: dumped(event, type(event))),
        slow(lambda: outcome(lambda: dumped(event, type(event)))),
    )
    assert repr(quick) == repr(known)


def test_plain_classes_are_read_and_written_in_one_step() -> None:
    """These classes do take the short way, else the tests above would compare the long way with itself."""
    assert all(fast.writer(cls)(cls()) is not None for cls in (Flat, Timed))
    assert all(fast.instance_decoder(cls) is not None for cls in (Flat, Plain, Day, Dated))
    dated = fast.instance_decoder(Dated)
    assert dated is not None and dated(DATES[0]).at == datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    with pytest.raises(ValueError, match="at was not written"):
        dated('{"at": "2020-12-31T23:59:59.9999999Z"}')
    assert dump_and_load({"a": [1, None]}, "T") == ('{"a":[1,null]}', {"a": [1, None]})
    assert slow(lambda: (fast.writer(Flat)(Flat()), fast.instance_decoder(Flat))) == (None,) * 2


def special() -> Iterator[type[Any]]:
    @frozen
    class Converted:
        a: int = field(converter=int)

    @frozen
    class Private:
        _a: int

    @frozen
    class Renamed:
        a: int = field(alias="b")

    @frozen
    class Given:
        a: int = field(init=False, default=1)

    @frozen
    class Money:
        a: Decimal

    @frozen
    class Either:
        a: int | str

    @frozen
    class Pair:
        a: tuple[int, str]

    @frozen
    class General(Generic[T]):
        a: T

    @frozen
    class Unknown:
        a: Nobody  # type: ignore[name-defined]  # noqa: F821

    @frozen
    class Prepared:
        a: int

        def __attrs_pre_init__(self) -> None:
            pass

    @frozen
    class Derived:
        a: int
        b: int = field(default=attrs.Factory(lambda self: self.a, takes_self=True))

    @frozen
    class Kept:
        a: int

        @functools.cached_property
        def twice(self) -> int:
            return 2 * self.a

    @frozen(slots=False)
    class Open:
        a: int

    @frozen(cache_hash=True)
    class Hashed:
        a: int

    @frozen(init=False)
    class Made:
        a: str

        def __init__(self, a: str) -> None:
            object.__setattr__(self, "a", a.lower())

    @frozen
    class Finished:
        a: int

        def __attrs_post_init__(self) -> None:
            pass

    class Inherited(Part):
        pass

    yield from (
        Kept,
        Open,
        Hashed,
        Made,
        Finished,
        Inherited,
        Converted,
        Private,
        Renamed,
        Given,
        Money,
        Either,
        Pair,
        General,
        Unknown,
        Prepared,
        Derived,
    )


@pytest.mark.parametrize("cls", list(special()), ids=lambda cls: cls.__name__)
def test_other_classes_go_the_long_way(cls: type[Any]) -> None:
    """What attrs or cattrs would do to a field, msgspec would not."""
    assert fast.writer(cls)(object.__new__(cls)) is None
    assert fast.instance_decoder(cls) is None


def test_what_a_class_keeps_for_itself_is_not_stored() -> None:
    """A cached property, or a field that is left out of comparisons, changes nothing of what is written."""

    @frozen
    class Kept:
        a: int
        score: float | None = field(default=None, eq=False)

        @functools.cached_property
        def twice(self) -> int:
            return 2 * self.a

    event = Kept(2)
    assert event.twice == 4
    assert dumped(event, Kept)[0] == '{"a": 2, "score": null}'
    with pytest.raises(EventEncodeError, match="not JSON compliant"):
        Serializer().dump(Kept(2, float("nan")), Kept, "T")


def test_a_converter_of_a_plugin_is_asked_for_every_class() -> None:
    """With hooks of somebody's own, nothing goes past them."""
    serializer = Serializer()
    converter = serializer.converter.copy()
    converter.register_structure_hook(Part, lambda value, _: Part("hooked"))
    serializer.use(converter)
    assert serializer.decode_text('{"name": "p"}', Part, "T") == Part("hooked")
    with pytest.raises(EventEncodeError, match="expected str"):
        serializer.dump(Plain(text=3), Plain, "T")  # type: ignore[arg-type]


@pytest.mark.parametrize("way", [lambda make: make(), slow], ids=["msgspec", "json"])
def test_json_is_read_the_same_with_and_without_msgspec(way: Callable[[Callable[[], Any]], Any]) -> None:
    """Large integers stay exact, and a number that msgspec refuses is read by the standard library."""
    text = '{"big": 1180591620717411303424, "text": "a\\u00e9\\ud83d\\ude00", "pence": [1, 2.5, null, true]}'
    assert way(lambda: load_json(text)) == {"big": 2**70, "text": "aé😀", "pence": [1, 2.5, None, True]}
    assert way(lambda: load_json("1e400")) == float("inf")


@frozen
class Whole:
    parts: tuple[Part, ...] = ()
    day: Day | None = None


def test_only_classes_without_dicts_and_floats_are_read_in_any_order() -> None:
    """Of others jsonb may change order or number, so the proof of a snapshot reads jsonb's text."""
    assert [
        cls for cls in (Whole, Part, Day, Flat, Plain, Timed, dict, int) if fast.reads_any_order(cls)
    ] == [
        Whole,
        Part,
        Day,
        Flat,
    ]
    serializer = Serializer()
    whole = Whole((Part("é", 2**60), Part("x")), Day(date(2026, 1, 31)))
    text = fast.dump(serializer.encode(whole, "it"), has_floats=False)
    assert text is not None
    backwards = json.dumps(dict(reversed(json.loads(text).items())))
    assert (
        serializer.decode_text(text, Whole, "it") == serializer.decode_text(backwards, Whole, "it") == whole
    )
