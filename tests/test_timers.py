"""Timers: events that are saved later, once, in the order of their times, by the server's clock."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from click.testing import CliRunner
from peewee import OperationalError

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    DatabaseError,
    Event,
    EventClient,
    IdempotencyError,
    InvalidValueError,
    cancel,
    hookimpl,
    later,
)
from pgevents.aio import AsyncEventClient
from pgevents.cli.commands import cli
from pgevents.diagnosis import diagnose
from pgevents.store.functions import setting_of
from pgevents.subscriptions import TimersReport, check, firing, subscription, timers_report
from pgevents.testing import Clock, drain, given

from .conftest import database, shop_client
from .consistency.servers import pgbouncer
from .shop import CartCreated, CartProjection, CartView, ItemAddedToCart
from .test_subscriptions_cli import pg_url
from .test_subscriptions_runner import running, until

Make = Callable[..., EventClient]
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
PAST = datetime(2026, 1, 1, tzinfo=timezone.utc)


def carts_of(client: EventClient) -> list[str]:
    """The carts of the log, in its order."""
    return [event.data.cart_id for event in client.get_event_stream(CartCreated)]


def cart(cart_id: str) -> CartCreated:
    return CartCreated(cart_id, "u1")


@pytest.fixture
def clock(client: EventClient) -> Clock:
    return Clock(client)


def fire_all(client: EventClient) -> None:
    while firing.fire(client):
        pass


# -- scheduling ---------------------------------------------------------------------------


def test_a_timer_fires_when_its_time_has_come_and_once(client: EventClient, clock: Clock) -> None:
    """Not before; then its event is saved under its key, and the key says so."""
    done = client.schedule(cart("c1"), after=HOUR, key="k", metadata={"by": "me"})
    assert (done.status, done.key, done.event_id) == ("scheduled", "k", None)
    assert HOUR - MINUTE < done.at - datetime.now(timezone.utc) <= HOUR
    clock.advance(HOUR - MINUTE)
    fire_all(client)
    assert not carts_of(client)
    clock.advance(MINUTE)
    fire_all(client)
    fire_all(client)
    (saved,) = client.get_event_stream(CartCreated)
    assert saved.data == cart("c1") and saved.metadata == {"by": "me"}
    assert client.get_saved("timer: k") == [saved]
    assert client.scheduled() == []
    again = client.schedule(cart("c1"), after=HOUR, key="k")
    assert (again.status, again.event_id, again.at) == ("fired", saved.id, saved.created_at)
    assert client.scheduled() == []


def test_the_first_timer_of_a_key_stands_unless_it_is_replaced(client: EventClient, clock: Clock) -> None:
    """Another time is reported, another event is an error, and replace=True replaces both."""
    first = client.schedule(cart("c1"), after=HOUR, key="k")
    second = client.schedule(cart("c1"), after=2 * HOUR, key="k")
    assert (second.status, second.at) == ("pending", first.at)
    with pytest.raises(IdempotencyError, match="another event"):
        client.schedule(cart("c2"), after=HOUR, key="k")
    (timer,) = client.scheduled(key="k")
    assert (timer.data, timer.at, timer.state) == (cart("c1"), first.at, "scheduled")
    third = client.schedule(cart("c2"), after=3 * HOUR, key="k", replace=True)
    assert third.status == "replaced" and third.at - first.at > HOUR
    clock.advance(2 * HOUR)
    fire_all(client)
    assert carts_of(client) == []
    clock.advance(2 * HOUR)
    fire_all(client)
    assert carts_of(client) == ["c2"]


def test_a_timer_is_cancelled_or_has_fired_or_is_unknown(client: EventClient) -> None:
    """The three answers of unschedule."""
    client.schedule(cart("c1"), after=HOUR, key="k")
    assert client.unschedule("k") == "cancelled"
    assert client.unschedule("k") == "unknown"
    client.schedule(cart("c1"), at=PAST, key="k")
    fire_all(client)
    assert client.unschedule("k") == "fired"
    assert carts_of(client) == ["c1"]


def test_timers_are_part_of_the_callers_transaction(client: EventClient) -> None:
    """What is rolled back was neither scheduled nor cancelled."""
    client.schedule(cart("c1"), after=HOUR, key="kept")
    with pytest.raises(LookupError), client.db.atomic():
        client.save_event(cart("c2"))
        client.schedule(cart("c3"), at=PAST, key="gone")
        client.unschedule("kept")
        raise LookupError
    assert [timer.key for timer in client.scheduled()] == ["kept"]
    fire_all(client)
    assert carts_of(client) == []


def test_a_timer_that_is_being_scheduled_or_cancelled_does_not_fire(
    client: EventClient, make_client: Make
) -> None:
    """Its transaction is awaited by nobody, and it is due once that has ended."""
    other = make_client()
    client.schedule(cart("c1"), at=PAST, key="k1")
    client.schedule(cart("c2"), at=PAST, key="k2")
    with client.db.atomic() as transaction:
        client.unschedule("k1")
        client.schedule(cart("c3"), at=PAST, key="k3")
        fire_all(other)
        assert carts_of(other) == ["c2"]
        transaction.rollback()
    fire_all(other)
    assert carts_of(other) == ["c2", "c1"]


def test_a_key_that_fires_while_it_is_scheduled_anew_fires_once(
    client: EventClient, make_client: Make
) -> None:
    """Whoever schedules it waits for the runner, and then sees that it has fired."""
    other = make_client()
    client.schedule(cart("c1"), at=PAST, key="k")
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(other.schedule(cart("c1"), at=PAST, key="k").status)),
        threading.Thread(target=lambda: answers.append(other.unschedule("k"))),
    ]
    with client.db.atomic():
        assert firing.fire(client)
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert not answers
    for thread in threads:
        thread.join(10)
    assert answers == ["fired", "fired"]
    fire_all(client)
    assert carts_of(client) == ["c1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one time"),
        ({"at": PAST, "after": HOUR}, "one time"),
        ({"at": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"at": "2026-01-01"}, "time zone"),
        ({"after": 30}, "timedelta"),
        ({"after": -HOUR}, "timedelta"),
        ({"after": timedelta(days=40_000)}, "timedelta"),
        ({"after": HOUR, "key": ""}, "key"),
        ({"after": HOUR, "key": "x" * 401}, "key"),
        ({"after": HOUR, "key": "a\x1fb"}, "key"),
        ({"after": HOUR, "replace": 1}, "replace"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(
    client: EventClient, arguments: dict[str, Any], message: str
) -> None:
    """In words, and before anything is written."""
    with pytest.raises(ConfigurationError, match=message):
        client.schedule(cart("c1"), **arguments)
    assert client.scheduled() == []


def test_questions_about_timers_that_mean_nothing_are_refused(client: EventClient) -> None:
    with pytest.raises(InvalidValueError, match="state"):
        client.scheduled(state="done")
    with pytest.raises(InvalidValueError, match="key"):
        client.unschedule("")


# -- firing -------------------------------------------------------------------------------


def test_late_timers_fire_in_the_order_of_time_and_number(client: EventClient) -> None:
    """After a downtime: earlier times first, and those of one time as they were scheduled."""
    for n in (5, 3, 3, 1, 9, 2):
        client.schedule(cart(f"c{n}-{len(client.scheduled())}"), at=PAST + n * MINUTE)
    client.db.close()  # nobody is there
    fire_all(client)
    assert carts_of(client) == ["c1-3", "c2-5", "c3-1", "c3-2", "c5-0", "c9-4"]


def test_one_runner_at_a_time_fires(client: EventClient, make_client: Make) -> None:
    """The order would not hold otherwise."""
    other = make_client()
    for n in range(300):
        client.schedule(cart(f"c{n}"), at=PAST)
    with client.db.atomic():
        assert firing.fire(client)
        assert not firing.fire(other)
    fire_all(other)
    assert carts_of(client) == [f"c{n}" for n in range(300)]


def test_a_blocked_timer_holds_nobody_else_and_fires_once_it_can(
    client: EventClient, make_client: Make
) -> None:
    """A decision in flight has locked its cart."""
    other = make_client()
    for n in range(1, 4):
        client.schedule(cart(f"c{n}"), at=PAST + n * MINUTE, key=f"k{n}")
    with other.db.atomic():
        other.session.execute(
            "SELECT my_app.events_lock(%s)", ['[{"types": null, "match": {"cart_id": ["c1"]}}]']
        )
        start = time.monotonic()
        fire_all(client)
        assert time.monotonic() - start < 2
        assert carts_of(client) == ["c2", "c3"]
        (timer,) = client.scheduled()
        assert timer.state == "retrying" and timer.attempts >= 1
        assert "held by backend" in (timer.error or "")
    until(lambda: firing.fire(client))
    assert carts_of(client) == ["c2", "c3", "c1"]


def test_a_timer_whose_event_is_refused_is_parked_and_fires_after_a_retry(
    client: EventClient, clock: Clock
) -> None:
    """A bad timer stops nobody, is seen, and is kept until a person says what to do."""

    class Refuses:
        is_on = True

        @hookimpl
        def pgevents_after_save(self, client: EventClient, events: list[Event[Any]]) -> None:
            if self.is_on and any(event.data == cart("bad") for event in events):
                raise ValueError("no such customer")

    plugin = Refuses()
    client.plugins.register(plugin)
    client.schedule(cart("bad"), at=PAST, key="bad")
    client.schedule(cart("c1"), at=PAST + MINUTE)
    fire_all(client)
    assert carts_of(client) == ["c1"]
    for _ in range(firing.REFUSED_ATTEMPTS):
        clock.advance(HOUR)
        fire_all(client)
    (timer,) = client.scheduled(state="parked")
    assert (timer.key, timer.attempts) == ("bad", firing.REFUSED_ATTEMPTS)
    assert timer.error == "ValueError: no such customer"
    assert client.schedule(cart("bad"), at=PAST, key="bad").status == "parked"
    plugin.is_on = False
    fire_all(client)
    assert carts_of(client) == ["c1"]
    assert client.retry_timers("bad") == 1
    fire_all(client)
    assert carts_of(client) == ["c1", "bad"]


def test_a_timer_whose_event_somebody_else_saved_is_gone(client: EventClient) -> None:
    """Its key is used: it has fired, however."""
    client.schedule(cart("c1"), at=PAST, key="k")
    client.schedule(cart("c2"), at=PAST)
    client.save_event(cart("c1"), idempotency_key="timer: k")
    fire_all(client)
    assert carts_of(client) == ["c1", "c2"]
    assert client.scheduled() == []


def test_plugins_see_what_a_timer_saves(client: EventClient) -> None:
    """They change the event when it is scheduled, and are told of it when it is saved."""
    seen: list[tuple[str, Any]] = []

    class Notes:
        @hookimpl
        def pgevents_before_save(self, client: EventClient, events: list[Any]) -> None:
            seen.append(("before", [event.data for event in events]))

        @hookimpl
        def pgevents_after_save(self, client: EventClient, events: list[Event[Any]]) -> None:
            seen.append(("after", [event.data for event in events]))

        @hookimpl
        def pgevents_after_commit(self, client: EventClient, events: list[Event[Any]]) -> None:
            seen.append(("commit", [event.data for event in events]))

    client.plugins.register(Notes())
    client.schedule(cart("c1"), at=PAST)
    assert seen == [("before", [cart("c1")])]
    fire_all(client)
    assert seen[1:] == [("after", [cart("c1")]), ("commit", [cart("c1")])]


def test_a_runner_fires_timers_and_gives_their_events_to_handlers(client: EventClient) -> None:
    """What is late when it starts, and what becomes due while it runs."""
    seen: list[str] = []

    @subscription("timers", CartCreated)
    def note(event: Event[CartCreated]) -> None:
        seen.append(event.data.cart_id)

    client.schedule(cart("late"), at=PAST)
    with running(client, note):
        until(lambda: seen == ["late"])
        due = client.schedule(cart("soon"), after=timedelta(seconds=0.4)).at
        until(lambda: seen == ["late", "soon"])
    saved = client.get_event_stream(CartCreated)[-1]
    assert timedelta(0) <= saved.created_at - due < timedelta(seconds=2)


def test_timers_fire_in_batches_whose_keys_are_locked_one_by_one(client: EventClient) -> None:
    """As many as the limit allows, and no more: beyond it all who decide would have to wait."""
    limit = client.db.execute_sql("SELECT my_app.events_key_limit()").fetchone()[0]
    for n in range(limit):
        client.schedule(ItemAddedToCart(f"c{n}", f"p{n}", 1, 5), at=PAST)
    with client.db.atomic():
        assert firing.fire(client)
        fired = len(client.get_event_stream())
        locks, scope = client.db.execute_sql(
            "SELECT split_part(s, '|', 3)::int, split_part(s, '|', 4) FROM current_setting(%s) AS s",
            [setting_of(client.events.pgevents_spec)],
        ).fetchone()
    assert fired == (limit - 2) // 2  # one of the table, one of the type, two of each event
    assert locks == 2 * fired + 2 <= limit and scope == ""


def test_a_runner_without_timers_fires_none(client: EventClient) -> None:
    """Runner(..., timers=False)"""

    @subscription("nothing", CartCreated)
    def note(event: Event[CartCreated]) -> None: ...

    client.schedule(cart("late"), at=PAST)
    with running(client, note, timers=False):
        time.sleep(0.5)
    assert carts_of(client) == []


def test_a_runner_without_a_server_looks_for_timers_at_leisure(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not ask in a loop without a pause."""

    @subscription("nothing", CartCreated)
    def note(event: Event[CartCreated]) -> None: ...

    looks = 0

    def until_next(client: EventClient) -> float:
        nonlocal looks
        looks += 1
        if looks == 1:
            return 0.001
        raise OperationalError("the server is gone")

    monkeypatch.setattr(firing, "until_next", until_next)
    with running(client, note):
        time.sleep(0.8)
    assert 2 <= looks <= 8


