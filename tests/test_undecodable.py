"""Stored events that cannot be read: an error that names them, and a way on for readers that must go on."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from datetime import date, datetime, time, timezone
from typing import Any

import pytest

from pgevents import (
    ConfigurationError,
    Event,
    EventClient,
    EventDecodeError,
    UndecodedData,
    event,
    hookimpl,
)
from pgevents.codec.times import parse_date, parse_datetime, parse_time

UTC = timezone.utc


@event("TIMES_NOTED")
class TimesNoted:
    cart_id: str
    at: datetime | None = None
    on: date | None = None
    clock: time | None = None


@event("COUNTED", version=2, upcasters={1: lambda data: {"cart_id": data["cart_id"], "count": data["n"]}})
class Counted:
    cart_id: str
    count: int


@pytest.fixture
def reader(pgevents_tables: None, make_client: Callable[..., EventClient]) -> EventClient:
    """A client that knows the classes above."""
    return make_client(event_types=TimesNoted | Counted)


def insert(client: EventClient, name: str, data: str, metadata: str = "{}", at: str = "now") -> None:
    """Store an event past all checks, as the owner of the table could."""
    with client.db.atomic():
        client.db.execute_sql("ALTER TABLE my_app.events DISABLE TRIGGER pgevents_insert")
        client.db.execute_sql(
            "INSERT INTO my_app.events (type, data, metadata, created_at, updated_at)"
            " VALUES (%s, %s, %s, %s::timestamptz, %s::timestamptz)",
            [name, data, metadata, at, at],
        )
        client.db.execute_sql("ALTER TABLE my_app.events ENABLE ALWAYS TRIGGER pgevents_insert")


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2024-02-29T12:00:00.12345+00:00", datetime(2024, 2, 29, 12, 0, 0, 123450, UTC)),
        ("2024-02-29T12:00:00.5+00", datetime(2024, 2, 29, 12, 0, 0, 500000, UTC)),
        ("2024-02-29 12:00:00.5+00", datetime(2024, 2, 29, 12, 0, 0, 500000, UTC)),
        ("2024-02-29T12:00:00.123Z", datetime(2024, 2, 29, 12, 0, 0, 123000, UTC)),
        ("2024-02-29T12:00:00.123456789Z", datetime(2024, 2, 29, 12, 0, 0, 123456, UTC)),
        ("2024-02-29T12:00Z", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("2024-02-29t12:00:00z", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("2024-02-29T17:30:00+0530", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        ("2024-02-29T11:19:32-00:40:28", datetime(2024, 2, 29, 12, tzinfo=UTC)),
    ],
)
def test_times_of_other_programs_are_read_rightly(reader: EventClient, text: str, when: datetime) -> None:
    """PostgreSQL cuts zeros, Go writes nanoseconds, JavaScript a Z: the same on every Python."""
    assert parse_datetime(text) == when
    insert(reader, "TIMES_NOTED", f'{{"cart_id": "c1", "at": "{text}"}}')
    assert reader.get_event_stream(TimesNoted)[0].data.at == when


def test_days_and_times_of_day_are_read_rightly() -> None:
    """The same for the other two."""
    assert parse_date("2024-02-29") == date(2024, 2, 29)
    assert parse_time("12:30") == time(12, 30)
    assert parse_time("12:30:15.25+01") == parse_time("11:30:15.25Z")
    for parse in (parse_date, parse_time, parse_datetime):
        for text in (
            "",
            "20240229",
            "2024-W09-4",
            "24:00:00",
            "12:60",
            "0000-01-01",
            "2024-02-30",
            "infinity",
        ):
            with pytest.raises(ValueError, match="."):
                parse(text)


UNREADABLE = {
    "no time zone":
        ("TIMES_NOTED", '{"cart_id": "c1", "at": "2024-02-29T12:00:00"}', "{}", "now", "has no time zone"),
    "another form":
        ("TIMES_NOTED", '{"cart_id": "c1", "at": "20240229T120000Z"}', "{}", "now", "in ISO form"),
    "infinity in data":
        ("TIMES_NOTED", '{"cart_id": "c1", "at": "infinity"}', "{}", "now", "'infinity' is not a date"),
    "a day with a time":
        ("TIMES_NOTED", '{"cart_id": "c1", "on": "2024-02-29T12:00:00Z"}', "{}", "now", "not a date"),
    "letters for a list": ("TIMES_NOTED", '{"cart_id": ["c1"]}', "{}", "now", "expected str"),
    "created at infinity":
        ("TIMES_NOTED", '{"cart_id": "c1"}', "{}", "infinity", "its created_at 'infinity' is not"),
    "created before Christ":
        ("TIMES_NOTED", '{"cart_id": "c1"}', "{}", "0044-03-15 BC", "created_at '0044-03-15"),
    "created in 20000": ("TIMES_NOTED", '{"cart_id": "c1"}', "{}", "20000-01-01", "created_at '20000-01-01"),
    "a huge number": ("TIMES_NOTED", '{"cart_id": "c1", "n": 1e5000}', "{}", "now", "digits"),
    "a huge number, no class": ("UNKNOWN", '{"n": 1e5000}', "{}", "now", "digits"),
    "deep nesting": ("UNKNOWN", '{"n": ' + "[" * 5000 + "]" * 5000 + "}", "{}", "now", "nested too deeply"),
    "a version below 1":
        ("COUNTED", '{"cart_id": "c1"}', '{"$version": -1e18}', "now", "a whole number from 1 on"),
    "a version of null": ("COUNTED", '{"cart_id": "c1"}', '{"$version": null}', "now", "not None"),
    "a version as text": ("COUNTED", '{"cart_id": "c1"}', '{"$version": "2"}', "now", "not '2'"),
    "a version as list": ("COUNTED", '{"cart_id": "c1"}', '{"$version": [2]}', "now", r"not \[2\]"),
    "a version with a point": ("COUNTED", '{"cart_id": "c1"}', '{"$version": 2.0}', "now", "not 2.0"),
    "a newer version":
        ("COUNTED", '{"cart_id": "c1"}', '{"$version": 3}', "now", "version 3, this program knows 2"),
    "a failing upcaster": ("COUNTED", '{"cart_id": "c1"}', "{}", "now", "the upcaster from version 1 failed"),
}  # fmt: skip


@pytest.mark.parametrize("has_plugin", [False, True])
@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_named_and_readers_may_go_on(
    reader: EventClient, caplog: pytest.LogCaptureFixture, case: str, has_plugin: bool
) -> None:
    """One event among others: by default an error with its id; or it is skipped with a report; or handed over
    as it is stored."""

    class Plugin:
        @hookimpl
        def pgevents_before_decode(self, events: Any) -> Any:
            return events

    if has_plugin:
        reader.plugins.register(Plugin())
    name, data, metadata, at, message = UNREADABLE[case]
    first = reader.save_event(Counted("c1", 1))
    insert(reader, name, data, metadata, at)
    last = reader.save_event(Counted("c1", 2))

    for read in (
        lambda **options: reader.get_event_stream(**options),
        lambda **options: reader.get_event_stream(final=True, **options),
        lambda **options: list(reader.iter_event_stream(**options)),
    ):
        with pytest.raises(EventDecodeError, match=message) as caught:
            read()
        assert (caught.value.event_id, caught.value.event_type) == (2, name)

        caplog.clear()
        with caplog.at_level(logging.WARNING, "pgevents"):
            skipped = read(on_undecodable="skip")
        assert list(skipped) == [first, last]
        assert "event 2" in caplog.text

        raw = read(on_undecodable="raw")
        assert [raw[0], raw[2]] == [first, last]
        assert (raw[1].id, raw[1].type) == (2, name)
        assert isinstance(raw[1].data, UndecodedData)
        assert raw[1].data.error.event_id == 2
        assert raw[1].created_at.tzinfo is not None

    stream = reader.get_event_stream(on_undecodable="skip")
    assert [error.event_id for error in stream.undecodable] == [2]
    assert stream.position == reader.get_event_stream(on_undecodable="raw").position
    reader.save_event_with_stream_validation(
        Counted("c1", 3), stream
    )  # the position counts what was left out


def test_a_read_without_faults_reports_none(reader: EventClient) -> None:
    """The options change nothing where everything can be read, and others are refused."""
    saved = reader.save_events([Counted("c1", 1), Counted("c1", 2)])
    for how in ("raise", "skip", "raw"):
        read = reader.get_event_stream(Counted, cart_id="c1", on_undecodable=how)  # type: ignore[arg-type]
        assert read == saved
        assert read.undecodable == ()
    for unknown in ("ignore", None, True):
        with pytest.raises(ConfigurationError, match='on_undecodable is "raise", "skip" or "raw"'):
            reader.get_event_stream(on_undecodable=unknown)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="on_undecodable"):
            list(reader.iter_event_stream(on_undecodable=unknown))  # type: ignore[arg-type]


def test_a_read_equals_another_of_the_same_events(reader: EventClient) -> None:
    """Histories are compared with each other and with lists."""
    saved = reader.save_events([Counted("c1", 1), Counted("c2", 2)])
    first, second = reader.get_event_stream(), reader.get_event_stream(Counted)
    assert first == second == saved
    assert saved == list(first)
    assert first == pickle.loads(pickle.dumps(first))
    assert first != reader.get_event_stream(cart_id="c1")
    assert first != "events"
    with pytest.raises(TypeError, match="unhashable"):
        hash(first)
    both: set[Event[Any]] = {*first, *second}
    assert len(both) == 2
