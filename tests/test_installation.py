"""Making tables: only pgevents' own are touched, whatever they are called, and nobody waits long for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from peewee import PostgresqlDatabase

from pgevents import (
    AppendOnlyError,
    ConfigurationError,
    EventClient,
    NotInstalledError,
    PgEventsError,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
)
from pgevents.store import installation
from pgevents.subscriptions import Subscription

from .conftest import database, shop_client
from .shop import CartCreated, CartProjection, ItemAddedToCart

Make = Callable[..., EventClient]
COLUMNS = (
    "type text NOT NULL, data jsonb NOT NULL, metadata jsonb NOT NULL, idempotency_key text, "
    "created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL"
)


def a_client(db: PostgresqlDatabase | str, schema: str | None = None, *fields: str) -> EventClient:
    return create_event_client(
        db, create_events_table(schema, data_indexes=fields), create_projections_table(schema)
    )


def event(cart: str = "c1") -> dict[str, Any]:
    return {"type": "A", "data": {"cart_id": cart}}


# -- whose table is it? ------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "reason"),
    [
        ("CREATE TABLE events (id serial PRIMARY KEY, title text)", "no column 'type'|'id' is integer"),
        (f"CREATE TABLE events (id bigint PRIMARY KEY, {COLUMNS})", "not GENERATED ALWAYS AS IDENTITY"),
        (
            "CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            f"{COLUMNS.replace('data jsonb NOT NULL', 'data jsonb')})",
            "'data' may be null",
        ),
        (
            f"CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {COLUMNS}, "
            "venue int NOT NULL)",
            "needs a value for the column 'venue'",
        ),
        ("CREATE VIEW events AS SELECT 1 AS id", "it is a view"),
        ("CREATE SEQUENCE events", "it is a sequence"),
        ("CREATE TABLE events_maintenance (at date)", "events_maintenance"),
        ("CREATE TABLE events_checkpoints (name text)", "events_checkpoints"),
        ("CREATE SEQUENCE events_id_seq", "its sequence's name"),
        ("CREATE TABLE projections (id serial PRIMARY KEY, year int)", "no column 'type'|'id' is integer"),
    ],
)
def test_a_table_of_the_applications_own_is_not_taken_over(
    db: PostgresqlDatabase, ddl: str, reason: str
) -> None:
    """Something else of the name is left as it is, and nothing is made beside it."""
    db.execute_sql(ddl)
    tables = (
        "SELECT array_agg(relname ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    before = db.execute_sql(tables).fetchone()
    with pytest.raises(ConfigurationError, match=reason) as caught:
        a_client(db).create_tables()
    assert "name=" in str(caught.value)
    assert db.execute_sql(tables).fetchone() == before
    if "events (" in ddl:
        assert db.execute_sql(
            "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'events'::regclass"
        ).fetchone() == (0,)


def test_columns_of_the_users_own_are_fine(client: EventClient) -> None:
    """A generated or nullable column beside the events' own does not make it another table."""
    client.db.execute_sql(
        "ALTER TABLE my_app.events ADD cart text GENERATED ALWAYS AS (data->>'cart_id') STORED"
    )
    client.db.execute_sql("ALTER TABLE my_app.views ADD note text")
    client.create_tables()
    client.save_event(CartCreated("c1", "u1"))
    assert client.db.execute_sql("SELECT cart FROM my_app.events").fetchone() == ("c1",)


def test_an_index_that_is_not_complete_is_refused(client: EventClient, url: str) -> None:
    """A CREATE INDEX CONCURRENTLY that failed leaves an index that no plan uses; REINDEX mends it."""
    with closing(psycopg2.connect(url)) as writer, closing(psycopg2.connect(url)) as builder:
        writer.cursor().execute("LOCK TABLE my_app.events IN ROW EXCLUSIVE MODE")
        builder.autocommit = True
        cursor = builder.cursor()
        cursor.execute("SET lock_timeout = '500ms'")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            cursor.execute(
                """CREATE INDEX CONCURRENTLY "events$data$n$idx" ON my_app.events ((data->>'n'), id)
                WHERE data->>'n' IS NOT NULL"""
            )
        writer.rollback()
        wider = create_event_client(
            client.db, create_events_table("my_app", "events", ["n"]), client.projections
        )
        with pytest.raises(ConfigurationError, match="not complete.*REINDEX INDEX CONCURRENTLY"):
            wider.create_tables()
        cursor.execute("SET lock_timeout = 0")
        cursor.execute('REINDEX INDEX CONCURRENTLY my_app."events$data$n$idx"')
    wider.create_tables()
    wider.save_event({"type": "A", "data": {"n": "1"}})


