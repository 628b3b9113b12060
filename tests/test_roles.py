"""Roles: who may save and who may read, and that nobody can do more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import peewee
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import (
    ConfigurationError,
    DatabaseError,
    EventClient,
    create_event_client,
    create_events_table,
    create_projections_table,
    stream,
)
from pgevents.plugins.encryption import Encryption, Personal
from pgevents.store.functions import DOORS, function_names, functions_sql, setting_of
from pgevents.subscriptions import Subscription

from .conftest import database, shop_client
from .shop import CartCreated, CartProjection, ItemAddedToCart

Connect = Callable[[str], EventClient]


def item(cart: str = "c1", product: str = "p1") -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, 100)


@pytest.fixture
def as_role(client: EventClient, url: str) -> Iterator[Connect]:
    """Connects as a new role, `writer` or `reader`, with the rights of one."""
    name = parse_dsn(url)["dbname"]
    opened: list[EventClient] = []
    roles = {kind: f"{name}-{kind}" for kind in ("writer", "reader")}
    for role in roles.values():
        client.db.execute_sql(f'CREATE ROLE "{role}" LOGIN')
    client.create_tables(grant_writer=roles["writer"], grant_reader=roles["reader"])

    def connect(kind: str) -> EventClient:
        opened.append(shop_client(database(make_dsn(**{**parse_dsn(url), "user": roles[kind]}))))
        return opened[-1]

    yield connect
    for one in opened:
        one.db.close()
    for role in roles.values():
        client.db.execute_sql(f'DROP OWNED BY "{role}"')
        client.db.execute_sql(f'DROP ROLE "{role}"')


def test_a_writer_saves_decides_snapshots_and_follows(client: EventClient, as_role: Connect) -> None:
    """All that a program does, and final reads beside another writer's open transaction."""
    writer, other = as_role("writer"), as_role("writer")
    writer.save_events([item(f"c{n}", f"p{n}") for n in range(400)], idempotency_key="k")
    writer.save_event_with_stream_validation(item(), writer.get_event_stream(cart_id="c1"))
    latest = writer.get_latest_event(cart_id="c1")
    writer.save_event_with_stream_validation(item(), latest, stream(cart_id="c1"))
    with writer.db.atomic():
        writer.decide(CartProjection("c1", writer), lambda cart: item())
        assert other.horizon().holders[0].pid == writer.db.connection().info.backend_pid
        assert len(other.reader.read_final([stream(cart_id="c1")])) == 3
    assert writer.decide(CartProjection("c1", writer), lambda cart: None, idempotency_key="k2") == []
    assert writer.decide(CartProjection("c1", writer), lambda cart: item(), idempotency_key="k2") == []
    assert writer.save_projection(CartProjection("c1", writer)).status == "created"
    seen: list[int] = []
    assert Subscription(writer, "counter").process(lambda event: seen.append(event.id)) == 403
    assert len(client.get_event_stream()) == 403


FORGERIES = [
    "INSERT INTO my_app.events (type, data) VALUES ('A', '{}')",
    "INSERT INTO my_app.events (id, type, data) OVERRIDING SYSTEM VALUE VALUES (99, 'A', '{}')",
    "INSERT INTO my_app.events_commands (key) VALUES ('k')",
    "UPDATE my_app.events SET data = '{}'",
    "DELETE FROM my_app.events",
    "TRUNCATE my_app.events",
    "SELECT nextval('my_app.events_id_seq')",
    "SELECT setval('my_app.events_id_seq', 4611686018427387904)",
    "DELETE FROM my_app.events_maintenance",
    "ALTER TABLE my_app.events DISABLE TRIGGER ALL",
    "DROP FUNCTION my_app.events_insert_guard CASCADE",
]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_writer_cannot_change_or_forge_events(client: EventClient, as_role: Connect, forgery: str) -> None:
    """Not even with the settings of the guards set."""
    writer = as_role("writer")
    writer.save_event(item())
    text = functions_sql(client.events.pgevents_spec)
    state = setting_of(client.events.pgevents_spec)
    generation = re.findall(r"IS 'pgevents (\w+)", text)[0]
    with writer.db.atomic() as transaction:
        for name, value in ((state, f"{generation}|"), ("pgevents.maintenance", "x")):
            writer.db.execute_sql("SELECT set_config(%s, %s, false)", [name, value])
        with pytest.raises(DatabaseError, match="permission denied|must be owner"), writer.db.atomic():
            writer.session.execute(forgery)
        transaction.rollback()
    assert writer.save_event(item()).id == 2
    assert len(client.get_event_stream()) == 2


