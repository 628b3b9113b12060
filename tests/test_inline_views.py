"""Inline views: folded in the save's own transaction, and exact whoever saves beside it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pgevents import (
    ConfigurationError,
    ConnectionLostError,
    Event,
    EventClient,
    EventEncodeError,
    ProjectionBase,
    RetryableError,
    pipeline,
)
from pgevents.subscriptions import Inline, inline, keep
from pgevents.testing import drain

from .shop import CartCreated, CartProjection, ItemAddedToCart
from .test_kept_views import added, check

Make = Callable[..., EventClient]


@pytest.fixture
def folding(pgevents_tables: None, make_client: Make) -> EventClient:
    """A client that folds carts inline, tables made."""
    return make_client(plugins=[Inline(CartProjection)])


def test_rows_commit_with_the_events(folding: EventClient, make_client: Make) -> None:
    """One event, a batch for several views, a decision; and what is rolled back leaves nothing."""
    folding.save_event(CartCreated("c1", "u1"))
    check(folding, ids=["c1"])
    folding.save_events([added("c1"), CartCreated("c2", "u2"), added("c1", "p2"), added("c2")])
    check(folding)
    folding.decide(CartProjection("c1", folding), lambda cart: added("c1", f"p{len(cart.items)}"))
    check(folding)
    with folding.db.atomic():
        folding.save_event(added("c1", "p7"))
        with folding.db.atomic() as savepoint:
            folding.save_event(added("c2", "p8"))
            savepoint.rollback()
    check(make_client())
    with folding.db.atomic() as transaction:
        folding.save_event(added("c3"))
        transaction.rollback()
    assert folding.get_projection(CartProjection, "c3") is None


def test_reducers_are_given_what_a_read_gives(make_client: Make) -> None:
    """Keys in the order of jsonb; and what a reducer changes is not what the caller of the save gets."""
    seen: list[Event[Any]] = []

    def note(notes: list[str], event: Event[Any]) -> list[str]:
        seen.append(copy.deepcopy(event))
        return [*notes, *event.data.pop("words")]

    class Notes(ProjectionBase[dict[str, Any], Any]):
        projection_type = "NOTES"
        event_types = ("NOTED",)
        reducers = pipeline(notes=note)

        def initial_view(self) -> dict[str, Any]:
            return {"notes": []}

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"cart_id": self.id}

    client = make_client(plugins=[Inline(Notes)])
    client.create_tables()
    data = {"cart_id": "c1", "words": {"longer": 1, "b": 2}}
    for events in (1, 2):
        saved = client.save_events([{"type": "NOTED", "data": data, "metadata": {"by": "me"}}] * events)
        assert [one.data for one in saved] == [data] * events
    assert seen == client.get_event_stream()
    assert [list(one.data["words"]) for one in seen] == [["b", "longer"]] * 3
    view = client.get_projection(Notes, "c1")
    assert view is not None and view.data == {"notes": ["b", "longer"] * 3}


def test_what_others_saved_is_folded_at_the_next_save(folding: EventClient, make_client: Make) -> None:
    """By programs without the plugin; a repeat will do, too, and so does a keeper."""
    other = make_client()
    folding.save_event(CartCreated("c1", "u1"), idempotency_key="k1")
    other.save_events([added("c1"), added("c2")])
    folding.save_event(CartCreated("c1", "u1"), idempotency_key="k1")
    check(folding, ids=["c1"])
    drain(other, [keep(CartProjection)])
    check(folding)
    folding.save_events([added("c1", "p3"), added("c2", "p3")])
    drain(other, [keep(CartProjection)])
    check(folding)


@pytest.mark.parametrize("broken", ["", "by the bulk lock alone", "without a lock"])
def test_a_save_waits_for_an_open_one_of_the_same_view(
    folding: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Else its view would lack, for ever, what commits late with a smaller id."""
    if broken == "by the bulk lock alone":

        def by_bulk(self: Any, views: Any, run: Any) -> None:
            run("SELECT pg_advisory_xact_lock(my_app.events_key('bulk', ''))")

        monkeypatch.setattr(inline._Folder, "beside", lambda self, view: None)
        monkeypatch.setattr(inline._Folder, "lock", by_bulk)
    elif broken:
        folding.db.execute_sql(
            "CREATE OR REPLACE FUNCTION my_app.events_lock_value(_field text, _value text, _types text[]) "
            "RETURNS void LANGUAGE sql AS ''"
        )
    other = make_client()
    folding.save_event(CartCreated("c1", "u1"))
    failed: list[Exception] = []

    def save() -> None:
        try:
            folding.save_events([added("c1", f"p{n}") for n in range(2, 100)])
        except RetryableError as error:
            failed.append(error)
        folding.db.close()

    saver = threading.Thread(target=save)
    with other.db.atomic():
        other.save_event(added("c1", "late"))
        saver.start()
        saver.join(0.5)
    saver.join()
    if failed:
        folding.save_events([added("c1", f"p{n}") for n in range(2, 100)])
    whole = CartProjection("c1", other, load_existing_projection=False).view
    saved = other.get_projection(CartProjection, "c1")
    assert saved is not None
    assert (saved.data != whole) == bool(broken)


