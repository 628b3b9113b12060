"""A reducer that ends its keeper's process."""

from __future__ import annotations

from typing import Any

import pytest

from pgevents import Event, EventClient, pipeline
from pgevents.subscriptions import keep, parked, parking, replay, retry, view_folding
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.pace import Pace
from pgevents.subscriptions.subscription import work_of
from pgevents.testing import drain

from ..shop import CartCreated, CartProjection


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
