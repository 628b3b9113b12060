"""Ranges and "not" in place of a value: fields compared as what they are, in reads and projections."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest
from attrs import frozen
from peewee import PostgresqlDatabase

from pgevents import (
    Comparison,
    ConfigurationError,
    Event,
    EventClient,
    InvalidValueError,
    ProjectionBase,
    Stream,
    at_least,
    at_most,
    between,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    is_not,
    latest,
    less_than,
    many,
    more_than,
    one_of,
    pipeline,
    stream,
)
from pgevents.fields import json_sql, text_sql
from pgevents.subscriptions import Subscription
from pgevents.subscriptions.whose import rule_of
from pgevents.testing import given

Make = Callable[..., EventClient]
UTC = timezone.utc
EAST = timezone(timedelta(hours=5, minutes=30))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Rank(IntEnum):
    LOW = 1
    HIGH = 2


@event("MEASURED")
class Measured:
    sensor: str
    celsius: float = 0.0
    price: Decimal = Decimal(0)
    at: datetime | None = None
    day: date | None = None
    lasted: timedelta = timedelta()
    colour: Colour = Colour.RED
    rank: Rank = Rank.LOW
    ok: bool = True
    key: UUID = UUID(int=0)


@event("OTHER")
class Other:
    sensor: str
    celsius: int


@pytest.fixture
def sensors(pgevents_tables: None, make_client: Make) -> EventClient:
    """A client that knows measurements, with an index on `day` and `at`."""
    return make_client(event_types=Measured | Other)


def ids(events: Any) -> list[int]:
    return [one.id for one in events]


def found(client: EventClient, *events: Any, **identifier: Any) -> list[int]:
    """Which of these events a read finds, by their places in the list from 1 on; checked against the test
    kit, which answers without a database."""
    saved = client.save_events(list(events))
    asked = stream(Measured, **identifier)
    read = [saved[0].id + n for n in range(len(saved))]
    by_sql = [read.index(one) + 1 for one in ids(client.get_event_streams([asked], after=saved[0].id - 1))]

    @frozen
    class Seen:
        ids: tuple[int, ...] = ()

    class All(ProjectionBase[Seen, Any]):
        projection_type = "ALL SEEN"
        reducers = pipeline(ids=lambda seen, event: (*seen, event.id))

        def get_streams(self) -> list[Stream[Any]]:
            return [asked]

    (view,) = given(*events, All("x")).views
    assert list(view.ids) == by_sql
    return by_sql


# -- what is compared ------------------------------------------------------------


def test_numbers_are_compared_as_numbers(sensors: EventClient) -> None:
    """9 is less than 10, and -5 less than -3, whatever their texts say."""
    numbers = [-5.0, -3.0, 0.0, 9.0, 10.0, 100.5, 1e-7, 1e20]
    events = [Measured("s", celsius=number) for number in numbers]
    for comparison, expected in (
        (between(-4, 10), [2, 3, 4, 5, 7]),
        (at_least(9), [4, 5, 6, 8]),
        (at_least(Decimal("100.5")), [6, 8]),
        (more_than(100.5), [8]),
        (at_most(-3), [1, 2]),
        (less_than(-3.0), [1]),
        (less_than(1e-6), [1, 2, 3, 7]),
        (is_not(9), [1, 2, 3, 5, 6, 7, 8]),
        (is_not(9.0, -5, Decimal("1E+20")), [2, 3, 5, 6, 7]),
    ):
        assert found(sensors, *events, celsius=comparison) == expected, comparison


def test_decimals_and_durations_are_numbers(sensors: EventClient) -> None:
    """A Decimal is stored as text, and compared as the number that it is; 2.50 is 2.5."""
    events = [Measured("s", price=Decimal(text)) for text in ("2.50", "10", "-1", "1E+3", "0.1")]
    assert found(sensors, *events, price=at_least(Decimal("2.5"))) == [1, 2, 4]
    assert found(sensors, *events, price=is_not(Decimal("2.5"), 1000)) == [2, 3, 5]
    events = [Measured("s", lasted=timedelta(seconds=seconds)) for seconds in (9, 10, 100, 0.5)]
    assert found(sensors, *events, lasted=between(timedelta(seconds=9), timedelta(minutes=1))) == [1, 2]
    assert found(sensors, *events, lasted=less_than(1)) == [4]


def test_times_are_compared_as_points_in_time(sensors: EventClient) -> None:
    """Whatever offset they are written with."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    times = [
        noon,
        noon.astimezone(EAST),
        noon + timedelta(microseconds=1),
        (noon - timedelta(seconds=1)).astimezone(timezone(timedelta(hours=14))),
        (noon + timedelta(hours=1)).astimezone(timezone(timedelta(hours=-12))),
        None,
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ]
    events = [Measured("s", at=time) for time in times]
    for comparison, expected in (
        (between(noon, noon), [1, 2]),
        (at_least(noon.astimezone(timezone(timedelta(hours=-11)))), [1, 2, 3, 5, 8]),
        (more_than(noon), [3, 5, 8]),
        (at_most(noon), [1, 2, 4, 7]),
        (less_than(noon), [4, 7]),
        (at_least(datetime.min.replace(tzinfo=UTC)), [1, 2, 3, 4, 5, 7, 8]),
        (at_most(datetime.max.replace(tzinfo=UTC)), [1, 2, 3, 4, 5, 7, 8]),
        (is_not(noon.astimezone(EAST)), [3, 4, 5, 7, 8]),
    ):
        assert found(sensors, *events, at=comparison) == expected, comparison


