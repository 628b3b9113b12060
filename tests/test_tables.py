"""Tables: made by the client, named safely, guarded, and safe to make again at any time."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peewee
import pytest
from peewee import PostgresqlDatabase

from pgevents import (
    AppendOnlyError,
    ConfigurationError,
    EventClient,
    NotInstalledError,
    ProjectionBase,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
    stream,
)

from .conftest import database, shop_client
from .shop import CartCreated, CartProjection, ItemAddedToCart

Make = Callable[..., EventClient]


def indexes(db: PostgresqlDatabase, table: str) -> dict[str, str]:
    rows = db.execute_sql(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s", [table]
    ).fetchall()
    return dict(rows)


def client_of(
    db: PostgresqlDatabase, schema: str | None, events: str, views: str, *fields: str
) -> EventClient:
    return create_event_client(
        db, create_events_table(schema, events, fields), create_projections_table(schema, views, fields)
    )


def test_the_schema_is_a_real_schema(client: EventClient) -> None:
    """`schema="my_app"` makes that schema and puts both tables into it, nothing into `public`."""
    rows = client.db.execute_sql(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^pg_|information_schema' ORDER BY 2"
    ).fetchall()
    assert {schema for schema, _ in rows} == {"my_app"}
    assert {"events", "events_maintenance", "views"} <= {name for _, name in rows}
    (name,) = client.db.execute_sql("SELECT 'my_app.events'::regclass::text").fetchone()
    assert name == "my_app.events"  # quoted, "my_app.events" would be one name with a dot


def test_ids_have_64_bits(client: EventClient) -> None:
    """Ids go on above 2^31, through saves, validation, final reads and snapshots."""
    client.db.execute_sql("SELECT setval('my_app.events_id_seq', 2147483646)")
    saved = [client.save_event(CartCreated("c1", "u1")) for _ in range(4)]
    assert [one.id for one in saved] == [2147483647, 2147483648, 2147483649, 2147483650]
    seen = client.get_event_stream(cart_id="c1", final=True)
    assert seen.position.last_id == 2147483650
    assert client.save_event_with_stream_validation(CartCreated("c1", "u1"), seen).id == 2147483651
    assert CartProjection("c1", client).save_projection().projection.latest_event_id == 2147483651
    (kind,) = client.db.execute_sql(
        "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'my_app.events'::regclass AND "
        "attname = 'id'"
    ).fetchone()
    assert kind == "bigint"


def test_each_index_stands_once_and_nothing_else(client: EventClient) -> None:
    """Primary key, types, idempotency keys and one index for each field: no GIN index that nobody asked
    for."""
    made = indexes(client.db, "events")
    assert len(made) == 5
    assert not any("gin" in text.lower() for text in [*made.values(), *indexes(client.db, "views").values()])
    assert any("(type, id)" in text for text in made.values())
    assert sum("((data ->> 'cart_id'::text)), id)" in text for text in made.values()) == 1
    assert len(indexes(client.db, "views")) == 3


def test_create_tables_again_changes_nothing(client: EventClient, url: str) -> None:
    """A second call leaves tables, indexes, functions and events alone, and waits for no writer."""
    client.save_event(CartCreated("c1", "u1"))
    state = "SELECT array_agg(xmin::text || oid ORDER BY oid) FROM {} WHERE {}::regnamespace::text = 'my_app'"
    before = [
        client.db.execute_sql(state.format(*what)).fetchone()
        for what in (("pg_class", "relnamespace"), ("pg_proc", "pronamespace"))
    ]
    with client.db.atomic():
        client.save_event(CartCreated("c2", "u1"))
        other = shop_client(database(url))
        other.db.execute_sql("SET lock_timeout = '1s'")
        other.create_tables()
        other.db.close()
    after = [
        client.db.execute_sql(state.format(*what)).fetchone()
        for what in (("pg_class", "relnamespace"), ("pg_proc", "pronamespace"))
    ]
    assert before == after
    assert len(client.get_event_stream()) == 2


def _create(url: str, barrier: Any, results: Any) -> None:
    try:
        db = database(url)
        made = shop_client(db)
        db.connect()
        barrier.wait(30)
        made.create_tables()
        results.put(made.save_event(CartCreated("c1", "u1")).id)
        db.close()
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.long
def test_eight_processes_may_create_the_tables_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processes call `create_tables()` on an empty database in the same moment; all succeed."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(8), context.Queue()
    workers = [context.Process(target=_create, args=(url, barrier, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(found, key=str) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_two_pairs_live_in_one_schema(db: PostgresqlDatabase) -> None:
    """Two pairs of tables in one schema keep their events, indexes, guards and locks apart."""
    one, two = (
        client_of(db, "app", "orders", "order_views", "cart_id"),
        client_of(db, "app", "bills", "bill_views", "cart_id"),
    )
    one.create_tables()
    two.create_tables()
    one.save_events([CartCreated("c1", "a"), CartCreated("c1", "b")])
    assert two.save_event(CartCreated("c1", "c")).id == 1
    assert [e.data.user_id for e in two.get_event_stream(CartCreated)] == ["c"]
    assert len(indexes(db, "orders")) == len(indexes(db, "bills")) == 4
    with db.atomic():
        one.save_event(CartCreated("c1", "d"))
        assert two.horizon().id == two.horizon().last_issued


def test_names_that_would_make_equal_index_names_do_not(db: PostgresqlDatabase) -> None:
    """A table's index is never lost because another table's index has, by joining of names, the same name."""
    one, two = client_of(db, "app", "orders", "v", "x_type"), client_of(db, "app", "orders_data_x", "w", "y")
    one.create_tables()
    two.create_tables()
    assert any("x_type" in text for text in indexes(db, "orders").values())
    assert any("(type, id)" in text for text in indexes(db, "orders_data_x").values())
    assert len(indexes(db, "orders")) == len(indexes(db, "orders_data_x")) == 4


def test_no_schema_means_the_connections_own(db: PostgresqlDatabase) -> None:
    """Without a schema the tables stand where the connection's search path puts them."""
    client = client_of(db, None, "events", "views", "cart_id")
    client.create_tables()
    client.create_tables()
    client.save_event(CartCreated("c1", "u1"))
    seen = client.get_event_stream(CartCreated, cart_id="c1", final=True)
    client.save_event_with_stream_validation(CartCreated("c1", "u2"), seen)
    assert db.execute_sql("SELECT count(*) FROM public.events").fetchone() == (2,)


