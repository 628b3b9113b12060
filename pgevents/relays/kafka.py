"""`KafkaPublisher`: messages to a topic of Kafka."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pgevents.distribution import require
from pgevents.errors import ConfigurationError
from pgevents.relays.messages import Message, PublishError, check_text

__all__ = ["KafkaPublisher"]


class KafkaPublisher:
    """Produces each message to a topic, and waits until all in-sync replicas have it.

    The relay's key is the message's key, so a key's messages stand in one partition, in order.

    Args:
        servers: "localhost:9092", or several with commas.
        topic: The topic.
        timeout: Seconds until a message that was not delivered is an error.
        settings: More of librdkafka's settings, such as `security.protocol`.

    Raises:
        ConfigurationError: An option that cannot work, or confluent-kafka is not installed (extra `kafka`).

    Example:
        ```python
        from pgevents.relays.kafka import KafkaPublisher

        relay("carts", CartEvent, KafkaPublisher("localhost:9092", "carts"), source="/shop", key="cart_id")
        ```
    """

    def __init__(
        self, servers: str, topic: str, *, timeout: float = 10.0, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._topic, self._timeout = check_text("topic", topic), timeout
        ours = {
            "bootstrap.servers": check_text("servers", servers),
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            "message.timeout.ms": int(timeout * 1000),
        }
        taken = sorted(set(ours) & set(settings or {}))
        if taken:
            raise ConfigurationError(f"{taken[0]} is set by KafkaPublisher, so that nothing is lost")
        self._kafka = require("confluent_kafka", "kafka")
        try:
            self._producer: Any = self._kafka.Producer({**(settings or {}), **ours})
        except (self._kafka.KafkaException, ValueError, TypeError) as error:
            raise ConfigurationError(f"Kafka's settings cannot be used: {error}") from error

    def publish(self, message: Message) -> None:
        """Produce a message, and wait for its delivery.

        Raises:
            PublishError: It was not delivered in time, or refused.
        """
        outcome: list[Any] = []

        def note(error: Any, _message: Any) -> None:
            outcome.append(error)

        self._producer.produce(
            self._topic,
            value=message.body,
            key=None if message.key is None else message.key.encode(),
            headers=list(message.headers().items()),
            on_delivery=note,
        )
        end = time.monotonic() + self._timeout + 5
        while not outcome and time.monotonic() < end:
            self._producer.poll(0.05)
        if not outcome:
            raise PublishError(f"Kafka did not confirm event {message.id} in {self._timeout} s")
        if outcome[0] is not None:
            raise PublishError(f"Kafka did not take event {message.id}: {outcome[0]}")

    def close(self) -> None:
        """Nothing: the producer connects anew by itself."""