def test_days_are_compared_as_days(sensors: EventClient) -> None:
    """From the first day that there is to the last one."""
    days = [date(2026, 1, 31), date(2026, 2, 1), date(999, 1, 1), date.min, date.max, None]
    events = [Measured("s", day=day) for day in days]
    assert found(sensors, *events, day=between(date(2026, 1, 31), date(2026, 2, 1))) == [1, 2]
    assert found(sensors, *events, day=less_than(date(2026, 1, 31))) == [3, 4]
    assert found(sensors, *events, day=at_least(date.min)) == [1, 2, 3, 4, 5]
    assert found(sensors, *events, day=is_not(date(2026, 2, 1))) == [1, 3, 4, 5]


def test_texts_are_compared_letter_by_letter(sensors: EventClient) -> None:
    """As Python does it, whatever the database's collation."""
    events = [Measured(text) for text in ("b", "B", "a", "ä", "", "ba", "😀")]
    assert found(sensors, *events, sensor=between("a", "b")) == [1, 3]
    assert found(sensors, *events, sensor=more_than("b")) == [4, 6, 7]
    assert found(sensors, *events, sensor=is_not("b", "B", "")) == [3, 4, 6, 7]


def test_what_has_no_order_can_be_excluded(sensors: EventClient) -> None:
    """`is_not` and `one_of` take what identifies."""
    events = [
        Measured("s", colour=Colour.BLUE, rank=Rank.HIGH, ok=False, key=UUID(int=7)),
        Measured("s"),
    ]
    for field, value in (("colour", Colour.RED), ("rank", Rank.LOW), ("ok", True), ("key", UUID(int=0))):
        assert found(sensors, *events, **{field: is_not(value)}) == [1]
        assert found(sensors, *events, **{field: one_of(value)}) == [2]
    assert found(sensors, *events, colour=is_not("red")) == [1]
    assert found(sensors, *events, rank=at_least(2)) == [1]


def test_one_of_is_a_list() -> None:
    """Of the values, or of one collection of them."""
    assert stream(sensor=one_of("a", "b")) == stream(sensor=one_of({"b", "a"})) == stream(sensor=["a", "b"])
    assert stream(sensor=one_of()).is_empty
    assert one_of("ab") == ["ab"] and one_of({"a": "b"}.values()) == ["b"]


