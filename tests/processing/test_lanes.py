"""Claims, batches and places: what a worker's step takes, and what it leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from pgevents import ConfigurationError, Event, EventClient, event, stream
from pgevents.subscriptions import (
    Runner,
    lanes,
    overview,
    parked,
    pause,
    polling,
    resume,
    retry,
    subscription,
    worker,
)
from pgevents.subscriptions import runner as runner_module
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.pace import Pace
from pgevents.subscriptions.subscription import work_of
from pgevents.testing import drain
from pgevents.type_registry import EventTypes

from ..shop import CartCreated, ItemAddedToCart
from ..test_subscriptions_runner import running, until
from .steps import Shop

Make = Callable[..., EventClient]


def test_a_batch_ends_after_the_event_whose_handler_has_saved(shop: Shop) -> None:
    """What it saved is not held back by the events that follow."""
    shop.save(*["c1"] * 6)
    shop.do = lambda event: event.id == 3 and shop.client.save_event({"type": "OTHER", "data": {}})
    assert shop.step(2) == [3, 3]


def test_a_batch_ends_after_fifty_milliseconds(shop: Shop) -> None:
    """Its savepoints and locks hold others back."""
    shop.save(*["c1"] * 6)
    shop.do = lambda event: time.sleep(0.06)
    assert shop.step(2) == [1, 1]


def test_after_an_error_events_come_one_by_one(shop: Shop) -> None:
    """Each in a transaction of its own; those before the one that failed are not done twice."""
    shop.save(*["c1"] * 6)
    shop.fails = {4}
    shop.options = {"lanes": 1, "on_error": retry(9, delay=60)}
    assert shop.step(6) == [0, 1, 1, 1, 1, 2]
    assert shop.given == [1, 2, 3, 1, 2, 3]
    assert [one.event_id for one in parked(shop.client, "writer")] == [4, 5, 6]


def test_the_places_of_idle_lanes_are_written_seldom(shop: Shop) -> None:
    """After ten seconds, or a thousand ids."""
    shop.options = {"lanes": 4}
    shop.save("c1", "c1")
    shop.step()
    assert sorted(shop.lanes("position")) == [0, 0, 0, 2]
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET moved_at = now() - interval '11 s'")
    shop.step()
    shop.save("c1")
    shop.step()
    assert sorted(shop.lanes("position")) == [2, 2, 2, 3]
    shop.client.save_events([{"type": "OTHER", "data": {}} for _ in range(1000)])
    shop.step()
    assert sorted(shop.lanes("position")) == [1003, 1003, 1003, 1003]


def test_the_table_of_places_is_made_for_many_updates(client: EventClient) -> None:
    """A place is moved without a new entry in an index, and old versions go soon."""
    sql = "SELECT reloptions::text FROM pg_class WHERE oid = 'my_app.events_checkpoints'::regclass"
    assert "fillfactor=50" in client.db.execute_sql(sql).fetchone()[0]
    sql = "SELECT count(*) FROM pg_index WHERE indrelid = 'my_app.events_checkpoints'::regclass"
    assert client.db.execute_sql(sql).fetchone() == (1,)


def test_a_claim_outlives_the_servers_time_out_for_idle_transactions(
    shop: Shop, make_client: Make, url: str
) -> None:
    """A handler may think for longer."""
    name = parse_dsn(url)["dbname"]
    sql = f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '50ms'"
    shop.client.db.execute_sql(sql)
    shop.client = make_client()
    shop.save("c1")
    shop.do = lambda event: time.sleep(0.2)
    assert shop.step() == [1]


def test_who_begins_with_another_number_of_lanes_is_told(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """The stored number rules."""
    shop.options = {"lanes": 4}
    shop.work(shop.client)
    shop.options = {"lanes": 7}
    caplog.set_level("INFO", "pgevents")
    shop.work(shop.other)
    assert "has 4 lanes; the 7 that the program says are ignored" in caplog.text
    assert shop.lanes("lanes") == [4] * 4


def test_programs_that_begin_at_once_with_different_numbers_of_lanes(shop: Shop) -> None:
    """One of them makes all rows."""
    shop.options = {"lanes": 4}
    work = work_of(shop.client, shop.function())
    shop.options = {"lanes": 7}
    theirs = work_of(shop.other, shop.function())
    with shop.client.db.atomic():
        lanes.ensure(work)
        thread = threading.Thread(target=lanes.ensure, args=(theirs,))
        thread.start()
        time.sleep(0.1)
    thread.join()
    assert shop.lanes("lanes") == [4] * 4


# -- keys -----------------------------------------------------------------------------------


def test_events_without_the_key_are_those_of_one_key(shop: Shop) -> None:
    """Null, missing, and the empty text; none is left out."""
    shop.streams = stream("NOTE")
    data: list[dict[str, Any]] = [{}, {"cart_id": None}, {"cart_id": ""}, {"cart_id": "c1"}]
    shop.client.save_events([{"type": "NOTE", "data": one} for one in data])
    shop.drain()
    assert sorted(shop.given) == [1, 2, 3, 4]
    assert [one for one in shop.given if one < 4] == [1, 2, 3]


def test_a_key_that_is_a_list_is_an_error_of_its_event(shop: Shop) -> None:
    """Its elements may be keys of other events, so there is no order to keep."""
    shop.streams = stream("NOTE")
    shop.options = {"on_error": retry(1)}
    shop.client.save_event({"type": "NOTE", "data": {"cart_id": ["c1", "c2"]}})
    shop.drain()
    assert "is a list or an object" in (parked(shop.client, "writer")[0].error or "")


def test_a_key_that_an_upcaster_renames_needs_its_stored_name(
    client: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes go by what is stored."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("RENAMED_FIELD", version=2, upcasters={1: lambda data: {"cart_id": data["cart"]}})
    class Renamed:
        cart_id: str

    client.save_events([{"type": "RENAMED_FIELD", "data": {"cart": key}} for key in ("c1", "c2")])
    reader = make_client(event_types=[Renamed])
    given: list[str] = []

    def handler(name: str, key: Any) -> Any:
        @subscription(name, stream(Renamed), key=key, lanes=4, on_error=retry(1))
        def write(one: Event[Renamed]) -> None:
            given.append(one.data.cart_id)

        return write

    drain(reader, [handler("one", "cart_id")])
    assert "give the name under which it is stored, too" in (parked(reader, "one")[0].error or "")
    drain(reader, [handler("two", ("cart_id", "cart"))])
    assert sorted(given) == ["c1", "c2"] and parked(reader, "two") == []


def test_a_server_of_another_encoding_hashes_keys_otherwise(shop: Shop) -> None:
    """Places that came there by a copy of the table are not taken for its own."""
    (here,) = shop.client.db.execute_sql(
        "SELECT hashtextextended('pgevents ' || getdatabaseencoding(), 0)"
    ).fetchone()
    shop.work(shop.client)
    assert shop.lanes("key_hash") == [here] * 16
    sql = "SELECT hashtextextended('pgevents ' || %s, 0)"
    assert shop.client.db.execute_sql(sql, ["LATIN1"]).fetchone()[0] != here


# -- many workers ---------------------------------------------------------------------------


def test_after_a_deadlock_batches_run_one_at_a_time(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers that lock rows in different orders; nothing counts as an error, and it is shown."""
    monkeypatch.setattr(polling, "SEEN_EVERY", 0.05)
    client = shop.client
    client.db.execute_sql("CREATE TABLE totals (name text PRIMARY KEY, n int NOT NULL)")
    client.db.execute_sql("INSERT INTO totals VALUES ('a', 0), ('b', 0)")
    both = threading.Barrier(2)

    def add(event: Event[Any]) -> None:
        order = ["a", "b"] if event.data.cart_id == "c1" else ["b", "a"]
        for number, name in enumerate(order):
            if number:
                meet()
            client.db.execute_sql("UPDATE totals SET n = n + 1 WHERE name = %s", [name])

    def meet() -> None:
        try:
            both.wait(0.5)
        except threading.BrokenBarrierError:  # they do not meet any more
            return

    hashed = "SELECT mod(mod(hashtextextended(%s, 0), 16) + 16, 16)"
    numbers = [client.db.execute_sql(hashed, [key]).fetchone()[0] for key in ("c1", "c2")]
    assert numbers[0] != numbers[1]
    shop.do = add
    shop.save("c1", "c2")
    with running(client, shop.function(), workers=2):
        for n in (1, 2):
            client.wait("writer", n, timeout=20)
        until(lambda: any("one batch at a time" in note for note in overview(client)[0].notes))
    assert client.db.execute_sql("SELECT sum(n) FROM totals").fetchone() == (4,)
    assert parked(client, "writer") == [] and sum(shop.lanes("attempts")) == 0