@pytest.mark.parametrize("state", ["||", "|0|0|", "|999|0|", "|0|0|bulk", "|0|-1000000|"])
def test_a_forged_state_of_the_transaction_changes_no_lock_and_no_bound(
    client: EventClient, as_role: Connect, state: str
) -> None:
    """What a transaction claims to have locked or published is locked and published again."""
    client.save_event(item("c0"))
    writer, other = as_role("writer"), as_role("writer")
    other.db.execute_sql("SET lock_timeout = '100ms'")
    with writer.db.atomic():
        writer.db.execute_sql(
            "SELECT set_config(%s, %s, true)", [setting_of(client.events.pgevents_spec), state]
        )
        writer.save_event(item())
        client.save_event(item("c2"))
        assert [event.id for event in client.reader.read_final([stream(cart_id="c1")])] == []
        assert client.horizon().id <= 1
        with pytest.raises(Exception, match="keep the streams of this save locked"):
            other.save_event_with_stream_validation(item(), None, stream(cart_id="c1"))


def test_a_reader_reads_and_can_neither_save_nor_lock(client: EventClient, as_role: Connect) -> None:
    """Reads of all kinds; no function that locks or writes."""
    client.save_events([CartCreated("c1", "u1"), item()])
    client.save_projection(CartProjection("c1", client))
    reader = as_role("reader")
    assert len(reader.get_event_stream(cart_id="c1")) == 2
    assert len(reader.get_event_streams([stream()], final=True)) == 2
    assert reader.get_latest_event(cart_id="c1") is not None
    assert reader.horizon().id == 2
    assert len(CartProjection("c1", reader).view.items) == 1
    for action in (
        lambda: reader.save_event(item()),
        lambda: reader.save_projection(CartProjection("c1", reader)),
        lambda: reader.session.execute("SELECT my_app.events_lock('[{}]')"),
        lambda: reader.session.execute("SELECT my_app.events_acquire('{}', '{1}')"),
        lambda: reader.session.execute("SELECT my_app.events_append('[]')"),
    ):
        with pytest.raises(DatabaseError, match="permission denied"):
            action()


def test_nobody_else_can_do_anything(client: EventClient, url: str) -> None:
    """No function is for the public, and none stands open that others call for themselves."""
    rows = client.db.execute_sql(
        "SELECT proname, has_function_privilege('pg_monitor', oid, 'EXECUTE'), prosecdef, proconfig::text "
        "FROM pg_proc WHERE pronamespace = 'my_app'::regnamespace"
    ).fetchall()
    assert {name for name, *_ in rows} == {f"events{name}" for name in function_names()}
    assert not [name for name, is_open, *_ in rows if is_open]
    outer = {f"events{name}" for name in (*DOORS["writer"], *DOORS["reader"], "_insert_guard", "_guard")}
    for name, _, is_definers, settings in rows:
        if name in outer or is_definers:
            assert "search_path=pg_catalog, pg_temp" in (settings or ""), name
    assert {name for name, _, is_definers, _ in rows if is_definers} >= {
        f"events{n}" for n in DOORS["writer"]
    }


@pytest.mark.parametrize("with_encryption", [False, True])
def test_no_function_depends_on_the_search_path(url: str, with_encryption: bool) -> None:
    """Each sets its own or was parsed when it was made; one names the schema of all that it calls."""
    events = create_events_table(schema="my_app", name="events", data_indexes=["cart_id", "tags[]"])
    views = create_projections_table(schema="my_app", name="views")
    rules = {ItemAddedToCart: Personal(subject="cart_id", fields={"product_id": "[redacted]"})}
    plugins = [Encryption(rules)] if with_encryption else []
    client = create_event_client(database(url), events, views, [ItemAddedToCart], plugins=plugins)
    client.create_tables()
    rows = client.db.execute_sql(
        "SELECT proname, proconfig::text, prosqlbody IS NOT NULL, prosrc FROM pg_proc "
        "WHERE pronamespace = 'my_app'::regnamespace"
    ).fetchall()
    assert len(rows) == len(function_names()) + with_encryption
    open_bodies = {
        name: source
        for name, settings, is_parsed, source in rows
        if not is_parsed and '"search_path=pg_catalog, pg_temp"' not in (settings or "")
    }
    assert set(open_bodies) == {"events_key"}
    body = re.sub(r"'[^']*'", "", open_bodies["events_key"])
    assert re.findall(r"(?<!pg_catalog\.)\b(?!pg_catalog\.|SELECT\b|_text\b|_kind\b)\w+", body) == []
    assert set(re.sub(r"[\w\s]", "", body)) == set(".,():")


def test_an_unknown_role_is_refused_in_words(client: EventClient) -> None:
    """And nothing is changed."""
    with pytest.raises(ConfigurationError, match="no role 'nobody at all'"):
        client.create_tables(grant_writer="nobody at all")


CONDITION = """'[{"base": 0, "seen": 0, "streams": [{"match": {"cart_id": ["none"]}}]}]'"""
TRAP = """\
CREATE FUNCTION trap.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS
$trap$ BEGIN INSERT INTO trap.sprung VALUES ({literal}); RAISE EXCEPTION 'sprung: %', {literal}; END $trap$
"""
SPRUNG = "CREATE SCHEMA trap; CREATE TABLE trap.sprung (name text); GRANT ALL ON trap.sprung TO PUBLIC"


