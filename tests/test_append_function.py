"""The append functions as other programs, and odd tables, meet them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import combinations
from typing import Any, ClassVar

import attrs
import peewee
import pytest
from peewee import DataError, PeeweeException, PostgresqlDatabase

from pgevents import (
    ConcurrencyError,
    EventClient,
    EventEncodeError,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    stream,
)
from pgevents.store.functions import setting_of
from pgevents.store.ordering import digest_of
from pgevents.store.session import Session

from .conftest import database
from .shop import CartCreated

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


ONE = "SELECT my_app.events_append_one('A', %s, {})"
PLAIN = "NULL, NULL"
"""No condition."""


def test_append_one_saves_as_append_does(client: EventClient) -> None:
    """Type, data, metadata and time arrive; NULL metadata is none. The time is told in UTC."""
    sql = ONE.format(f"%s, NULL, %s, {PLAIN}")
    client.save_event({"type": "FIRST", "data": {}})
    client.db.execute_sql("SET TIME ZONE 'Asia/Kolkata'")
    told = scalar(client.db, sql, [DATA, '{"by": "me"}', "2026-01-31 12:00+00"])
    assert told == 'saved 2 "2026-01-31T12:00:00"'
    assert scalar(client.db, sql, [DATA, None, None]).startswith('saved 3 "20')
    events = client.get_event_stream("A", cart_id="c1")
    assert [one.metadata for one in events] == [{"by": "me"}, {}]
    assert abs(events[1].created_at - datetime.now(timezone.utc)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "condition",
    [
        "'{cart_id,c1}', '{0,0,0}'",  # not what stands there
        "'{cart_id,c1}', '{NULL,NULL,NULL}'",
        "'{cart_id,c1}', NULL",
        "'{cart_id,c1}', '{NULL,0,0}'",
        "'{cart_id,c1}', '{0,NULL,0}'",
        "'{cart_id,c1}', '{0,1,77}'",  # as many, but others
        "'{cart_id,c1,A}', '{0,2,77}'",
        "'{cart_id,c1,A}', '{0,-5,0}'",
        "'{no_index,y}', '{0,1,77}'",
        "'{product_id,p}', '{5,0,0}'",  # above the last id issued
    ],
)
def test_append_one_saves_nothing_on_a_condition_that_does_not_hold(
    client: EventClient, condition: str
) -> None:
    """Another count, other events, and whatever is NULL or from the future, are no permission."""
    client.save_event({"type": "A", "data": {"cart_id": "c1", "no_index": "x"}})
    answer = scalar(client.db, ONE.format(f"NULL, NULL, NULL, {condition}"), [DATA])
    assert answer.split(" ")[0] in ("conflict", "future")
    assert len(client.get_event_stream()) == 1


def test_append_one_refuses_a_premise_without_a_stream(client: EventClient) -> None:
    """It is no plain save."""
    with pytest.raises(peewee.PeeweeException):
        scalar(client.db, ONE.format("NULL, NULL, NULL, NULL, '{0,0,0}'"), [DATA])
    assert not client.get_event_stream()


@pytest.mark.parametrize(
    "ids", [[], [1], [1, 2, 3], [2**31 - 1, 2**31, 5], list(range(1, 3000, 7)), [2**62, 9]]
)
def test_python_and_the_database_agree_on_the_digest(client: EventClient, ids: list[int]) -> None:
    """Of any set of ids, in any order."""
    assert scalar(client.db, "SELECT my_app.events_digest(%s::bigint[])", [ids]) == digest_of(ids)
    assert digest_of(reversed(ids)) == digest_of(ids)


def test_one_event_in_place_of_another_changes_the_digest() -> None:
    """No two sets of a few ids have one digest."""
    sets = {frozenset(some) for some in combinations(range(1, 40), 4)}
    assert len({digest_of(some) for some in sets}) == len(sets)


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
    "condition",
    [
        "'{cart_id,NULL}', '{0,0,0}'",
        "'{no_index,NULL}', '{0,0,0}'",
        "'{cart_id,c1,B,NULL}', '{0,0,0}'",
    ],
)
def test_the_function_for_one_event_refuses_it_too(client: EventClient, condition: str) -> None:
    """It leaves such a condition to the function for any events."""
    client.save_event({"type": "A", "data": {"cart_id": "c1"}})
    with pytest.raises(DataError, match="are texts"):
        client.db.execute_sql(ONE.format(f"NULL, NULL, NULL, {condition}"), [DATA])
    assert len(client.get_event_stream()) == 1


def test_append_wants_the_digest_of_what_was_seen(client: EventClient) -> None:
    """A count alone would miss that another event stands in the place of one."""
    client.save_event({"type": "A", "data": {"cart_id": "c1"}})
    given = '[{"base": 0, "seen": 1, "streams": [{"match": {"cart_id": ["c1"]}}]}]'
    with pytest.raises(DataError, match="names their digest"):
        client.db.execute_sql(
            "SELECT my_app.events_append(%s, %s)", [f'[{{"type": "A", "data": {DATA}}}]', given]
        )
    assert len(client.get_event_stream()) == 1


@pytest.mark.parametrize("values", [1, 300])
@pytest.mark.parametrize("types", ["", '"types": null, ', '"types": ["V"], '])
def test_any_number_of_values_is_locked(
    client: EventClient, make_client: Callable[..., EventClient], values: int, types: str
) -> None:
    """Also more than a transaction may lock one by one, with the types left out: two decisions exclude each
    other."""
    match = json.dumps({"cart_id": [f"c{n}" for n in range(values)]})
    given = [
        '[{"type": "V", "data": {"cart_id": "c0"}}]',
        f'[{{"base": 0, "seen": 0, "streams": [{{{types}"match": {match}}}]}}]',
    ]
    other = make_client()
    other.db.execute_sql("SET lock_timeout = '60ms'")
    with client.db.atomic():
        assert scalar(client.db, "SELECT my_app.events_append(%s, %s)", given)["status"] == "saved"
        with pytest.raises(PeeweeException, match="of this save locked"):
            other.db.execute_sql("SELECT my_app.events_append(%s, %s)", given)
    assert scalar(other.db, "SELECT my_app.events_append(%s, %s)", given)["status"] == "conflict"


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
        digest = digest_of([1]) if count else 0
        condition = f'[{{"base": 0, "seen": {count}, "digest": {digest}, "streams": [{stream}]}}]'
        assert scalar(client.db, sql, ['[{"type": "C", "data": {}}]', condition])["status"] == status


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


def test_one_event_is_saved_by_the_function_for_one(
    make_client: Callable[..., EventClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without a key, and without a condition or with one on one value of a data index."""
    client = make_client(event_types=[Added])
    client.create_tables()
    client.save_event(Added("c0", "p0"))
    called: list[str] = []
    execute = Session.execute

    def spied(self: Session, sql: str, params: Any = None) -> Any:
        called.extend(re.findall(r"events_append_(\w+)", sql))
        return execute(self, sql, params)

    monkeypatch.setattr(Session, "execute", spied)
    validated = client.save_event_with_stream_validation
    client.save_event(Added("c1", "p1"), metadata={"by": "me"})
    validated(Added("c1", "p1"), 2, [stream(Added, cart_id="c1"), stream("Other", cart_id="c1")])
    validated(Added("c2", "p1"), 3, [stream(product_id="p1")])
    validated(Added("c1", "p1"), client.get_event_stream(cart_id="c1"))
    client.save_event(Added("c1", "p1"), idempotency_key="key")
    assert called == ["one"] * 5
    validated(Added("c1", "p1"), 6, [stream(note="none")])
    client.save_events([Added("c1", "p1")] * 2)
    assert called[5:] == ["many"] * 2


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
        client.save_events([{"type": "A", "data": {"cart_id": f"c{n}"}} for n in range(400)])
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


