"""Errors of handlers, of the database, and handlers that kill their process."""

from __future__ import annotations

from typing import Any

import pytest

from pgevents import ConfigurationError, Event, stream
from pgevents.subscriptions import (
    check,
    discard,
    outside,
    overview,
    parked,
    replay,
    reset,
    retry,
    subscription,
    worker,
)
from pgevents.subscriptions.change import StandsByError, settle
from pgevents.subscriptions.lanes import QuestionChangedError
from pgevents.subscriptions.pace import Pace
from pgevents.testing import drain

from ..shop import CartCreated
from .steps import Shop


class ProcessEnds(BaseException):
    """In place of a kill: nothing catches it, and the transaction is aborted."""


def end_process(event: Event[Any]) -> None:
    raise ProcessEnds


def test_errors_of_the_database_count_from_the_fourth_on(shop: Shop) -> None:
    """Three at one place are none of the event's fault; then it comes alone, and they count."""
    calls: list[int] = []
    shop.options = {"lanes": 1, "on_error": retry(2, delay=0.0)}
    shop.save("c1", "c1")
    shop.lost = {2}
    shop.do = lambda event: calls.append(event.id)
    for _ in range(3):
        shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET due_at = NULL")
        assert shop.step() == [0]
    assert shop.lanes("interruptions") == [3] and parked(shop.client, "writer") == []
    assert calls == [1, 1, 1]
    shop.step_until(["parked"])
    assert [one.attempts for one in parked(shop.client, "writer")] == [2]
    assert calls == [1, 1, 1, 1]


def test_where_a_worker_died_events_come_one_by_one_and_announced(shop: Shop) -> None:
    """Who kills its process is found out, and set aside after as many attempts as any other."""
    shop.options = {"lanes": 1, "on_error": retry(2, delay=0.0, after_death=0.0)}
    shop.save("c1", "c2", "c3", "c2")
    shop.do = lambda event: event.id == 2 and end_process(event)
    deaths = 0
    for _ in range(40):
        try:
            shop.step()
        except ProcessEnds:
            deaths += 1
            assert deaths == 1 or shop.lanes("announced")[0] is not None
    assert deaths == 3  # in a batch, announced, and as a retry
    aside = parked(shop.client, "writer")
    assert [(one.event_id, one.state) for one in aside] == [(2, "parked"), (4, "queued")]
    assert "its worker died" in (aside[0].error or "")
    assert shop.lanes("position") == [4] and shop.given[-1] == 3
    shop.do = lambda event: None
    replay(shop.client, "writer")
    shop.drain()
    assert shop.given[-2:] == [2, 4]


def die(shop: Shop) -> None:
    """A step in which the process ends."""
    with pytest.raises(ProcessEnds):
        shop.step()


def test_who_dies_of_one_event_charges_no_other(shop: Shop) -> None:
    """Also not the one that was announced in another lane, which the same worker could have had."""
    shop.options = {"lanes": 16, "on_error": retry(1)}
    shop.save("c1", "c2")
    shop.step()
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET position = 0")
    first, second = (
        shop.client.db.execute_sql("SELECT mod(mod(hashtextextended(%s, 0), 16) + 16, 16)", [key]).fetchone()[
            0
        ]
        for key in ("c1", "c2")
    )
    assert first != second
    mark = "UPDATE my_app.events_checkpoints SET careful = 9, announced = %s WHERE lane = %s"
    shop.client.db.execute_sql(mark, [1, first])  # whoever announced it was ended before it began
    shop.given.clear()
    shop.do = lambda event: event.id == 2 and end_process(event)
    work, pace = shop.work(shop.client), Pace(was_careful=True)
    for _ in range(20):
        try:
            worker.step(work, range(16), 16, pace)
        except ProcessEnds:
            continue
    assert [(one.event_id, one.state) for one in parked(shop.client, "writer")] == [(2, "parked")]
    assert shop.given.count(1) == 1


