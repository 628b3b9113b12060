"""Query plans: each question is answered from the index that was made for it, analysed or not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, timezone
from typing import Any

import attrs
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import (
    EventClient,
    MultiStreamProjectionBase,
    ProjectionBase,
    at_least,
    between,
    is_not,
    stream,
)
from pgevents.merging import merge_streams
from pgevents.store.functions import functions_sql
from pgevents.store.session import Session

from .conftest import database, shop_client
from .shop import CartCheckedOut, CartCreated, CartEvent, CartProjection, CartView, ItemAddedToCart

ANALYSED = ["analysed", "never analysed"]


def fill(client: EventClient) -> None:
    """20,000 events of a thousand carts and five hundred products, and a thousand snapshots."""
    for start in range(0, 20_000, 10_000):
        client.save_events(
            [
                {
                    "type": "CART_CREATED"
                    if n < 1000
                    else "ITEM_REMOVED_FROM_CART"
                    if n % 10 == 0
                    else "ITEM_ADDED_TO_CART",
                    "data": {
                        "cart_id": f"c{n % 1000}",
                        "user_id": "u",
                        "product_id": f"p{n % 499}",
                        "quantity": 1,
                        "price_at_time": n,
                    },
                }
                for n in range(start, start + 10_000)
            ]
        )
    for cls in (CartProjection, Streams):
        client.db.execute_sql(
            """INSERT INTO my_app.views (type, id, data, latest_event_id, version, shape)
            SELECT %s, 'c' || n, jsonb_build_object('id', 'c' || n, 'user_id', 'u' || n), 15000, 1, %s
            FROM generate_series(0, 999) AS n""",
            [cls.projection_type, cls("c1", client).snapshot_key().shape],
        )


@pytest.fixture(scope="module", params=ANALYSED)
def shop(request: pytest.FixtureRequest, pgevents_server: str) -> Iterator[EventClient]:
    """A shop of some size, with the planner's statistics and without any."""
    name = f"pgevents_plans_{os.getpid()}"
    server = database(pgevents_server)
    server.execute_sql(f"CREATE DATABASE {name}")
    db = database(make_dsn(**{**parse_dsn(pgevents_server), "dbname": name}))
    client = shop_client(db, event_types=())
    client.create_tables()
    db.execute_sql(f"""CREATE INDEX "{USER}" ON my_app.events ((data->>'user_id'), id)""")
    for table in ("events", "views"):
        db.execute_sql(f"ALTER TABLE my_app.{table} SET (autovacuum_enabled = off)")
    fill(client)
    if request.param == "analysed":
        db.execute_sql("ANALYZE")
    yield shop_client(db, CartEvent)
    db.close()
    server.execute_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def explain(client: EventClient, statement: str, params: Any = None) -> tuple[str, set[str], set[str]]:
    """The plan as text, the kinds of its nodes, and the indexes that it uses."""
    (found,) = client.db.execute_sql(f"EXPLAIN (FORMAT JSON) {statement}", params).fetchone()
    (whole,) = json.loads(found) if isinstance(found, str) else found
    every = list(nodes(whole["Plan"]))
    tables = [node for node in every if node["Node Type"] == "Seq Scan"]
    return (
        json.dumps(whole, indent=1),
        {node["Node Type"] for node in every},
        {node["Index Name"] for node in every if "Index Name" in node}
        | {f"Seq Scan on {node['Relation Name']}" for node in tables},
    )


def explain_prepared(
    client: EventClient, mode: str, types: str, statement: str, arguments: str
) -> tuple[str, set[str], set[str]]:
    """The same for a statement with parameters, as a function of the database plans it."""
    with client.db.atomic() as transaction:
        client.db.execute_sql(f"SET LOCAL plan_cache_mode = {mode}")
        client.db.execute_sql(f"PREPARE planned ({types}) AS {statement}")
        found = explain(client, f"EXECUTE planned ({arguments})")
        client.db.execute_sql("DEALLOCATE planned")
        transaction.rollback()
    return found