def test_the_same_table_for_both_is_refused(db: PostgresqlDatabase) -> None:
    """Events and projections need a table each."""
    with pytest.raises(ConfigurationError, match="the events table has that name"):
        client_of(db, "app", "events", "events")


def test_models_in_the_wrong_place_are_refused(db: PostgresqlDatabase) -> None:
    """Exchanged models, or models of other making, are refused with the factory's name."""
    events, views = create_events_table(), create_projections_table()
    with pytest.raises(ConfigurationError, match="create_events_table"):
        create_event_client(db, views, events)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="create_projections_table"):
        create_event_client(db, events, peewee.Model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schema", "name", "field"),
    [
        ("select", "table", "order"),
        ("user", "Group", "From"),
        ("a" * 63, "b" * 48, "c" * 63),
        ("žluť", "události", "kůň"),
        ("S", "T", "_"),
        ("app", "events_id", "id"),
    ],
)
def test_unusual_names_work(db: PostgresqlDatabase, schema: str, name: str, field: str) -> None:
    """Reserved words, capitals, letters of any language and names of full length work throughout."""
    events = create_events_table(schema, name, [field, "other"])
    views = create_projections_table(schema, "v" + name[:47], [field])
    client = create_event_client(db, events, views)
    client.create_tables()
    client.create_tables()
    client.save_event({"type": "T", "data": {field: "x", "other": 1}})
    seen = client.get_event_stream(data={field: "x"}, final=True)
    client.save_event_with_stream_validation({"type": "T", "data": {field: "x"}}, seen, idempotency_key="k")
    assert [one.id for one in client.iter_event_stream(data={field: ["x", "y"]})] == [1, 2]
    assert client.get_latest_event(data={field: "x"}).id == 2  # type: ignore[union-attr]
    assert events.select().where(events.data[field] == "x").count() == 2
    assert sum(field in text for text in indexes(db, name).values()) >= 1
    with client.maintenance("test"):
        db.execute_sql(f'DELETE FROM "{schema}"."{name}" WHERE id = 2')


