"""What is published: a message made of an event, and what publishes it."""

from __future__ import annotations

from typing import Protocol

import attrs

from pgevents.errors import ConfigurationError, PgEventsError

__all__ = ["Message", "PublishError", "Publisher", "check_text"]


class PublishError(PgEventsError):
    """The receiver did not confirm a message; it is published again, with the same id."""


@attrs.frozen
class Message:
    """An event on its way out.

    Attributes:
        id: The event's id as text. A repeat has the same one: receivers drop what they have seen.
        type: The event's type.
        key: The value of the relay's key: messages of one key come in order. None without a key.
        fence: Grows whenever another worker takes the key's lane: a receiver that has seen a greater one
            knows that this message is late.
        body: The event as a CloudEvent, JSON in UTF-8.
    """

    id: str
    type: str
    key: str | None
    fence: int
    body: bytes

    def headers(self) -> dict[str, str]:
        """Id, type, key and fence, for brokers whose messages have headers."""
        headers = {"id": self.id, "type": self.type, "fence": str(self.fence)}
        return headers if self.key is None else {**headers, "key": self.key}


class Publisher(Protocol):
    """Publishes messages; used by several threads at once."""

    def publish(self, message: Message) -> None:
        """Publish a message, and return when the receiver has confirmed that it keeps it.

        Raises:
            Exception: It has not; whether the message arrived is not known.
        """
        ...

    def close(self) -> None:
        """Let go of connections; the next message makes new ones."""
        ...


CONTENT_TYPE = "application/cloudevents+json"


def check_text(name: str, text: object) -> str:
    """A non-empty text of an option.

    Raises:
        ConfigurationError: Something else.
    """
    if not isinstance(text, str) or not text:
        raise ConfigurationError(f"{name} is a non-empty text, not {text!r:.80}")
    return text