def asked(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """The statement that a call sends to read events or snapshots, and its parameters."""
    sent: list[tuple[str, Any]] = []
    run = Session.execute

    def spy(self: Session, sql: str, params: Any = None) -> Any:
        sent.append((sql, params))
        return run(self, sql, params)

    monkeypatch.setattr(Session, "execute", spy)
    call()
    sql, params = [one for one in sent if " FROM " in one[0]][-1]
    *before, last = sql.split(";\n")  # of a final read, the statement that reads
    skipped = sum(text.count("%s") for text in before)
    return last, list(params or ())[skipped:]


class Streams(MultiStreamProjectionBase[CartView, CartEvent]):
    projection_type = "STREAMS"

    def initial_view(self) -> CartView:
        return CartView(self.id)

    def get_stream_options(self) -> Any:
        return [stream(CartEvent, cart_id=self.id), stream(ItemAddedToCart, product_id="p5")]


class Products(ProjectionBase[CartView, CartEvent]):
    projection_type = "PRODUCTS"

    def initial_view(self) -> CartView:
        return CartView(self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"product_id": self.id}


CART, PRODUCT, USER = "events$data$cart_id$idx", "events$data$product_id$idx", "events$data$user_id$idx"
TYPE, ID = "events$type$idx", "events_pkey"
VIEWS = {"views_pkey", "views$data$id$idx", "views$data$user_id$idx"}  # each begins with the type

READS: dict[str, tuple[Callable[[EventClient], Any], set[str], bool]] = {
    "one id": (lambda c: c.get_event_stream(cart_id="c7"), {CART}, True),
    "types and id": (lambda c: c.get_event_stream(CartEvent, cart_id="c7"), {CART}, True),
    "one type and id": (lambda c: c.get_event_stream(CartCreated, cart_id="c7"), {CART}, True),
    "id after": (lambda c: c.get_event_stream(cart_id="c7", after=15_000), {CART}, True),
    "id as of": (lambda c: c.get_event_stream(cart_id="c7", as_of=15_000), {CART}, True),
    "list": (lambda c: c.get_event_stream(cart_id=["c7", "c8", "c9"]), {CART}, False),
    "field without index, with id": (lambda c: c.get_event_stream(cart_id="c7", quantity=1), {CART}, True),
    "one type": (lambda c: c.get_event_stream(CartCreated), {TYPE}, True),
    "one type after": (lambda c: c.get_event_stream(ItemAddedToCart, after=19_900), {TYPE, ID}, True),
    "rare types": (
        lambda c: c.get_event_stream(CartCreated | CartCheckedOut, after=15_000),
        {TYPE, ID},
        False,
    ),
    "everything after": (lambda c: c.get_event_stream(after=19_000), {ID}, True),
    "page of everything": (lambda c: next(iter(c.iter_event_stream())), {ID}, True),
    "page of types": (lambda c: next(iter(c.iter_event_stream(CartCreated))), {TYPE}, True),
    "page of an id": (lambda c: list(c.iter_event_stream(cart_id="c7")), {CART}, True),
    "limited": (lambda c: c.get_event_stream(cart_id="c7", limit=3), {CART}, True),
    "newest": (lambda c: c.get_event_stream(CartEvent, cart_id="c7", limit=3, reverse=True), {CART}, True),
    "newest below": (
        lambda c: c.get_event_stream(cart_id="c7", limit=3, reverse=True, after=9_000),
        {CART},
        True,
    ),
    "newest of a type": (
        lambda c: c.get_event_stream(CartCreated, limit=3, reverse=True, after=500),
        {TYPE, ID},
        True,
    ),
    "newest of all": (lambda c: c.get_event_stream(limit=3, reverse=True, after=500), {ID}, True),
    "newest of several": (
        lambda c: c.get_event_streams(
            [stream(cart_id="c7"), stream(product_id="p5")], limit=3, reverse=True, after=9_000
        ),
        {CART, PRODUCT},
        True,
    ),
    "final page": (lambda c: c.get_event_stream(cart_id="c7", limit=3, final=True), {CART}, False),
    "newest, final": (
        lambda c: c.get_event_stream(CartEvent, cart_id="c7", limit=3, reverse=True, final=True),
        {CART},
        False,
    ),
    "page backwards": (lambda c: next(c.iter_event_stream(cart_id="c7", reverse=True)), {CART}, True),
    "range with an id": (
        lambda c: c.get_event_stream(cart_id="c7", price_at_time=between(100, 5_000)),
        {CART},
        True,
    ),
    "page of a range of a type": (
        lambda c: c.get_event_stream(
            CartCreated | ItemAddedToCart, cart_id=is_not("c7"), limit=5, after=15_000, reverse=True
        ),
        {TYPE, ID},
        False,
    ),
    "page of a range of anything": (
        lambda c: c.get_event_stream(price_at_time=at_least(100), limit=5, after=15_000),
        {ID},
        True,
    ),
    "a stream after its own id": (
        lambda c: c.get_event_streams([stream(cart_id="c7", after=9_000), stream(product_id="p5")]),
        {CART, PRODUCT},
        True,
    ),
    "one event": (lambda c: c.get_event(77), {ID}, True),
    "several streams": (
        lambda c: c.get_event_streams(
            [stream(CartEvent, cart_id="c7"), stream(ItemAddedToCart, product_id="p5")]
        ),
        {CART, PRODUCT},
        True,
    ),
    "final, one id": (lambda c: c.get_event_stream(CartEvent, cart_id="c7", final=True), {CART}, False),
    "final, several": (
        lambda c: c.get_event_streams([stream(cart_id="c7"), stream(product_id="p5")], final=True),
        {CART, PRODUCT},
        False,
    ),
    "latest of an id": (lambda c: c.get_latest_event(cart_id="c7", final=False), {CART}, True),
    "latest of types and id": (
        lambda c: c.get_latest_event(CartEvent, cart_id="c7", final=False),
        {CART},
        True,
    ),
    "latest of a type": (lambda c: c.get_latest_event(CartCreated, final=False), {TYPE}, True),
    "latest of types": (lambda c: c.get_latest_event(CartEvent, final=False), {TYPE}, False),
    "first of a type": (lambda c: c.get_event_stream(CartCheckedOut, limit=3), {TYPE}, True),
    "newest of a type below an id": (
        lambda c: c.get_event_stream(CartCreated, limit=3, reverse=True, after=500),
        {TYPE},
        True,
    ),
    "latest of all": (lambda c: c.get_latest_event(final=False), {ID}, True),
    "load without snapshot": (lambda c: Products("p5", c).view, {PRODUCT, *VIEWS}, False),
    "load after a snapshot": (lambda c: CartProjection("c7", c).view, {CART, *VIEWS}, False),
    "load of several streams": (lambda c: Streams("c7", c).view, {CART, PRODUCT, *VIEWS}, False),
    "snapshot": (lambda c: c.get_projection(CartProjection, "c7"), {"views_pkey"}, True),
    "query": (lambda c: c.query_projections(CartProjection, user_id="u7"), {"views$data$user_id$idx"}, False),
    "query of a list": (lambda c: c.query_projections(CartProjection, user_id=["u7", "u8"]), VIEWS, False),
}


@pytest.mark.parametrize("read", READS)
def test_reads_use_their_index(shop: EventClient, monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    """Every shape of question reads the index made for it, in the index's order where there is one to
    follow."""
    call, expected, in_order = READS[read]
    monkeypatch.setattr(
        "pgevents.store.source.single_value", lambda *asked: None
    )  # none of them by the function with a kept plan
    statement, params = asked(lambda: call(shop), monkeypatch)
    plan, _, used = explain(shop, statement, params)
    assert used and used <= expected, plan
    if (
        in_order
    ):  # a few rows may be sorted faster than they are fetched in order; but the order must be there to use
        with shop.db.atomic():
            shop.db.execute_sql("SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off")
            plan, kinds, used = explain(shop, statement, params)
        assert used <= expected | {ID}, plan
        assert not kinds & {"Sort", "Incremental Sort"}, plan


@pytest.mark.parametrize("types", ["NULL", "ARRAY['CART_CREATED']"])
@pytest.mark.parametrize(
    ("field", "value", "after", "expected"),
    [
        ("cart_id", "c7", 0, CART),
        ("cart_id", "nobody", 15_000, CART),
        ("product_id", "p7", 19_990, PRODUCT),
        ("user_id", "u", 0, USER),
    ],
)
def test_the_function_that_reads_goes_along_its_index(
    shop: EventClient, field: str, value: str, after: int, types: str, expected: str
) -> None:
    """The one plan that it keeps is good for every value; also where one value stands on every event."""
    spec = shop.events.pgevents_spec
    functions = functions_sql(attrs.evolve(spec, data_indexes=(*spec.data_indexes, "user_id")))
    (text,) = re.findall(rf"_field = '{field}' THEN\s+RETURN \((.*?)\);", functions, re.S)
    for n, variable in enumerate(("_value", "_types", "_after", "_most"), 1):
        text = re.sub(rf"\b{variable}\b", f"${n}", text)
    arguments = f"'{value}', {types}, {after}, 1001"
    plan, kinds, used = explain_prepared(
        shop, "force_generic_plan", "text, text[], bigint, bigint", text, arguments
    )
    assert used == {expected}, plan
    assert not {kind for kind in kinds if kind.startswith("Bitmap") or "Sort" in kind}, plan


@pytest.mark.parametrize("read", ["latest of two ids", "two ids"])
def test_two_identifiers_use_one_of_the_indexes(
    shop: EventClient, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """Of two indexed fields either index, or both, will do."""
    calls = {
        "two ids": lambda: shop.get_event_stream(cart_id="c7", product_id="p7"),
        "latest of two ids": lambda: shop.get_latest_event(cart_id="c7", product_id="p7", final=False),
    }
    plan, _, used = explain(shop, *asked(calls[read], monkeypatch))
    assert used and used <= {CART, PRODUCT}, plan


def checks(client: EventClient) -> dict[str, str]:
    """The check statements of the append functions, by index, their variables as parameters."""
    spec = client.events.pgevents_spec
    functions = functions_sql(attrs.evolve(spec, data_indexes=(*spec.data_indexes, "user_id")))
    found: dict[str, str] = {}
    for text in re.findall(r"RETURN ARRAY\(\n(\s+SELECT id FROM .*?)\);\n", functions, re.S):
        field = re.search(r"data->>'(\w+)' = ANY \(_values\)", text)
        name = field[1] if field else "type" if "type = ANY" in text else "all"
        for n, variable in enumerate(("_values", "_base", "_types", "_rest", "_most"), 1):
            text = re.sub(rf"\b{variable}\b", f"${n}", text)
        found[name] = text
    assert set(found) == {"cart_id", "product_id", "user_id", "type", "all"}
    return found


@pytest.mark.parametrize(
    ("check", "arguments", "expected"),
    [
        ("cart_id", "ARRAY['c7'], 0, NULL, NULL, 120", {CART}),
        ("cart_id", "ARRAY['c7'], 15000, ARRAY['CART_CREATED'], NULL, 120", {CART}),
        ("cart_id", "ARRAY['c7', 'c8'], 0, NULL, '{\"product_id\": [\"p7\"]}', 120", {CART}),
        ("cart_id", "ARRAY['nobody'], 0, NULL, NULL, 1", {CART}),
        ("product_id", "ARRAY['p7'], 19990, NULL, NULL, 4", {PRODUCT}),
        ("product_id", "ARRAY['p7'], 15000, NULL, NULL, 110", {PRODUCT}),
        ("user_id", "ARRAY['u'], 19990, NULL, NULL, 11", {USER}),
        ("user_id", "ARRAY['u'], 0, ARRAY['CART_CREATED'], NULL, 1001", {USER}),
        ("user_id", "ARRAY['nobody'], 0, NULL, NULL, 1", {USER}),
        ("type", "NULL, 0, ARRAY['CART_CREATED'], NULL, 1100", {TYPE, ID}),
        ("type", "NULL, 19000, ARRAY['CART_CREATED', 'X'], NULL, 100", {TYPE, ID}),
        ("all", "NULL, 19900, NULL, NULL, 200", {ID}),
    ],
)
def test_the_check_of_a_validated_save_uses_its_index(
    shop: EventClient, check: str, arguments: str, expected: set[str]
) -> None:
    """What is counted with the locks held is counted on an index range: the generic plan that the functions
    force goes along its index also where one value stands on every event."""
    plan, kinds, used = explain_prepared(
        shop, "force_generic_plan", "text[], bigint, text[], jsonb, bigint", checks(shop)[check], arguments
    )
    assert used and used <= expected, plan
    if check.endswith("_id"):
        assert not {kind for kind in kinds if kind.startswith("Bitmap")}, plan


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_idempotency_keys_are_looked_up_by_their_index(shop: EventClient, mode: str) -> None:
    """What a key saved before is found in its partial index."""
    for text in look_ups_of_keys(shop):
        plan, _, used = explain_prepared(shop, mode, "text", text, "'k'")
        assert used == {"events$idempotency_key$idx"}, plan


def test_the_planner_knows_how_many_events_a_few_values_have(shop: EventClient) -> None:
    """Else it takes each value for half a percent of the log, and goes through all of a large one. (It does
    not ask the statistics of a partial index.)"""
    carts = [event.data.cart_id for event in shop.get_event_stream(CartCreated, limit=10)]
    found = "SELECT id FROM my_app.events WHERE data->>'cart_id' = ANY (%s)"
    with shop.db.atomic() as transaction:
        shop.db.execute_sql("ANALYZE my_app.events")
        (rows,) = shop.db.execute_sql(f"EXPLAIN (FORMAT JSON) {found}", [carts]).fetchone()
        (count,) = shop.db.execute_sql(f"SELECT count(*) FROM ({found}) AS found", [carts]).fetchone()
        transaction.rollback()
    (plan,) = json.loads(rows) if isinstance(rows, str) else rows
    assert count / 3 < plan["Plan"]["Plan Rows"] < count * 3


def look_ups_of_keys(client: EventClient) -> list[str]:
    """The statements by which a save looks whether its key is new, and for what it saved."""
    found = re.findall(
        r"FROM \S+\s+(WHERE idempotency_key .*?)(?:\) IS NOT NULL|;)\n",
        functions_sql(client.events.pgevents_spec),
        re.S,
    )
    of_new, of_repeated = [re.sub(r"\b_key\b", "$1", where) for where in found]
    return [
        f"SELECT {of} FROM my_app.events {where}"
        for of, where in (("idempotency_key", of_new), ("id", of_repeated))
    ]


def test_a_new_key_is_looked_up_by_one_row(shop: EventClient) -> None:
    """The planner takes any range of keys for a share of the log: in one of many million events it would
    begin parallel workers for each save with a key."""
    of_new, _ = look_ups_of_keys(shop)
    plan, kinds, _ = explain_prepared(shop, "force_generic_plan", "text", of_new, "'k'")
    assert kinds == {"Limit", "Index Only Scan"}, plan


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_timers_that_are_due_are_found_by_their_index(shop: EventClient, mode: str) -> None:
    """In the order in which they fire, however many are not due or parked."""
    shop.db.execute_sql(
        "INSERT INTO my_app.events_timers (key, type, data, locks, due_at, try_at, state) "
        "SELECT 'plan ' || n, 'A', '{}', 3, t, t, CASE mod(n, 3) WHEN 0 THEN 'parked' ELSE 'scheduled' END "
        "FROM generate_series(1, 3000) AS n, LATERAL (SELECT now() + (n - 100) * interval '1 s' AS t) AS time"
    )
    shop.db.execute_sql("ANALYZE my_app.events_timers")
    found = re.search(
        r"(FROM my_app.events_timers AS t\s+WHERE t.state <> 'parked' .*?)\n *\), counted",
        functions_sql(shop.events.pgevents_spec).replace('"', ""),
        re.S,
    )
    assert found is not None
    text = "SELECT t.* " + found[1].replace("_now", "$1").replace("_limit", "$2")
    plan, kinds, used = explain_prepared(shop, mode, "timestamptz, int", text, "now(), 10")
    assert used == {shop.events.pgevents_spec.index_name("timers", "due").strip('"')}, plan
    assert "Sort" not in kinds, plan
    shop.db.execute_sql("TRUNCATE my_app.events_timers")


def test_days_and_times_use_the_index_of_their_field(shop: EventClient) -> None:
    """A range of few days goes by the index of the field, where there is one, and not through the whole
    log."""
    moments = [datetime(2026, 1, day, tzinfo=timezone.utc) for day in (1, 2)]
    with shop.db.atomic() as transaction:
        for field, compared in (
            ("day", between(date(2026, 1, 1), date(2026, 1, 2))),
            ("at", between(*moments)),
            ("at", at_least(moments[0])),
        ):
            shop.db.execute_sql(
                f"CREATE INDEX IF NOT EXISTS on_{field} ON my_app.events ((data->>'{field}'), id)"
            )
            shop.db.execute_sql("ANALYZE my_app.events")
            question = merge_streams([stream(**{field: compared})])
            plan, _, used = explain(shop, *shop.reader.select(question, 0, None))
            assert used == {f"on_{field}"}, plan
        transaction.rollback()


def test_a_table_without_its_index_would_be_noticed(
    shop: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: with the index gone the same question is a sequential scan or another
    index."""
    monkeypatch.setattr("pgevents.store.source.single_value", lambda *asked: None)
    with shop.db.atomic() as transaction:
        shop.db.execute_sql(f'DROP INDEX my_app."{CART}"')
        plan, _, used = explain(shop, *asked(lambda: shop.get_event_stream(cart_id="c7"), monkeypatch))
        transaction.rollback()
    assert not used <= {CART}, plan
