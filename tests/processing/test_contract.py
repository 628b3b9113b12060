"""What is promised of subscriptions, sentence by sentence, where no other file tests it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgevents import Event, EventClient, stream
from pgevents.subscriptions import runner as runner_module
from pgevents.subscriptions import subscription

from ..shop import CartCreated, CartEvent
from ..test_subscriptions_runner import running

Make = Callable[..., EventClient]


def test_a_runner_that_is_cut_off_while_it_begins_goes_on(
    client: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks between its first look and its first event."""
    settled: list[int] = []
    settle = runner_module.settle

    def cut_off(work: Any) -> None:
        settled.append(client.db.execute_sql("SELECT pg_backend_pid()").fetchone()[0])
        if len(settled) == 1:
            make_client().db.execute_sql("SELECT pg_terminate_backend(%s, 5000)", settled)
        settle(work)

    @subscription("writer", stream(CartEvent))
    def write(event: Event[Any]) -> None:
        return None

    monkeypatch.setattr(runner_module, "settle", cut_off)
    client.save_event(CartCreated("c1", "u1"))
    with running(client, write):
        client.wait("writer", 1, timeout=10)
    assert len(settled) == 2