def set_traps(client: EventClient) -> int:
    """A function of the same name and arguments for each one of PostgreSQL's that the SQL calls, also of the
    types that it is called with where PostgreSQL's take any; and operators."""
    execute = client.db.execute_sql
    execute(SPRUNG)
    called = set(re.findall(r"(?<![\w\".])(\w+)\(", functions_sql(client.events.pgevents_spec)))
    rows = execute(
        "SELECT proname, pg_get_function_identity_arguments(oid), prorettype::regtype::text FROM pg_proc "
        "WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND proname = ANY(%s) "
        "AND NOT proretset AND NOT 'internal'::regtype = ANY(prorettype || proargtypes::oid[]) "
        "AND NOT 'cstring'::regtype = ANY(proargtypes)",
        [sorted(called)],
    ).fetchall()
    more = [
        ("to_json", "timestamp", "json"),
        ("concat", "text, bigint, text, json", "text"),
        ("concat", "text, bigint, text, int, text", "text"),
        ("array_dims", "text[]", "text"),
        ("cardinality", "bigint[]", "int"),
        ("cardinality", "text[]", "int"),
        ("unnest", "bigint[]", "bigint"),
        ("split_part", "text, char, int", "text"),
        ("jsonb_build_array", "text, jsonb", "jsonb"),
    ]
    made = 0
    for name, arguments, result in [*rows, *more]:
        arguments = re.sub(r"\b(IN|OUT|INOUT) ", "", arguments)
        sql = TRAP.format(name=name, arguments=arguments, result=result, literal=f"'{name}'")
        try:
            with client.db.atomic():
                execute(sql.replace("%", "%%"))
            made += 1
        except Exception:  # what cannot be shadowed at all
            continue
    for operator, left, right in (
        ("=", "text", "text"), ("||", "text", "text"), ("->>", "jsonb", "text"), ("->", "jsonb", "text"),
        (">", "bigint", "bigint"), ("<=", "bigint", "bigint"), ("&", "bigint", "int"), ("<>", "text", "text"),
    ):  # fmt: skip
        name = f"f{made}"
        execute(
            TRAP.format(
                name=name, arguments=f"{left}, {right}", result="boolean", literal=f"'{operator}'"
            ).replace("%", "%%")
        )
        execute(
            f"CREATE OPERATOR trap.{operator} (FUNCTION = trap.{name}, LEFTARG = {left}, RIGHTARG = {right})"
        )
        made += 1
    execute("GRANT USAGE ON SCHEMA trap TO PUBLIC")
    return made


def test_functions_put_in_place_of_postgresqls_are_never_called(
    client: EventClient, url: str, as_role: Connect
) -> None:
    """Whoever may create functions cannot have them run by somebody else's save or read."""
    client.save_event(item("c0"))
    assert set_traps(client) > 40
    with client.db.atomic():  # bodies that are parsed when they are made do not meet the traps either
        client.db.execute_sql("SET LOCAL search_path = trap, pg_catalog")
        client.session.execute(functions_sql(client.events.pgevents_spec))
        (path,) = client.db.execute_sql("SHOW search_path").fetchone()
        assert path == "trap, pg_catalog"
    for connect in (lambda: shop_client(database(url)), lambda: as_role("writer")):
        victim = connect()
        victim.db.execute_sql("SET search_path = trap, pg_catalog")
        calls = [
            'append(\'[{"type": "A", "data": {"cart_id": "c1"}}]\'::jsonb)',
            "append_one('A', '{\"cart_id\": \"c1\"}'::jsonb" + 5 * ", NULL" + ")",
            "append_one('A', '{\"cart_id\": \"c9\"}', NULL, NULL, NULL, '{cart_id,c9}', '{0,0,0}')",
            "append_many('{A}', '{\"{}\"}', NULL, NULL, 'key', NULL, NULL)",
            "append_many('{A}', '{\"{}\"}', NULL, " + CONDITION + ", NULL, NULL, NULL)",
            'lock(\'[{"match": {"cart_id": ["c1"]}}]\')',
            "final_bound('[{}]')",
            "published()",
            "digest('{1,2}')",
            "fetch('cart_id', 'c1', NULL, 0)",
            "fetch_final('cart_id', 'c1', NULL, 0)",
            "fetch_view('my_app.views', 'T', 'c1', 1, '', 'cart_id', 'c1', NULL)",
            "redactions()",
            "hold_redactions()",
            "lock_value('cart_id', 'c1', NULL)",
            "view_after('saved 1', 'my_app.views', 'T', 'c1', 1, '', 'cart_id', 'c1', NULL)",
        ]
        with pytest.raises(peewee.PeeweeException, match="sprung"):  # the traps are armed
            victim.db.execute_sql("SELECT split_part('a|b', '|', 1)")
        for call in calls:
            victim.db.execute_sql(f"SELECT my_app.events_{call}")
        victim.db.close()
    with client.maintenance("a test of the guards"):
        client.db.execute_sql("SET LOCAL search_path = trap, pg_catalog")
        client.db.execute_sql("UPDATE my_app.events SET metadata = '{}'")
        client.db.execute_sql("SET LOCAL search_path = pg_catalog")
    assert client.db.execute_sql("SELECT name FROM trap.sprung").fetchall() == []
