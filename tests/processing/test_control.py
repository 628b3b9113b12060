"""Commands, waiting, and what the test kit finds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from peewee import BigIntegerField, Model

from pgevents import ConfigurationError, Event, EventClient, stream
from pgevents.errors import RetryableError, WaitError
from pgevents.subscriptions import (
    Runner,
    check,
    control,
    lane_rows,
    overview,
    parked,
    pause,
    rename,
    replay,
    reset,
    resize,
    resume,
    retry,
    subscription,
)
from pgevents.subscriptions.lane_rows import all_rows
from pgevents.testing import check_effects, drain

from ..conftest import database
from ..shop import CartCreated, CartEvent
from ..test_subscriptions_runner import running, until
from .steps import Shop

Make = Callable[..., EventClient]


def test_pause_returns_when_the_batch_in_hand_has_ended(shop: Shop) -> None:
    """Afterwards nothing of it runs."""
    begun, go_on = threading.Event(), threading.Event()
    ended: list[float] = []

    def slow(event: Event[Any]) -> None:
        begun.set()
        go_on.wait(10)
        ended.append(time.monotonic())

    shop.do = slow
    shop.save("c1", "c1")
    with running(shop.client, shop.function()):
        assert begun.wait(10)
        threading.Timer(0.2, go_on.set).start()
        assert pause(shop.other, "writer") == []
        assert ended and time.monotonic() >= ended[-1]
        count = len(ended)
        time.sleep(0.2)
        assert len(ended) == count < 3
        resume(shop.other, "writer")
        shop.client.wait("writer", 2, timeout=10)


def test_a_command_does_not_wait_for_ever(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not end is an error that may be tried again; nothing is changed."""
    monkeypatch.setattr(lane_rows, "PATIENCE", "50ms")
    shop.save("c1")
    errors: list[Exception] = []

    def command(event: Event[Any]) -> None:
        try:
            pause(shop.other, "writer")
        except RetryableError as error:
            errors.append(error)

    shop.do = command
    shop.drain()
    assert len(errors) == 1 and overview(shop.client)[0].state == "active"


