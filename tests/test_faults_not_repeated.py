"""Faults of the pattern's origin and of its peers, each reproduced there once, and each with a test here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import peewee
import pytest
from peewee import PostgresqlDatabase

from pgevents import (
    ConcurrencyError,
    EventClient,
    UnsupportedTransactionError,
    create_event_client,
    create_events_table,
    create_projections_table,
    hookimpl,
    stream,
)

from .shop import CartCreated, CartEvent, CartProjection, ItemAddedToCart

Make = Callable[..., EventClient]


def added(product: str = "p1", cart: str = "c1", quantity: int = 1) -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, quantity, 5)


def test_a_refused_save_inserts_nothing(client: EventClient) -> None:
    """There: the INSERT of a data-modifying CTE ran though the validation beside it had failed."""
    client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(ConcurrencyError):
        client.save_events_with_stream_validation([added(), added()], 0, [stream(cart_id="c1")])
    assert client.db.execute_sql("SELECT array_agg(id) FROM my_app.events").fetchone() == ([1],)


def test_the_check_sees_what_was_committed_while_it_waited_for_its_lock(
    client: EventClient, make_client: Make
) -> None:
    """There: lock and check in one statement, whose snapshot is older than the lock, let both writers win."""
    first, second = make_client(), make_client()
    read = client.get_event_stream(CartEvent, cart_id="c1")
    results: list[Any] = []

    def save_second() -> None:
        try:
            results.append(second.save_event_with_stream_validation(added("second"), read).id)
        except ConcurrencyError as error:
            results.append(error.conflicting_ids)
        second.db.close()

    with first.db.atomic():
        saved = first.save_event_with_stream_validation(added("first"), read)
        thread = threading.Thread(target=save_second)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()  # it waits for the first one's outcome
    thread.join()
    assert results == [(saved.id,)]


@pytest.mark.parametrize("in_transaction", [False, True])
def test_concurrent_writers_do_not_all_win(
    client: EventClient, make_client: Make, in_transaction: bool
) -> None:
    """There: eight concurrent writers that had read the same were eight winners."""
    read = client.get_event_stream(CartEvent, cart_id="c1")
    writers, barrier, wins = [make_client() for _ in range(8)], threading.Barrier(8), []

    def work(own: EventClient) -> None:
        own.check_installed()
        barrier.wait()
        try:
            if in_transaction:
                with own.db.atomic():
                    wins.append(own.save_event_with_stream_validation(added(), read).id)
            else:
                wins.append(own.save_event_with_stream_validation(added(), read).id)
        except ConcurrencyError:
            pass
        own.db.close()

    threads = [threading.Thread(target=work, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == len(client.get_event_stream()) == 1


def test_latest_is_not_the_oldest(client: EventClient) -> None:
    """There: the latest event was ordered the wrong way round, and the oldest came back."""
    client.save_events([added("p1"), added("p2"), added("p3")])
    assert client.get_latest_event(CartEvent, cart_id="c1").id == 3  # type: ignore[union-attr]


def test_filters_are_quoted_so_that_they_match(client: EventClient) -> None:
    """There: a filter was quoted twice, as JSON inside SQL, and matched nothing."""
    client.save_events([added('a "quoted" id', "it's"), added("b", "c2")])
    assert [one.id for one in client.get_event_stream(cart_id="it's", product_id='a "quoted" id')] == [1]
    assert [one.id for one in client.get_event_stream(quantity=1)] == [1, 2]


def test_a_schema_is_no_part_of_the_tables_name(client: EventClient) -> None:
    """There: `schema` made a table named "my_app.events" in `public`."""
    rows = client.db.execute_sql(
        "SELECT schemaname, tablename FROM pg_tables WHERE tablename LIKE '%%events'"
    ).fetchall()
    assert rows == [("my_app", "events")]


def test_history_is_folded_before_staged_events(client: EventClient) -> None:
    """There: staged events were folded first, so that an item removed now was removed before it was added."""
    client.save_event(added("p1"))
    from .shop import ItemRemovedFromCart

    cart = CartProjection("c1", client).apply(ItemRemovedFromCart("c1", "p1", 1))
    assert cart.view.items == ()


def test_a_projection_does_not_forget_its_snapshot(client: EventClient) -> None:
    """There: a projection with a snapshot was folded from the later events alone."""
    client.save_events([CartCreated("c1", "u1"), added("p1")])
    CartProjection("c1", client).save_projection()
    client.save_event(added("p2"))
    cart = CartProjection("c1", client)
    assert (cart.view.user_id, [item.product_id for item in cart.view.items]) == ("u1", ["p1", "p2"])
    assert cart.save_projection().projection.data.user_id == "u1"


def test_order_does_not_follow_the_clients_clocks(client: EventClient) -> None:
    """There: ids came from clocks; an event committed later but dated earlier was never folded after a
    snapshot."""
    now = datetime.now(timezone.utc)
    client.save_event(added("p1"), created_at=now)
    CartProjection("c1", client).save_projection()
    late = client.save_event(added("p2"), created_at=now - timedelta(days=365))
    assert late.id == 2
    assert [one.id for one in client.get_event_stream(cart_id="c1")] == [1, 2]
    assert [one.id for one in client.get_event_streams([stream(cart_id="c1"), stream(product_id="p2")])] == [
        1,
        2,
    ]
    assert [item.product_id for item in CartProjection("c1", client).view.items] == ["p1", "p2"]
    assert client.get_latest_event(cart_id="c1").id == 2  # type: ignore[union-attr]


def test_ids_do_not_end_at_two_thousand_million(client: EventClient) -> None:
    """Peewee: `IdentityField` has 32 bits."""
    client.db.execute_sql("SELECT setval('my_app.events_id_seq', 4294967296)")
    assert client.save_event(added()).id == 4294967297


def test_a_second_table_has_all_its_indexes(db: PostgresqlDatabase) -> None:
    """Peewee: index names come from the class's name, so that a second table of the kind silently lost its
    own."""
    for schema in ("one", "two"):
        for name in ("events", "more"):
            events = create_events_table(schema, name, ["cart_id"], additional_indexes=["created_at"])
            create_event_client(
                db, events, create_projections_table(schema, name + "_views", ["id"])
            ).create_tables()
    counts = db.execute_sql(
        "SELECT schemaname, tablename, count(*) FROM pg_indexes WHERE schemaname IN ('one', 'two') "
        "AND tablename IN ('events', 'more') GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    assert counts == [("one", "events", 5), ("one", "more", 5), ("two", "events", 5), ("two", "more", 5)]


def test_json_columns_get_no_index_of_their_own(client: EventClient) -> None:
    """Peewee: `BinaryJSONField` adds a GIN index that every save pays for."""
    rows = client.db.execute_sql(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'my_app' AND indexdef ILIKE '%%gin%%'"
    )
    assert rows.fetchall() == []


def test_numbers_in_json_compare_as_numbers(client: EventClient) -> None:
    """Peewee: `data['k'] == 3` compared text with an integer, which is an error."""
    client.save_events([added(quantity=3), added(quantity=30)])
    model = client.events
    assert [row.id for row in model.select().where(model.data["quantity"] == 3)] == [1]
    assert [one.id for one in client.get_event_stream(quantity=3)] == [1]


class Told:
    def __init__(self) -> None:
        self.ids: list[int] = []

    @hookimpl
    def pgevents_after_commit(self, events: Any) -> None:
        self.ids += [event.id for event in events]


def test_a_commit_that_was_a_rollback_runs_no_callbacks(client: EventClient, make_client: Make) -> None:
    """Peewee: an SQL error swallowed inside `atomic()` makes COMMIT a rollback, and after-commit callbacks
    still run."""
    told = Told()
    own = make_client(plugins=[told])
    naive: list[str] = []
    with own.db.atomic():
        own.save_event(added())
        own.db.after_commit(lambda: naive.append("called all the same"))
        with pytest.raises(peewee.PeeweeException):
            own.db.execute_sql("SELECT 1/0")
        with pytest.raises(UnsupportedTransactionError):
            own.save_event(added())
    assert naive  # the trap is there
    assert told.ids == []
    assert len(client.get_event_stream()) == 0


def test_a_rolled_back_savepoint_runs_no_callbacks(client: EventClient, make_client: Make) -> None:
    """Peewee: after-commit callbacks of a rolled-back savepoint still run."""
    told = Told()
    own = make_client(plugins=[told])
    naive: list[str] = []
    with own.db.atomic():
        with own.db.atomic() as savepoint:
            own.save_event(added("undone"))
            own.db.after_commit(lambda: naive.append("called all the same"))
            savepoint.rollback()
        own.save_event(added("kept"))
    assert naive  # the trap is there
    assert told.ids == [2]


def test_the_schema_is_made_with_the_tables(db: PostgresqlDatabase) -> None:
    """Peewee: `create_table` makes no schema."""
    client = create_event_client(
        db, create_events_table("brand_new"), create_projections_table("newer_still", "views")
    )
    client.create_tables()
    assert client.save_event(added()).id == 1