def test_a_runner_that_is_stopped_while_it_fires_does_not_hold_the_others_for_ever(
    client: EventClient,
) -> None:
    """The server ends its transaction, so that another one can fire."""
    client.schedule(cart("c1"), at=PAST)
    with client.db.atomic():
        assert firing.fire(client)
        limit = client.db.execute_sql("SHOW idle_in_transaction_session_timeout").fetchone()[0]
    assert limit == "1min"
    assert client.db.execute_sql("SHOW idle_in_transaction_session_timeout").fetchone()[0] == "0"


# -- from handlers -------------------------------------------------------------------------


def test_what_a_handler_schedules_is_rolled_back_with_it(client: EventClient, clock: Clock) -> None:
    """The timer carries the cause, and is scheduled once."""
    fails = [True, False]

    @subscription("remind", ItemAddedToCart)
    def remind(event: Event[ItemAddedToCart], client: EventClient) -> None:
        client.schedule(cart(event.data.cart_id), after=HOUR)
        if fails.pop(0):
            raise ValueError("once")

    saved = client.save_event(ItemAddedToCart("c1", "p1", 1, 5))
    drain(client, [remind])
    assert client.scheduled() == []
    until(lambda: drain(client, [remind]))
    (timer,) = client.scheduled()
    assert timer.metadata == {"causation_id": saved.id, "correlation_id": str(saved.id)}
    clock.advance(HOUR)
    drain(client, [remind])
    assert client.get_latest_event(CartCreated).metadata == timer.metadata  # type: ignore[union-attr]