def test_each_event_of_a_document_may_have_a_time(client: EventClient) -> None:
    """Those without one have the time of the call; what is no time with its zone is refused."""
    client.db.execute_sql("SET TimeZone = 'Asia/Tokyo'")
    first = {"type": "A", "data": {}, "created_at": "2026-01-31T12:00:00.5+01:00"}
    for given in (None, "2025-01-01 00:00+00"):
        documents = json.dumps([first, {"type": "A", "data": {}}, {**first, "created_at": None}])
        client.db.execute_sql("SET DateStyle = 'German'")
        answer = scalar(client.db, "SELECT my_app.events_append(%s, NULL, NULL, %s)", [documents, given])
        assert answer["created_at"] == "2026-01-31T11:00:00.500000+00:00"
        client.db.execute_sql("RESET DateStyle")
        times = [one.created_at for one in client.get_event_stream(after=answer["ids"][0] - 1)]
        assert times[0] == datetime(2026, 1, 31, 11, 0, 0, 500_000, timezone.utc)
        assert times[1] == times[2]
        now = datetime(2025, 1, 1, tzinfo=timezone.utc) if given else datetime.now(timezone.utc)
        assert abs(times[1] - now) < timedelta(minutes=1)
    for bad in ("2026-01-31T12:00:00", "31.01.2026 12:00Z", "2026-01-31", "now", 5, True, {}, [], ["x"]):
        with pytest.raises(PeeweeException, match="a time with its zone"):
            client.db.execute_sql(
                "SELECT my_app.events_append(%s)", [json.dumps([{**first, "created_at": bad}])]
            )
    for bad in ("2026-02-31T12:00:00Z", "0000-01-31T12:00:00Z"):
        with pytest.raises(PeeweeException):
            client.db.execute_sql(
                "SELECT my_app.events_append(%s)", [json.dumps([{**first, "created_at": bad}])]
            )
    assert len(client.get_event_stream()) == 6


