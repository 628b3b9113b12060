"""What changes under a subscription: its question, its place, the server. Each test is seen to fail when
broken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pgevents import ConfigurationError, Event, EventClient, EventTypes, event, stream
from pgevents.caches import forget
from pgevents.subscriptions import (
    Runner,
    Subscription,
    change,
    follow,
    following,
    overview,
    replay,
    reset,
    resize,
    retry,
    subscription,
)
from pgevents.testing import drain

from ..shop import CartCreated, CartEvent, ItemAddedToCart
from . import variants
from .lab import in_thread

Make = Callable[..., EventClient]


def widen_over_a_late_event(client: EventClient, make_client: Make) -> list[int]:
    """A type is added while one of its events is not committed yet, below the place; which events are
    given."""
    seen: list[int] = []
    slow = make_client()
    Subscription(client, "writer", [stream(CartCreated)]).process(lambda one: seen.append(one.id))
    wider = Subscription(client, "writer", [stream(CartCreated | ItemAddedToCart)])
    with slow.db.atomic():
        slow.save_event(ItemAddedToCart("c1", "p1", 1, 1))  # id 1, and late
        client.save_event(CartCreated("c1", "u1"))
        Subscription(client, "writer", [stream(CartCreated)]).process(lambda one: seen.append(one.id))
        try:
            wider.process(lambda one: seen.append(one.id))
        except ConfigurationError as error:
            assert "not final yet" in str(error)
            wider.reset()
    wider.process(lambda one: seen.append(one.id))
    return seen


def test_a_question_is_not_widened_over_what_is_not_final(client: EventClient, make_client: Make) -> None:
    """The late event of the added type would be skipped."""
    assert set(widen_over_a_late_event(client, make_client)) == {1, 2}


def test_widening_without_the_bound_is_seen(
    client: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with the check left out loses the event."""
    monkeypatch.setattr(change, "_why_not_widen", lambda *arguments: None)
    assert set(widen_over_a_late_event(client, make_client)) == {2}