def test_a_handler_with_effects_outside_schedules_once(client: EventClient) -> None:
    """It has no transaction; the timer's key is the event's, so a repeat schedules nothing."""
    fails = [True, False]

    @subscription("remind", ItemAddedToCart, effects="outside")
    def remind(event: Event[ItemAddedToCart], client: EventClient) -> None:
        client.schedule(cart("a"), after=HOUR)
        client.schedule(cart("b"), after=HOUR)
        if fails.pop(0):
            raise ValueError("once")

    client.save_event(ItemAddedToCart("c1", "p1", 1, 5))
    drain(client, [remind])
    until(lambda: drain(client, [remind]))
    assert not fails
    assert [timer.data for timer in client.scheduled()] == [cart("a"), cart("b")]


# -- from decisions ------------------------------------------------------------------------


def test_what_a_decision_schedules_and_cancels_is_part_of_it(client: EventClient, make_client: Make) -> None:
    """After a conflict nothing of the lost try is left, and the repeated one is complete."""
    other, tries = make_client(), 0
    client.schedule(cart("old"), after=HOUR, key="old")

    def decide(view: CartView) -> list[Any]:
        nonlocal tries
        tries += 1
        if tries == 1:
            other.save_event(ItemAddedToCart("c1", "p1", 1, 5))  # the first try is in vain
        return [
            ItemAddedToCart("c1", "p2", 1, 5),
            later(cart(f"try {tries}"), after=HOUR, key=f"k{tries}"),
            cancel("old"),
        ]

    saved = client.decide(CartProjection("c1", client), decide, metadata={"by": "me"})
    assert tries == 2
    assert [event.data for event in saved] == [ItemAddedToCart("c1", "p2", 1, 5)]
    (timer,) = client.scheduled()
    assert (timer.key, timer.metadata) == ("k2", {"by": "me"})
    assert client.decide(CartProjection("c1", client), lambda view: later(cart("a"), after=HOUR)) == []
    assert len(client.scheduled()) == 2


