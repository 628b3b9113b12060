"""A runner gives subscriptions their events: in order within a key, once, side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from peewee import BigIntegerField, Model, TextField

from pgevents import ConfigurationError, Event, EventClient, stream
from pgevents.errors import WaitError
from pgevents.subscriptions import (
    Runner,
    Subscription,
    overview,
    park,
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
from pgevents.subscriptions.subscription import FunctionSubscription

from .conftest import database
from .shop import CartCreated, CartEvent, ItemAddedToCart

Make = Callable[..., EventClient]


@contextmanager
def running(client: EventClient, *subscriptions: Any, workers: int = 2, **options: Any) -> Iterator[Runner]:
    """A runner in a thread, stopped and checked at the end."""
    runner = Runner(client, subscriptions, **options)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            runner.run(workers)
        except BaseException as error:
            errors.append(error)
        finally:
            client.db.close()

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive() and not runner.wait_until_ready(0.02):
        pass
    try:
        yield runner
    finally:
        runner.stop()
        thread.join(30)
        assert not thread.is_alive()
        if errors:
            raise errors[0]


def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def state(client: EventClient) -> str:
    """The state of the only subscription, once there is one."""
    return next((report.state for report in overview(client)), "")


@pytest.fixture
def log_table(client: EventClient) -> Callable[[], list[tuple[int, str]]]:
    """A table that handlers write to; calling it gives event ids and keys in order of writing."""
    client.db.execute_sql("CREATE TABLE handled (n serial, event_id bigint PRIMARY KEY, key text)")

    def rows() -> list[tuple[int, str]]:
        return list(client.db.execute_sql("SELECT event_id, key FROM handled ORDER BY n").fetchall())

    return rows


def note(client: EventClient, event: Event[Any]) -> None:
    client.db.execute_sql(
        "INSERT INTO handled (event_id, key) VALUES (%s, %s)", [event.id, event.data.cart_id]
    )


def writer(client: EventClient, **options: Any) -> FunctionSubscription[Any]:
    """A subscription that notes each event."""

    @subscription("writer", stream(CartEvent), **options)
    def write(event: Event[Any]) -> None:
        note(client, event)

    return write


def carts(first: int, last: int, keys: int = 5) -> list[CartCreated]:
    return [CartCreated(f"c{n % keys}", "u1") for n in range(first, last)]


def test_events_are_handled_once_each_in_order(client: EventClient, log_table: Any) -> None:
    """What stands and what comes; the order is the log's."""
    client.save_events(carts(0, 20))
    with running(client, writer(client)):
        until(lambda: len(log_table()) == 20)
        client.save_events(carts(20, 40))
        until(lambda: len(log_table()) == 40)
    assert [row[0] for row in log_table()] == list(range(1, 41))


def test_lanes_keep_the_order_of_a_key(client: EventClient, log_table: Any) -> None:
    """Four workers side by side: each key's events come in order, each once."""
    with running(client, writer(client, key="cart_id", lanes=8), workers=4):
        for n in range(30):
            client.save_events(carts(n * 10, n * 10 + 10, keys=7))
        until(lambda: len(log_table()) == 300)
    by_key: dict[str, list[int]] = {}
    for event_id, key in log_table():
        by_key.setdefault(key, []).append(event_id)
    assert len(by_key) == 7 and all(ids == sorted(ids) for ids in by_key.values())


def test_two_runners_share_the_work(client: EventClient, make_client: Make, log_table: Any) -> None:
    """However many work, each event is handled once."""
    client.save_events(carts(0, 300, keys=9))
    other = make_client()
    with (
        running(client, writer(client, key="cart_id")),
        running(other, writer(other, key="cart_id")),
    ):
        until(lambda: len(log_table()) == 300)
    assert len({row[0] for row in log_table()}) == 300


def test_a_failed_handler_leaves_nothing_and_is_tried_again(client: EventClient, log_table: Any) -> None:
    """Its writes are rolled back with its place; the other keys go on; then it is done, in order."""
    failing = True

    @subscription("writer", stream(CartEvent), key="cart_id", on_error=retry(20, delay=0.05, longest=0.05))
    def write(event: Event[Any]) -> None:
        note(client, event)
        if event.data.cart_id == "c1" and failing:
            raise ValueError("not yet")

    client.save_events(carts(0, 20))
    with running(client, write):
        until(lambda: len(log_table()) == 16 and len(parked(client, "writer")) == 4)
        assert {key for _, key in log_table()} == {"c0", "c2", "c3", "c4"}
        queued = parked(client, "writer")
        assert [one.state for one in queued] == ["retrying", "queued", "queued", "queued"]
        assert "not yet" in (queued[0].error or "")
        failing = False
        until(lambda: len(log_table()) == 20)
    ids = [event_id for event_id, key in log_table() if key == "c1"]
    assert ids == sorted(ids) and parked(client, "writer") == []


