"""Fields with other names than a keyword can have: nested ones, odd ones, and those of the metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import attrs
import pytest
from peewee import PostgresqlDatabase
from psycopg2.extensions import parse_dsn

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    ProjectionBase,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    pipeline,
    stream,
)
from pgevents.cli import main
from pgevents.codec.serialization import dump_json
from pgevents.fields import path_of, text_sql, texts_in
from pgevents.subscriptions import Subscription
from pgevents.testing import given
from pgevents.testing.databases import MakeClient
from pgevents.type_registry import EventTypes

from .conftest import database

INDEXES = ["customer.id", "order-no", "metadata.tenant"]


@pytest.fixture
def orders(pgevents_tables: None, db: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch) -> EventClient:
    """A log of orders, whose events have classes only where a test defines them."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())
    return unmade_client(db)


def unmade_client(db: PostgresqlDatabase, types: Any = None) -> EventClient:
    events = create_events_table(schema="shop", data_indexes=INDEXES)
    return create_event_client(db, events, create_projections_table(schema="shop"), types)


def client_of(db: PostgresqlDatabase, types: Any = None) -> EventClient:
    client = unmade_client(db, types)
    client.create_tables()
    return client


@pytest.fixture(scope="module")
def pgevents_make_client() -> MakeClient:
    return unmade_client


def ordered(customer: Any, number: Any) -> dict[str, Any]:
    return {
        "type": "ORDERED",
        "data": {"customer": {"id": customer}, "order-no": number, "lines": [{"id": 9}]},
    }