@pytest.mark.parametrize(
    "index",
    [
        "INDEX \"events$data$n$idx\" ON my_app.events ((data->>'m'), id)",
        "INDEX \"events$data$n$idx\" ON my_app.events ((data->>'n'))",
        "INDEX \"events$data$n$idx\" ON my_app.events ((data->>'n'), id) WHERE id > 7",
        "INDEX \"events$data$n$idx\" ON my_app.views ((data->>'n'), id)",
        'TABLE my_app."events$data$n$idx" (n int)',
    ],
)
def test_an_index_of_the_name_on_something_else_is_refused(client: EventClient, index: str) -> None:
    """It would be taken for the one that streams need."""
    client.db.execute_sql(f"CREATE {index}")
    wider = create_event_client(client.db, create_events_table("my_app", "events", ["n"]), client.projections)
    with pytest.raises(ConfigurationError, match=r"not the one that pgevents makes|not an index of"):
        wider.create_tables()
    client.save_event(CartCreated("c1", "u1"))  # nothing was changed


def test_a_projections_table_belongs_to_one_log(db: PostgresqlDatabase) -> None:
    """An id in a snapshot means an event of one log; a second log needs a table of its own."""
    views = create_projections_table("shared", "views")
    first = create_event_client(db, create_events_table("shared", "e1"), views)
    second = create_event_client(db, create_events_table("shared", "e2"), views)
    first.create_tables()
    with pytest.raises(ConfigurationError, match='another log, "shared"."e1"'):
        second.create_tables()
    assert db.execute_sql("SELECT to_regclass('shared.e2')").fetchone() == (None,)
    first.create_tables()
    db.execute_sql("ALTER SCHEMA shared RENAME TO other")
    a_client_of_other = create_event_client(
        db, create_events_table("other", "e1"), create_projections_table("other", "views")
    )
    a_client_of_other.create_tables()
    db.execute_sql("DROP TABLE other.e1 CASCADE")
    create_event_client(
        db, create_events_table("other", "e2"), create_projections_table("other", "views")
    ).create_tables()


# -- tables of an earlier version ------------------------------------------------------------

