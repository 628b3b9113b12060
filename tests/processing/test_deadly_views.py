"""A reducer that ends its keeper's process."""

from __future__ import annotations

from typing import Any

import pytest

from pgevents import Event, EventClient, PgEventsError, pipeline
from pgevents.subscriptions import (
    keep,
    parked,
    parking,
    parking_notes,
    rebuild,
    replay,
    retry,
    view_folding,
)
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.pace import Pace
from pgevents.subscriptions.subscription import work_of
from pgevents.testing import drain

from ..shop import CartCreated, CartProjection

NAME = "view SHOPPING_CART 1 in views"


class EndsProcess(BaseException):
    """In place of a kill: nothing catches it, and the transaction is aborted."""


class DeadlyProjection(CartProjection):
    """A reducer ends its process at the events of one cart."""

    is_deadly = True
    reducers = pipeline(user_id=lambda user, event: die(event))


def die(event: Event[Any]) -> str:
    if event.data.cart_id == "deadly" and DeadlyProjection.is_deadly:
        raise EndsProcess
    return "somebody"


def test_a_reducer_that_ends_its_process_parks_its_view(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After as many attempts as any other; each is announced, and no other view is charged."""
    monkeypatch.setattr(view_folding, "CAREFUL_PAGE", 3)
    kept = keep(DeadlyProjection, lanes=2, on_error=retry(2, delay=0.0, after_death=0.0))
    keys = [f"c{n}" for n in range(8)]
    client.save_events([CartCreated(key, "u1") for key in [*keys, "deadly", *keys, "deadly", *keys]])
    work = work_of(client, kept)
    settle(work)
    work.setup()
    deaths, pace = 0, Pace()
    idle = 0
    for turn in range(200):
        try:
            outcome = work.keeper.step(work, [turn % 2, 1 - turn % 2], 2, pace=pace)
        except EndsProcess:
            deaths += 1
            continue
        idle = 0 if outcome.handled or outcome.is_more else idle + 1
        if idle == 4:
            break
    assert deaths == 4  # in a large page, in a small one, announced, and as a retry
    aside = parked(client, work.name)
    assert [(one.key, one.event_id, one.state) for one in aside] == [
        ("deadly", 9, "parked"),
        ("deadly", 18, "queued"),
    ]
    assert parking.DIED in (aside[0].error or "")
    for key in keys:
        saved = client.get_projection(DeadlyProjection, key)
        assert saved is not None and saved.latest_event_id == 19 + keys.index(key)
    monkeypatch.setattr(DeadlyProjection, "is_deadly", False)
    replay(client, work.name)
    drain(client, [kept])
    assert parked(client, work.name) == []
    assert client.count_projections(DeadlyProjection) == 9


def test_a_rebuild_tries_parked_views_again(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call makes all attempts: what still ends its process is parked again, and the call raises; when
    the reducer is mended, it ends with all views."""
    client.save_events([CartCreated(key, "u1") for key in ("c1", "deadly", "c2", "deadly")])
    policy = retry(2, delay=0.0, after_death=0.0)

    def called() -> int:
        """Calls it until it ends by itself, as a supervisor would; how many processes have died."""
        for deaths in range(10):
            try:
                with pytest.raises(PgEventsError, match="1 views of SHOPPING_CART 1 cannot be folded"):
                    rebuild(client, DeadlyProjection, on_error=policy, every=0.02)
                return deaths
            except EndsProcess:
                continue
        raise AssertionError("it never ends by itself")

    assert called() == 4
    for _ in range(2):
        assert called() == 2  # it stands alone now
        ((first, second),) = [parked(client, NAME)]
        assert (first.event_id, first.state, second.state) == (2, "parked", "queued")
    monkeypatch.setattr(DeadlyProjection, "is_deadly", False)
    report = rebuild(client, DeadlyProjection)
    assert (report.waiting, parked(client, NAME)) == (0, [])
    saved = client.get_projection(DeadlyProjection, "deadly")
    assert saved is not None and saved.latest_event_id == 4
    notes = parking_notes(client, NAME)
    assert {(one.action, one.event_id, one.reason) for one in notes} == {("retried", 2, "rebuild was called")}


def test_a_rebuild_waits_for_attempts_that_are_made(client: EventClient) -> None:
    """A view that fails and then does not is whole when the call returns, though all others were complete
    before."""
    tries = 0

    class LateProjection(CartProjection):
        reducers = pipeline(user_id=lambda user, event: late(event))

    def late(event: Event[Any]) -> str:
        nonlocal tries
        tries += event.data.cart_id == "late"
        if 0 < tries < 4:
            raise ValueError(tries)
        return "somebody"

    client.save_events([CartCreated(key, "u1") for key in ("c1", "late", "c2")])
    assert rebuild(client, LateProjection, on_error=retry(9, delay=0.05), every=0.02).waiting == 0
    assert client.count_projections(LateProjection) == 3
