"""A clock for timers that a test moves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pgevents.errors import ConfigurationError, shown

if TYPE_CHECKING:
    from pgevents.client import EventClient

__all__ = ["Clock"]


class Clock:
    """The clock by which clients schedule and fire timers: the server's, and as far ahead as the test says.

    It moves forward only, and starts at the server's time. Times that are stored (`created_at`) stay the
    server's.

    Example:
        ```python
        from pgevents.testing import Clock, drain

        def test_an_order_that_is_not_paid_is_cancelled(pgevents_client):
            clock = Clock(pgevents_client)
            place_order(pgevents_client, "o1")
            clock.advance(timedelta(minutes=30))
            drain(pgevents_client, [payment_timeout])
        ```
    """

    def __init__(self, *clients: EventClient) -> None:
        """Nothing is moved yet.

        Args:
            *clients: The clients that go by it.

        Raises:
            ConfigurationError: No client.
        """
        if not clients:
            raise ConfigurationError("Clock(client) takes the client, or clients, whose timers it moves")
        self._clients = clients

    def now(self) -> datetime:
        """What time it is by this clock."""
        (now,) = self._clients[0].session.execute("SELECT clock_timestamp()").fetchone()
        moved: datetime = now + self._clients[0].timers.ahead
        return moved

    def advance(self, by: timedelta) -> None:
        """Move it forward. Timers that are due then are fired by `drain()`, or by a runner.

        Raises:
            ConfigurationError: Not a timedelta, or one below 0.
        """
        if not isinstance(by, timedelta) or by < timedelta(0):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"a clock is advanced by a timedelta from 0 on, not by {shown(by)}")
        for client in self._clients:
            client.timers.ahead += by