def test_a_decision_of_timers_alone_is_validated(client: EventClient, make_client: Make) -> None:
    """A decider that cancels on a view that is no longer the newest decides again, or is refused."""
    other, sizes = make_client(), list[int]()
    client.save_event(cart("c1"))
    client.schedule(cart("old"), after=HOUR, key="old")

    def give_up(view: CartView) -> Any:
        sizes.append(len(view.items))
        if len(sizes) in (1, 3):  # another decider comes first
            item = ItemAddedToCart("c1", f"p{len(sizes)}", 1, 5)
            other.decide(CartProjection("c1", other), lambda view: item)
        return cancel("old") if len(view.items) != 1 else None

    assert client.decide(CartProjection("c1", client), give_up) == []
    assert sizes == [0, 1] and [timer.key for timer in client.scheduled()] == ["old"]
    client.save_event(ItemAddedToCart("c1", "p2", 1, 5))
    with pytest.raises(ConcurrencyError) as refused:
        client.decide(CartProjection("c1", client), give_up, retries=0)
    assert sizes == [0, 1, 2] and len(refused.value.conflicting_ids) == 1
    assert [timer.key for timer in client.scheduled()] == ["old"]
    assert client.decide(CartProjection("c1", client), give_up, retries=0) == []
    assert client.scheduled() == [] and len(client.get_event_stream(cart_id="c1")) == 4


