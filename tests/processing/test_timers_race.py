"""Timers under attack: payment against time-out, several runners, killed ones."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from pgevents import EventClient
from pgevents.errors import ConnectionLostError
from pgevents.store.functions import functions_sql
from pgevents.subscriptions import Runner, firing, overview
from pgevents.testing import Clock, drain

from ..conftest import database
from ..test_subscriptions_runner import until
from .orders import (
    IN_TIME,
    OrderCancelled,
    OrderEvent,
    OrderPaid,
    PaymentTimedOut,
    orders_client,
    pay,
    place,
    time_out,
    time_out_without_deciding,
)

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])
PAST = datetime(2026, 1, 1, tzinfo=timezone.utc)
HANDLERS = {"decides": time_out, "trusts": time_out_without_deciding}
TURN = "IF NOT pg_try_advisory_xact_lock(my_app.events_key('timers', '')) THEN"


@pytest.fixture
def orders(url: str) -> Iterator[EventClient]:
    client = orders_client(database(url))
    client.create_tables()
    yield client
    client.db.close()


@contextmanager
def processes(*work: tuple[Callable[..., None], tuple[Any, ...]]) -> Iterator[list[Any]]:
    started = [PROCESSES.Process(target=target, args=args, daemon=True) for target, args in work]
    for process in started:
        process.start()
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def states(client: EventClient) -> list[tuple[str, ...]]:
    """For each order how it ended: what there is of paid and cancelled."""
    found: dict[str, list[str]] = {}
    for event in client.get_event_stream(OrderPaid | OrderCancelled):
        found.setdefault(event.data.order_id, []).append(type(event.data).__name__)
    return [tuple(found[order_id]) for order_id in sorted(found)]


# -- payment against time-out ----------------------------------------------------------------


def run(url: str, handler: str) -> None:
    client = orders_client(database(url))
    Runner(client, [HANDLERS[handler]], poll=0.01).run(2)


def pay_all(url: str, count: int, step: float, is_ready: Any) -> None:
    """Pay orders at about the moment at which their timers fire and are handled; of ten one is never paid."""
    client, rng = orders_client(database(url)), random.Random(1)
    client.scheduled()
    is_ready.set()
    while True:
        first = client.scheduled(key="pay o1")
        if first and first[0].at < datetime.now(timezone.utc) + timedelta(minutes=1):
            break
        time.sleep(0.02)
    for n in range(1, count):
        at = first[0].at + timedelta(seconds=(n - 1) * step + rng.uniform(-0.02, 0.08))
        time.sleep(max(0.0, (at - datetime.now(timezone.utc)).total_seconds()))
        if n % 10 != 5:
            pay(client, f"o{n}")


SOON_SQL = """\
UPDATE my_app.events_timers AS t
SET due_at = n.now + substr(t.key, 6)::int * %s * interval '1 s',
    try_at = n.now + substr(t.key, 6)::int * %s * interval '1 s'
