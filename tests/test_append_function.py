"""The append functions as other programs, and odd tables, meet them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

import attrs
import peewee
import pytest
from peewee import DataError, PostgresqlDatabase

from pgevents import (
    ConcurrencyError,
    EventClient,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    stream,
)
from pgevents.store.session import Session

from .conftest import database

DATA = '{"cart_id": "c1"}'


@event
@attrs.frozen
class Added:
    cart_id: str
    product_id: str


@event
@attrs.frozen
class Numbered:
    cart_id: int


@event
@attrs.frozen
class Derived:
    """It has a cart_id that is not stored."""

    note: str

    @property
    def cart_id(self) -> str:
        return "c1"


@event
@attrs.frozen
class Constant:
    """The same by another way."""

    cart_id: ClassVar[str] = "c1"
    note: str


def scalar(db: Any, sql: str, params: Any = None) -> Any:
    (found,) = db.execute_sql(sql, params).fetchone()
    return found


def wide(url: str, fields: int, **options: Any) -> EventClient:
    """A client of a table with so many data indexes."""
    events = create_events_table("wide", data_indexes=[f"f{n}" for n in range(fields)])
    return create_event_client(database(url, **options), events, create_projections_table("wide"), ())


def test_append_one_saves_as_append_does(client: EventClient) -> None:
    """Type, data, metadata and time arrive; NULL metadata is none."""
    sql = "SELECT my_app.events_append_one('A', %s, NULL, NULL, NULL, NULL, NULL, %s, '2026-01-31 12:00+00')"
    client.save_event({"type": "FIRST", "data": {}})
    client.db.execute_sql("SET TIME ZONE 'Asia/Kolkata'")
    assert scalar(client.db, sql, [DATA, '{"by": "me"}']) == '2 "2026-01-31T12:00:00"'
    assert scalar(client.db, sql, [DATA, None]).startswith("3 ")
    assert [one.metadata for one in client.get_event_stream("A", cart_id="c1")] == [{"by": "me"}, {}]


@pytest.mark.parametrize(
    "condition",
    [
        "'cart_id', 'c1', NULL, 0, 0",  # not what stands there
        "'cart_id', 'c1'",
        "'cart_id', 'c1', NULL, NULL, 0",
        "'cart_id', 'c1', NULL, 0, NULL",
        "'cart_id', 'c1', '{A}', 0, 2",
        "'cart_id', 'c1', '{A}', 0, -5",
        "'no_index', 'y', NULL, 0, 1",
        "'product_id', 'p', NULL, 5, 0",  # above the last id issued
    ],
)
def test_append_one_saves_nothing_on_a_condition_that_does_not_hold(
    client: EventClient, condition: str
) -> None:
    """A count that is another, and whatever is NULL or from the future, is no permission."""
    client.save_event({"type": "A", "data": {"cart_id": "c1", "no_index": "x"}})
    answer = json.loads(scalar(client.db, f"SELECT my_app.events_append_one('A', %s, {condition})", [DATA]))
    assert answer["status"] in ("conflict", "future")
    assert len(client.get_event_stream()) == 1


@pytest.mark.parametrize(
    "conditions",
    [
        '[{"base": 0, "seen": 0, "streams": [{"match": {"cart_id": [null]}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"match": {"cart_id": ["c2", null]}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"match": {"number": [5]}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"match": {"number": null}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"match": {"number": 5}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"match": {"cart_id": ["c1"], "number": [5]}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"match": {"number": [["5"]]}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"match": {"number": {"5": 5}}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"types": [null]}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"types": 5, "match": {"cart_id": ["c1"]}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"types": {"C": "A"}, "match": {"cart_id": ["c1"]}}]}]',
        '[{"base": 0, "seen": 0, "streams": [{"match": {"cart_id": ["c2"]}}, {"types": ["B", 5]}]}]',
        '[{"base": 0, "seen": 1, "streams": [{}]}, '
        '{"base": 0, "seen": 0, "streams": [{"match": {"cart_id": [true]}}]}]',
    ],
)
def test_append_refuses_a_condition_that_would_check_nothing(client: EventClient, conditions: str) -> None:
    """Events are compared by text: what is none matches nothing, whatever the program meant by it."""
    client.save_event({"type": "A", "data": {"cart_id": "c1", "number": 5}})
    for events in ('[{"type": "B", "data": {}}]', '[{"type": "B", "data": {}}, {"type": "B", "data": {}}]'):
        with pytest.raises(DataError, match="are texts"):
            client.db.execute_sql("SELECT my_app.events_append(%s, %s)", [events, conditions])
    assert len(client.get_event_stream()) == 1


@pytest.mark.parametrize(
    "call",
    [
        "one('A', %s, 'cart_id', NULL, NULL, 0, 0)",
        "one('A', %s, 'no_index', NULL, NULL, 0, 0)",
        "one('A', %s, 'cart_id', 'c1', '{B,NULL}', 0, 0)",
        "own('A', %s, 'cart_id', '{B,NULL}', 0)",
    ],
)
def test_the_ways_for_one_event_refuse_it_too(client: EventClient, call: str) -> None:
    """The short way would have to look at more than it does, so it leaves them to the long one."""
    client.save_event({"type": "A", "data": {"cart_id": "c1"}})
    with pytest.raises(DataError, match="are texts"):
        client.db.execute_sql(f"SELECT my_app.events_append_{call}", [DATA])
    assert len(client.get_event_stream()) == 1


@pytest.mark.parametrize(
    ("stream", "seen"),
    [
        ("{}", 1),
        ('{"types": null, "match": {}}', 1),
        ('{"types": ["A"]}', 1),
        ('{"types": ["B"], "match": {"cart_id": ["c1"]}}', 0),
        ('{"types": [], "match": {"cart_id": ["c1"]}}', 0),
        ('{"types": ["A", "B"], "match": {"cart_id": ["c1", "c2"], "number": ["5"]}}', 1),
        ('{"match": {"number": "5"}}', 1),
        ('{"match": {"cart_id": []}}', 0),
        ("", 0),
    ],
)
def test_append_checks_all_forms_of_a_stream(client: EventClient, stream: str, seen: int) -> None:
    """Exactly so many events match it."""
    client.save_event({"type": "A", "data": {"cart_id": "c1", "number": 5}})
    sql = "SELECT my_app.events_append(%s, %s)"
    for count, status in ((seen + 1, "conflict"), (seen, "saved")):
        condition = f'[{{"base": 0, "seen": {count}, "streams": [{stream}]}}]'
        assert scalar(client.db, sql, ['[{"type": "C", "data": {}}]', condition])["status"] == status


OWN = "SELECT my_app.events_append_own('A', %s, %s, %s, %s)"


def test_append_own_and_append_plain_save_as_append_does(client: EventClient) -> None:
    """Type and data arrive; the time is told in UTC."""
    client.db.execute_sql("SET TIME ZONE 'Asia/Kolkata'")
    assert scalar(client.db, "SELECT my_app.events_append_plain('A', %s)", [DATA]).startswith('1 "20')
    assert scalar(client.db, OWN, [DATA, "cart_id", None, 1]).startswith('2 "20')
    assert scalar(client.db, OWN, [DATA, "cart_id", ["B"], 0]).startswith('3 "20')
    events = client.get_event_stream("A", cart_id="c1")
    assert [(one.data, one.metadata) for one in events] == [({"cart_id": "c1"}, {})] * 3
    assert abs(events[2].created_at - datetime.now(timezone.utc)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("data", "field", "types", "base", "status"),
    [
        (DATA, "cart_id", None, 0, "conflict"),
        (DATA, "cart_id", ["A"], 0, "conflict"),
        (DATA, "cart_id", None, None, "conflict"),
        (DATA, "cart_id", None, 9, "future"),
        (
            '{"cart_id": "new", "product_id": "p1"}',
            "product_id",
            None,
            0,
            "conflict",
        ),  # not the first index: the field counts
        ('{"cart_id": "new", "no_index": "x"}', "no_index", None, 0, "conflict"),
    ],
)
def test_append_own_saves_nothing_if_anything_is_above(
    client: EventClient, data: str, field: str, types: list[str] | None, base: int | None, status: str
) -> None:
    """Whichever field is meant, by an older client perhaps, for which another index was the first."""
    client.save_event({"type": "A", "data": {"cart_id": "c1", "product_id": "p1", "no_index": "x"}})
    assert json.loads(scalar(client.db, OWN, [data, field, types, base]))["status"] == status
    assert len(client.get_event_stream()) == 1


def test_append_own_refuses_an_event_that_has_no_stream_of_its_own(client: EventClient) -> None:
    """It would be saved whatever has happened."""
    for data, field in (
        ("{}", "cart_id"),
        ('{"cart_id": null}', "cart_id"),
        (DATA, "product_id"),
        (DATA, None),
    ):
        with pytest.raises(DataError, match="no stream of its own"):
            client.db.execute_sql(OWN, [data, field, None, 0])
    assert len(client.get_event_stream()) == 0


@pytest.mark.parametrize("order", [["cart_id", "product_id"], ["product_id", "cart_id"], ["product_id"], []])
def test_a_client_that_knows_another_order_of_the_indexes_asks_for_what_it_means(
    url: str, client: EventClient, make_client: Callable[..., EventClient], order: list[str]
) -> None:
    """It has saved before, so it looks at the functions no more when their order changes."""
    old = make_client(event_types=[Added])
    for latest in (None, 1):
        old.save_event_with_stream_validation(Added("c1", "p1"), latest, [stream(cart_id="c1")])
    events = create_events_table("my_app", data_indexes=order)
    new = create_event_client(database(url), events, create_projections_table("my_app"), ())
    new.create_tables()
    with pytest.raises(ConcurrencyError):
        old.save_event_with_stream_validation(Added("c1", "p2"), 1, [stream(cart_id="c1")])
    assert old.save_event_with_stream_validation(Added("c1", "p2"), 2, [stream(cart_id="c1")]).id == 3
    new.db.close()


def test_each_save_of_one_event_goes_the_shortest_way_that_can_do_it(
    make_client: Callable[..., EventClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own stream is that of the first data index, by the very text that is stored; all else names its
    value."""
    client = make_client(event_types=[Added, Numbered])
    client.create_tables()
    client.save_events([Added("c0", "p0"), Numbered(7)])
    client.save_event(Numbered(7))
    client.save_event(Added("c0", "p0"))
    called: list[str] = []
    value, execute = Session.value, Session.execute

    def spy(how: Any) -> Any:
        def spied(self: Session, sql: str, params: Any = None) -> Any:
            called.extend(re.findall(r"events_append_(\w+)", sql))
            return how(self, sql, params)

        return spied

    monkeypatch.setattr(Session, "value", spy(value))
    monkeypatch.setattr(Session, "execute", spy(execute))

    class Sly(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    validated = client.save_event_with_stream_validation
    client.save_event(Added("c1", "p1"))
    validated(Added("c1", "p1"), 5, [stream(Added, cart_id="c1"), stream("Other", cart_id="c1")])
    validated(Added("c1", "p1"), 6, [stream(product_id="p1")])
    validated(Added("c2", "p1"), 7, [stream(cart_id="c1")])
    validated(Added("c2", "p1"), None, [stream(cart_id=Sly("c3"))])
    validated(Numbered(7), 9, [stream(cart_id=7)])
    validated(Added("c1", "p1"), client.get_event_stream(cart_id="c1"))
    client.save_event(Added("c1", "p1"), metadata={"by": "me"})
    validated(Added("c1", "p1"), 12, [stream(cart_id="c1")], metadata={"by": "me"})
    assert called == ["plain", "own", *["one"] * 7]
    for new in (Added("c1", "p1"), Added("c2", "p1"), Numbered(7)):
        with pytest.raises(ConcurrencyError):
            validated(new, 1, [stream(cart_id=new.cart_id)])
    assert called[9:] == ["own", "own", "one"]


@pytest.mark.parametrize("unstored", [Derived("x"), Constant("x")])
def test_only_what_is_stored_makes_a_stream_the_events_own(
    make_client: Callable[..., EventClient], unstored: Any
) -> None:
    """A property or a constant of the class is no part of the event, so the stream is another one."""
    client = make_client(event_types=[Added, Derived, Constant])
    client.create_tables()
    client.save_event(unstored)
    for saved in (client.save_event(Added("c1", "p1")), client.save_event(Added("c1", "p1"))):
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(unstored, saved.id - 1, [stream(cart_id="c1")])
    assert client.save_event_with_stream_validation(unstored, saved.id, [stream(cart_id="c1")]).id == 4


@pytest.mark.parametrize("condition", [{}, {"base": 0}, {"seen": 0}])
def test_append_takes_a_condition_without_numbers_for_one_that_does_not_hold(
    client: EventClient, condition: Any
) -> None:
    """A forgotten `seen` is no permission, and a forgotten `base` is the beginning."""
    client.save_event({"type": "A", "data": {"cart_id": "c1"}})
    given = json.dumps([{**condition, "streams": [{"types": None, "match": {"cart_id": ["c1"]}}]}])
    events = json.dumps([{"type": "A", "data": {"cart_id": "c1"}}])
    answer = scalar(client.db, "SELECT my_app.events_append(%s, %s)", [events, given])
    assert answer["status"] == "conflict"


@pytest.mark.parametrize(
    "value", ["", "NULL", "{a,b}", 'q"uote', "back\\slash", "é😀", "x" * 2_000, "  ", "'; DROP"]
)
def test_any_value_locks_and_counts_alike(
    make_client: Callable[..., EventClient], client: EventClient, value: str
) -> None:
    """A plain save, a validated one and a batch agree on the key of a value: an open save of it is waited
    for."""
    other = make_client()
    client.save_event({"type": "A", "data": {"cart_id": value}})
    read = client.get_event_stream(cart_id=value)
    assert len(read) == 1
    other.db.execute_sql("SET lock_timeout = '60ms'")
    for number in (1, 2):  # one event, and a batch
        with client.db.atomic():
            client.save_events([{"type": "A", "data": {"cart_id": value}}] * number)
            with pytest.raises(RetryableError, match="lock"):
                other.save_event_with_stream_validation({"type": "A", "data": {}}, read)
    with pytest.raises(ConcurrencyError):
        other.save_event_with_stream_validation({"type": "A", "data": {}}, read)
    assert other.save_event_with_stream_validation(
        {"type": "A", "data": {}}, client.get_event_stream(cart_id=value)
    ).id


def test_tables_of_one_name_in_two_schemas_are_told_apart(url: str, db: PostgresqlDatabase) -> None:
    """A table without a schema is whichever `search_path` finds; what was done to one says nothing of the
    other."""
    events = create_events_table(data_indexes=["cart_id"])
    client = create_event_client(db, events, create_projections_table(), ())
    for schema in ("one", "two"):
        db.execute_sql(f"CREATE SCHEMA {schema}")
        with db.atomic():
            db.execute_sql(f"SET LOCAL search_path = {schema}")
            client.create_tables()
    watching = create_event_client(
        database(url, options="-c search_path=two"), events, create_projections_table(), ()
    )
    with db.atomic():
        db.execute_sql("SET LOCAL search_path = one")
        client.save_events([{"type": "A", "data": {"cart_id": f"c{n}"}} for n in range(80)])
        db.execute_sql("SET LOCAL search_path = two")
        client.save_event({"type": "A", "data": {"cart_id": "c1"}})
        assert watching.horizon().id == 0
        watching.db.execute_sql("SET lock_timeout = '60ms'")
        with pytest.raises(RetryableError, match="lock"):
            watching.save_event_with_stream_validation(
                {"type": "A", "data": {}}, None, [stream(cart_id="c1")]
            )
        watching.save_event({"type": "A", "data": {"cart_id": "c2"}})
        assert [one.id for one in watching.get_event_stream()] == [2]
        assert len(watching.reader.read_final([stream()])) == 0
    watching.db.close()


def test_a_table_that_was_dropped_gets_its_guards_again(client: EventClient) -> None:
    """Functions that outlived their table do not pass for a whole installation."""
    client.db.execute_sql("DROP TABLE my_app.events")
    client.create_tables()
    with pytest.raises(peewee.PeeweeException, match="append function only"):
        client.db.execute_sql("INSERT INTO my_app.events (type, data) VALUES ('A', '{}')")


@pytest.mark.parametrize("fields", [0, 1, 70, 100])
def test_tables_of_any_width_save_validate_and_do_not_exclude_each_other(url: str, fields: int) -> None:
    """With no data index and with a hundred: plain and keyed saves of different values run side by side."""
    one, two = wide(url, fields), wide(url, fields)
    one.create_tables()

    def event_of(value: str) -> dict[str, Any]:
        return {"type": "A", "data": {f"f{n}": f"{value}{n}" for n in range(fields)}}

    two.db.execute_sql("SET lock_timeout = '60ms'")
    for key in (None, "k"):
        with one.db.atomic():
            one.save_event(event_of("x"), idempotency_key=key)
            two.save_event(event_of("y"), idempotency_key=key and "other")
    read = two.get_event_stream(**{f"f{n}": f"x{n}" for n in range(min(fields, 1))})
    assert two.save_event_with_stream_validation(event_of("x"), read).id == 5
    with pytest.raises(ConcurrencyError):
        two.save_event_with_stream_validation(event_of("x"), read)
    for client in (one, two):
        client.db.close()


@pytest.mark.parametrize(
    ("at", "told"),
    [("12:00:00.120", "2026-01-31T12:00:00.120000+00:00"), ("12:00", "2026-01-31T12:00:00.000000+00:00")],
)
def test_append_tells_the_time_in_one_form(client: EventClient, at: str, told: str) -> None:
    """Six digits, as Python 3.10 and who cuts texts in pieces need them, whatever DateStyle says."""
    client.db.execute_sql("SET DateStyle = 'German'")
    event = '[{"type": "A", "data": {}}]'
    answer = scalar(
        client.db, "SELECT my_app.events_append(%s, NULL, NULL, %s)", [event, f"2026-01-31 {at}+00"]
    )
    assert answer["created_at"] == told


ROWS = "SELECT my_app.events_append_rows('{A,B}', ARRAY[%s, %s], %s, NULL, NULL, '2026-01-31 12:00+00')"


def test_append_rows_saves_as_append_does(client: EventClient) -> None:
    """Types, data and time arrive, and metadata of all, of some or of none."""
    for number, metadata in enumerate([["{}", '{"by": "me"}'], [None, '{"by": "me"}'], None, []]):
        first = 2 * number + 1
        assert scalar(client.db, ROWS, [DATA, DATA, metadata]) == f'{first}-{first + 1} "2026-01-31T12:00:00"'
    read = client.get_event_stream(cart_id="c1")
    assert [one.type for one in read] == ["A", "B"] * 4
    assert [one.metadata for one in read] == [{}, {"by": "me"}] * 2 + [{}] * 4


@pytest.mark.parametrize(
    "arrays",
    [
        "'[0:1]={A,B}', ARRAY['{}', '{}']",  # from 0: the first one would be saved under no lock
        "'{A,B}', '[2:3]={\"{}\",\"{}\"}'",
        "'{{A,B}}', ARRAY['{}', '{}']",  # of two dimensions
        "'{A,B}', ARRAY['{}']",
        "'{A}', ARRAY['{}', '{}']",
        "'{}', ARRAY['{}']",
        '\'[1:2]={A,B}\', \'[0:2]={"{}","{}","{}"}\'',
        "'{A,B}', ARRAY['{}', '{}'], '[0:1]={\"{}\",\"{}\"}'",
        "'{A,B}', ARRAY['{}', '{}'], ARRAY[ARRAY['{}', '{}']]",
        "'{A,B}', ARRAY['{}', '{}'], ARRAY['{}']",
        "'{A,NULL}', ARRAY['{}', '{}']",
        "'{A,B}', ARRAY['{}', NULL]",
        "'{A,B}', NULL",
        "'{A,B}', ARRAY['{}', '{']",
    ],
)
def test_append_rows_saves_all_that_it_is_given_or_nothing(client: EventClient, arrays: str) -> None:
    """Arrays of another form, of different lengths, or with NULL in them are refused."""
    with pytest.raises(peewee.PeeweeException):
        client.db.execute_sql(f"SELECT my_app.events_append_rows({arrays})")
    assert len(client.get_event_stream()) == 0


def test_ids_of_a_batch_need_not_follow_each_other(client: EventClient) -> None:
    """Others take ids in between; here it is the sequence that leaves them out, which no new client would
    accept."""
    events = [{"type": "A", "data": {"cart_id": "c1", "n": n}} for n in range(3)]
    assert [one.id for one in client.save_events(events)] == [1, 2, 3]
    client.db.execute_sql("ALTER SEQUENCE my_app.events_id_seq INCREMENT 2")
    assert [one.id for one in client.save_events(events)] == [5, 7, 9]
    assert [one.id for one in client.save_events(events, idempotency_key="key")] == [11, 13, 15]
    assert scalar(client.db, "SELECT my_app.events_append(%s)", [json.dumps(events)])["ids"] == [17, 19, 21]
    assert [one.data["n"] for one in client.get_event_stream()] == [0, 1, 2] * 4


def test_a_batch_of_few_keys_is_no_bulk_and_one_of_many_is(
    client: EventClient, make_client: Callable[..., EventClient]
) -> None:
    """Whatever the size: a batch of one cart leaves others alone; one of many carts waits for who validates,
    however they lie."""
    other = make_client()
    other.db.execute_sql("SET lock_timeout = '60ms'")
    one_cart = [{"type": "A", "data": {"cart_id": "c1"}}] * 2_000
    few_that_differ = [{"type": "A", "data": {"cart_id": f"c{n if n < 70 else 70}"}} for n in range(2_000)]
    with client.db.atomic():
        client.save_events(one_cart)
        assert other.save_event_with_stream_validation(
            {"type": "A", "data": {}}, None, [stream(cart_id="c2")]
        )
    with client.db.atomic():
        client.save_events(few_that_differ)
        with pytest.raises(RetryableError, match="lock"):
            other.save_event_with_stream_validation(
                {"type": "A", "data": {}}, None, [stream(cart_id="unheard of")]
            )


@pytest.mark.parametrize("given", ["NULL", "'[]'", "(SELECT jsonb_agg(1) WHERE false)"])
def test_no_events_are_saved_at_once(client: EventClient, given: str) -> None:
    """Neither an empty array nor NULL, which an aggregate over no rows gives, is looked through for ever."""
    client.db.execute_sql("SET statement_timeout = '5s'")
    assert scalar(client.db, f"SELECT my_app.events_append({given})")["ids"] == []
    assert scalar(client.db, f"SELECT my_app.events_append({given}, NULL, 'key')")["ids"] == []
    assert len(client.get_event_stream()) == 0


def test_a_batch_out_of_a_table_is_unpacked_once(client: EventClient) -> None:
    """A compressed document is not unpacked for each of its events, which would take seconds for thousands of
    them."""
    client.db.execute_sql(
        "CREATE TABLE my_app.documents AS SELECT jsonb_agg(jsonb_build_object("
        "'type', 'A', 'data', jsonb_build_object('cart_id', 'c' || mod(n, 7), 'text', repeat('x', "
        "40)))) AS events "
        "FROM generate_series(1, 16000) AS n"
    )
    client.db.execute_sql("SET statement_timeout = '5s'")
    assert (
        len(scalar(client.db, "SELECT my_app.events_append(events) FROM my_app.documents")["ids"]) == 16_000
    )
