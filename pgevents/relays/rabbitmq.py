"""`RabbitPublisher`: messages to an exchange of RabbitMQ, with publisher confirms."""

from __future__ import annotations

import threading
from typing import Any

from pgevents.distribution import require
from pgevents.errors import ConfigurationError
from pgevents.relays.messages import CONTENT_TYPE, Message, check_text

__all__ = ["RabbitPublisher"]


class RabbitPublisher:
    """Publishes each message to an exchange: persistent, mandatory, and confirmed by the broker.

    Order within a key is that of a queue: have one queue, or an exchange that goes by the routing key. Queues
    are the program's to declare, durable; a message that no queue takes is an error.

    Args:
        url: As pika takes it: "amqp://user:password@localhost:5672/%2F".
        exchange: The exchange; "" is the default one, whose routing key is a queue's name.
        routing_key: The routing key; by default the event's type.
        timeout: Seconds for a connection, and for a broker that blocks publishers.

    Raises:
        ConfigurationError: An option that cannot work, or pika is not installed (extra `rabbitmq`).

    Example:
        ```python
        from pgevents.relays.rabbitmq import RabbitPublisher

        queue = RabbitPublisher("amqp://localhost", "", routing_key="carts")
        relay("carts", CartEvent, queue, source="/shop", key="cart_id")
        ```
    """

    def __init__(
        self, url: str, exchange: str, *, routing_key: str | None = None, timeout: float = 10.0
    ) -> None:
        if exchange == "":
            check_text("routing_key (of the default exchange: a queue's name)", routing_key)
        else:
            check_text("exchange", exchange)
        self._pika = require("pika", "rabbitmq")
        try:
            self._parameters: Any = self._pika.URLParameters(url)
        except (ValueError, TypeError, AttributeError):
            raise ConfigurationError(
                "the broker's URL cannot be read; it has the form amqp://user:password@host:5672/%2F"
            ) from None
        self._parameters.socket_timeout = self._parameters.blocked_connection_timeout = timeout
        self._parameters.stack_timeout = timeout
        self._exchange, self._routing_key = exchange, routing_key
        self._thread = threading.local()

    def publish(self, message: Message) -> None:
        """Publish a message on this thread's connection, and wait for the confirm; raises pika's errors."""
        properties = self._pika.BasicProperties(
            message_id=message.id,
            type=message.type,
            content_type=CONTENT_TYPE,
            delivery_mode=2,
            headers=message.headers(),
        )
        self._channel().basic_publish(
            self._exchange, self._routing_key or message.type, message.body, properties, mandatory=True
        )

    def _channel(self) -> Any:
        channel: Any = getattr(self._thread, "channel", None)
        if channel is None or not channel.is_open:
            self.close()
            connection = self._thread.connection = self._pika.BlockingConnection(self._parameters)
            channel = connection.channel()
            channel.confirm_delivery()
            self._thread.channel = channel
        return channel

    def close(self) -> None:
        """Close this thread's connection."""
        connection: Any = getattr(self._thread, "connection", None)
        self._thread.connection = self._thread.channel = None
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except self._pika.exceptions.AMQPError:  # it broke meanwhile
                pass