def test_after_a_death_the_next_attempt_waits_until_a_worker_can_have_been_started_again(
    shop: Shop,
) -> None:
    """Else one event ends all workers before the first of them is back; other keys do not wait."""
    shop.options = {"lanes": 1, "on_error": retry(3, delay=0.0, after_death=60.0)}
    shop.save("c1", "c2")
    shop.do = lambda event: event.id == 1 and end_process(event)
    die(shop)
    deaths = 1
    for _ in range(9):
        try:
            shop.step()
        except ProcessEnds:
            deaths += 1
    assert deaths == 2 and shop.given[-1] == 2
    due = (
        "UPDATE my_app.events_parked SET due_at = due_at - interval '60 s' "
        "RETURNING due_at > now() - interval '9 s'"
    )
    for attempts in (1, 2):
        (one,) = parked(shop.client, "writer")
        assert (one.event_id, one.state, one.attempts) == (1, "retrying", attempts)
        assert shop.client.db.execute_sql(due).fetchone()[0]
        die(shop)  # counted before it began, though the lane is not suspect any more
        shop.step(9)
        assert shop.lanes("careful") == [0]  # it is known what happened
    shop.client.db.execute_sql(due)
    shop.step(9)
    assert [(one.state, one.attempts) for one in parked(shop.client, "writer")] == [("parked", 3)]


def test_without_a_key_a_deadly_event_stops_the_subscription(shop: Shop) -> None:
    """It is an attempt like any other."""
    shop.options = {"key": None, "on_error": retry(2, delay=0.0, after_death=0.0)}
    shop.save("c1", "c2")
    shop.do = lambda event: event.id == 2 and end_process(event)
    deaths = 0
    for _ in range(20):
        try:
            shop.step()
        except ProcessEnds:
            deaths += 1
    assert deaths == 3 and overview(shop.client)[0].state == "stopped"
    assert "its worker died" in check(shop.client)[0]
    assert shop.given.count(1) >= 1 and shop.lanes("position") == [1]


def test_reset_discards_with_a_note_what_is_parked_above(shop: Shop) -> None:
    """It comes again; what is parked at or below the place stays."""
    shop.options = {"on_error": retry(1)}
    shop.save("c1", "c2", "c3")
    shop.fails = {1, 3}
    shop.drain()
    reset(shop.client, "writer", 2)
    states = {one.event_id: one.state for one in parked(shop.client, "writer", discarded=True)}
    assert states == {1: "parked", 3: "discarded"}
    assert "comes again" in (parked(shop.client, "writer", discarded=True)[1].note or "")
    shop.drain()
    assert [one.event_id for one in parked(shop.client, "writer")] == [1, 3]


def test_discarding_frees_those_behind_and_keeps_who_and_why(shop: Shop) -> None:
    """Nothing is dropped unless a person says so."""
    shop.options = {"on_error": retry(1)}
    shop.save("c1", "c1", "c1")
    shop.fails = {1}
    shop.drain()
    assert shop.given == []
    discard(shop.client, "writer", 1, "a test", by="ann")
    shop.drain()
    assert shop.given == [2, 3] and parked(shop.client, "writer") == []
    (kept,) = parked(shop.client, "writer", discarded=True)
    assert kept.note == "ann: a test"


def test_many_events_parked_on_one_key_are_replayed_against_the_live_flow(shop: Shop) -> None:
    """The retries and the new events of their lane take turns, and the key's order holds to its end."""
    shop.options = {"lanes": 1, "on_error": retry(1)}
    shop.save("c1")
    shop.fails = {1}
    shop.drain()
    shop.save(*["c1"] * 300)
    shop.drain()
    assert len(parked(shop.client, "writer")) == 301
    shop.fails = set()
    replay(shop.client, "writer")
    work, pace = shop.work(shop.client), Pace(size=4)
    live = 0
    while parked(shop.client, "writer", limit=1):
        shop.save("c2", "c1")
        pace.size = 4
        for _ in range(4):
            worker.step(work, [0], 1, pace)
        live += 2
        (last,) = shop.client.db.execute_sql("SELECT max(id) FROM my_app.events").fetchone()
        assert shop.lanes("position")[0] >= last - 4  # the live flow has not waited for the replay
    shop.drain()
    ones = [event_id for event_id in shop.given if event_id <= 301 or (event_id - 301) % 2 == 0]
    assert ones == sorted(set(ones)) and len(shop.given) == len(set(shop.given)) == 301 + live


