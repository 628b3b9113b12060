"""An event that belongs to many: it is in the stream of each value of a list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from peewee import PostgresqlDatabase

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    NotInstalledError,
    ProjectionBase,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    many,
    pipeline,
    stream,
)
from pgevents.store.session import Session
from pgevents.subscriptions import Subscription, follow
from pgevents.testing import given
from pgevents.testing.databases import MakeClient
from pgevents.type_registry import EventTypes

from .conftest import database

INDEXES = ("cart_id", many("product_ids"), many("metadata.tags"), many("by.ids"))


@pytest.fixture(autouse=True)
def own_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventTypes, "everything", EventTypes())


def unmade_client(db: PostgresqlDatabase, types: Any = (), indexes: Any = INDEXES) -> EventClient:
    events = create_events_table(schema="shop", data_indexes=indexes)
    return create_event_client(db, events, create_projections_table(schema="shop"), types)


def client_of(db: PostgresqlDatabase, types: Any = (), indexes: Any = INDEXES) -> EventClient:
    client = unmade_client(db, types, indexes)
    client.create_tables()
    return client


@pytest.fixture(scope="module")
def pgevents_make_client() -> MakeClient:
    return unmade_client


def bought(*products: Any, cart: str = "c1", kind: str = "BOUGHT", **more: Any) -> dict[str, Any]:
    return {"type": kind, "data": {"cart_id": cart, "product_ids": list(products), **more}}


@pytest.fixture
def shop(pgevents_tables: None, db: PostgresqlDatabase) -> EventClient:
    """Five events, one and several at a time."""
    client = unmade_client(db)
    client.save_event(bought("p1", "p2", "p1", by={"ids": [7]}), metadata={"tags": ["a", "b"]})
    client.save_events(
        [bought("p2", cart="c2"), bought(), bought("p1", "p3", kind="TAKEN"), bought("p4", 5, True)]
    )
    return client


FINDS: list[tuple[Any, dict[str, Any], list[int]]] = [
    (None, {"product_ids": "p1"}, [1, 4]),
    (None, {"product_ids": "p2"}, [1, 2]),
    ("BOUGHT", {"product_ids": "p1"}, [1]),
    (["BOUGHT", "TAKEN"], {"product_ids": ["p1", "p3", "p2"]}, [1, 2, 4]),
    (None, {"product_ids": 5}, [5]),
    (None, {"product_ids": True}, [5]),
    (None, {"product_ids": "nothing"}, []),
    (None, {"product_ids": "p2", "cart_id": "c2"}, [2]),
    (None, {"product_ids": "p1", "metadata.tags": "b"}, [1]),
    ("BOUGHT", {"metadata.tags": ["b", "c"]}, [1]),
    (None, {"by.ids": 7}, [1]),
]


@pytest.mark.parametrize(("types", "data", "ids"), FINDS)
def test_every_read_finds_it_by_each_value(
    shop: EventClient, types: Any, data: dict[str, Any], ids: list[int]
) -> None:
    """Once, whatever else is asked and in whatever way."""
    assert [one.id for one in shop.get_event_stream(types, data=data)] == ids
    assert [one.id for one in shop.get_event_stream(types, data=data, final=True)] == ids
    assert [one.id for one in shop.get_event_stream(types, data=data, as_of=5)] == ids
    assert [one.id for one in shop.get_event_stream(types, data=data, after=1)] == [n for n in ids if n > 1]
    assert [one.id for one in shop.get_event_stream(types, data=data, reverse=True)] == ids[::-1]
    assert [one.id for one in shop.get_event_stream(types, data=data, limit=1)] == ids[:1]
    newest = shop.get_event_stream()[-1].created_at
    assert [one.id for one in shop.get_event_stream(types, data=data, as_of=newest)] == ids
    assert [one.id for one in shop.iter_event_stream(types, data=data)] == ids
    both = [stream(types, data=data), stream("NONE", product_ids="p1"), stream("TAKEN", cart_id="c1")]
    assert [one.id for one in shop.get_event_streams(both)] == sorted({*ids, 4})
    latest = shop.get_latest_event(types, data=data)
    assert (latest and latest.id) == (ids[-1] if ids else None)
    found: list[int] = []
    Subscription(shop, "reader", [stream(types, data=data)]).process(lambda event: found.append(event.id))
    assert found == ids


@pytest.mark.parametrize(("types", "data", "ids"), FINDS)
def test_a_condition_on_a_value_is_exact(
    shop: EventClient, types: Any, data: dict[str, Any], ids: list[int]
) -> None:
    """What was read holds; an event more is a conflict, in a single save and in a batch."""
    seen = shop.get_event_stream(types, data=data)
    new = bought("p1", "p2", "p3", 5, True, "nothing", cart="c2", by={"ids": [7]})
    new["metadata"] = {"tags": ["b"]}
    shop.save_event_with_stream_validation(new, seen)
    for events in ([new], [new, bought("p9")]):
        with pytest.raises(ConcurrencyError) as conflict:
            shop.save_events_with_stream_validation(events, seen)
        assert conflict.value.conflicting_ids == (6,)
    again = shop.get_event_stream(types, data=data)
    shop.save_events_with_stream_validation([new, bought("p9")], again)


@pytest.mark.parametrize("several", [False, True])
def test_a_decision_locks_its_value_and_no_other(shop: EventClient, url: str, several: bool) -> None:
    """A save with that value among others waits, alone and in a batch; others go on."""
    other = client_of(database(url))
    other.db.execute_sql("SET lock_timeout = '150ms'")
    with shop.db.atomic():
        shop.db.execute_sql("SELECT shop.events_lock(%s)", [json.dumps([stream(product_ids="p1").as_json()])])
        batch = [bought("p2", "p3")] * (1 + several)
        other.save_events(batch)
        with pytest.raises(Exception, match="locked"):
            other.save_events([*batch[1:], bought("p3", "p1", "p2")])
    other.save_events([*batch[1:], bought("p3", "p1", "p2")])
    other.db.close()


@pytest.mark.parametrize("how", ["one event", "two events", "a batch", "many saves"])
def test_more_values_than_the_key_limit_work(shop: EventClient, url: str, how: str) -> None:
    """Saved under the bulk lock, which whoever decides about one of the values waits for."""
    other = client_of(database(url))
    other.db.execute_sql("SET lock_timeout = '150ms'")
    (limit,) = shop.db.execute_sql("SELECT shop.events_key_limit()").fetchone()
    values = [f"v{n}" for n in range(limit + 10)]
    seen = shop.get_event_stream(product_ids="v3")
    with shop.db.atomic():
        if how == "one event":
            shop.save_event(bought(*values))
        elif how == "two events":
            shop.save_events([bought(*values[:50]), bought(*values[50:])])
        elif how == "a batch":
            shop.save_events([bought(one) for one in values])
        else:
            for n in range(0, len(values), 15):
                shop.save_event(bought(*values[n : n + 15]))
        sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        assert shop.db.execute_sql(sql).fetchone()[0] <= limit + 25
        with pytest.raises(Exception, match="locked"):
            other.save_event_with_stream_validation(bought("v3"), seen)
    with pytest.raises(ConcurrencyError):
        other.save_event_with_stream_validation(bought("v3"), seen)
    assert len(other.get_event_stream(product_ids="v3")) == 1
    other.db.close()


def test_a_rolled_back_event_belongs_to_nothing(shop: EventClient) -> None:
    """The values stand and fall with their event."""
    with pytest.raises(ZeroDivisionError), shop.db.atomic():
        shop.save_event(bought("p9"))
        assert len(shop.get_event_stream(product_ids="p9")) == 1
        raise ZeroDivisionError
    assert len(shop.get_event_stream(product_ids="p9")) == 0
    shop.save_event(bought("p9"), idempotency_key="k")
    shop.save_event(bought("p9"), idempotency_key="k")
    assert len(shop.get_event_stream(product_ids="p9")) == 1


def values_of(client: EventClient) -> list[tuple[str, str, int]]:
    return list(
        client.db.execute_sql("SELECT field, value, id FROM shop.events_lists ORDER BY 1, 2, 3").fetchall()
    )


def test_what_is_changed_under_maintenance_belongs_where_it_says(shop: EventClient) -> None:
    """An event that is redacted, deleted or truncated leaves the streams of its values."""
    with shop.maintenance("a request"):
        shop.db.execute_sql(
            """UPDATE shop.events SET data = data || '{"product_ids": ["p9"]}' WHERE id IN (1, 2)"""
        )
        shop.db.execute_sql("DELETE FROM shop.events WHERE id = 4")
    assert [one.id for one in shop.get_event_stream(product_ids="p9")] == [1, 2]
    assert len(shop.get_event_stream(product_ids=["p1", "p2", "p3"])) == 0
    assert ("product_ids", "p1", 1) not in values_of(shop)
    with shop.maintenance("all of it"):
        shop.db.execute_sql("TRUNCATE shop.events")
    assert values_of(shop) == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO shop.events_lists VALUES ('product_ids', 'p9', 1)",
        "UPDATE shop.events_lists SET value = 'p9'",
        "DELETE FROM shop.events_lists",
        "TRUNCATE shop.events_lists",
    ],
)
def test_nobody_else_writes_the_values(shop: EventClient, statement: str) -> None:
    """A check that does not find a value would hold wrongly."""
    before = values_of(shop)
    with pytest.raises(Exception, match="are written with the events"):
        shop.db.execute_sql(statement)
    assert values_of(shop) == before


def test_a_list_may_be_indexed_later(db: PostgresqlDatabase) -> None:
    """The events that are there belong to their values then, too; a list that is dropped and indexed again
    is taken anew."""
    plain = client_of(db, indexes=["cart_id"])
    plain.save_events([bought("p1", "p2"), bought("p2"), {"type": "NOTE", "data": {"product_ids": "p2"}}])
    listed = client_of(db, indexes=["cart_id", many("product_ids")])
    assert [one.id for one in listed.get_event_stream(product_ids="p2")] == [1, 2, 3]
    client_of(db, indexes=["cart_id"]).save_event(bought("p2"))
    assert values_of(listed) == []
    with pytest.raises(NotInstalledError, match=r"product_ids\[\]"):
        listed.save_event(bought("p2"))
    listed.create_tables()
    listed.create_tables()
    assert [one.id for one in listed.get_event_stream(product_ids="p2")] == [1, 2, 3, 4]


def test_values_that_were_lost_are_noticed_and_taken_again(shop: EventClient) -> None:
    """A client whose table of values is gone, or unguarded, is told so before it saves or reads finally."""
    for loss in ("DROP TABLE shop.events_lists", "DROP TRIGGER pgevents_lists ON shop.events_lists"):
        before = values_of(shop)
        shop.db.execute_sql(loss)
        fresh = create_event_client(shop.db, shop.events, shop.projections, ())
        with pytest.raises(NotInstalledError, match="not stored apart, or not guarded"):
            fresh.save_event(bought("p2"))
        fresh.create_tables()
        assert values_of(shop) == before
        fresh.save_event(bought("p2"))


def test_without_such_a_field_an_event_writes_nothing_more(shop: EventClient) -> None:
    """Neither a value, nor a page of the table of values."""
    sql = "SELECT count(*), pg_current_wal_lsn() IS NOT NULL FROM shop.events_lists"
    before = shop.db.execute_sql(sql).fetchone()
    shop.save_event({"type": "NOTE", "data": {"cart_id": "c1"}})
    shop.save_events([{"type": "NOTE", "data": {"cart_id": "c1"}}] * 10)
    assert shop.db.execute_sql(sql).fetchone() == before
    plain = create_events_table(schema="plain", data_indexes=["cart_id"])
    client = create_event_client(shop.db, plain, create_projections_table(schema="plain"), ())
    client.create_tables()
    assert shop.db.execute_sql("SELECT to_regclass('plain.events_lists')").fetchone() == (None,)


@attrs.frozen
class Sold:
    id: str
    count: int = 0


def test_classes_and_projections_go_by_it(db: PostgresqlDatabase) -> None:
    """A product is folded from the events of many carts, and decided on; the test kit sees the same."""

    @event("BOUGHT")
    class Bought:
        cart_id: str
        product_ids: tuple[str, ...]

    class Product(ProjectionBase[Sold, Bought]):
        projection_type = "PRODUCT"
        event_types = Bought
        reducers = pipeline(count=lambda count, event: count + 1)

        def initial_view(self) -> Sold:
            return Sold(self.id)

        def get_event_identifiers(self) -> Mapping[str, Any]:
            return {"product_ids": self.id}

    client = client_of(db, [Bought])
    past = [Bought("c1", ("p1", "p2")), Bought("c2", ("p2",)), Bought("c3", ())]
    client.save_events(past)
    assert Product("p2", client).view == given(Product("p2"), *past).view == Sold("p2", 2)
    client.decide(
        [Product("p1", client), Product("p2", client)], lambda one, two: Bought("c4", (one.id, two.id))
    )
    assert Product("p2", client).view.count == 3
    assert Product("p1", client).save_projection().projection.data == Sold("p1", 2)
    client.save_event(Bought("c5", ("p1",)))
    assert Product("p1", client).view.count == 3

    undeclared = client_of(db, [Bought], ["cart_id"])
    with pytest.raises(ConfigurationError, match=r"data_indexes=\[many\('product_ids'\)\]"):
        undeclared.get_event_stream(Bought, product_ids="p1")


def test_a_subscription_cannot_go_by_many_keys(shop: EventClient) -> None:
    """An event has one lane; by another key, or without, it can follow the events of a value."""
    with pytest.raises(ConfigurationError, match="many values in one event"):
        Subscription(shop, "lanes", [stream()], key="product_ids").process(print)
    assert next(follow(shop, [stream(product_ids="p3")])).id == 4


# -- plans ------------------------------------------------------------


def test_reads_and_checks_go_along_the_values(
    db: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twenty thousand events with a value that all have and one that few have, a read touches its own,
    whatever the planner knows."""
    client = client_of(db, indexes=[many("product_ids"), "cart_id"])
    client.db.execute_sql("ALTER TABLE shop.events SET (autovacuum_enabled = off)")
    client.db.execute_sql("ALTER TABLE shop.events_lists SET (autovacuum_enabled = off)")
    for start in (0, 10_000):
        client.save_events(
            [bought("hot", f"p{n % 2000}", cart=f"c{n}") for n in range(start, start + 10_000)]
        )
    sent: list[tuple[str, Any]] = []
    run = Session.execute

    def spy(self: Session, sql: str, params: Any = None) -> Any:
        sent.append((sql, params))
        return run(self, sql, params)

    monkeypatch.setattr(Session, "execute", spy)
    for analysed in (False, True):
        if analysed:
            client.db.execute_sql("ANALYZE")
        for read in (
            lambda: client.get_event_stream(product_ids="p7"),
            lambda: client.get_event_stream(product_ids="hot", after=19_990),
            lambda: client.get_event_stream("BOUGHT", product_ids="p7", as_of=15_000),
            lambda: client.get_event_stream(product_ids=["p7", "p8"]),
            lambda: client.get_event_stream(product_ids="hot", limit=5),
            lambda: client.get_latest_event(product_ids="hot"),
            lambda: client.get_event_streams([stream(product_ids="p7"), stream(cart_id="c3")]),
        ):
            sent.clear()
            read()
            sql, params = (
                sent[-1] if "_fetch" in sent[-1][0] else next(one for one in sent if "SELECT" in one[0])
            )
            assert rows_read(client, sql, params) <= 60, sql


def rows_read(client: EventClient, sql: str, params: Any) -> int:
    """How many rows of tables and indexes a statement reads."""
    counted = (
        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), sum(seq_scan) FROM pg_stat_xact_user_tables "
        "WHERE schemaname = 'shop'"
    )
    with client.db.atomic():
        before = client.db.execute_sql(counted).fetchone()
        client.db.execute_sql(sql, params).fetchall()
        after = client.db.execute_sql(counted).fetchone()
    return int(after[0] - before[0])