NO_FIELDS = ["a'b", 'a"b', "a%b", "a\\b", "", "a;b", "a$b", "a,b", "a..b", ".a", "a.", " a", "a\n", None, 3]


@pytest.mark.parametrize("name", [*NO_FIELDS, "a b", "a.b", "1a", "a-b"])
def test_other_names_are_refused_with_the_reason(name: Any) -> None:
    """Quotes, percent signs, dots and the like are refused in table, schema and field names, with the
    reason."""
    for factory in (create_events_table, create_projections_table):
        with pytest.raises(ConfigurationError, match="letters, digits"):
            factory(name=name)
        if name is not None:
            with pytest.raises(ConfigurationError, match="letters, digits"):
                factory(schema=name)
        if name in NO_FIELDS or factory is create_projections_table:
            with pytest.raises(ConfigurationError, match="letters, digits"):
                factory(data_indexes=[name])


def test_a_schema_within_the_name_is_answered_with_the_argument() -> None:
    """`name="my_app.events"` is answered with how to say it."""
    with pytest.raises(ConfigurationError, match="schema='my_app', name='events'"):
        create_events_table(name="my_app.events")


def test_names_that_postgresql_would_cut_are_refused() -> None:
    """A name that is too long is refused with its length in bytes, not cut in silence."""
    with pytest.raises(ConfigurationError, match="has 49 bytes"):
        create_events_table(name="e" * 49)
    with pytest.raises(ConfigurationError, match="has 50 bytes"):
        create_events_table(name="ž" * 25)
    with pytest.raises(ConfigurationError, match="has 64 bytes"):
        create_events_table(schema="s" * 64)
    with pytest.raises(ConfigurationError, match="63 bytes"):
        create_events_table(data_indexes=["f" * 64])


def test_long_field_names_keep_their_indexes(db: PostgresqlDatabase) -> None:
    """Fields that differ only at the end of a long name have an index each."""
    fields = ["f" * 60 + str(n) for n in range(3)]
    client = client_of(db, "app", "t" * 48, "views", *fields)
    client.create_tables()
    client.create_tables()
    assert len(indexes(db, "t" * 48)) == 6


def test_data_indexes_is_a_list() -> None:
    """A single text in place of the list is refused, not taken letter by letter; and no field twice."""
    with pytest.raises(ConfigurationError, match=r"write \['cart_id'\]"):
        create_events_table(data_indexes="cart_id")
    with pytest.raises(ConfigurationError, match="twice"):
        create_events_table(data_indexes=["cart_id", "cart_id"])


def test_additional_indexes(db: PostgresqlDatabase) -> None:
    """Columns, tuples of columns and Peewee indexes can be indexed besides, again and again."""

    def more(model: Any) -> list[Any]:
        return [
            "created_at",
            ("type", "created_at"),
            model.index(peewee.fn.lower(model.type), name="by_lower_type", safe=True),
        ]

    events = create_events_table("app", "events", additional_indexes=more)
    views = create_projections_table("app", "views", additional_indexes=["updated_at"])
    client = create_event_client(db, events, views)
    client.create_tables()
    client.create_tables()
    made = list(indexes(db, "events").values())
    assert (
        sum("(created_at)" in text or "(type, created_at)" in text or "lower(type)" in text for text in made)
        == 3
    )
    assert any("(updated_at)" in text for text in indexes(db, "views").values())


