"""Events in the forms of other tools: JSON Schema, AsyncAPI, CloudEvents, SQL views."""

from __future__ import annotations

import json
import random
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, TypedDict
from uuid import UUID

import attrs
import cattrs
import jsonschema
import peewee
import psycopg2
import pytest

from pgevents import ConfigurationError, Event, EventClient, EventEncodeError, event, hookimpl
from pgevents.exchange import asyncapi, create_views, from_cloudevent, json_schema, to_cloudevent

from .conftest import database, shop_client
from .fuzz import inputs
from .fuzz.oracle import outcome
from .shop import CartCreated, CartEvent, ItemAddedToCart

NOON = datetime(2024, 2, 29, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=5, minutes=30)))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Line:
    sku: str
    parts: list[Line] = attrs.field(factory=list)


class Address(TypedDict):
    city: str


@event("EXCHANGED", version=2, upcasters={1: lambda data: {**data, "number": 1}}, formerly="SWAPPED")
class Exchanged:
    cart_id: str
    number: int
    price: Decimal
    rate: float
    is_new: bool
    day: date
    at: datetime
    key: UUID
    colour: Colour
    size: Literal["S", "L"]
    lines: list[Line]
    address: Address
    pair: tuple[int, str]
    tags: frozenset[str]
    took: timedelta
    note: str | None = None
    id: int = 0


FULL = Exchanged(
    "c1", 10**20, Decimal("1.50"), 1e16, True, date(2024, 2, 29), NOON, UUID(int=7), Colour.RED, "S",
    [Line("a", [Line("b")])], {"city": "Ghent"}, (1, "x"), frozenset({"t"}), timedelta(seconds=1.5), None, 3,
)  # fmt: skip


@pytest.fixture
def client(pgevents_tables: None, url: str) -> EventClient:
    return shop_client(database(url), [Exchanged, CartEvent])


# -- schemas ------------------------------------------------------------


def test_what_is_stored_fits_its_schema_and_what_cannot_be_read_does_not(client: EventClient) -> None:
    """The schema says of each field what JSON stands for it."""
    schema = json_schema(client, Exchanged)
    validator = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    data = client.serializer.encode(FULL, "EXCHANGED")
    validator.validate(data)
    assert schema["title"] == "EXCHANGED" and "note" not in schema["required"]
    wrong: dict[str, Any] = {
        "number": "1", "price": 1.5, "is_new": 1, "colour": "green", "size": "M", "lines": [{"parts": []}],
        "address": {}, "pair": [1], "tags": ["a", "a"], "took": "1", "note": 5,
    }  # fmt: skip
    for name, value in wrong.items():
        assert not validator.is_valid({**data, name: value}), name
    for name in schema["required"]:
        assert not validator.is_valid({key: value for key, value in data.items() if key != name}), name


@pytest.mark.parametrize("seed", range(40))
def test_random_classes_store_what_their_schemas_say(url: str, seed: int) -> None:
    """Whatever the converter writes of a class, its schema takes."""
    rng = random.Random(seed)
    cls, fields = inputs.event_class(rng, f"RANDOM_{seed}")
    client = shop_client(database(url), [cls])
    validator = jsonschema.Draft202012Validator(json_schema(client, cls))
    for _ in range(30):
        instance = inputs.instance(rng, cls, fields)
        text, error = outcome(lambda instance=instance: client.serializer.dump(instance, cls, "T")[0])
        if error is None:
            validator.validate(json.loads(text))


def test_what_a_plugin_teaches_the_converter_is_left_open(url: str) -> None:
    """Nobody but the plugin knows the JSON that it makes."""

    class Cents:
        @hookimpl
        def pgevents_configure_converter(self, converter: cattrs.Converter) -> None:
            converter.register_unstructure_hook(Decimal, lambda amount: int(amount * 100))
            converter.register_structure_hook(Decimal, lambda cents, _: Decimal(cents) / 100)
            converter.register_unstructure_hook(Line, lambda line: line.sku)

    client = shop_client(database(url), [Exchanged], plugins=[Cents()])
    schema = json_schema(client, "EXCHANGED")
    assert schema["properties"]["price"] == {}
    assert schema["$defs"]["Line"] == {}


def test_an_unknown_type_has_no_schema(client: EventClient) -> None:
    """It is named, with the nearest one."""
    with pytest.raises(ConfigurationError, match="did you mean 'EXCHANGED'"):
        json_schema(client, "EXCHANGD")


def test_the_asyncapi_document_describes_every_type(client: EventClient) -> None:
    """Each reference in it leads somewhere."""
    document = json.loads(json.dumps(asyncapi(client, title="Shop", version="1.0.0")))
    assert set(document["components"]["messages"]) == {kind.name for kind in client.types.all()}
    assert document["channels"]["events"]["address"] == "my_app.events"

    def references(node: Any) -> list[str]:
        parts = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
        own = [node["$ref"]] if isinstance(node, dict) and "$ref" in node else []
        return own + [reference for part in parts for reference in references(part)]

    for reference in references(document):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place is not None


# -- CloudEvents ------------------------------------------------------------