def test_who_runs_alone_keeps_the_others_out(shop: Shop) -> None:
    """For as long as its batch runs."""
    shop.save("c1", "c2")
    work, theirs = shop.work(shop.client), shop.work(shop.other)
    with shop.client.db.atomic():
        assert len(lanes.claim(work, range(16), 1, alone=True)) == 1
        assert worker.step(theirs, range(16), 16, Pace()).claimed == 0
    assert worker.step(theirs, range(16), 16, Pace()).claimed == 16


@pytest.mark.parametrize("is_alone", [False, True])
def test_the_victim_of_a_deadlock_is_not_taken_for_dead(shop: Shop, is_alone: bool) -> None:
    """Its lanes look like those of a worker that died, until it has noted what happened. Whoever runs alone
    after the deadlock does not give their events one by one."""
    shop.save("c1", "c2")
    work = shop.work(shop.client)
    with shop.client.db.atomic() as transaction:
        assert len(lanes.claim(work, range(16), 16)) == 16
        transaction.rollback()
    pace = Pace()
    if is_alone:
        pace.note_deadlock()
    assert worker.step(work, range(16), 16, pace).handled == (2 if is_alone else 1)
    assert (sum(shop.lanes("careful")) == 0) is is_alone


def test_who_runs_alone_charges_what_was_announced(shop: Shop) -> None:
    """A worker that died of an event it had announced is no victim of the deadlock."""
    shop.save("c1")
    work = shop.work(shop.client)
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET careful = 5, announced = 1")
    with shop.client.db.atomic() as transaction:
        assert len(lanes.claim(work, range(16), 16)) == 16
        transaction.rollback()
    pace = Pace()
    pace.note_deadlock()
    assert worker.step(work, range(16), 16, pace).handled == 0
    (event,) = parked(shop.client, "writer")
    assert (event.event_id, event.attempts) == (1, 1)