def test_an_additional_index_on_no_column_is_refused(db: PostgresqlDatabase) -> None:
    """A misspelt column is named, with the columns that there are; nothing is half made."""
    events = create_events_table("app", "events", additional_indexes=["creatd_at"])
    client = create_event_client(db, events, create_projections_table("app", "views"))
    with pytest.raises(ConfigurationError, match="no column 'creatd_at'"):
        client.create_tables()
    assert db.execute_sql("SELECT to_regclass('app.events')").fetchone() == (None,)


def test_the_log_is_append_only(client: EventClient) -> None:
    """UPDATE, DELETE, TRUNCATE and a plain INSERT are refused by the table itself."""
    client.save_event(CartCreated("c1", "u1"))
    for sql in (
        "UPDATE my_app.events SET type = 'X'",
        "DELETE FROM my_app.events",
        "TRUNCATE my_app.events",
        "INSERT INTO my_app.events (type, data) VALUES ('X', '{}')",
        "INSERT INTO my_app.events (id, type, data) OVERRIDING SYSTEM VALUE VALUES (9, 'X', '{}')",
    ):
        with pytest.raises(peewee.PeeweeException, match="append"):
            client.db.execute_sql(sql)
        with pytest.raises(AppendOnlyError):
            client.session.execute(sql)
    assert [one.type for one in client.get_event_stream()] == ["CART_CREATED"]


def test_a_session_that_never_saved_is_told_of_the_append_function(client: EventClient, url: str) -> None:
    """As psql is, which restores a dump of data alone."""
    with pytest.raises(peewee.PeeweeException, match="through its append function only"):
        database(url).execute_sql("INSERT INTO my_app.events (type, data) VALUES ('X', '{}')")


def test_a_plain_insert_is_refused_also_after_a_save_in_the_same_transaction(client: EventClient) -> None:
    """Having saved properly does not open the table for the rest of the transaction."""
    with pytest.raises(peewee.PeeweeException, match="append function only"), client.db.atomic():
        client.save_event(CartCreated("c1", "u1"))
        client.db.execute_sql("INSERT INTO my_app.events (type, data) VALUES ('X', '{}')")
    assert len(client.get_event_stream()) == 0


def test_maintenance_is_possible_and_audited(client: EventClient) -> None:
    """With a reason the log may be redacted; who, why and what is kept, and the event shows that it was
    changed."""
    saved = client.save_event(CartCreated("c1", "ada@example.org"))
    with client.maintenance("erasure request 17"):
        client.db.execute_sql("UPDATE my_app.events SET data = jsonb_set(data, '{user_id}', '\"\"')")
    (read,) = client.get_event_stream(CartCreated)
    assert read.data.user_id == ""
    assert read.created_at == saved.created_at < read.updated_at
    ((operation, reason, statement, events, ids),) = client.db.execute_sql(
        "SELECT operation, reason, statement, events, ids FROM my_app.events_maintenance"
    ).fetchall()
    assert (operation, reason, events, ids) == ("UPDATE", "erasure request 17", 1, [saved.id])
    assert "jsonb_set" in statement
    with pytest.raises(AppendOnlyError):
        client.session.execute("DELETE FROM my_app.events")
    with pytest.raises(ConfigurationError, match="reason"), client.maintenance(" "):
        pass


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE my_app.events SET data = data - 'x' WHERE data->>'user_id' = 'ada@example.org'",
        "UPDATE my_app.events SET data = data - $$x$$ WHERE data->>$a$user_id$a$ = $a$ada@example.org$a$",
        r"UPDATE my_app.events SET data = data WHERE E'\'' = 'a' OR data->>'user_id' = E'ada@example.org'",
        "UPDATE my_app.events /* ada@example.org */ SET data = data",
        "UPDATE my_app.events SET data = data -- ada@example.org",
        "UPDATE my_app.events SET data = to_jsonb(447700900123) || data WHERE false",
        "DELETE FROM my_app.events WHERE data->>'user_id' = U&'ada@example.org'",
        "TRUNCATE my_app.events /* ada@example.org 447700900123 */",
    ],
)
def test_the_trail_does_not_keep_what_was_erased(client: EventClient, statement: str) -> None:
    """Values in any notation of SQL and comments stay out of it."""
    client.save_event(CartCreated("c1", "ada@example.org"))
    with client.maintenance("erasure request 17"):
        client.db.connection().cursor().execute(statement)
    ((trail,),) = client.db.execute_sql(
        "SELECT (to_jsonb(t) - 'at')::text FROM my_app.events_maintenance AS t"
    ).fetchall()
    assert "my_app.events" in trail and "ada@" not in trail and "4477" not in trail