def test_pause_lists_what_is_being_handled_outside(shop: Shop) -> None:
    """Its handler runs to its end, but the place does not move any more."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(event: Event[Any]) -> None:
        begun.set()
        go_on.wait(10)

    shop.options = {"effects": "outside"}
    shop.do = slow
    shop.save("c1")
    with running(shop.client, shop.function()):
        assert begun.wait(10)
        leases = pause(shop.other, "writer")  # perhaps also one of a lane that is just looked at
        assert [one.event_id for one in leases if one.event_id] == [1]
        go_on.set()
        time.sleep(0.2)
        assert max(shop.lanes("position")) == 0
        resume(shop.other, "writer")
        shop.client.wait("writer", 1, timeout=10)
    assert shop.given == [1, 1]


def test_each_command_raises_the_generation(shop: Shop) -> None:
    """So that nobody moves a place that is not his any more."""
    shop.work(shop.client)
    seen = [shop.lanes("generation")[0]]
    commands: list[Callable[[], object]] = [
        lambda: pause(shop.client, "writer"),
        lambda: resume(shop.client, "writer"),
        lambda: reset(shop.client, "writer", 0),
        lambda: resize(shop.client, "writer", 5),
    ]
    for command in commands:
        command()
        assert len(set(shop.lanes("generation"))) == 1
        seen.append(shop.lanes("generation")[0])
    assert seen == sorted(set(seen))


def test_a_resize_keeps_the_state_and_what_is_set_aside(shop: Shop) -> None:
    """A paused subscription stays paused, a parked key parked."""
    shop.options = {"on_error": retry(1), "lanes": 4}
    shop.save("c1", "c2")
    shop.fails = {1}
    shop.drain()
    pause(shop.client, "writer")
    resize(shop.client, "writer", 9)
    assert {row.state for row in all_rows(shop.client, "writer")} == {"paused"}
    resume(shop.client, "writer")
    shop.save("c1")
    shop.drain()
    assert [one.event_id for one in parked(shop.client, "writer")] == [1, 3]
    with pytest.raises(ConfigurationError, match="from 1 to 1024"):
        resize(shop.client, "writer", 0)


def test_resize_needs_a_key(shop: Shop) -> None:
    """Without one there is one order, and one lane."""
    shop.options = {"key": None}
    shop.work(shop.client)
    with pytest.raises(ConfigurationError, match="has no key"):
        resize(shop.client, "writer", 4)


def test_a_rename_takes_along_what_is_set_aside(shop: Shop) -> None:
    """A name that is taken is refused."""
    shop.options = {"on_error": retry(1)}
    shop.save("c1")
    shop.fails = {1}
    shop.drain()
    rename(shop.client, "writer", "author")
    assert [one.name for one in overview(shop.client)] == ["author"]
    assert [one.event_id for one in parked(shop.client, "author")] == [1]
    shop.work(shop.client)
    with pytest.raises(ConfigurationError, match="already"):
        rename(shop.client, "author", "writer")


def test_a_reset_ahead_of_the_log_is_refused(shop: Shop) -> None:
    """Its events would be skipped when they come."""
    shop.work(shop.client)
    with pytest.raises(ConfigurationError, match="ahead of the log"):
        reset(shop.client, "writer", 5)


@pytest.mark.parametrize("command", [pause, resume, replay])
def test_an_unknown_name_is_refused_with_those_that_there_are(
    shop: Shop, command: Callable[[EventClient, str], object]
) -> None:
    """No silent success."""
    shop.work(shop.client)
    with pytest.raises(ConfigurationError, match="no subscription 'writr'; there are: writer"):
        command(shop.client, "writr")


# -- wait -----------------------------------------------------------------------------------


def reason(client: EventClient, awaited: Any, **options: Any) -> str:
    with pytest.raises(WaitError) as caught:
        client.wait("writer", awaited, timeout=0.05, **options)
    return caught.value.reason


def test_wait_in_a_handler_is_refused(shop: Shop) -> None:
    """It could wait for itself."""
    messages: list[str] = []

    def wait(event: Event[Any]) -> None:
        with pytest.raises(ConfigurationError) as caught:
            shop.client.wait("writer", event)
        messages.append(str(caught.value))

    shop.save("c1")
    shop.do = wait
    for options in ({}, {"effects": "outside"}):
        shop.options = options
        reset(shop.client, "writer", 0) if messages else None
        shop.drain()
    assert len(messages) == 2 and "wait() in a handler" in messages[0]


def test_wait_in_a_transaction_is_refused(shop: Shop) -> None:
    """What it saved is not there for others yet."""
    shop.work(shop.client)
    with shop.client.db.atomic(), pytest.raises(ConfigurationError, match="call it after the commit"):
        shop.client.wait("writer", shop.client.save_event(CartCreated("c1", "u1")))


def test_wait_says_at_once_why_it_would_be_in_vain(shop: Shop) -> None:
    """Paused, stopped, parked, not followed."""
    shop.options = {"on_error": retry(1)}
    first, second, other = shop.client.save_events(
        [CartCreated("c1", "u1"), CartCreated("c1", "u1"), {"type": "OTHER", "data": {}}]
    )
    shop.fails = {1}
    shop.work(shop.client)
    assert shop.client.wait("writer", other) == "not followed"
    assert reason(shop.client, first) == "timeout"
    pause(shop.client, "writer")
    assert reason(shop.client, first) == "paused"
    control.stop(shop.client, "writer", "it broke")
    assert reason(shop.client, first) == "stopped"
    resume(shop.client, "writer")
    shop.drain()
    for awaited in (first, second, 2, 3):
        assert reason(shop.client, awaited) == "parked"
        assert shop.client.wait("writer", awaited, timeout=1, parked_counts=True) == "handled"
    shop.client.db.execute_sql("UPDATE my_app.events_parked SET state = 'retrying' WHERE event_id = 1")
    for awaited in (first, second, 2):
        assert reason(shop.client, awaited) == "timeout"  # it is being tried again


def test_wait_for_one_key_does_not_wait_for_another(shop: Shop) -> None:
    """A bare id waits for all keys."""
    shop.options = {"on_error": retry(9, delay=60)}
    shop.fails = {1}
    first, second = shop.client.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u1")])
    shop.drain()
    assert shop.client.wait("writer", second) == "handled"
    assert reason(shop.client, second.id) == "timeout"
    assert reason(shop.client, [first, second]) == "timeout"


# -- health ---------------------------------------------------------------------------------


def test_places_that_creep_do_not_look_healthy(shop: Shop) -> None:
    """Far behind is a problem, also while places move."""
    shop.save("c1", "c2")
    shop.work(shop.client)
    overview(shop.client)
    shop.client.db.execute_sql("UPDATE my_app.events_seen SET at = at - interval '100 s'")
    assert any("behind: event 1 came" in one for one in check(shop.client, max_lag=30))
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET moved_at = now() - interval '40 s'")
    assert any("stuck: event 1 came" in one for one in check(shop.client, max_lag=30))
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET moved_at = now()")
    assert any("stuck" in one for one in check(shop.client, max_lag=5))


# -- one database object --------------------------------------------------------------------


def test_what_is_written_over_another_connection_is_found(
    client: EventClient, make_client: Make, url: str
) -> None:
    """The test kit runs handlers, rolls back, and sees what stayed."""
    client.db.execute_sql("CREATE TABLE rows (event_id bigint)")
    other = make_client()

    @subscription("good", CartCreated)
    def good(event: Event[CartCreated]) -> None:
        client.db.execute_sql("INSERT INTO rows VALUES (%s)", [event.id])
        client.save_event({"type": "OTHER", "data": {}})

    @subscription("raw", CartCreated)
    def raw(event: Event[CartCreated]) -> None:
        connection = psycopg2.connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO rows VALUES (%s)", [event.id])
        connection.close()

    @subscription("saver", CartCreated)
    def saver(event: Event[CartCreated]) -> None:
        other.save_event({"type": "OTHER", "data": {}})

    with pytest.raises(ConfigurationError, match="nothing was checked"):
        check_effects(client, [good])
    client.save_event(CartCreated("c1", "u1"))
    client.save_event(CartCreated("c2", "u1"))
    assert check_effects(client, [good], events=1) == 1
    assert check_effects(client, [good]) == 2
    for function, table in ((raw, "rows"), (saver, "my_app.events")):
        with pytest.raises(AssertionError, match=f"wrote to {table} stayed"):
            check_effects(client, [function])
    assert drain(client, [good]) == 2


def test_models_of_another_database_object_are_allowed_by_choice(client: EventClient, url: str) -> None:
    """They write in a transaction of their own then."""

    class Elsewhere(Model):
        event_id = BigIntegerField()

        class Meta:
            database = database(url)
            table_name = "elsewhere"

    @subscription("writer", stream(CartEvent))
    def write(event: Event[Any]) -> None:
        Elsewhere.create(event_id=event.id)

    with pytest.raises(ConfigurationError, match="Elsewhere is bound to another Peewee object"):
        Runner(client, [write]).run()
    Elsewhere.create_table()
    client.save_event(CartCreated("c1", "u1"))
    with running(client, write, other_databases=True):
        until(lambda: Elsewhere.select().count() == 1)
    Elsewhere._meta.database.close()