def test_python_says_of_exclusions_what_sql_says(db: PostgresqlDatabase) -> None:
    """The test kit's answer is the database's, whatever kind of value stands in the field."""
    values: list[Any] = ["5", 5, 5.0, 1, True, "true", "x", None, "2026-01-01T00:00:00Z", [1], {"a": 1}]
    day, five = datetime(2026, 1, 1, tzinfo=UTC), Decimal(5)
    for asked in (is_not(5), is_not("5"), is_not(True), is_not("true", "x"), is_not(day), is_not(five)):
        holds = asked.sql(text_sql("v"), json_sql("v"))
        sql = f"SELECT coalesce({holds}, false) FROM (SELECT %s::jsonb AS data) AS e"
        for value in values:
            (found,) = db.execute_sql(sql, [*asked.params(), json.dumps({"v": value})]).fetchone()
            assert asked.holds(value) is found, (asked, value)


def test_what_is_of_another_kind_is_not_found(sensors: EventClient) -> None:
    """Events of dicts may hold anything; nothing makes a read fail, and no text passes for a number."""
    values: list[Any] = [
        5,
        "5",
        "five",
        None,
        True,
        [5],
        {"n": 5},
        "2026-02-30",
        "2026-02-30T00:00:00Z",
        "NaN",
    ]
    values += ["1e99999", "Infinity", "2023-02-29", "2026-01-01T24:00:00Z", "0000-01-01", "2026-01-01"]
    saved = sensors.save_events([{"type": "NOTED", "data": {"x": value}} for value in values])
    sensors.save_event({"type": "NOTED", "data": {}})

    def places(comparison: Comparison) -> list[Any]:
        return [values[one.id - saved[0].id] for one in sensors.get_event_stream("NOTED", x=comparison)]

    assert places(at_least(-1)) == [5, "5"]
    assert places(at_least(date.min)) == ["2026-01-01"]
    assert places(at_least(datetime.min.replace(tzinfo=UTC))) == []
    assert places(at_least("5"))[:3] == ["5", "five", "NaN"]
    assert len(places(is_not(5))) == len(values) - 3  # None has no value, and "5" is a number
    assert len(places(is_not(date(2026, 1, 1)))) == len(values) - 2


def test_a_field_is_compared_with_its_own_kind(sensors: EventClient) -> None:
    """What the class says is known; the error names both kinds."""
    for identifier, message in (
        (
            {"celsius": at_least("5")},
            r"Measured.celsius is a number, and at_least\('5'\) compares it with a text",
        ),
        ({"at": at_least(date(2026, 1, 1))}, "Measured.at is a time, and .* with a day"),
        ({"day": at_least(datetime.now(UTC))}, "Measured.day is a day, and .* with a time"),
        ({"sensor": at_least(5)}, "Measured.sensor is a text, and .* with a number"),
        ({"colour": at_least("red")}, "Measured.colour is a UUID or Enum.*no order, use one_of or is_not"),
        ({"ok": is_not(1)}, "Measured.ok is true or false, and .* with a number"),
    ):
        for types in (Measured, "MEASURED"):
            with pytest.raises(ConfigurationError, match=message):
                sensors.get_event_stream(types, **identifier)
    with pytest.raises(ConfigurationError, match="did you mean 'celsius'"):
        sensors.get_event_stream(Measured, celcius=at_least(5))
    assert list(sensors.get_event_stream(Measured | Other, celsius=at_least(5))) == []