def test_the_trail_says_which_events_were_changed(client: EventClient) -> None:
    """How many, and the ids of the first thousand; TRUNCATE takes all."""
    client.save_events([CartCreated(f"c{n}", "u1") for n in range(1_500)])
    with client.maintenance("tidy up"):
        client.db.execute_sql("UPDATE my_app.events SET data = data WHERE id IN (3, 2)")
        client.db.execute_sql("DELETE FROM my_app.events WHERE id > 100")
        client.db.execute_sql("TRUNCATE my_app.events")
    rows = client.db.execute_sql("SELECT operation, events, ids FROM my_app.events_maintenance ORDER BY at")
    updated, deleted, truncated = rows.fetchall()
    assert updated == ("UPDATE", 2, [2, 3])
    assert deleted == ("DELETE", 1_400, list(range(101, 1_101)))
    assert truncated == ("TRUNCATE", None, None)


def test_a_nested_maintenance_leaves_the_outer_one_open(client: EventClient) -> None:
    """After the inner block the outer reason counts again; after the outer one the guard stands."""
    client.save_event(CartCreated("c1", "u1"))
    with client.maintenance("outer"):
        with client.maintenance("inner"):
            client.db.execute_sql("UPDATE my_app.events SET data = data")
        with pytest.raises(ZeroDivisionError), client.maintenance("inner, failing"):
            1 / 0  # noqa: B018
        client.db.execute_sql("UPDATE my_app.events SET data = data")
    rows = client.db.execute_sql("SELECT reason FROM my_app.events_maintenance ORDER BY at").fetchall()
    assert rows == [("inner",), ("outer",)]
    with client.db.atomic():
        with client.maintenance("outer"), client.maintenance("inner"):
            pass
        with pytest.raises(AppendOnlyError), client.db.atomic():
            client.session.execute("DELETE FROM my_app.events")


@pytest.mark.parametrize("reason", [5, None, b"why", "", " \n", "a\0b", "\ud800", ["a"]])
def test_a_reason_is_a_text(client: EventClient, reason: Any) -> None:
    """Anything else is refused before a transaction is begun."""
    with pytest.raises(ConfigurationError, match="maintenance needs a reason in words"):
        client.maintenance(reason)


def test_maintenance_that_fails_changes_nothing_and_is_over(client: EventClient) -> None:
    """An exception inside the block rolls back, and the guard stands again."""
    client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(ZeroDivisionError), client.maintenance("oops"):
        client.db.execute_sql("DELETE FROM my_app.events")
        1 / 0  # noqa: B018
    assert len(client.get_event_stream()) == 1
    with client.db.atomic():
        with client.maintenance("inside"):
            pass
        with pytest.raises(AppendOnlyError), client.db.atomic():
            client.session.execute("DELETE FROM my_app.events")


def test_models_are_for_reading(client: EventClient) -> None:
    """The models read and join; whatever would write events through them points to the client."""
    client.save_event(CartCreated("c1", "u1"))
    model = client.events
    (row,) = model.select().where(model.data["user_id"] == "u1")
    assert (row.id, row.type, row.data, row.metadata) == (
        1,
        "CART_CREATED",
        {"cart_id": "c1", "user_id": "u1"},
        {},
    )
    assert row.created_at.tzinfo is not None
    attempts: list[Callable[[], Any]] = [
        lambda: model.create(type="X", data={}),
        lambda: model.insert(type="X", data={}).execute(),
        lambda: model.insert_many([{"type": "X", "data": {}}]).execute(),
        lambda: model.insert_from(model.select(), [model.type]).execute(),
        lambda: model.get_or_create(type="X"),
        lambda: model.bulk_create([model(type="X", data={})]),
        lambda: model.update(type="X").execute(),
        lambda: model.bulk_update([row], ["type"]),
        lambda: model.set_by_id(1, {"type": "X"}),
        lambda: model.delete().execute(),
        lambda: model.delete_by_id(1),
        lambda: model.truncate_table(),
        lambda: model.replace(type="X").execute(),
        lambda: model.create_table(),
        lambda: row.save(),
        lambda: row.delete_instance(),
        lambda: model(type="X", data={}).save(force_insert=True),
        lambda: client.projections.create_table(),
    ]
    for attempt in attempts:
        with pytest.raises(AppendOnlyError, match="client"):
            attempt()
    assert [one.type for one in client.get_event_stream()] == ["CART_CREATED"]


