"""`NatsPublisher`: messages into a stream of NATS JetStream."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from pgevents.distribution import require
from pgevents.relays.messages import Message, PublishError, check_text

__all__ = ["NatsPublisher"]


class NatsPublisher:
    """Publishes each message to a subject of JetStream, and waits until the stream keeps it.

    The event's id is the `Nats-Msg-Id`: JetStream drops a repeat within the stream's duplicate window (two
    minutes by default). The stream is the program's to make; without one it is an error.

    Args:
        servers: As nats-py takes it: "nats://localhost:4222", or a list.
        subject: The subject; "{type}" in it is filled with the event's type.
        timeout: Seconds for a connection, and for the stream's answer.

    Raises:
        ConfigurationError: An option that cannot work, or nats-py is not installed (extra `nats`).

    Example:
        ```python
        from pgevents.relays.nats import NatsPublisher

        relay("carts", CartEvent, NatsPublisher("nats://localhost", "shop.{type}"), source="/shop")
        ```
    """

    def __init__(self, servers: str | list[str], subject: str, *, timeout: float = 10.0) -> None:
        self._subject = check_text("subject", subject)
        self._servers, self._timeout = servers, timeout
        self._nats = require("nats", "nats")
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._connecting = asyncio.Lock()

    def publish(self, message: Message) -> None:
        """Publish a message.

        Raises:
            PublishError: The stream has not answered in time.
            Exception: nats-py's errors.
        """
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True, name="pgevents-nats").start()
            publishing = asyncio.run_coroutine_threadsafe(self._publish(message), self._loop)
        try:
            publishing.result(2 * self._timeout + 1)
        except TimeoutError as error:
            raise PublishError(f"JetStream did not confirm event {message.id} in time") from error

    async def _publish(self, message: Message) -> None:
        async with self._connecting:
            if self._connection is None or not self._connection.is_connected:
                await self._close()
                self._connection = await self._nats.connect(
                    self._servers, connect_timeout=self._timeout, allow_reconnect=False
                )
            connection = self._connection
        name = message.type.replace(".", "_").replace(" ", "_")
        await connection.jetstream().publish(
            self._subject.replace("{type}", name),
            message.body,
            timeout=self._timeout,
            headers={"Nats-Msg-Id": message.id, **message.headers()},
        )

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def close(self) -> None:
        """Close the connection; its thread stays for the next one."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(self._timeout)