def test_after_the_last_attempt_a_key_is_parked_until_somebody_retries(
    client: EventClient, log_table: Any
) -> None:
    """Events of other keys are handled meanwhile, those of the key queue, and are replayed in order."""
    is_broken = True

    @subscription("writer", stream(CartEvent), key="cart_id", on_error=retry(2, delay=0.01))
    def write(event: Event[Any]) -> None:
        if event.data.cart_id == "c1" and is_broken:
            raise ValueError("broken")
        note(client, event)

    client.save_events(carts(0, 10))
    with running(client, write):
        until(lambda: [one.state for one in parked(client, "writer")] == ["parked", "queued"])
        client.save_events(carts(10, 20))
        until(lambda: len(parked(client, "writer")) == 4 and len(log_table()) == 16)
        assert [one.attempts for one in parked(client, "writer")] == [2, 0, 0, 0]
        is_broken = False
        assert replay(client, "writer", key="c1") == 1
        until(lambda: len(log_table()) == 20)
    ids = [event_id for event_id, key in log_table() if key == "c1"]
    assert ids == sorted(ids)


def test_without_a_key_an_error_stops_the_subscription(client: EventClient, log_table: Any) -> None:
    """Nothing behind the event is handled before somebody resumes it."""
    is_broken = True

    @subscription("writer", stream(CartEvent), on_error=retry(2, delay=0.01))
    def write(event: Event[Any]) -> None:
        if event.id == 3 and is_broken:
            raise ValueError("broken")
        note(client, event)

    client.save_events(carts(0, 5))
    with running(client, write):
        until(lambda: state(client) == "stopped")
        assert [row[0] for row in log_table()] == [1, 2]
        assert "broken" in overview(client)[0].problems[0]
        is_broken = False
        resume(client, "writer")
        until(lambda: len(log_table()) == 5)
    assert [row[0] for row in log_table()] == [1, 2, 3, 4, 5]


def test_without_a_key_an_event_can_be_skipped_and_parked(client: EventClient, log_table: Any) -> None:
    """By choice: the others go on, and it is kept for a retry."""
    is_broken = True

    @subscription("writer", stream(CartEvent), on_error=park())
    def write(event: Event[Any]) -> None:
        if event.id == 3 and is_broken:
            raise ValueError("broken")
        note(client, event)

    client.save_events(carts(0, 5))
    with running(client, write):
        until(lambda: len(log_table()) == 4)
        assert [one.event_id for one in parked(client, "writer")] == [3]
        is_broken = False
        replay(client, "writer", event_id=3)
        until(lambda: len(log_table()) == 5)
    assert [row[0] for row in log_table()] == [1, 2, 4, 5, 3]


def test_when_many_keys_fail_it_is_not_the_events(client: EventClient, log_table: Any) -> None:
    """The subscription stops, rather than park the whole log."""

    @subscription("writer", stream(CartEvent), key="cart_id", on_error=retry(2, delay=10))
    def write(event: Event[Any]) -> None:
        raise ValueError("the other service is gone")

    client.save_events(carts(0, 100, keys=100))
    with running(client, write):
        until(lambda: state(client) == "stopped")
    assert "other service is gone" in overview(client)[0].problems[0]
    assert len(parked(client, "writer")) < 30


def test_what_a_handler_saves_carries_its_cause(client: EventClient) -> None:
    """Causation and correlation ids come by themselves, and the correlation goes on."""

    @subscription("gifts", CartCreated)
    def give(event: Event[CartCreated], own: EventClient) -> None:
        own.save_event(ItemAddedToCart(event.data.cart_id, "gift", 1, 0))

    @subscription("thanks", ItemAddedToCart)
    def thank(event: Event[ItemAddedToCart], own: EventClient) -> None:
        if event.data.product_id == "gift":
            own.save_event(ItemAddedToCart(event.data.cart_id, "thanks", 1, 0), metadata={"why": "manners"})

    client.save_event(CartCreated("c1", "u1"), metadata={"correlation_id": "order-7"})
    with running(client, give, thank):
        until(lambda: len(client.get_event_stream(ItemAddedToCart)) == 2)
    gift, thanks = client.get_event_stream(ItemAddedToCart)
    assert gift.metadata == {"causation_id": 1, "correlation_id": "order-7"}
    assert thanks.metadata == {"causation_id": gift.id, "correlation_id": "order-7", "why": "manners"}