def test_json_fields_compare_by_kind_in_peewee_expressions(client: EventClient) -> None:
    """`data["quantity"] == 3` compares numbers as numbers and text as text."""
    client.save_events([ItemAddedToCart("c1", "p1", 3, 5), ItemAddedToCart("3", "p1", 10, 5)])
    model = client.events
    assert [row.id for row in model.select().where(model.data["quantity"] == 3)] == [1]
    assert [row.id for row in model.select().where(model.data["cart_id"] == "3")] == [2]


def test_tables_that_do_not_exist_yet_are_an_error_that_says_what_to_do(db: PostgresqlDatabase) -> None:
    """Before `create_tables()`, whatever is called answers: run client.create_tables()."""
    client = shop_client(db)
    calls: list[Callable[[], Any]] = [
        lambda: client.get_event_stream(),
        lambda: client.get_event_stream(final=True),
        lambda: list(client.iter_event_stream()),
        lambda: client.get_latest_event(),
        lambda: client.get_latest_event(final=False),
        lambda: client.save_event(CartCreated("c1", "u1")),
        lambda: client.save_event_with_stream_validation(
            CartCreated("c2", "u1"), None, [stream(cart_id="c2")]
        ),
        lambda: client.horizon(),
        lambda: client.get_projection(CartProjection, "c1"),
        lambda: client.query_projections(CartProjection),
        lambda: CartProjection("c1", client).view,
        lambda: CartProjection("c1", client).save_projection(),
        lambda: client.decide(CartProjection("c1", client), lambda cart: CartCreated("c1", "u1")),
    ]
    for call in calls:
        with pytest.raises(NotInstalledError, match=r"run client.create_tables\(\)"):
            call()
    client.create_tables()
    for call in calls:
        call()


def test_a_client_notices_functions_of_other_data_indexes(client: EventClient) -> None:
    """A client whose data indexes differ from those installed is told to call `create_tables()`, before it
    writes."""
    events = create_events_table("my_app", "events", ["product_id"])
    other = create_event_client(client.db, events, client.projections)
    with pytest.raises(NotInstalledError, match="other data_indexes"):
        other.save_event(CartCreated("c1", "u1"))


def test_a_read_needs_no_index(client: EventClient) -> None:
    """What a client takes for a data index may be one no longer, or not yet: its reads find the same
    events."""
    client.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u2"), CartCreated("c3", "u1")])
    events = create_events_table("my_app", "events", ["user_id"])
    other = create_event_client(client.db, events, client.projections)
    for types in (None, CartCreated, "ITEM_ADDED_TO_CART"):
        seen = other.get_event_stream(types, user_id="u1", after=1)
        assert seen.position == client.get_event_stream(types, user_id="u1", after=1).position
        assert [one.id for one in seen] == ([] if types == "ITEM_ADDED_TO_CART" else [3])


@pytest.mark.parametrize(
    "change", ["CACHE 10", "INCREMENT 2", "CYCLE", "MINVALUE -5 RESTART WITH -5", "RESTART WITH 1"]
)
def test_a_sequence_that_could_break_the_order_is_refused(client: EventClient, url: str, change: str) -> None:
    """Ids that could come twice or out of order are refused when a client starts, with the remedy."""
    client.save_event(CartCreated("c1", "u1"))
    client.db.execute_sql(f"ALTER SEQUENCE my_app.events_id_seq {change}")
    fresh = shop_client(client.db)
    with pytest.raises(ConfigurationError, match="events_id_seq"):
        fresh.save_event(CartCreated("c1", "u1"))
    assert len(client.get_event_stream()) == 1