def test_a_cloudevent_comes_back_as_the_event_that_it_was(client: EventClient) -> None:
    """Type, data, metadata and time; saved twice it is one event."""
    metadata = {"correlation_id": "r1", "causation_id": "7", "user": {"name": "Ann"}}
    saved = client.save_event(CartCreated("c1", "u1"), metadata=metadata)
    sent = to_cloudevent(client, saved, source="/shop", subject="c1")
    assert sent["id"] == str(saved.id) and sent["correlationid"] == "r1" and sent["subject"] == "c1"
    assert all(isinstance(value, (str, int, bool)) for name, value in sent.items() if name != "data")
    received = from_cloudevent(json.dumps(sent))
    assert received.idempotency_key == f"/shop {saved.id}" and received.created_at == saved.created_at
    for _ in range(2):
        again = client.save_event(
            received.event, idempotency_key=received.idempotency_key, created_at=received.created_at
        )
    assert again.id == saved.id + 1 and again.created_at == saved.created_at
    read = client.get_event_stream(CartCreated, after=saved.id)
    assert [one.data for one in read] == [saved.data]
    assert read[0].metadata == {**metadata, "cloudevent": {"id": "1", "source": "/shop", "subject": "c1"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"specversion": "0.3"}, "version '0.3'"),
        ({"source": ""}, "'source' is a non-empty text"),
        ({"id": 5}, "'id' is a non-empty text"),
        ({"data": [1]}, "a JSON object, not list"),
        ({"data_base64": "AA=="}, "a JSON object"),
        ({"time": "yesterday"}, "RFC 3339"),
        ({"Trace": "x"}, "'Trace' is not an attribute"),
        ({5: "x"}, "5 is not an attribute"),
        ({"pgeventsmetadata": "[1]"}, "JSON text of an object"),
    ],
)
def test_what_is_no_cloudevent_is_refused(change: dict[Any, Any], message: str) -> None:
    """In words, before anything is saved."""
    given = {"specversion": "1.0", "id": "1", "source": "/x", "type": "T", "data": {}, **change}
    with pytest.raises(EventEncodeError, match=message):
        from_cloudevent(given)


@pytest.mark.parametrize("text", ["{", "[]", "null", b"\xff", "[" * 100_000])
def test_text_that_is_no_cloudevent_is_refused(text: str | bytes) -> None:
    """Also where it is no JSON at all."""
    with pytest.raises(EventEncodeError, match="CloudEvent"):
        from_cloudevent(text)


def test_a_preview_is_no_cloudevent(client: EventClient) -> None:
    """It has no id, and a source must not be empty."""
    with pytest.raises(EventEncodeError, match="preview"):
        to_cloudevent(client, client.preview(CartCreated("c1", "u1")), source="/shop")
    with pytest.raises(EventEncodeError, match="in its envelope"):
        to_cloudevent(client, CartCreated("c1", "u1"), source="/shop")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="source"):
        to_cloudevent(client, client.save_event(CartCreated("c1", "u1")), source="")


# -- SQL views ------------------------------------------------------------


def rows(client: EventClient, sql: str) -> list[tuple[Any, ...]]:
    return list(client.db.execute_sql(sql).fetchall())


def test_a_view_has_a_typed_column_for_each_field(client: EventClient) -> None:
    """The driver gives the types that the fields have."""
    saved: Event[Any] = client.save_event(FULL, metadata={"a": 1})
    views = {view.event_type: view for view in create_views(client)}
    assert views["EXCHANGED"].name == '"my_app_views"."exchanged"'
    cursor = client.db.execute_sql("SELECT * FROM my_app_views.exchanged")
    row = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
    assert row == {
        "event_id": saved.id, "event_created_at": saved.created_at, "event_updated_at": saved.created_at,
        "event_version": 2, "event_metadata": {"a": 1}, "cart_id": "c1", "number": 10**20,
        "price": Decimal("1.50"), "rate": 1e16, "is_new": True, "day": date(2024, 2, 29), "at": NOON,
        "key": UUID(int=7), "colour": "red", "size": "S",
        "lines": [{"sku": "a", "parts": [{"sku": "b", "parts": []}]}], "address": {"city": "Ghent"},
        "pair": [1, "x"], "tags": ["t"], "took": 1.5, "note": None, "id": 3,
    }  # fmt: skip


def test_events_of_another_form_do_not_make_an_error_of_a_view(client: EventClient, url: str) -> None:
    """They show what fits, and NULL for the rest."""
    other = shop_client(database(url), ())
    odd: list[Any] = [
        None, True, "", "x", "2024-02-30", "2023-02-29", "0000-01-01", "9999-12-31", "2024-13-01", "24-1-1",
        "2024-02-29T24:00:00Z", "2024-02-29T12:00:00+15:59", "2024-02-29T12:00:00+23:00", "1e999999", "NaN",
        "1E+5", ".", "-", 10**400, -1, 1.5, [], {}, "2024-02-29T12:00:60Z", "0001-01-01T00:00:00+14:00",
        "99999999-9999-9999-9999-999999999999",
    ]  # fmt: skip
    fields = [field.name for field in attrs.fields(Exchanged)]
    other.save_events([{"type": "EXCHANGED", "data": dict.fromkeys(fields, value)} for value in odd])
    other.save_event({"type": "SWAPPED", "data": {"cart_id": "old"}})
    create_views(client)
    found = rows(
        client, "SELECT day, price, key, number, cart_id FROM my_app_views.exchanged ORDER BY event_id"
    )
    assert len(found) == len(odd) + 1
    assert (
        found[odd.index("9999-12-31")][0] == date(9999, 12, 31) and found[odd.index("2024-02-30")][0] is None
    )
    assert found[odd.index("1E+5")][1] == 100_000 and found[odd.index(10**400)][3] == 10**400
    assert found[-1][4] == "old"
    assert len(rows(client, "SELECT exchanged::text FROM my_app_views.exchanged")) == len(odd) + 1