FROM (SELECT clock_timestamp() + interval '1 s' AS now) AS n
"""


def race(orders: EventClient, url: str, handler: str, count: int = 80, step: float = 0.015) -> Counter[Any]:
    """How orders ended whose payment and time-out come at the same moment, while a runner is killed."""
    for n in range(count):
        place(orders, f"o{n}")
    pay(orders, "o0")
    is_ready = PROCESSES.Event()
    payer_of_all = pay_all, (url, count, step, is_ready)
    with processes((run, (url, handler)), (run, (url, handler)), payer_of_all) as started:
        runner, _, payer = started
        assert is_ready.wait(60)
        until(lambda: sum(report.workers for report in overview(orders)) == 4, 60)
        orders.db.execute_sql(SOON_SQL, [step, step])
        until(lambda: len(orders.scheduled()) < count / 2, 60)
        os.kill(runner.pid, signal.SIGKILL)
        payer.join(60)
        until(lambda: not orders.scheduled(), 60)
        last = orders.get_latest_event(PaymentTimedOut)
        assert last is not None
        orders.wait("lab payments", last, timeout=60)
    timed_out = [event.data.order_id for event in orders.get_event_stream(PaymentTimedOut)]
    assert len(timed_out) == len(set(timed_out)), "a timer fired twice"
    ended = states(orders)
    assert len(ended) == count, "an order was neither paid nor cancelled"
    return Counter(ended)


def test_payment_and_time_out_at_the_same_moment_one_wins(orders: EventClient, url: str) -> None:
    """Some are paid, some are cancelled, none is both."""
    ended = race(orders, url, "decides")
    assert set(ended) == {("OrderPaid",), ("OrderCancelled",)}, ended


@pytest.mark.long
def test_a_handler_that_trusts_its_timer_is_seen(orders: EventClient, url: str) -> None:
    """The broken variant: cancelling is no arbiter, for the timer may have fired just before."""
    ended = race(orders, url, "trusts")
    assert any(len(end) > 1 for end in ended), ended


def test_an_order_that_is_not_paid_in_time_is_cancelled(orders: EventClient) -> None:
    """By a clock that the test moves."""
    clock = Clock(orders)
    for order_id in ("paid", "late"):
        place(orders, order_id)
    clock.advance(IN_TIME - timedelta(seconds=1))
    drain(orders, [time_out])
    assert states(orders) == []
    pay(orders, "paid")
    clock.advance(timedelta(seconds=1))
    drain(orders, [time_out])
    assert states(orders) == [("OrderCancelled",), ("OrderPaid",)]
    pay(orders, "late")
    assert states(orders) == [("OrderCancelled",), ("OrderPaid",)]
    assert len(orders.get_event_stream(PaymentTimedOut)) == 1


# -- several runners -------------------------------------------------------------------------


def fire_on(url: str) -> None:
    client = orders_client(database(url))
    while True:
        if not firing.fire(client):
            time.sleep(0.001)


def fired_by_several(orders: EventClient, url: str, count: int = 900) -> list[int]:
    """The numbers of timers that are due at once, in the order in which three processes fired them, of which
    two were killed on the way."""
    for n in range(count):
        at = PAST + timedelta(seconds=n // 3)
        orders.timers.statements.run(
            "schedule",
            type="LAB_PAYMENT_TIMED_OUT",
            data=f'{{"order_id": "{n}"}}',
            metadata=None,
            key=str(n),
            at=at,
            after=None,
            replace=False,
            ahead=timedelta(0),
        )
    with processes((fire_on, (url,)), (fire_on, (url,)), (fire_on, (url,))) as started:
        for process, share in zip(started[:2], (0.2, 0.5), strict=True):
            until(lambda share=share: len(orders.get_event_stream(OrderEvent)) > share * count, 60)
            os.kill(process.pid, signal.SIGKILL)
        until(lambda: not orders.scheduled(), 60)
    return [int(event.data.order_id) for event in orders.get_event_stream(PaymentTimedOut)]


def inversions(numbers: list[int]) -> int:
    return sum(later < earlier for earlier, later in zip(numbers, numbers[1:], strict=False))


@pytest.mark.long
def test_late_timers_fire_once_and_in_order_whoever_is_killed(orders: EventClient, url: str) -> None:
    """One runner at a time fires; another goes on where it was killed."""
    assert fired_by_several(orders, url) == list(range(900))


@pytest.mark.long
def test_runners_that_fire_at_the_same_time_are_seen(orders: EventClient, url: str) -> None:
    """The broken variant: rows that another runner has are skipped, and nothing else."""
    sql = functions_sql(orders.events.pgevents_spec)
    turn = TURN.replace("my_app.events_key", orders.events.pgevents_spec.qualified("_key"))
    assert turn in sql
    mark = "COMMENT ON FUNCTION"
    orders.db.execute_sql(sql.replace(turn, "IF false THEN").split(mark)[0].replace("%", "%%"))
    numbers = fired_by_several(orders, url)
    assert sorted(numbers) == list(range(900)) and inversions(numbers) > 0


# -- a runner that dies ----------------------------------------------------------------------


def die_at(orders: EventClient, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Fire, while the server ends the connection at this moment."""
    saver, statements = orders.saver, orders.timers.statements
    append, execute = saver.append_encoded, type(statements).run

    def die() -> None:
        orders.db.execute_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    def dying_append(rows: Any, keys: Any) -> Any:
        if moment == "before the event":
            die()
        done = append(rows, keys)
        if moment == "after the event":
            die()
        return done

    def dying_run(self: Any, name: str, /, **params: Any) -> Any:
        done = execute(self, name, **params)
        if moment == "before the commit" and name == "fired":
            die()
        return done

    with monkeypatch.context() as patch, pytest.raises(Exception) as caught:  # noqa: PT011
        patch.setattr(type(saver), "append_encoded", lambda self, rows, keys: dying_append(rows, keys))
        patch.setattr(type(statements), "run", dying_run)
        firing.fire(orders)
    assert "connection" in str(caught.value) or isinstance(caught.value, ConnectionLostError)
    if not orders.db.is_closed():
        orders.db.close()


MOMENTS = ("before the event", "after the event", "before the commit")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_runner_that_dies_while_it_fires_loses_nothing(
    orders: EventClient, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The event and the timer's end are one transaction."""
    place(orders, "o1", PAST)
    die_at(orders, monkeypatch, moment)
    assert len(orders.scheduled()) == 1
    while firing.fire(orders):
        pass
    assert len(orders.get_event_stream(PaymentTimedOut)) == 1
    assert orders.scheduled() == []
