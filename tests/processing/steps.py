"""A subscription whose steps a test takes one by one, and whose handler does what the test says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs
import peewee

from pgevents import Event, EventClient, stream
from pgevents.subscriptions import parked, retry, subscription, worker
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.lane_rows import all_rows
from pgevents.subscriptions.pace import Pace
from pgevents.subscriptions.subscription import work_of
from pgevents.testing import drain

from ..shop import CartCreated, CartEvent

QUICK = retry(9, delay=0.0, after_death=0.0)


@attrs.define(eq=False)
class Shop:
    """Two workers of one subscription, and what its handler was given.

    Attributes:
        fails: Ids of events at which the handler raises.
        lost: Ids of events at which the database ends the transaction.
        given: Ids of the events that were handled, in order; also of those that were rolled back.
        do: What the handler does besides.
        options: Of the subscription.
        streams: What it follows.
    """

    client: EventClient
    other: EventClient
    fails: set[int] = attrs.field(factory=set[int])
    lost: set[int] = attrs.field(factory=set[int])
    given: list[int] = attrs.field(factory=list[int])
    do: Callable[[Event[Any]], object] = lambda event: None
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    streams: Any = stream(CartEvent)

    def function(self) -> Any:
        options: dict[str, Any] = {"key": "cart_id", "on_error": QUICK, **self.options}

        @subscription("writer", self.streams, **options)
        def write(event: Event[Any]) -> None:
            if event.id in self.lost:
                raise peewee.OperationalError("the connection broke")
            if event.id in self.fails:
                raise ValueError(f"event {event.id} fails")
            self.given.append(event.id)
            self.do(event)

        return write

    def work(self, client: EventClient) -> Work:
        work = work_of(client, self.function())
        settle(work)
        return work

    def step(self, count: int = 1) -> list[int]:
        """Take so many steps; how many events each handled."""
        work, pace = self.work(self.client), Pace()
        lanes = range(len(all_rows(self.client, "writer")))
        return [worker.step(work, lanes, 99, pace).handled for _ in range(count)]

    def lanes(self, what: str) -> list[Any]:
        """A column of the lanes' rows."""
        sql = f"SELECT {what} FROM my_app.events_checkpoints WHERE name = 'writer' ORDER BY lane"
        return [row[0] for row in self.client.db.execute_sql(sql).fetchall()]

    def drain(self) -> None:
        drain(self.client, [self.function()])

    def step_until(self, states: list[str]) -> None:
        """Work until the parked events are in these states."""
        work, pace = self.work(self.client), Pace()
        for _ in range(100):
            worker.step(work, range(16), 16, pace)
            time.sleep(0.005)
            if [one.state for one in parked(self.client, "writer")] == states:
                return
        raise AssertionError(parked(self.client, "writer"))

    def save(self, *keys: str) -> None:
        self.client.save_events([CartCreated(key, "u1") for key in keys])