@pytest.mark.parametrize("events", [[], [cart("now")]], ids=["timers alone", "events too"])
def test_a_command_that_schedules_does_so_once(
    client: EventClient, make_client: Make, events: list[Any]
) -> None:
    """Also when its timer has fired, and when another program comes first with the same key. (The timers have
    names of their own, so a second one would fire, too.)"""
    other = make_client()

    def decide(view: CartView) -> list[Any]:
        return [*events, later(cart("then"), at=PAST)]

    def decide_second(view: CartView) -> list[Any]:
        other.decide(CartProjection("c2", other), decide, idempotency_key="k2")
        return decide(view)

    first = client.decide(CartProjection("c1", client), decide, idempotency_key="k1")
    fire_all(client)
    assert client.decide(CartProjection("c1", client), decide, idempotency_key="k1") == first
    assert len(client.scheduled()) == 0
    second = client.decide(CartProjection("c2", client), decide_second, idempotency_key="k2")
    assert [event.data for event in second] == events and len(client.scheduled()) == 1
    fire_all(client)
    assert sorted(carts_of(client)) == sorted(["then", "then", *["now"] * 2 * len(events)])


def test_given_when_then_shows_timers(client: EventClient) -> None:
    """In memory, and with a store."""

    def decide(view: CartView) -> list[Any]:
        return [ItemAddedToCart("c1", "p2", 1, 5), later(cart("c2"), after=HOUR, key="k"), cancel("old")]

    expected = later(cart("c2"), after=HOUR, key="k"), cancel("old")
    for where in (None, client):
        start = given(CartProjection("c1"), cart("c1"), client=where)
        start.when(decide).then(ItemAddedToCart, *expected)
        with pytest.raises(AssertionError, match="other timers"):
            start.when(decide).then(ItemAddedToCart)
        with pytest.raises(AssertionError, match="other timers"):
            start.when(decide).then(
                ItemAddedToCart, later(cart("c2"), after=2 * HOUR, key="k"), cancel("old")
            )
    assert [timer.key for timer in client.scheduled()] == ["k"]