def test_a_subscription_that_is_paused_is_not_work(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events wake no worker."""
    steps: list[int] = []
    step = worker.step

    def count(*arguments: Any) -> Any:
        steps.append(1)
        return step(*arguments)

    monkeypatch.setattr(runner_module.worker, "step", count)
    shop.save("c1")
    with running(shop.client, shop.function()):
        shop.client.wait("writer", 1, timeout=10)
        pause(shop.client, "writer")
        time.sleep(0.4)
        shop.save("c1")
        steps.clear()
        time.sleep(0.5)
        assert len(steps) <= 2
        resume(shop.client, "writer")
        shop.client.wait("writer", 2, timeout=10)


def test_a_runner_polls_once_for_all_its_subscriptions(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty of them ask the database no more often than one."""
    given: list[Any] = []
    for n in range(50):

        @subscription(f"idle{n}", ItemAddedToCart)
        def idle(one: Event[ItemAddedToCart]) -> None:
            raise AssertionError("nothing of its type comes")

        given.append(idle)
    monkeypatch.setattr(polling, "LOOK_AGAIN", 1000.0)
    steps: list[int] = []
    step = worker.step
    monkeypatch.setattr(runner_module.worker, "step", lambda *args: steps.append(1) or step(*args))
    with running(client, *given):
        until(lambda: len(steps) >= 50)
        time.sleep(0.3)
        steps.clear()
        client.save_event(CartCreated("c1", "u1"))
        time.sleep(0.3)
        assert steps == []


def test_one_client_one_database_object(client: EventClient, make_client: Make) -> None:
    """A subscription that has another client than its runner is refused."""
    from pgevents.subscriptions import Subscription

    other = Subscription(make_client(), "writer", [stream(CartCreated)])
    with pytest.raises(ConfigurationError, match="one client, one database object"):
        Runner(client, [other])


def test_settling_makes_rows_once(shop: Shop) -> None:
    """However many programs begin."""
    for one in (shop.client, shop.other):
        settle(work_of(one, shop.function()))
    assert len(shop.lanes("lane")) == 16


def test_lanes_to_be_careful_with_are_looked_at_together(shop: Shop) -> None:
    """After a worker died with sixteen of them, the one event there is comes in the first step."""
    shop.work(shop.client)
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET careful = 200")
    shop.save("c1")
    assert shop.step(2) == [1, 0]
    assert sorted(shop.lanes("careful")) == [199] + [200] * 15
    assert set(shop.lanes("due_at")) == {None}