def test_a_class_handles_batches(client: EventClient, log_table: Any) -> None:
    """It has a setup, a client, and gets many events at once; a bad one is found out."""
    client.save_events(carts(0, 50))

    class Totals(Subscription[Any]):
        name = "totals"
        streams = (stream(CartEvent),)
        on_error = park()
        sizes: list[int] = []
        was_set_up = 0

        def setup(self) -> None:
            type(self).was_set_up += 1

        def handle_batch(self, events: Any) -> None:
            self.sizes.append(len(events))
            for event in events:
                note(self.client, event)
                if event.id == 20:
                    raise ValueError("bad")

    with running(client, Totals):
        until(lambda: len(log_table()) == 49)
    assert max(Totals.sizes) > 10 and Totals.was_set_up == 1
    assert [one.event_id for one in parked(client, "totals")] == [20]


def test_stop_ends_a_batch_after_the_event_in_hand(client: EventClient, log_table: Any) -> None:
    """What was handled is committed with its place; the rest comes the next time."""
    client.save_events(carts(0, 10))
    begun = threading.Event()
    go_on = threading.Event()

    @subscription("writer", stream(CartEvent))
    def write(event: Event[Any]) -> None:
        note(client, event)
        begun.set()
        go_on.wait(10)

    with running(client, write, workers=1) as runner:
        begun.wait(10)
        runner.stop()
        go_on.set()
    assert [row[0] for row in log_table()] == [1]
    assert Subscription(client, "writer", [stream(CartEvent)]).position() == 1


def test_pause_resume_and_reset(client: EventClient, log_table: Any) -> None:
    """Nothing comes while it is paused; after a reset the events above an id come again."""
    client.save_events(carts(0, 5))
    with running(client, writer(client)):
        until(lambda: len(log_table()) == 5)
        assert pause(client, "writer") == []
        client.save_events(carts(5, 10))
        time.sleep(0.3)
        assert len(log_table()) == 5
        resume(client, "writer")
        until(lambda: len(log_table()) == 10)
        pause(client, "writer")
        client.db.execute_sql("DELETE FROM handled WHERE event_id > 7")
        reset(client, "writer", 7)
        resume(client, "writer")
        until(lambda: len(log_table()) == 10)
    with pytest.raises(ConfigurationError, match="there is no subscription 'nobody'; there are: writer"):
        pause(client, "nobody")


def test_resize_loses_and_doubles_nothing(client: EventClient, log_table: Any) -> None:
    """While workers run and one key is parked, the lanes are dealt out anew twice."""
    is_broken = True

    @subscription("writer", stream(CartEvent), key="cart_id", lanes=4, on_error=park())
    def write(event: Event[Any]) -> None:
        if event.data.cart_id == "c3" and is_broken:
            raise ValueError("broken")
        note(client, event)

    with running(client, write, workers=3):
        for n, lanes in enumerate((7, 2, 16)):
            client.save_events(carts(n * 100, n * 100 + 100, keys=11))
            resize(client, "writer", lanes)
        client.save_events(carts(300, 330, keys=11))
        until(lambda: len(log_table()) == 300)
        assert len(overview(client)[0].lanes) == 16
        is_broken = False
        replay(client, "writer")
        until(lambda: len(log_table()) == 330)
    by_key: dict[str, list[int]] = {}
    for event_id, key in log_table():
        by_key.setdefault(key, []).append(event_id)
    assert all(ids == sorted(ids) for ids in by_key.values())


def test_a_renamed_subscription_goes_on(client: EventClient, log_table: Any) -> None:
    """The place goes with the name."""
    client.save_events(carts(0, 5))
    with running(client, writer(client)):
        until(lambda: len(log_table()) == 5)
    rename(client, "writer", "scribe")
    client.save_events(carts(5, 6))

    @subscription("scribe", stream(CartEvent))
    def write(event: Event[Any]) -> None:
        note(client, event)

    with running(client, write):
        until(lambda: len(log_table()) == 6)


def test_effects_outside_run_in_no_transaction(client: EventClient) -> None:
    """One by one, in order; a failing one is parked with its key, and the others go on."""
    seen: list[int] = []
    was_inside: list[bool] = []
    is_broken = True

    @subscription("mails", CartCreated, key="cart_id", effects="outside", on_error=retry(2, delay=0.01))
    def send(event: Event[CartCreated]) -> None:
        was_inside.append(client.db.in_transaction())
        if event.data.cart_id == "c1" and is_broken:
            raise ConnectionError("no mail today")
        seen.append(event.id)

    client.save_events(carts(0, 20))
    with running(client, send):
        until(lambda: len(seen) == 16)
        until(lambda: [one.state for one in parked(client, "mails")][:1] == ["parked"])
        is_broken = False
        replay(client, "mails")
        until(lambda: len(seen) == 20)
    assert sorted(seen) == list(range(1, 21)) and not any(was_inside)
    late = [event_id for event_id in seen if event_id % 5 == 2]
    assert late == sorted(late)