# -- rights and old tables -----------------------------------------------------------------


def test_a_writer_has_timers_and_a_reader_sees_them(client: EventClient, url: str) -> None:
    """What create_tables(grant_writer=...) and (grant_reader=...) grant; others may nothing."""
    writer, reader = f"writer_{abs(hash(url))}", f"reader_{abs(hash(url))}"
    for role in (writer, reader):
        client.db.execute_sql(f"CREATE ROLE {role}")
    try:
        client.create_tables(grant_writer=writer, grant_reader=reader)
        client.db.execute_sql(f"SET ROLE {writer}")
        client.schedule(cart("c1"), at=PAST, key="k1")
        client.schedule(cart("c2"), after=HOUR, key="k2")
        assert client.unschedule("k2") == "cancelled"
        fire_all(client)
        assert carts_of(client) == ["c1"]
        client.schedule(cart("c2"), after=HOUR, key="k2")
        client.db.execute_sql(f"RESET ROLE; SET ROLE {reader}")
        assert [timer.key for timer in client.scheduled()] == ["k2"]
        for call in (
            lambda: client.schedule(cart("c3"), after=HOUR),
            lambda: client.unschedule("k2"),
            lambda: firing.fire(client),
        ):
            with pytest.raises(DatabaseError, match="permission denied"):
                call()
    finally:
        client.db.execute_sql(f"RESET ROLE; DROP OWNED BY {writer}, {reader}; DROP ROLE {writer}, {reader}")


def test_tables_without_timers_get_them(client: EventClient) -> None:
    """A log of an earlier version is brought along, and keeps its events."""
    client.save_event(cart("c1"))
    client.db.execute_sql(
        "DROP TABLE my_app.events_timers; COMMENT ON FUNCTION my_app.events_append IS 'pgevents earlier'"
    )
    client.create_tables()
    client.schedule(cart("c2"), at=PAST)
    fire_all(client)
    assert carts_of(client) == ["c1", "c2"]


def test_timers_of_a_dropped_log_do_not_fire_into_another(client: EventClient, make_client: Make) -> None:
    """create_tables() refuses to begin beside them."""
    client.schedule(cart("c1"), after=HOUR)
    client.db.execute_sql("DROP TABLE my_app.events CASCADE")
    with pytest.raises(ConfigurationError, match="events_timers"):
        make_client().create_tables()


def test_redaction_clears_what_errors_quote(client: EventClient) -> None:
    """As with events that are parked."""
    client.schedule(cart("c1"), after=HOUR)
    client.db.execute_sql("UPDATE my_app.events_timers SET error = 'no customer Ann', state = 'parked'")
    with client.maintenance("erasure request 1"):
        pass
    assert client.scheduled()[0].error is None


def test_the_servers_clock_may_be_set(client: EventClient) -> None:
    """Back: a timer waits for its time again, and what has fired has fired. Forward: it fires at once."""
    client.schedule(cart("c1"), after=timedelta(0))
    client.schedule(cart("c2"), after=MINUTE)
    client.timers.ahead = -HOUR
    fire_all(client)
    assert carts_of(client) == [] and 3_500 < (firing.until_next(client) or 0) < 3_700
    client.timers.ahead = HOUR
    fire_all(client)
    client.timers.ahead = -HOUR
    fire_all(client)
    assert carts_of(client) == ["c1", "c2"]


