"""`RedisPublisher`: messages into a Redis Stream."""

from __future__ import annotations

from typing import Any

from pgevents.distribution import require
from pgevents.errors import ConfigurationError
from pgevents.relays.messages import Message, check_text

__all__ = ["RedisPublisher"]


class RedisPublisher:
    """Adds each message to a Redis Stream, with the fields `id`, `type`, `key`, `fence` and `event`.

    Redis confirms what it has in memory: with `appendonly yes` and `appendfsync always` also on disk. With
    another setting it may lose what it has confirmed, when it is killed.

    Args:
        url: As redis-py takes it: "redis://localhost:6379/0".
        stream: The stream's key.
        maxlen: About how many messages the stream keeps; None for all.
        timeout: Seconds for each answer.

    Raises:
        ConfigurationError: An option that cannot work, or redis is not installed (extra `redis`).

    Example:
        ```python
        from pgevents.relays.redis import RedisPublisher

        relay("carts", CartEvent, RedisPublisher("redis://localhost", "carts"), source="/shop", key="cart_id")
        ```
    """

    def __init__(self, url: str, stream: str, *, maxlen: int | None = None, timeout: float = 10.0) -> None:
        if maxlen is not None and (type(maxlen) is not int or maxlen < 1):
            raise ConfigurationError(f"maxlen is a number from 1 on, or None, not {maxlen!r}")
        self._stream = check_text("stream", stream)
        self._maxlen = maxlen
        redis = require("redis", "redis")
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)

    def publish(self, message: Message) -> None:
        """Add a message; raises redis-py's errors."""
        fields: dict[str, Any] = {**message.headers(), "event": message.body}
        self._redis.xadd(self._stream, fields, maxlen=self._maxlen)

    def close(self) -> None:
        """Close the idle connections."""
        self._redis.close()