@pytest.mark.parametrize("is_broken", [False, True])
def test_maintenance_and_a_save_that_folds_keep_each_other_out(
    folding: EventClient, make_client: Make, is_broken: bool
) -> None:
    """Else a view would be written from what is erased meanwhile, and hold it for ever."""
    if is_broken:
        folding.db.execute_sql(
            "CREATE OR REPLACE FUNCTION my_app.events_lock_value(_field text, _value text, _types text[]) "
            "RETURNS void LANGUAGE sql AS $$SELECT my_app.events_lock(jsonb_build_array(jsonb_build_object("
            "'types', _types, 'match', jsonb_build_object(_field, ARRAY[_value]))))$$"
        )
    other = make_client()
    folding.save_event(CartCreated("c1", "u1"))

    def is_refused(call: Callable[[], object]) -> bool:
        try:
            call()
        except RetryableError:
            return True
        return False

    def erase() -> None:
        with other.maintenance("erasure"):
            other.db.execute_sql("SET LOCAL lock_timeout = '50ms'")
            other.session.execute("DELETE FROM my_app.events WHERE data->>'cart_id' = 'c9'")

    with folding.db.atomic():
        folding.save_event(added("c1"))
        assert is_refused(erase) != is_broken
    with other.maintenance("erasure"):
        other.db.execute_sql("DELETE FROM my_app.events WHERE data->>'cart_id' = 'c9'")
        assert is_refused(lambda: folding.save_event(added("c1"))) != is_broken


def test_a_view_that_cannot_be_written_undoes_the_save(folding: EventClient, make_client: Make) -> None:
    """Its statement shares a message with COMMIT, which is then not reached."""
    folding.save_event(CartCreated("c1", "u1"))
    folding.db.execute_sql("ALTER TABLE my_app.views ADD CONSTRAINT small CHECK (length(data::text) < 200)")
    many = [added("c1", f"p{n}") for n in range(20)]
    for _ in range(2):
        with pytest.raises(EventEncodeError, match="small"):
            folding.save_events(many)
        assert not folding.session.in_transaction() and not folding.db.in_transaction()
    folding.save_event(CartCreated("c1", "u2"))
    assert len(make_client().get_event_stream()) == 2
    check(make_client(), ids=["c1"])


def test_a_connection_that_breaks(folding: EventClient, make_client: Make) -> None:
    """Before the first message another one is used; at the last one nobody knows what came of the save."""
    other = make_client()
    kill = "SELECT pg_terminate_backend(%s)"
    folding.save_event(CartCreated("c1", "u1"))
    other.db.execute_sql(kill, [folding.session.connection().info.backend_pid])
    folding.save_event(added("c1"))
    check(other, ids=["c1"])

    class Killing(CartProjection):
        reducers = pipeline(total=lambda total, event: kill_and(total))

    def kill_and(total: int) -> int:
        other.db.execute_sql(kill, [client.session.connection().info.backend_pid])
        return total

    client = make_client(plugins=[Inline(Killing)])
    with pytest.raises(ConnectionLostError, match="may or may not have been committed"):
        client.save_event(added("c1"))
    assert len(other.get_event_stream()) == 2
    assert len(client.get_event_stream()) == 2


def test_an_interrupt_leaves_no_transaction_behind(
    folding: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the first message has been answered, and Peewee does not know of the transaction yet."""
    folding.save_event(CartCreated("c1", "u1"))
    run = folding.db.execute_sql

    def interrupted(sql: str, params: Any = None) -> Any:
        run(sql, params)
        raise KeyboardInterrupt

    monkeypatch.setattr(folding.db, "execute_sql", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folding.save_event(added("c1"))
    monkeypatch.undo()
    folding.save_event(added("c1", "p2"))
    assert len(make_client().get_event_stream()) == 2
    check(make_client(), ids=["c1"])


def test_writers_side_by_side_leave_exact_views(folding: EventClient, make_client: Make) -> None:
    """Six threads on three carts, half of them without the plugin; a keeper brings up the rest."""
    clients = [make_client(plugins=[Inline(CartProjection)] if n % 2 else []) for n in range(6)]

    def save(number: int) -> None:
        client = clients[number]
        for n in range(25):
            events = [added(f"c{(number + n) % 3}", f"p{number}-{n}")]
            while True:
                try:
                    client.save_events(events if n % 5 else [*events, added(f"c{n % 3}")])
                    break
                except RetryableError:
                    continue
        client.db.close()

    savers = [threading.Thread(target=save, args=(number,)) for number in range(6)]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    drain(folding, [keep(CartProjection)])
    check(folding, ids=["c0", "c1", "c2"])


def test_what_cannot_be_folded_inline_is_refused(make_client: Make) -> None:
    """Before anything is written."""

    class ByUser(CartProjection):
        projection_type = "BY_USER"

        @staticmethod
        def ids_of(event: Any) -> set[str]:
            return {event.data.cart_id}

    client = make_client(plugins=[Inline(ByUser)])
    client.create_tables()
    with pytest.raises(ConfigurationError, match="cannot be folded inline"):
        client.save_event(ItemAddedToCart("c1", "p1", 1, 1))
    assert len(client.get_event_stream()) == 0
    with pytest.raises(ConfigurationError, match="projection's class"):
        Inline("CART")