def test_views_follow_the_classes(client: EventClient, url: str) -> None:
    """They are made anew where a class has changed, dropped where it is gone, and left alone else."""
    create_views(client)
    oids = "SELECT relname, oid FROM pg_class WHERE relnamespace = 'my_app_views'::regnamespace ORDER BY 1"
    before = rows(client, oids)
    create_views(client)
    assert rows(client, oids) == before
    client.db.execute_sql("CREATE VIEW my_app_views.mine AS SELECT 1 AS one")

    @event("EXCHANGED")
    class Changed:
        cart_id: str
        added: int = 0

    create_views(shop_client(database(url), [Changed]))
    assert [name for name, _ in rows(client, oids)] == ["exchanged", "mine"]
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'my_app_views.exchanged'::regclass"
    assert {name for (name,) in rows(client, columns)} >= {"added", "cart_id", "event_id"}


def test_a_view_of_somebody_elses_is_not_replaced(client: EventClient) -> None:
    """Nor one on which another depends; nothing is changed then."""
    client.db.execute_sql("CREATE SCHEMA bi; CREATE TABLE bi.exchanged (n int)")
    with pytest.raises(ConfigurationError, match="is not a view of this log"):
        create_views(client, schema="bi")
    assert len(rows(client, "SELECT FROM pg_class WHERE relnamespace = 'bi'::regnamespace")) == 1
    create_views(client)
    client.db.execute_sql("CREATE VIEW public.report AS SELECT * FROM my_app_views.cart_created")

    @event("EXCHANGED")
    class Alone:
        cart_id: str

    with pytest.raises(ConfigurationError, match="other objects depend on it"):
        create_views(shop_client(client.db, [Alone]))
    assert rows(client, "SELECT count(*) FROM my_app_views.item_added_to_cart") == [(0,)]


def test_a_reader_of_views_needs_no_right_on_the_log(client: EventClient, url: str) -> None:
    """And has none."""
    role = f"{client.db.database}_bi"
    client.db.execute_sql(f'CREATE ROLE "{role}"')
    try:
        client.save_event(ItemAddedToCart("c1", "p1", 2, 5))
        create_views(client, grant_reader=role)
        with client.db.atomic() as transaction:
            client.db.execute_sql(f'SET LOCAL ROLE "{role}"')
            assert rows(client, "SELECT sum(quantity) FROM my_app_views.item_added_to_cart") == [(2,)]
            with pytest.raises(peewee.ProgrammingError, match="permission denied"):
                rows(client, "SELECT * FROM my_app.events")
            transaction.rollback()
        with pytest.raises(ConfigurationError, match="no role 'nobody'"):
            create_views(client, grant_reader="nobody")
    finally:
        client.db.execute_sql(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_odd_names_of_types_become_names_of_views(url: str) -> None:
    """Quotes, percent signs and capitals; what PostgreSQL cannot name, or two alike, is refused."""

    @event('Half"%s" off')
    class Half:
        cart_id: str

    @event('HALF"%S" OFF')
    class Shouted:
        cart_id: str

    client = shop_client(database(url), [Half])
    client.create_tables()
    client.save_event(Half("c1"))
    create_views(client)
    assert rows(client, 'SELECT cart_id FROM my_app_views."half""%%s"" off"') == [("c1",)]
    with pytest.raises(ConfigurationError, match="would have one view"):
        create_views(shop_client(client.db, [Half, Shouted]))
    with pytest.raises(ConfigurationError, match="63 bytes"):
        create_views(client, schema="x" * 64)
    with pytest.raises(ConfigurationError, match="63 bytes"):
        create_views(client, schema=5)  # type: ignore[arg-type]


def test_encrypted_fields_are_left_out(url: str) -> None:
    """A view would show nothing but ciphertext."""
    from pgevents.plugins.encryption import Encryption, Personal

    @event("REGISTERED")
    class Registered:
        user_id: str
        email: str

    rule = Personal("user_id", {"email": ""})
    client = shop_client(database(url), [Registered], plugins=[Encryption({Registered: rule})])
    client.create_tables()
    (view,) = create_views(client)
    assert "user_id" in view.columns and "email" not in view.columns
    client.save_event(Registered("u1", "ann@example.org"))
    with pytest.raises(psycopg2.errors.UndefinedColumn):
        client.db.connection().cursor().execute("SELECT email FROM my_app_views.registered")