def test_values_that_cannot_be_compared_are_refused() -> None:
    """When the comparison is made."""
    for make, message in (
        (lambda: between(5, 3), r"between\(5, 3\) holds nothing"),
        (lambda: between(5, "6"), "two values of one kind"),
        (lambda: between(date(2026, 1, 1), datetime.now(UTC)), "two values of one kind"),
        (lambda: at_least(None), "at_least compares numbers, texts, days"),  # type: ignore[arg-type]
        (lambda: at_least([1]), "at_least compares numbers"),  # type: ignore[arg-type]
        (lambda: at_most(float("nan")), "no number that could be compared"),
        (lambda: at_least(10**5000), "no number that could be compared"),
        (lambda: stream(celsius=10**5000), "so many digits"),
        (lambda: at_least(True), "true or false has no order"),
        (lambda: at_least(Colour.RED), "a UUID or Enum has no order"),  # type: ignore[arg-type]
        (lambda: at_least(datetime(2026, 1, 1)), "has no time zone"),
        (lambda: at_least("a\0"), "PostgreSQL cannot hold"),
        (is_not, "at least one value"),
        (lambda: is_not(1, "a"), "values of one kind"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            make()


# -- where they stand ------------------------------------------------------------


def test_with_other_identifiers_options_and_nested_fields(sensors: EventClient) -> None:
    """A comparison is one condition among others, of any field that can identify."""
    sensors.save_events([Measured(f"s{n % 2}", celsius=float(n)) for n in range(1, 11)])
    assert ids(sensors.get_event_stream(Measured, sensor="s1", celsius=between(3, 8))) == [3, 5, 7]
    newest = sensors.get_event_stream(
        Measured, sensor=is_not("s1"), celsius=more_than(3), limit=2, reverse=True, final=True
    )
    assert ids(newest) == [10, 8]
    assert ids(sensors.iter_event_stream(celsius=at_most(3), after=1)) == [2, 3]
    latest_low = sensors.get_latest_event(Measured, celsius=less_than(4))
    assert latest_low is not None
    assert latest_low.id == 3
    merged = sensors.get_event_streams(
        [
            stream(celsius=less_than(3)),
            stream(celsius=more_than(9)),
            stream(sensor="s0", celsius=less_than(5)),
        ]
    )
    assert ids(merged) == [1, 2, 4, 10]
    noted = {"type": "NOTED", "data": {"customer": {"age": 40}, "order-no": 7}}
    sensors.save_event(noted, metadata={"level": 3})
    assert ids(sensors.get_event_stream(data={"customer.age": between(30, 50)})) == [11]
    assert ids(sensors.get_event_stream(data={"order-no": more_than(6), "metadata.level": at_least(3)})) == [
        11
    ]
    assert list(sensors.get_event_stream(data={"metadata.level": more_than(3)})) == []


@frozen
class HotDays:
    id: str
    count: int = 0


class HotDaysProjection(ProjectionBase[HotDays, Measured]):
    projection_type = "HOT_DAYS"
    reducers = pipeline(count=lambda count, event: count + 1)

    def get_event_identifiers(self) -> dict[str, Any]:
        return {"sensor": self.id, "celsius": at_least(30)}


def test_a_projection_of_a_range(sensors: EventClient) -> None:
    """It is folded, saved and folded on."""
    sensors.save_events([Measured("s", celsius=float(n)) for n in (29, 30, 31)])
    hot = HotDaysProjection("s", sensors)
    assert hot.view == HotDays("s", 2)
    assert hot.save_projection().status == "created"
    sensors.save_events([Measured("s", celsius=float(n)) for n in (10, 40)])
    assert HotDaysProjection("s", sensors).view == HotDays("s", 3)
    assert HotDaysProjection("s", sensors).save_projection().status == "updated"


def test_no_save_rests_on_a_range(sensors: EventClient) -> None:
    """Its locks are of single values; the error says so, and nothing was written."""
    ranged = stream(Measured, celsius=at_least(30))
    read = sensors.get_event_streams([ranged])
    new = Measured("s")
    for attempt in (
        lambda: sensors.save_event_with_stream_validation(new, read),
        lambda: sensors.save_event_with_stream_validation(new, read.position),
        lambda: sensors.save_event_with_stream_validation(new, None, [ranged]),
        lambda: sensors.save_event_with_stream_validation(new, 5, stream(Measured, after=3)),
        lambda: sensors.decide(HotDaysProjection("s", sensors), lambda view: new),
        lambda: sensors.decide(latest(Measured, sensor=is_not("s")), lambda last: new),
        lambda: Subscription(sensors, "hot", [ranged]),
    ):
        with pytest.raises(ConfigurationError, match="is for reads: .* by single values of identifiers"):
            attempt()
    assert list(sensors.get_event_stream()) == []


def test_no_view_of_a_range_is_kept(sensors: EventClient) -> None:
    """By a runner or in the save: whose view an event changes is told by equal values."""
    with pytest.raises(ConfigurationError, match="is for reads: whose view an event changes"):
        rule_of(HotDaysProjection, sensors)


def test_with_a_field_of_many_values(make_client: Make) -> None:
    """A comparison stands beside it; the field itself has no one value to compare."""
    table = create_events_table(schema="lists", data_indexes=["cart_id", many("product_ids")])
    shop = make_client(event_types=())
    client = create_event_client(shop.db, table, create_projections_table(schema="lists"), ())
    client.create_tables()
    for n in range(1, 7):
        data = {"product_ids": ["p1", f"p{n}"], "total": n}
        client.save_event({"type": "ORDERED", "data": data})
    found = client.get_event_stream(product_ids="p1", total=between(2, 5), limit=2, reverse=True)
    assert ids(found) == [5, 4]
    later = [stream(product_ids="p1", total=less_than(5), after=2), stream(product_ids="p6", after=1)]
    assert ids(client.get_event_streams(later)) == [3, 4, 6]
    assert ids(client.get_event_streams(later, limit=2, final=True)) == [3, 4]
    client.decide(latest(product_ids="p3"), lambda last: {"type": "ORDERED", "data": {"seen": last.id}})
    assert client.get_event_stream("ORDERED")[-1].data == {"seen": 3}
    with pytest.raises(ConfigurationError, match="has many values in one event"):
        client.get_event_stream(product_ids=is_not("p1"))


def test_each_stream_goes_on_from_its_own_place(sensors: EventClient) -> None:
    """`after` of a stream is as `after` of the read, for that stream."""
    sensors.save_events([Measured(f"s{n % 2}", celsius=float(n)) for n in range(1, 9)])
    both = [stream(Measured, sensor="s0", after=4), stream(Measured, sensor="s1", after=1)]
    assert ids(sensors.get_event_streams(both)) == [3, 5, 6, 7, 8]
    assert ids(sensors.get_event_streams(both, after=5, final=True)) == [6, 7, 8]
    assert ids(sensors.get_event_streams(both, limit=2)) == [3, 5]
    back = [stream(Measured, sensor="s0", after=4), stream(Measured, sensor="s1", after=7)]
    assert ids(sensors.get_event_streams(back, reverse=True)) == [5, 3, 2, 1]
    same = [stream(sensor="s0", after=4), stream(sensor="s0", after=6), stream(sensor="s0", after=4)]
    assert ids(sensors.iter_event_streams(same)) == [6, 8]
    for wrong in (-1, "3", None, True):
        with pytest.raises(InvalidValueError, match="after is the id of an event"):
            stream(Measured, after=wrong)  # type: ignore[arg-type]


def test_an_identifier_that_was_renamed_is_compared_by_both_names(make_client: Make) -> None:
    """As it is found by both."""

    @event("NOTED_TWICE", version=2, upcasters={1: lambda data: {"size": data["length"]}})
    class Noted:
        size: int

    client = make_client(event_types=Noted)
    client.create_tables()
    old = make_client(event_types=())
    old.save_events([{"type": "NOTED_TWICE", "data": {"length": n}} for n in (1, 20)])
    client.save_events([Noted(3), Noted(40)])
    assert [one.data.size for one in client.get_event_stream(Noted, size=more_than(2))] == [20, 3, 40]


def test_an_event_envelope_is_no_value(sensors: EventClient) -> None:
    """Nor is a comparison one in a list."""
    with pytest.raises(ConfigurationError, match="cannot identify events"):
        stream(sensor=[at_least("a")])
    saved: Event[Measured] = sensors.save_event(Measured("s"))
    with pytest.raises(InvalidValueError, match="at_least compares"):
        at_least(saved)  # type: ignore[arg-type]