# -- what is shown -------------------------------------------------------------------------


def test_late_and_parked_timers_are_problems(client: EventClient) -> None:
    """health, doctor and the report name them."""
    assert timers_report(client) == TimersReport(0, 0, 0.0, 0, 0, None)
    due = client.schedule(cart("c1"), after=HOUR, key="k1").at
    assert timers_report(client) == TimersReport(1, 0, 0.0, 0, 0, due)
    assert check(client) == []
    client.schedule(cart("c2"), at=datetime.now(timezone.utc) - MINUTE)
    (problem,) = check(client)
    assert re.match(r"timers: a timer is due, the first for 6\d s: does a runner run\?", problem)
    assert check(client, max_lag=300) == []
    client.db.execute_sql("UPDATE my_app.events_timers SET state = 'parked' WHERE key <> 'k1'")
    assert check(client) == ["timers: a timer is parked: pgevents timers list --state parked shows why"]
    assert any("a timer is parked" in finding.what for finding in diagnose(client))
    report = timers_report(client)
    assert (report.scheduled, report.due, report.parked) == (2, 0, 1)


def test_commands_list_cancel_and_retry_timers(client: EventClient, url: str) -> None:
    """pgevents timers, and what stats says."""

    def command(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, [*arguments], env={"PGEVENTS_DATABASE_URL": pg_url(url)})
        assert done.exit_code == code, done.output
        return done.output

    assert command("timers", "list") == "No timers.\n"
    client.schedule(cart("c1"), at=PAST, key="k1")
    client.schedule(cart("c2"), at=PAST + MINUTE, key="k2")
    assert command("timers", "list").splitlines() == [
        "2026-01-01 00:00:00+0000  k1  CART_CREATED  scheduled",
        "2026-01-01 00:01:00+0000  k2  CART_CREATED  scheduled",
    ]
    (line,) = command("timers", "list", "--key", "k2", "--json").splitlines()
    assert json.loads(line)["data"] == {"cart_id": "c2", "user_id": "u1"}
    assert command("timers", "cancel", "k1") == "k1 is cancelled.\n"
    assert "no timer 'k1'" in command("timers", "cancel", "k1", code=1)
    assert "not parked" in command("timers", "retry", "k2", code=1)
    client.db.execute_sql("UPDATE my_app.events_timers SET state = 'parked', error = 'why'")
    assert "parked  why" in command("timers", "list", "--state", "parked")
    assert "1 timers are scheduled: 0 due" in command("stats")
    assert json.loads(command("stats", "--json"))["timers"]["parked"] == 1
    assert command("timers", "retry") == "1 will be tried again.\n"
    fire_all(client)
    assert "has fired" in command("timers", "cancel", "k2", code=1)


def test_the_async_client_has_timers(client: EventClient) -> None:
    """In a transaction, too."""

    async def use() -> None:
        async with AsyncEventClient(client) as shop:
            async with shop.atomic():
                await shop.save_event(cart("c1"))
                await shop.schedule(cart("c2"), after=HOUR, key="k")
            assert [timer.key for timer in await shop.scheduled()] == ["k"]
            assert await shop.unschedule("k") == "cancelled"

    asyncio.run(use())


def test_timers_work_through_a_pooler(client: EventClient, url: str) -> None:
    """Each transaction may have another connection of the server's; what is rolled back leaves no timer."""
    with pgbouncer(url) as through:
        pooled = shop_client(database(through))
        with pooled.db.atomic():
            pooled.save_event(cart("c1"))
            pooled.schedule(cart("due"), after=timedelta(0), key="due")
            pooled.schedule(cart("late"), after=HOUR, key="late")
        with pooled.db.atomic() as transaction:
            pooled.schedule(cart("c2"), after=timedelta(0), key="rolled back")
            transaction.rollback()
        drain(pooled, [])
        assert (pooled.unschedule("due"), pooled.unschedule("late")) == ("fired", "cancelled")
        pooled.db.close()
    assert carts_of(client) == ["c1", "due"]