def test_what_is_the_same_question_goes_on(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another order of writing; renamed with its old name; with a type of which nothing was saved yet."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())  # its class is nobody else's

    @event("RENAMED", formerly=["CART_CREATED"])
    class Renamed:
        cart_id: str
        user_id: str

    client.save_events([CartCreated("c1", "u1"), ItemAddedToCart("c1", "p1", 1, 1)])
    both = [stream("CART_CREATED", cart_id="c1"), stream("ITEM_ADDED_TO_CART", cart_id="c2")]
    assert Subscription(client, "order", both).process(lambda one: None) == 1
    assert Subscription(client, "order", both[::-1]).process(lambda one: None) == 0
    assert Subscription(client, "name", [stream("CART_CREATED")]).process(lambda one: None) == 1
    assert Subscription(client, "name", [stream(Renamed)]).process(lambda one: None) == 0
    with pytest.raises(ConfigurationError, match="was widened by a newer program"):
        Subscription(client, "name", [stream("CART_CREATED")]).process(lambda one: None)
    assert Subscription(client, "more", [stream("CART_CREATED")]).process(lambda one: None) == 1
    assert Subscription(client, "more", [stream(["CART_CREATED", "NEW"])]).process(lambda one: None) == 0


def test_what_is_another_question_names_the_ways(client: EventClient) -> None:
    """Another name, from the start, or from where it is; and what each loses or repeats."""
    client.save_events([ItemAddedToCart("c1", "p1", 1, 1), CartCreated("c1", "u1")])
    Subscription(client, "writer", [stream(CartCreated)]).process(lambda one: None)
    with pytest.raises(ConfigurationError, match="1 events that it adds stand before its place") as caught:
        Subscription(client, "writer", [stream(CartEvent)]).process(lambda one: None)
    for way in ("another name", "reset(position=0)", "loses nothing", "reset(position=2)", "never gives"):
        assert way in str(caught.value)
    reset(client, "writer", 0)


class Handover:
    """An event is being handled outside when its subscription is reset to the start."""

    def __init__(self, client: EventClient) -> None:
        self.client = client
        self.seen: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def run(self) -> list[int]:
        @subscription("mails", CartCreated, effects="outside")
        def send(one: Event[CartCreated]) -> None:
            self.seen.append(one.id)
            if one.id == 3 and not self.begun.is_set():
                self.begun.set()
                self.go_on.wait(10)

        self.client.save_events([CartCreated(f"c{n}", "u1") for n in range(3)])
        with in_thread(Runner(self.client, [send])):
            assert self.begun.wait(10)
            (lease,) = reset(self.client, "mails", 0)
            assert lease.event_id == 3
            self.go_on.set()
            self.client.wait("mails", 3)
        return self.seen


def test_a_place_does_not_move_under_an_old_generation(client: EventClient) -> None:
    """Who was handling an event when the subscription was reset does not move the new place."""
    assert Handover(client).run()[3:] == [1, 2, 3]


def test_a_place_moved_without_the_generation_is_seen(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without the condition skips events after the reset."""
    monkeypatch.setattr(variants.processing, "_sections", variants.processing._sections)
    try:
        variants.change_statement("handled_outside", "AND generation = %(generation)s", "")
        variants.change_statement("announce", "AND generation = %(generation)s", "")
        assert Handover(client).run()[3:] != [1, 2, 3]
    finally:
        forget("statements of subscriptions")


def exchange(client: EventClient) -> list[int]:
    """Follow a log that is exchanged for another with the same names meanwhile."""
    client.save_events([CartCreated(f"c{n}", "u1") for n in range(3)])
    events = follow(client, poll=0.01)
    seen = [next(events).id for _ in range(3)]
    client.db.execute_sql("DROP SCHEMA my_app CASCADE")
    client.create_tables()
    client.save_events([CartCreated(f"d{n}", "u1") for n in range(4)])
    return [*seen, next(events).id]


def test_a_place_in_memory_does_not_outlive_its_log(client: EventClient) -> None:
    """Ids that were given out anew would be skipped."""
    with pytest.raises(ConfigurationError, match="replaced or restored"):
        exchange(client)


def test_a_place_in_memory_kept_over_a_restore_is_seen(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without a look at the server goes on at 4, and three events are never given."""
    monkeypatch.setattr(following, "_identity", lambda client: "the same")
    assert exchange(client) == [1, 2, 3, 4]


def test_a_database_that_was_set_back_is_noticed_per_lane(client: EventClient) -> None:
    """A place ahead of the log is refused, and the health says so."""

    @subscription("writer", CartCreated, key="cart_id", lanes=4)
    def write(one: Event[CartCreated]) -> None:
        return None

    client.save_events([CartCreated(f"c{n}", "u1") for n in range(3)])
    assert drain(client, [write]) == 3
    client.db.execute_sql("UPDATE my_app.events_checkpoints SET position = 99 WHERE lane = 2")
    with pytest.raises(ConfigurationError, match="ahead of the log"):
        drain(client, [write])


def test_lanes_hashed_otherwise_are_refused_unless_all_stand_at_one_place(client: EventClient) -> None:
    """After a restore on a server that hashes in another way, which events were handled cannot be told."""

    @subscription("writer", CartCreated, key="cart_id", lanes=4)
    def write(one: Event[CartCreated]) -> None:
        return None

    client.save_events([CartCreated(f"c{n}", "u1") for n in range(9)])
    drain(client, [write])
    client.db.execute_sql("UPDATE my_app.events_checkpoints SET key_hash = 1")
    with pytest.raises(ConfigurationError, match="to other lanes than the server"):
        drain(client, [write])
    client.db.execute_sql("UPDATE my_app.events_checkpoints SET position = 9")
    assert drain(client, [write]) == 0


def test_a_parked_key_survives_a_resize(client: EventClient) -> None:
    """Its lane is reckoned anew; the queue goes on in order."""
    given: list[int] = []
    is_broken = True

    @subscription("writer", CartCreated, key="cart_id", lanes=4, on_error=retry(1))
    def write(one: Event[CartCreated]) -> None:
        if one.data.cart_id == "c1" and is_broken:
            raise ValueError
        given.append(one.id)

    client.save_events([CartCreated(f"c{n % 3}", "u1") for n in range(9)])
    drain(client, [write])
    resize(client, "writer", 7)
    client.save_events([CartCreated("c1", "u1")])
    drain(client, [write])
    assert overview(client)[0].parked == 4
    is_broken = False
    replay(client, "writer")
    drain(client, [write])
    assert sorted(given) == list(range(1, 11)) and given[-4:] == [2, 5, 8, 10]
    assert overview(client)[0].parked == 0


def test_old_checkpoints_come_along(client: EventClient) -> None:
    """The first form, a row a subscription, becomes a lane."""
    client.save_events([CartCreated(f"c{n}", "u1") for n in range(3)])
    execute: Any = client.db.execute_sql
    execute("DROP TABLE my_app.events_checkpoints")
    execute(
        "CREATE TABLE my_app.events_checkpoints (name text PRIMARY KEY, position bigint NOT NULL, "
        "streams jsonb NOT NULL, updated_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    execute(
        "INSERT INTO my_app.events_checkpoints VALUES "
        """('writer', 2, '[{"types": ["CART_CREATED"], "match": {}}]')"""
    )
    client.create_tables()
    assert Subscription(client, "writer", [stream(CartCreated)]).process(lambda one: None) == 1