def test_a_data_index_may_come_later(client: EventClient) -> None:
    """A field that is added to the data indexes indexes the old events too, and is validated by from then
    on."""
    client.save_event(CartCreated("c1", "u1"))
    events = create_events_table("my_app", "events", ["cart_id", "product_id", "user_id"])
    later = create_event_client(client.db, events, client.projections)
    later.create_tables()
    assert any("user_id" in text for text in indexes(client.db, "events").values())
    seen = later.get_event_stream(user_id="u1")
    later.save_event_with_stream_validation(CartCreated("c2", "u1"), seen)
    assert len(client.get_event_stream(user_id="u1")) == 2
    client.save_event(CartCreated("c3", "u1"))


def test_functions_are_replaced_while_writers_run(client: EventClient, make_client: Make) -> None:
    """Changing the data indexes again and again under four writers loses no event and breaks no writer for
    good."""
    stop, saved, errors = threading.Event(), [], []
    writers = [make_client() for _ in range(4)]
    lock = threading.Lock()

    def write(n: int) -> None:
        own = writers[n]
        while not stop.is_set():
            try:
                seen = own.get_event_stream(cart_id=f"c{n}", final=True)
                event = own.save_event_with_stream_validation(CartCreated(f"c{n}", "u1"), seen)
                with lock:
                    saved.append(event.id)
            except RetryableError:
                continue
            except Exception as error:
                with lock:
                    errors.append(error)
                return

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    admin = make_client()
    for round_ in range(10):
        enough = len(saved) + 4
        while len(saved) < enough and not errors:
            time.sleep(0.002)
        extra = ["user_id"] if round_ % 2 == 0 else []
        events = create_events_table("my_app", "events", ["cart_id", "product_id", *extra])
        create_event_client(admin.db, events, admin.projections).create_tables()
    stop.set()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.db.close()
    assert not errors
    assert sorted(saved) == [one.id for one in client.get_event_stream()]
    assert len(saved) > 40


def test_the_sql_can_be_reviewed_and_run_by_hand(url: str, client: EventClient) -> None:
    """`create_tables_sql()` makes the same tables and functions, and a client works on them at once."""
    events = create_events_table("other", "events", ["cart_id"])
    other = create_event_client(client.db, events, create_projections_table("other", "views", ["id"]))
    client.db.execute_sql(other.create_tables_sql())
    assert other.save_event(CartCreated("c1", "u1")).id == 1
    assert len(indexes(client.db, "events")) >= 4


def test_projection_base_is_told_apart_from_models() -> None:
    """A projection class is no table: `ProjectionBase` carries no Peewee model."""
    assert not issubclass(ProjectionBase, peewee.Model)


def test_a_repeated_create_tables_waits_for_nobody(url: str) -> None:
    """With additional indexes, too, it takes no lock that an open save stands in the way of."""
    wanted = [("type", "created_at")]
    events = create_events_table(schema="extra", additional_indexes=wanted)
    views = create_projections_table(schema="extra")
    with contextlib.closing(database(url)) as db, contextlib.closing(database(url)) as other:
        client = create_event_client(db, events, views)
        client.create_tables()
        again = create_event_client(
            other,
            create_events_table(schema="extra", additional_indexes=wanted),
            create_projections_table(schema="extra"),
        )
        other.execute_sql("SET lock_timeout = '500ms'")
        with db.atomic():
            client.save_event({"type": "X", "data": {}})
            again.create_tables()


def test_a_table_that_the_events_table_needs_is_not_taken(url: str) -> None:
    """A projections table named like the audit trail would leave one of them out."""
    with pytest.raises(ConfigurationError, match="needs it beside itself"):
        create_event_client(
            database(url), create_events_table(name="a"), create_projections_table(name="a_maintenance")
        )