MANY = (
    "SELECT my_app.events_append_many('{A,B}', ARRAY[%s, %s], %s, NULL, NULL, NULL, '{2026-01-31 12:00+00}')"
)


def test_append_many_saves_as_append_does(client: EventClient) -> None:
    """Types, data and time arrive, and metadata of all, of some or of none."""
    for number, metadata in enumerate([["{}", '{"by": "me"}'], [None, '{"by": "me"}'], None, []]):
        first = 2 * number + 1
        assert scalar(client.db, MANY, [DATA, DATA, metadata]) == (
            f'saved {first}-{first + 1} "2026-01-31T12:00:00"'
        )
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
def test_append_many_saves_all_that_it_is_given_or_nothing(client: EventClient, arrays: str) -> None:
    """Arrays of another form, of different lengths, or with NULL in them are refused."""
    with pytest.raises(peewee.PeeweeException):
        metadata = "" if arrays.count("ARRAY[") + arrays.count("'[") > 2 else ", NULL"
        client.db.execute_sql(f"SELECT my_app.events_append_many({arrays}{metadata}, NULL, NULL, NULL, NULL)")
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
    few_that_differ = [{"type": "A", "data": {"cart_id": f"c{min(n, 400)}"}} for n in range(2_000)]
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


def test_the_final_bound_of_the_whole_log_needs_no_streams(make_client: Callable[..., EventClient]) -> None:
    """Other programs leave the argument out: any save in flight then holds the bound back."""
    saver, other = make_client(), make_client()
    saver.create_tables()
    first = saver.save_event(CartCreated("c1", "u1"))
    bound = "SELECT my_app.events_final_bound(), my_app.events_final_bound('[]')"
    with saver.db.atomic():
        saver.save_event(CartCreated("c2", "u1"))
        assert other.db.execute_sql(bound).fetchone() == (first.id, first.id + 1)
    assert other.db.execute_sql(bound).fetchone() == (first.id + 1, first.id + 1)


ONE_EVENT = '[{"type": "A", "data": {"n": 1}}]'


@pytest.mark.parametrize(
    ("events", "at"),
    [
        *[(ONE_EVENT, at) for at in ("infinity", "-infinity", "0044-03-15 BC", "20000-01-01")],
        *[
            (f'[{{"type": "A", "data": {{}}, "metadata": {{"$version": {version}}}}}]', None)
            for version in ("-1e18", "null", '"2"', "[]", "0", "1.5", "1e18")
        ],
        ('[{"type": "A", "data": {"n": 1e5000}}]', None),
        ('[{"type": "A", "data": {"n": ' + "[" * 1100 + "1" + "]" * 1100 + "}}]", None),
        ('[{"type": "A", "data": {"n": {"$encrypted": null}}}]', None),
        ('[{"type": "", "data": {}}]', None),
        ('[{"type": "' + "A" * 201 + '", "data": {}}]', None),
        ('[{"type": "A", "data": []}]', None),
        ('[{"type": "A", "data": null}]', None),
    ],
    ids=lambda given: str(given)[:60],
)
def test_what_no_reader_gets_past_is_refused_at_the_door(
    client: EventClient, events: str, at: str | None
) -> None:
    """By SQL as by the client: nothing is written, and the log stays readable."""
    client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(PeeweeException):
        client.db.execute_sql("SELECT my_app.events_append(%s, NULL, NULL, %s)", (events, at))
    client.db.execute_sql("SELECT my_app.events_append(%s)", (ONE_EVENT,))
    assert [event.type for event in client.get_event_stream()] == ["CART_CREATED", "A"]


