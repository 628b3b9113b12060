"""Two workers, a key that is set aside, and the moments at which one of them knows too little."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pgevents import Event, EventClient, stream
from pgevents.subscriptions import (
    discard,
    outside,
    parked,
    parking,
    replay,
    resize,
    retry,
    subscription,
    worker,
)
from pgevents.subscriptions import lanes as lanes_module
from pgevents.subscriptions.definition import Work
from pgevents.testing import drain

from ..shop import CartEvent
from . import variants
from .steps import Shop

Make = Callable[..., EventClient]
QUICK = retry(9, delay=0.0)


def test_a_retry_does_not_outlive_a_resize(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key has another lane meanwhile, whose worker queues an event: that must get a head."""
    shop.fails = {1}
    shop.options = {"lanes": 4}
    hashed = "SELECT mod(hashtextextended(%s, 0), 12)"
    numbers = {key: shop.client.db.execute_sql(hashed, [key]).fetchone()[0] for key in map(str, range(99))}
    key = next(key for key, number in numbers.items() if number % 4 not in (number % 3, 3))
    shop.save(key)
    work, theirs = shop.work(shop.client), shop.work(shop.other)
    worker.step(work, range(4), 4, worker.Pace())
    shop.fails = set()
    shop.save(key)
    shop.client.db.execute_sql(
        "UPDATE my_app.events_checkpoints SET careful = 9, announced = 0, position = 1"
    )
    retry_announced = worker.Step._retry_announced

    def resize_between(*arguments: Any) -> Any:
        resize(shop.other, "writer", 3)
        with shop.other.db.atomic():
            held = lanes_module.claim(theirs, [numbers[key] % 3], 1)
            batch = lanes_module.read(theirs, held, 9)
            assert [item.id for item in batch.items] == [2]
            parking.queue(theirs, batch.items)
            lanes_module.move(theirs, held, batch.to, batch.items)
            return retry_announced(*arguments)

    monkeypatch.setattr(worker.Step, "_retry_announced", resize_between)
    worker.step(work, range(4), 4, worker.Pace())
    monkeypatch.undo()
    shop.drain()
    assert shop.given == [1, 2] and parked(shop.client, "writer") == []


def test_a_key_that_is_set_aside_while_a_lane_is_claimed_is_seen(shop: Shop, statements: None) -> None:
    """The claim's snapshot may be older than the lane that it gets."""
    shop.fails = {1}
    shop.options = {"lanes": 1}
    shop.save("c1", "c1")
    work, theirs = shop.work(shop.client), shop.work(shop.other)
    variants.change_statement(
        "claim", "SELECT pg_try", "SELECT pg_advisory_xact_lock_shared(42) IS NOT NULL AND pg_try"
    )
    locks = shop.client.db
    locks.execute_sql("SELECT pg_advisory_lock(42)")
    thread = threading.Thread(target=worker.step, args=(theirs, [0], 1, worker.Pace()))
    thread.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
    while not locks.execute_sql(waiting).fetchone()[0]:
        pass
    worker.step(work, [0], 1, worker.Pace())  # it holds the lock itself
    assert [one.state for one in parked(shop.client, "writer")] == ["retrying"]
    shop.fails = set()
    locks.execute_sql("SELECT pg_advisory_unlock_all()")
    thread.join()
    shop.drain()
    assert shop.given == [1, 2]


def test_events_without_the_key_are_retried_in_order(shop: Shop) -> None:
    """No key is a key, too: its later events wait for its first."""
    shop.streams = stream("NOTE")
    shop.client.save_events([{"type": "NOTE", "data": {}}, {"type": "NOTE", "data": {"cart_id": None}}])
    shop.fails = {1}
    shop.step_until(["retrying", "queued"])
    shop.fails = {2}
    shop.step_until(["retrying", "retrying"])
    shop.client.db.execute_sql("UPDATE my_app.events_parked SET due_at = now() - event_id * interval '1 s'")
    shop.fails, shop.given = set(), []
    shop.drain()
    assert shop.given == [1, 2] and parked(shop.client, "writer") == []