def test_a_model_of_another_database_object_is_refused(client: EventClient, url: str) -> None:
    """What it writes would be in another transaction than the place."""
    other = database(url)

    class Invoice(Model):
        event_id = BigIntegerField(primary_key=True)
        note = TextField(default="")

        class Meta:
            database = other

    @subscription("invoices", CartCreated)
    def write(event: Event[CartCreated]) -> None:
        Invoice.create(event_id=event.id)

    with pytest.raises(ConfigurationError, match="Invoice is bound to another Peewee object"):
        Runner(client, [write]).run()


def test_a_key_that_a_class_lacks_is_refused(client: EventClient) -> None:
    """Before anything is handled."""

    @subscription("orders", stream(CartEvent), key="product_id")
    def handle(event: Event[Any]) -> None:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="has no field 'product_id'"):
        Runner(client, [handle]).run()


def test_a_handler_that_ends_the_transaction_is_found_out(client: EventClient) -> None:
    """The subscription stops and says why."""

    @subscription("writer", stream(CartEvent), on_error=retry(1))
    def write(event: Event[Any]) -> None:
        client.db.rollback()

    client.save_events(carts(0, 1))
    with running(client, write):
        until(lambda: state(client) == "stopped")
    assert "ended the transaction" in overview(client)[0].problems[0]


def test_one_can_wait_until_an_event_is_dealt_with(client: EventClient, log_table: Any) -> None:
    """Handled, not followed, parked, paused and too late are told apart."""

    @subscription("writer", CartCreated, key="cart_id", on_error=park())
    def write(event: Event[CartCreated]) -> None:
        if event.data.cart_id == "bad":
            raise ValueError("bad")
        note(client, event)

    with pytest.raises(ConfigurationError, match="there is no subscription 'writer'"):
        client.wait("writer", 0)
    for name, awaited, options, words in (
        (5, 0, {}, "a subscription's name"),
        (CartCreated, 0, {}, "a projection's class"),
        ("writer", None, {}, "an event, a list of events, or an id"),
        ("writer", "1", {}, "an event, a list of events, or an id"),
        ("writer", 0, {"timeout": "1"}, "timeout is a number of seconds"),
        ("writer", 0, {"timeout": float("nan")}, "timeout is a number of seconds"),
        ("writer", 0, {"parked_counts": "no"}, "parked_counts is True or False"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            client.wait(name, awaited, **options)  # type: ignore[arg-type]
    with running(client, write):
        for n in range(5):
            saved = client.save_event(CartCreated(f"c{n}", "u1"))
            assert client.wait("writer", saved) == "handled" and log_table()[-1][0] == saved.id
        other = client.save_event(ItemAddedToCart("c1", "p1", 1, 1))
        assert client.wait("writer", other) == "not followed"
        assert client.wait("writer", other.id) == "handled"
        bad = client.save_event(CartCreated("bad", "u1"))
        with pytest.raises(WaitError, match="is parked") as caught:
            client.wait("writer", bad)
        assert caught.value.reason == "parked"
        assert client.wait("writer", bad, parked_counts=True) == "handled"
        with client.db.atomic(), pytest.raises(ConfigurationError, match="after the commit"):
            client.wait("writer", saved)
    late = client.save_event(CartCreated("late", "u1"))
    with pytest.raises(WaitError, match="has not handled event"):
        client.wait("writer", late, timeout=0.1)
    pause(client, "writer")
    with pytest.raises(WaitError, match="is paused"):
        client.wait("writer", late)


def test_an_event_that_is_not_final_is_waited_for_by_name(client: EventClient, make_client: Make) -> None:
    """The message names the backend that holds it back."""
    Subscription(client, "writer").process(lambda event: None)
    slow = make_client()
    with slow.db.atomic():
        slow.save_event(CartCreated("slow", "u1"))
        saved = client.save_event(CartCreated("c1", "u1"))
        with pytest.raises(WaitError, match="in the middle of a save"):
            client.wait("writer", saved, timeout=0.1)


def test_what_a_handler_saves_outside_is_saved_once(client: EventClient) -> None:
    """Its saves have keys of their own, so an event that comes again saves nothing again."""
    crashes = 2

    @subscription("gifts", CartCreated, effects="outside", on_error=retry(5, delay=0.01))
    def give(event: Event[CartCreated]) -> None:
        nonlocal crashes
        client.save_event(ItemAddedToCart(event.data.cart_id, "gift", 1, 0))
        client.save_event(ItemAddedToCart(event.data.cart_id, "card", 1, 0))
        crashes -= 1
        if crashes >= 0:
            raise ConnectionError("after the saves")

    saved = client.save_event(CartCreated("c1", "u1"))
    with running(client, give):
        assert client.wait("gifts", saved) == "handled"
    items = client.get_event_stream(ItemAddedToCart)
    assert [item.data.product_id for item in items] == ["gift", "card"]
    assert all(item.metadata["causation_id"] == saved.id for item in items)