EARLIER_SQL = """\
CREATE SCHEMA my_app;
CREATE TABLE my_app.events (
    id bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME my_app.events_id_seq) PRIMARY KEY,
    type text NOT NULL CHECK (type <> ''),
    data jsonb NOT NULL CHECK (jsonb_typeof(data) = 'object'),
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    idempotency_key text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE my_app.events_maintenance (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    role text NOT NULL,
    operation text NOT NULL,
    reason text NOT NULL,
    statement text NOT NULL
);
CREATE TABLE my_app.events_checkpoints (
    name text PRIMARY KEY,
    position bigint NOT NULL,
    streams jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE my_app.views (
    type text NOT NULL,
    id text NOT NULL,
    data jsonb NOT NULL,
    latest_event_id bigint NOT NULL,
    version int NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (type, id)
);
CREATE INDEX "events$type$idx" ON my_app.events (type, id);
CREATE FUNCTION my_app.events_append_one(
    _type text, _data jsonb, _field text, _value text, _types text[], _base bigint, _seen bigint,
    _metadata jsonb, _created_at timestamptz
) RETURNS text LANGUAGE sql AS $$ SELECT 'earlier' $$;
CREATE FUNCTION my_app.events_append_plain(_type text, _data jsonb) RETURNS text
LANGUAGE sql AS $$ SELECT 'earlier' $$;
CREATE FUNCTION my_app.events_fetch_view(
    _projections regclass, _type text, _id text, _version int, _field text, _value text, _types text[]
) RETURNS text LANGUAGE sql AS $$ SELECT 'earlier' $$;
CREATE FUNCTION my_app.events_guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER pgevents_change BEFORE UPDATE OR DELETE OR TRUNCATE ON my_app.events
    FOR EACH STATEMENT EXECUTE FUNCTION my_app.events_guard();
INSERT INTO my_app.events (type, data, idempotency_key) VALUES
    ('CART_CREATED', '{"cart_id": "c1", "user_id": "u1"}', NULL),
    ('ITEM_ADDED_TO_CART', '{"cart_id": "c1", "product_id": "p1", "quantity": 2, "price_at_time": 5}', 'k1'),
    ('CART_CREATED', '{"cart_id": "c2", "user_id": "u2"}', NULL);
INSERT INTO my_app.events_maintenance (role, operation, reason, statement)
VALUES ('me', 'UPDATE', 'typo', 'UPDATE');
INSERT INTO my_app.events_checkpoints (name, position, streams)
VALUES ('mailer', 2, '[{"types": null, "match": {}}]');
INSERT INTO my_app.views (type, id, data, latest_event_id) VALUES
    ('SHOPPING_CART', 'c1', '{"id": "c1", "user_id": "another", "items": [], "is_checked_out": false}', 2);
"""


@pytest.fixture
def earlier(make_client: Make) -> EventClient:
    """A client of today's on the tables of an earlier version, with events, a snapshot and a checkpoint."""
    client = make_client()
    client.db.execute_sql(EARLIER_SQL)
    return client


def test_tables_of_an_earlier_version_come_along(earlier: EventClient) -> None:
    """Events, keys, checkpoints and the trail stay; a snapshot of which no shape is known is folded anew."""
    with pytest.raises(NotInstalledError):
        earlier.save_event(CartCreated("c3", "u1"))
    earlier.create_tables()
    earlier.create_tables()
    assert [one.id for one in earlier.get_event_stream()] == [1, 2, 3]
    added = ItemAddedToCart("c1", "p1", 2, 5)
    assert earlier.save_event(added, idempotency_key="k1").id == 2
    seen = earlier.get_event_stream(cart_id="c1")
    assert earlier.save_event_with_stream_validation(added, seen).id == 4
    assert earlier.get_projection(CartProjection, "c1") is None
    with pytest.raises(ConfigurationError, match="refresh_projections"):
        earlier.query_projections(CartProjection)
    assert earlier.refresh_projections(CartProjection) == {"created": 0, "updated": 1, "skipped": 0}
    (saved,) = earlier.query_projections(CartProjection)
    assert (saved.data.user_id, saved.data.total, saved.latest_event_id) == ("u1", 20, 4)
    followed: list[int] = []
    Subscription(earlier, "mailer").process(lambda event: followed.append(event.id))
    assert followed == [3, 4]
    with earlier.maintenance("another typo"):
        earlier.session.execute("UPDATE my_app.events SET data = data WHERE id = 3")
    trail = "SELECT reason, events, ids FROM my_app.events_maintenance ORDER BY at"
    assert earlier.db.execute_sql(trail).fetchall() == [("typo", None, None), ("another typo", 1, [3])]
    with pytest.raises(PgEventsError, match="views_check|violates"):
        earlier.session.execute("UPDATE my_app.views SET exact = '1'")
    key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'views_pkey'"
    assert earlier.db.execute_sql(key).fetchone() == ("PRIMARY KEY (type, id, version)",)
    former = "SELECT count(*) FROM pg_proc WHERE prosrc = ' SELECT ''earlier'' '"
    assert earlier.db.execute_sql(former).fetchone() == (0,)