def test_an_error_of_the_database_counts_for_the_event_that_it_struck(shop: Shop) -> None:
    """What was tried along with it goes on."""
    shop.options = {"on_error": retry(1)}
    shop.save("c1", "c1", "c1")
    shop.fails = {1}
    shop.step_until(["parked", "queued", "queued"])
    shop.fails, shop.lost = set(), {2}
    replay(shop.client, "writer")
    shop.step_until(["parked", "queued"])
    assert [one.event_id for one in parked(shop.client, "writer")] == [2, 3]
    assert shop.given[-1:] == [1]


def outside_shop(shop: Shop, *keys: str) -> Work:
    shop.options = {"effects": "outside", "lanes": 1, "on_error": retry(2, delay=0.0), "lease": 60.0}
    shop.save(*keys)
    return shop.work(shop.client)


def test_what_was_discarded_while_its_lane_was_leased_blocks_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the lane still believes the key to be blocked, and queues an event of it."""
    shop.fails = {1}
    work = outside_shop(shop, "c1", "c2", "c1")
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET position = 0")
    outside.step(work, [0], worker.Pace())
    handle = outside._handle

    def discard_between(*arguments: Any) -> bool:
        is_ours = handle(*arguments)
        discard(shop.other, "writer", 1, "no use")
        return is_ours

    monkeypatch.setattr(outside, "_handle", discard_between)
    outside._handle_all(work, outside._take(work, [0], worker.Pace()), worker.NEVER)
    monkeypatch.undo()
    shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET leased_until = NULL")
    shop.drain()
    assert shop.given == [2, 3] and parked(shop.client, "writer") == []


def test_what_was_discarded_while_it_was_tried_stays_discarded(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler fails once more; it is not tried again, and who discarded it and why is kept."""
    shop.fails = {1}
    work = outside_shop(shop, "c1", "c1")
    outside.step(work, [0], worker.Pace())
    outside.step(work, [0], worker.Pace())
    give = outside._give

    def discard_between(*arguments: Any) -> None:
        discard(shop.other, "writer", 1, "no use")
        give(*arguments)

    monkeypatch.setattr(outside, "_give", discard_between)
    outside.step(work, [0], worker.Pace())
    monkeypatch.undo()
    (kept,) = [one for one in parked(shop.client, "writer", discarded=True) if one.event_id == 1]
    assert kept.state == "discarded" and "no use" in (kept.note or "")
    shop.drain()
    assert shop.given == [2]


def test_a_retry_that_always_kills_its_worker_is_parked_in_the_end(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With effects outside, too: each try was counted before it began."""
    shop.fails = {1}
    work = outside_shop(shop, "c1")
    for _ in range(2):  # it fails, and is set aside
        outside.step(work, [0], worker.Pace())
    for _ in range(2):  # its worker dies in the handler
        outside._take(work, [0], worker.Pace())
        shop.client.db.execute_sql("UPDATE my_app.events_checkpoints SET leased_until = now()")
    assert [(one.state, one.attempts) for one in parked(shop.client, "writer")] == [("parked", 2)]


def test_a_handler_that_commits_and_begins_anew_does_not_go_on_for_ever(shop: Shop) -> None:
    """What it wrote cannot be taken back; that it did so is an error of its event."""
    calls: list[int] = []

    @subscription("writer", stream(CartEvent), key="cart_id", on_error=retry(2, delay=0.0))
    def write(event: Event[Any]) -> None:
        calls.append(event.id)
        shop.client.db.execute_sql("COMMIT")
        shop.client.db.execute_sql("BEGIN")

    shop.save("c1")
    for _ in range(3):
        drain(shop.client, [write])
    assert calls == [1, 1]
    assert "commit or rollback of its own" in (parked(shop.client, "writer")[0].error or "")