BAD = {
    "a type has 1 to 200 characters": ("x" * 201, "{}", None, None),
    "data are a JSON object": ("A", "[1]", None, None),
    "metadata are a JSON object": ("A", "{}", '"text"', None),
    "\\$version in metadata is a number from 1 to 10000": ("A", "{}", '{"$version": 1.5}', None),
    "created_at lies in the years 1 to 9999": ("A", "{}", None, "0044-03-15 BC"),
}
"""What is wrong with an event, and the event."""
BY_ONE = "SELECT my_app.events_append_one(%s, %s, %s, NULL, %s, NULL, NULL)"
BY_MANY = """SELECT my_app.events_append_many(
    ARRAY['A', %s], ARRAY['{}', %s], ARRAY['{}', %s], NULL, NULL, NULL,
    ARRAY[now(), coalesce(%s::timestamptz, now())])"""
BY_UPDATE = """UPDATE my_app.events
    SET type = %s, data = %s, metadata = coalesce(%s, '{}')::jsonb, created_at = coalesce(%s, now())"""


@pytest.mark.parametrize("sql", [BY_ONE, BY_MANY, BY_UPDATE])
@pytest.mark.parametrize("reason", BAD)
def test_no_way_into_the_table_takes_an_event_that_could_not_be_read(
    client: EventClient, reason: str, sql: str
) -> None:
    """Neither of the append functions, nor an UPDATE under maintenance."""
    client.save_event({"type": "A", "data": {}})
    with pytest.raises(EventEncodeError, match=reason), client.maintenance("a test"):
        client.session.execute(sql, BAD[reason])
    assert [(one.type, one.data, one.metadata) for one in client.get_event_stream()] == [("A", {}, {})]


def test_each_event_of_a_batch_has_its_time_and_key(client: EventClient) -> None:
    """As they are given, or one time for all of them."""
    sql = 'SELECT my_app.events_append_many(\'{A,A,A}\', \'{"{}","{}","{}"}\', NULL, NULL, NULL, %s, %s)'
    at = [datetime(2026, 1, day, tzinfo=timezone.utc) for day in (3, 1, 2)]
    assert scalar(client.db, sql, [["k", None, "k\x1f2"], at]) == 'saved 1-3 "2026-01-03T00:00:00"'
    assert scalar(client.db, sql, [None, at[:1]]) == 'saved 4-6 "2026-01-03T00:00:00"'
    assert [one.created_at for one in client.get_event_stream()] == at + at[:1] * 3
    keys = "SELECT array_agg(idempotency_key ORDER BY id) FROM my_app.events"
    assert scalar(client.db, keys) == ["k", None, "k\x1f2", None, None, None]
    with pytest.raises(peewee.IntegrityError):
        client.db.execute_sql(sql, [[None, None, "k"], at])
    with pytest.raises(peewee.PeeweeException):
        client.db.execute_sql(sql, [None, [*at[:2], None]])
    with pytest.raises(peewee.PeeweeException, match="of one length"):
        client.db.execute_sql(sql, [None, at[:2]])
    assert scalar(client.db, "SELECT count(*) FROM my_app.events") == 6


def test_a_save_whose_streams_are_locked_is_remembered_whole(client: EventClient) -> None:
    """By the function for one event, too: what it publishes and locks is added to what was locked."""
    state = f"SELECT current_setting('{setting_of(client.events.pgevents_spec)}')"
    streams = '[{"types": ["A"], "match": {"cart_id": ["c1", "c2"]}}]'
    with client.db.atomic():
        client.session.execute("SELECT my_app.events_lock(%s)", [streams])
        assert scalar(client.db, state) == "||2|"
        client.save_event({"type": "A", "data": {"cart_id": "c1"}})
        assert scalar(client.db, state) == "|0|5|"  # the table, the type, and the data index
        client.save_event({"type": "A", "data": {"cart_id": "c1"}})
        _, published, keys, scope = scalar(client.db, state).split("|")
        assert (published, scope) == ("0", "")
        assert int(keys) >= 5