@pytest.fixture
def pgevents(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command, and gives all that it prints."""

    def run(*args: str) -> str:
        database = "postgresql:///?" + urlencode(parse_dsn(url), quote_via=quote)
        monkeypatch.setattr(sys, "argv", ["pgevents", "--database", database, *args])
        with suppress(SystemExit):
            main()
        return "".join(capsys.readouterr())

    return run


FINDS: list[tuple[dict[str, Any], list[int]]] = [
    ({"customer.id": 7}, [1, 3]),
    ({"customer.id": [7, 8]}, [1, 2, 3]),
    ({"order-no": "o1"}, [1]),
    ({"metadata.tenant": "acme"}, [1, 2]),
    ({"metadata.tenant": "acme", "customer.id": 8}, [2]),
    ({"customer.id": 8, "order-no": "o1"}, []),
    ({"lines.0.id": 9}, []),
    ({"metadata.by.role": "admin"}, [3]),
]


@pytest.fixture
def filled(orders: EventClient) -> EventClient:
    orders.save_events([ordered(7, "o1"), ordered(8, "o2")], metadata={"tenant": "acme"})
    orders.save_event(ordered(7, "o3"), metadata={"tenant": "other", "by": {"role": "admin"}})
    return orders


@pytest.mark.parametrize(("data", "ids"), FINDS)
def test_every_read_finds_them(filled: EventClient, data: dict[str, Any], ids: list[int]) -> None:
    """By a path, by a name that is no keyword, and by the metadata, whether there is an index or not."""
    assert [one.id for one in filled.get_event_stream(data=data)] == ids
    assert [one.id for one in filled.get_event_stream("ORDERED", data=data, final=True)] == ids
    assert [one.id for one in filled.get_event_stream(data=data, as_of=3)] == ids
    assert [one.id for one in filled.iter_event_stream(data=data)] == ids
    both = [stream("ORDERED", data=data), stream("NONE", data={"order-no": 1})]
    assert [one.id for one in filled.get_event_streams(both)] == ids
    latest = filled.get_latest_event(data=data)
    assert (latest and latest.id) == (ids[-1] if ids else None)
    found: list[int] = []
    Subscription(filled, "reader", [stream(data=data)]).process(lambda event: found.append(event.id))
    assert found == ids


@pytest.mark.parametrize(("data", "ids"), FINDS)
def test_a_condition_on_them_is_checked(filled: EventClient, data: dict[str, Any], ids: list[int]) -> None:
    """What was read may be decided on; what came since is a conflict, in a single save and in a batch."""
    match = {field: value[0] if isinstance(value, list) else value for field, value in data.items()}
    new = {"type": "ORDERED", "data": {}, "metadata": {}}
    for field, value in match.items():
        column, keys = path_of(field)
        place: Any = new[column]
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
    seen = filled.get_event_stream(data=data)
    filled.save_event_with_stream_validation(new, seen)
    for events in ([new], [new, new]):
        with pytest.raises(ConcurrencyError):
            filled.save_events_with_stream_validation(events, seen)
    filled.save_events_with_stream_validation([new, new], filled.get_event_stream(data=data))


@pytest.mark.parametrize("field", INDEXES)
def test_a_decision_locks_the_value_and_no_other(filled: EventClient, url: str, field: str) -> None:
    """While one decides about a value, saves of that value wait, and others do not."""
    other = client_of(database(url))
    other.db.execute_sql("SET lock_timeout = '200ms'")
    locked = json.dumps([stream(data={field: 7}).as_json()])
    with filled.db.atomic():
        filled.db.execute_sql("SELECT shop.events_lock(%s)", [locked])
        other.save_event(ordered(8, 8), metadata={"tenant": 8})
        for events in (1, 2):
            with pytest.raises(Exception, match="locked"):
                other.save_events([ordered(7, 7)] * events, metadata={"tenant": 7})
    other.save_event(ordered(7, 7), metadata={"tenant": 7})
    other.db.close()


@attrs.frozen
class Customer:
    id: int
    name: str = ""


@attrs.frozen
class Count:
    id: int
    count: int = 0


def test_classes_are_known_to_have_nested_fields(orders: EventClient) -> None:
    """A path that no class has is refused, with the nearest one; what stands in a dict nobody knows."""

    @event("PLACED")
    class Placed:
        customer: Customer | None
        notes: dict[str, Any]
        total: int = 0

    client = client_of(orders.db, [Placed])
    client.save_event(Placed(Customer(7), {"from": "web"}), metadata={"tenant": "acme"})
    for data in ({"customer.id": 7}, {"notes.from": "web"}, {"metadata.tenant": "acme"}):
        assert len(client.get_event_stream(Placed, data=data)) == 1
    for wrong in ("customer.ids", "customers.id", "customer.idd"):
        with pytest.raises(ConfigurationError, match=r"did you mean 'customer\.id'"):
            client.get_event_stream(Placed, data={wrong: 7})
    for wrong in ("total.id", "customer.name.first", "metadatas.tenant"):
        with pytest.raises(ConfigurationError, match="has a field"):
            client.get_event_stream(Placed, data={wrong: 7})


def test_a_projection_goes_by_them(orders: EventClient) -> None:
    """Folded, decided on and tried in the test kit alike."""

    @event("PLACED")
    class Placed:
        customer: Customer

    class Orders(ProjectionBase[Count, Placed]):
        projection_type = "ORDERS"
        event_types = Placed
        reducers = pipeline(count=lambda count, event: count + 1)

        def initial_view(self) -> Count:
            return Count(self.id)

        def get_event_identifiers(self) -> Mapping[str, Any]:
            return {"customer.id": self.id, "metadata.tenant": "acme"}

    client = client_of(orders.db, [Placed])
    client.save_event(Placed(Customer(7)), metadata={"tenant": "acme"})
    client.save_event(Placed(Customer(7)), metadata={"tenant": "other"})
    client.decide(Orders(7, client), lambda view: Placed(Customer(view.id)), metadata={"tenant": "acme"})
    assert Orders(7, client).view == Count(7, 2)
    assert Orders(7, client).save_projection().status == "created"
    past = list(client.get_event_stream())
    assert given(Orders(7), *past).view == Count(7, 2)


@pytest.mark.parametrize("key", ["customer.id", "order-no", "metadata.tenant"])
def test_a_subscription_has_them_for_its_key(filled: EventClient, key: str) -> None:
    """Its lanes go by a nested field as by any other."""
    found: list[int] = []
    handled = Subscription(filled, "lanes", [stream()], key=key, lanes=2)
    while handled.process(lambda event: found.append(event.id)):
        pass
    assert sorted(found) == [1, 2, 3]


def test_sql_and_python_agree_on_the_text(db: PostgresqlDatabase) -> None:
    """What a field's text is, is decided in one way for stored events and for those of the test kit."""
    data = {
        "a": {"b": 1.50, "c": True, "0": "zero", "d": {"e": None}},
        "list": ["x"],
        "a-b": 1e21,
        "é ü": "ž",
    }
    metadata = {"b": {"c": "meta"}}
    for field in ("a.b", "a.c", "a.0", "a.d.e", "a.d.e.f", "list.0", "a-b", "é ü", "metadata.b.c", "none"):
        sql = f"SELECT {text_sql(field)} FROM (SELECT %s::jsonb AS data, %s::jsonb AS metadata) AS e"
        (text,) = db.execute_sql(sql, [dump_json(data, "data"), json.dumps(metadata)]).fetchone()
        assert texts_in(field, data, metadata) == ([] if text is None else [text]), field


# -- the command line ------------------------------------------------------------


def test_the_command_line_takes_them(orders: EventClient, pgevents: Callable[..., str]) -> None:
    """They are indexed, saved and asked for by the same names."""
    pgevents(
        "append", "ORDERED", "customer.id:=7", "customer.name=Ann", "order-no=o1", "metadata.tenant=acme"
    )
    (saved,) = orders.get_event_stream(data={"customer.id": 7, "metadata.tenant": "acme"})
    assert saved.data == {"customer": {"id": 7, "name": "Ann"}, "order-no": "o1"}
    for field in ("customer.id=7", "order-no=o1", "metadata.tenant=acme"):
        assert "ORDERED" in pgevents("tail", field)
    assert "ORDERED" not in pgevents("tail", "customer.id=8")
    assert "as an object and as a value" in pgevents("append", "ORDERED", "customer=7", "customer.id=7")
    assert "given twice" in pgevents("append", "ORDERED", "customer.id=7", "customer.id=8")
    assert "field names consist of" in pgevents("tail", "customer..id=7")
    pgevents("init", "--events", "more.events", "--index", "a.b", "--index", "a-b", "--index", "metadata.x")
    assert "customer.id, order-no" in pgevents("init", "--events", "shop.events", "--index", "a")


# -- what an index costs ------------------------------------------------------------


def test_an_index_has_no_entry_for_events_that_lack_the_field(filled: EventClient) -> None:
    """A thousand events without any of the fields make the indexes no larger."""
    sizes: Callable[[], dict[str, int]] = lambda: dict(  # noqa: E731
        filled.db.execute_sql(
            "SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index "
            "WHERE indrelid = 'shop.events'::regclass AND indexrelid::regclass::text LIKE '%%data%%'"
        ).fetchall()
    )
    before = sizes()
    filled.save_events([{"type": "NOTE", "data": {"n": n}} for n in range(1000)])
    assert len(before) == 3
    assert sizes() == before


def test_indexes_of_an_earlier_version_are_made_anew(filled: EventClient) -> None:
    """Those had an entry for each event; create_tables() exchanges them, once, and reads find the same."""
    name = '"events$data$customer.id$idx"'
    filled.db.execute_sql(f"DROP INDEX shop.{name}")
    filled.db.execute_sql(f"CREATE INDEX {name} ON shop.events ((data->'customer'->>'id'), id)")
    client_of(filled.db)
    sql = "SELECT indexdef, to_regclass(%s)::oid FROM pg_indexes WHERE schemaname = 'shop' AND indexname = %s"
    made = filled.db.execute_sql(sql, [f"shop.{name}", name.strip('"')]).fetchone()
    assert "IS NOT NULL" in made[0]
    client_of(filled.db)
    assert filled.db.execute_sql(sql, [f"shop.{name}", name.strip('"')]).fetchone() == made
    assert [one.id for one in filled.get_event_stream(data={"customer.id": 7})] == [1, 3]