# -- effects outside ------------------------------------------------------------------------


def outside_step(shop: Shop, client: Any = None) -> None:
    outside.step(shop.work(client or shop.client), [0], Pace())


def test_a_lease_keeps_others_out_until_it_ends(shop: Shop) -> None:
    """Who ended in the middle of an event has made an attempt at it; then it goes to another worker."""
    shop.options = {"effects": "outside", "lanes": 1, "on_error": retry(2, delay=0.0)}
    shop.save("c1", "c2")
    work = shop.work(shop.client)
    leased = outside._take(work, [0], Pace())
    assert leased is not None
    outside._run(work, "announce", leased.lane, event_id=1, lease=60.0)  # and here it ends
    outside_step(shop)
    assert shop.given == []
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET leased_until = clock_timestamp()")
    outside_step(shop)
    assert [(one.event_id, one.attempts) for one in parked(shop.client, "writer")] == [(1, 1)]
    assert not outside._run(work, "handled_outside", leased.lane, position=1)
    shop.drain()
    assert shop.given == [2, 1]


def test_a_lease_taken_in_the_future_of_the_server_is_over(shop: Shop) -> None:
    """The server's clock was set back: else the lane would wait for as long as that."""
    shop.options = {"effects": "outside", "lanes": 1}
    shop.save("c1")
    shop.work(shop.client)
    lease = "leased_at = now() + interval '{}', leased_until = now() + interval '2 h'"
    update = "UPDATE my_app.events_checkpoints SET "
    shop.client.db.execute_sql(update + lease.format("-1 s"))
    outside_step(shop)
    assert shop.given == []
    shop.client.db.execute_sql(update + lease.format("1 h"))
    outside_step(shop)
    assert shop.given == [1]


def test_a_lease_that_was_taken_before_the_clock_was_set_back_moves_nothing(shop: Shop) -> None:
    """Its lane may be another's by now: who has it gives it up before the next event."""
    shop.options = {"effects": "outside", "lanes": 1}
    shop.save("c1", "c2", "c3")
    ahead = "UPDATE my_app.events_checkpoints SET leased_at = now() + interval '1 h'"
    shop.do = lambda event: event.id == 1 and shop.client.db.execute_sql(ahead)
    outside_step(shop)
    assert shop.given == [1] and shop.lanes("position") == [1]
    shop.drain()
    assert shop.given == [1, 2, 3]


def test_many_handlers_of_one_event(shop: Shop) -> None:
    """Each subscription has places, attempts and parked events of its own."""
    shop.options = {"on_error": retry(1)}
    shop.fails = {1}
    given: list[int] = []

    @subscription("other", CartCreated)
    def other(event: Event[CartCreated]) -> None:
        given.append(event.id)

    shop.save("c1")
    drain(shop.client, [shop.function(), other])
    assert given == [1] and parked(shop.client, "other") == []
    assert len(parked(shop.client, "writer")) == 1


def test_who_is_refused_does_not_look_as_if_it_had_died(shop: Shop) -> None:
    """An old program finds a wider question: nothing is suspect afterwards, and no event is charged."""
    shop.options = {"lanes": 1, "on_error": retry(1)}
    shop.streams = stream("CART_CREATED")
    old = shop.work(shop.client)
    shop.streams = stream(["CART_CREATED", "NEW"])
    shop.save("c1")
    shop.work(shop.other)
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET careful = 9, announced = 1")
    with pytest.raises(QuestionChangedError):
        worker.step(old, [0], 1, Pace())
    with pytest.raises(StandsByError):
        settle(old)
    with pytest.raises(ConfigurationError):
        reset(shop.client, "writer", 99)
    shop.drain()
    assert shop.given == [1] and parked(shop.client, "writer") == []