@pytest.mark.parametrize("table", ["events_maintenance", "views", "events_checkpoints"])
def test_columns_are_added_in_short_turns(
    earlier: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """A transaction that only reads is in the way of a new column: it is named, and nothing was changed."""
    monkeypatch.setattr(installation, "LOCK_WAIT", 0.5)
    reader = make_client()
    with reader.db.atomic():
        reader.session.execute(f"SELECT FROM my_app.{table}")
        pid = reader.session.connection().info.backend_pid
        with pytest.raises(RetryableError, match=rf'used "my_app"."{table}": backend {pid} '):
            earlier.create_tables()
        columns = "SELECT count(*) FROM pg_attribute WHERE attname IN ('shape', 'ids', 'lane')"
        assert earlier.db.execute_sql(columns).fetchone() == (0,)
    earlier.create_tables()


# -- one table, whatever way it is named ------------------------------------------------------------


def test_without_a_schema_and_with_its_name_is_one_log(url: str) -> None:
    """`None` and "public" are one table with one generation of functions, from either side."""
    unnamed, named = (a_client(database(url), schema, "cart_id") for schema in (None, "public"))
    for maker, user in ((unnamed, named), (named, unnamed)):
        maker.create_tables()
        last = user.save_event(event()).id
        seen = maker.get_event_stream(cart_id="c1")
        assert seen.position.last_id == last
        assert maker.save_event_with_stream_validation(event(), seen).id == last + 1
        with user.db.atomic():
            user.save_event(event())
            user.save_event_with_stream_validation(event(), user.get_event_stream(cart_id="c1"))
    sources = unnamed.db.execute_sql(
        "SELECT count(*), count(*) FILTER (WHERE prosrc ~ '[^.]\"events\"') FROM pg_proc WHERE proname ~ "
        "'^events_'"
    ).fetchone()
    assert sources[0] > 5
    assert sources[1] == 0  # no function goes by a search path
    unnamed.db.close()
    named.db.close()


def test_each_tenant_of_a_search_path_has_a_log_of_its_own(url: str) -> None:
    """A log that is found further along the search path is not the tenant's."""
    public = a_client(database(url))
    public.create_tables()
    public.db.execute_sql("CREATE SCHEMA t1")
    tenant = a_client(database(url, options="-csearch_path=t1,public"))
    with pytest.raises(NotInstalledError, match="own schema t1; the search path finds it in public"):
        tenant.save_event(event("secret"))
    tenant.create_tables()
    tenant.save_event(event("secret"))
    assert len(public.get_event_stream()) == 0
    assert public.db.execute_sql("SELECT count(*) FROM t1.events").fetchone() == (1,)
    nowhere = a_client(database(url, options="-csearch_path=missing"))
    with pytest.raises(ConfigurationError, match="names no schema that exists"):
        nowhere.create_tables()
    for one in (public, tenant, nowhere):
        one.db.close()


def test_a_renamed_log_is_made_good_before_another_takes_its_name(db: PostgresqlDatabase) -> None:
    """Its functions name the tables as they were called, and would write into a log that is made in their
    place."""
    a_client(db, "race", "cart_id").create_tables()
    db.execute_sql("ALTER SCHEMA race RENAME TO old")
    made_anew, renamed = a_client(db, "race", "cart_id"), a_client(db, "old", "cart_id")
    with pytest.raises(NotInstalledError, match="another name or schema"):
        renamed.save_event(event())
    with pytest.raises(ConfigurationError, match='functions of "old"."events" still use its former name'):
        made_anew.create_tables()
    renamed.create_tables()
    made_anew.create_tables()
    db.execute_sql("""SELECT old.events_append('[{"type": "X", "data": {}}]')""")
    assert renamed.save_event(event()).id == 2
    assert len(made_anew.get_event_stream()) == 0
    assert made_anew.save_event(event()).id == 1


# -- who waits for it, and for how long ------------------------------------------------------------


def test_savers_do_not_stand_still_behind_a_change_of_the_indexes(
    client: EventClient, make_client: Make, url: str
) -> None:
    """While `create_tables()` waits for an open transaction, others save at once."""
    stuck, saver = make_client(), make_client()
    saver.save_event(CartCreated("c0", "u1"))
    errors: list[BaseException] = []

    def change() -> None:
        wider = create_events_table("my_app", "events", ["cart_id", "product_id", "user_id"])
        changer = create_event_client(database(url), wider, create_projections_table("my_app", "views"))
        try:
            changer.create_tables()
        except BaseException as error:
            errors.append(error)
        finally:
            changer.db.close()

    thread = threading.Thread(target=change)
    with stuck.db.atomic():
        stuck.save_event(CartCreated("c1", "u1"))
        thread.start()
        end, worst, saved = time.monotonic() + 3, 0.0, 0
        while time.monotonic() < end:
            start = time.monotonic()
            saver.save_event(CartCreated("c2", "u1"))
            worst, saved = max(worst, time.monotonic() - start), saved + 1
            time.sleep(0.01)
        assert thread.is_alive()
    thread.join()
    assert not errors
    assert saved > 50
    assert worst < 0.5  # a turn of 0.1 s, on a busy machine


def test_create_tables_gives_up_and_names_who_is_in_its_way(
    client: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After seconds it says which backend, in which state; nothing was changed, and a second try succeeds."""
    monkeypatch.setattr(installation, "LOCK_WAIT", 0.5)
    stuck = make_client()
    wider = create_event_client(
        client.db, create_events_table("my_app", "events", ["user_id"]), client.projections
    )
    with stuck.db.atomic():
        stuck.save_event(CartCreated("c1", "u1"))
        pid = stuck.session.connection().info.backend_pid
        with pytest.raises(RetryableError, match=rf"backend {pid} \(.*idle in transaction, open for \d+ s\)"):
            wider.create_tables()
        client.save_event(CartCreated("c2", "u1"))  # with the functions as they were
        assert client.db.execute_sql("SHOW lock_timeout").fetchone() == ("0",)
    wider.create_tables()
    wider.save_event(CartCreated("c3", "u1"))


def test_a_second_installer_gives_up_and_names_the_first(
    client: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stays open in its transaction does not keep the others for ever."""
    monkeypatch.setattr(installation, "TURN_WAIT", 0.3)
    first = make_client()
    with first.db.atomic():
        first.create_tables()
        pid = first.session.connection().info.backend_pid
        with pytest.raises(RetryableError, match=f"backend {pid}"):
            client.create_tables()
    client.create_tables()


# -- what makes the promises void ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            "CREATE TRIGGER norm BEFORE INSERT ON my_app.events FOR EACH ROW EXECUTE FUNCTION "
            "my_app.drop_it()",
            "row trigger before INSERT that is not pgevents', norm",
        ),
        ("CREATE RULE lose AS ON INSERT TO my_app.events DO ALSO NOTHING", "has the rule lose"),
        ("CREATE TABLE my_app.child () INHERITS (my_app.events)", "other tables inherit"),
        ("ALTER TABLE my_app.events SET UNLOGGED", "UNLOGGED"),
    ],
)
def test_what_changes_or_adds_events_is_refused_at_the_start(
    client: EventClient, make_client: Make, change: str, reason: str
) -> None:
    """Locks are taken by the data as they are passed, and a check counts all that was saved."""
    client.db.execute_sql(
        "CREATE FUNCTION my_app.drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    client.db.execute_sql(change)
    fresh = make_client()
    for call in (
        lambda: fresh.save_event(CartCreated("c1", "u1")),
        lambda: fresh.get_event_stream(cart_id="c1", final=True),
        lambda: fresh.decide(CartProjection("c1", fresh), lambda cart: CartCreated("c1", "u1")),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            call()
    assert len(fresh.get_event_stream()) == 0


def test_a_role_that_does_not_see_all_events_may_not_save(client: EventClient, url: str) -> None:
    """Row level security would hide events from the check; the owner, who sees all, goes on."""
    client.save_event(CartCreated("c1", "u1"))
    client.db.execute_sql("ALTER TABLE my_app.events ENABLE ROW LEVEL SECURITY")
    role = f"hidden_{time.monotonic_ns()}"
    client.db.execute_sql(f"CREATE ROLE {role} LOGIN")
    try:
        client.db.execute_sql(
            f"GRANT USAGE ON SCHEMA my_app TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA my_app TO {role}; "
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA my_app TO {role}"
        )
        db = database(url, options=f"-crole={role}")
        with pytest.raises(ConfigurationError, match="row level security hides events"):
            shop_client(db).save_event(CartCreated("c1", "u2"))
        db.close()
    finally:
        client.db.execute_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
    shop_client(client.db).save_event(CartCreated("c1", "u3"))


def test_guards_stand_in_a_replica_session_too(client: EventClient) -> None:
    """`session_replication_role = replica` switches ordinary triggers off, and not these."""
    client.save_event(CartCreated("c1", "u1"))
    client.db.execute_sql("SET session_replication_role = replica")
    for sql in (
        "INSERT INTO my_app.events (type, data) VALUES ('HACK', '{}')",
        "DELETE FROM my_app.events",
        "UPDATE my_app.events SET type = 'X'",
    ):
        with pytest.raises(AppendOnlyError):
            client.session.execute(sql)
    client.save_event(CartCreated("c1", "u2"))
    assert len(client.get_event_stream()) == 2


@pytest.mark.parametrize(
    "loss",
    ["DISABLE TRIGGER pgevents_insert", "DISABLE TRIGGER ALL", "ENABLE REPLICA TRIGGER pgevents_change"],
)
def test_a_guard_that_is_missing_is_noticed_and_restored(
    client: EventClient, make_client: Make, loss: str
) -> None:
    """A client refuses to start on a log that anybody may change; `create_tables()` guards it again."""
    client.db.execute_sql(f"ALTER TABLE my_app.events {loss}")
    fresh = make_client()
    with pytest.raises(NotInstalledError, match="is not guarded: pgevents_"):
        fresh.save_event(CartCreated("c1", "u1"))
    fresh.create_tables()
    fresh.save_event(CartCreated("c1", "u1"))
    with pytest.raises(AppendOnlyError):
        fresh.session.execute("DELETE FROM my_app.events")
    client.db.execute_sql("DROP TRIGGER pgevents_touch ON my_app.events")
    client.create_tables()
    assert client.db.execute_sql(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'my_app.events'::regclass AND tgenabled = 'A'"
    ).fetchone() == (8,)


@pytest.mark.parametrize(
    "how",
    [
        """PERFORM my_app.events_append('[{"type": "OUT", "data": {"cart_id": "zz"}}]')""",
        """INSERT INTO my_app.events (type, data) VALUES ('OUT', '{"cart_id": "zz"}')""",
    ],
)
def test_a_trigger_of_the_log_saves_nothing_itself(client: EventClient, how: str) -> None:
    """An event that is inserted while another one is would go without its locks."""
    client.db.execute_sql(
        "CREATE FUNCTION my_app.more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.type <> 'OUT' THEN {how}; END IF; RETURN NULL; END $$"
    )
    client.db.execute_sql(
        "CREATE TRIGGER more AFTER INSERT ON my_app.events FOR EACH ROW EXECUTE FUNCTION my_app.more()"
    )
    for save in (
        lambda: client.save_event(CartCreated("c1", "u1")),
        lambda: client.save_events([CartCreated("c1", "u1")] * 3),
        lambda: client.save_event(CartCreated("c1", "u1"), idempotency_key="k"),
    ):
        with pytest.raises(PgEventsError, match="while another one is inserted"):
            save()
    assert len(client.get_event_stream()) == 0


def test_a_database_without_an_encoding_is_refused(pgevents_server: str, url: str) -> None:
    """SQL_ASCII takes bytes for text, and another client could not read them."""
    from psycopg2.extensions import make_dsn, parse_dsn

    name = f"{parse_dsn(url)['dbname']}_ascii"
    admin: Any = psycopg2.connect(pgevents_server)
    admin.autocommit = True
    admin.cursor().execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    try:
        client = a_client(database(make_dsn(**{**parse_dsn(url), "dbname": name})))
        with pytest.raises(ConfigurationError, match="SQL_ASCII"):
            client.create_tables()
        client.db.close()
    finally:
        admin.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.close()
