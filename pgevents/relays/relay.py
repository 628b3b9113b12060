"""`relay`: a subscription that publishes each event of its streams."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, cast

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.exchange import to_cloudevent
from pgevents.relays.messages import Message, Publisher, PublishError, check_text
from pgevents.streams import Stream
from pgevents.subscriptions import ErrorPolicy, current_delivery, retry, subscription
from pgevents.subscriptions.definition import key_names
from pgevents.subscriptions.subscription import FunctionSubscription

__all__ = ["relay"]

log = logging.getLogger("pgevents.relays")
PATIENCE = retry(1000, delay=0.2, longest=30)
"""By default an event is tried for some eight hours, before it is parked or the relay stops."""


def relay(
    name: str,
    streams: Any,
    publisher: Publisher,
    *,
    source: str,
    key: str | Sequence[str] | None = None,
    lanes: int | None = None,
    lease: float = 60.0,
    on_error: ErrorPolicy = PATIENCE,
) -> FunctionSubscription[Any]:
    """A subscription that publishes each event as a CloudEvent; a `Runner` runs it.

    Every event is published at least once, in the order of the log, or of its key. A receiver tells a repeat
    by the message's id, which is the event's. If the broker is unavailable, events wait in the log and in the
    list of parked events; nothing is lost, and order within a key stays.

    Args:
        name: Names the place in the log.
        streams: Event classes, type names or `stream(...)`; one or a list. None is the whole log.
        publisher: Where to.
        source: Names the log for receivers, as a URI reference: "/shop/events".
        key: A field: events of one value are published in order, those of different values side by side.
            None: all in one order.
        lanes: With a key, how many workers can publish at once at most.
        lease: Seconds that one event may take, the publisher's time-outs included.
        on_error: What an error of the publisher means: by default 1,000 attempts with growing pauses of at
            most 30 s, then the event is parked (with a key) or the relay stops (without).

    Returns:
        The subscription.

    Raises:
        ConfigurationError: An option that cannot work, or something that does not publish.

    Example:
        ```python
        from pgevents.relays import WebhookPublisher, relay
        from pgevents.subscriptions import Runner

        hook = WebhookPublisher("https://partner.example/events", secret=os.environ["PARTNER_SECRET"])
        Runner(client, [relay("partner", CartEvent, hook, source="/shop/events", key="cart_id")]).run()
        ```
    """
    check_text("source", source)
    if isinstance(publisher, type) or not all(
        callable(getattr(publisher, call, None)) for call in ("publish", "close")
    ):
        raise ConfigurationError(f"a publisher is an object with publish and close, not {publisher!r:.80}")
    names = key_names(key)
    is_many = isinstance(streams, (list, tuple)) and not isinstance(streams, Stream)
    questions: list[Any] = list(cast(Any, streams)) if is_many else [] if streams is None else [streams]
    if is_many and not questions:
        raise ConfigurationError("streams are empty, so nothing would be published: None is the whole log")

    @subscription(name, *questions, key=key, lanes=lanes, effects="outside", on_error=on_error, lease=lease)
    def publish(event: Event[Any], client: EventClient) -> None:
        _publish(publisher, _message(client, event, source, names))

    return publish


def _message(client: EventClient, event: Event[Any], source: str, names: Sequence[str]) -> Message:
    cloudevent = to_cloudevent(client, event, source=source)
    found = [cloudevent["data"][name] for name in names if cloudevent["data"].get(name) is not None]
    key = (found[0] if isinstance(found[0], str) else json.dumps(found[0])) if found else None
    if key:
        cloudevent["subject"] = key
    delivery = current_delivery()
    fence = delivery.generation if delivery is not None else 0
    body = json.dumps(cloudevent, ensure_ascii=False).encode()
    return Message(str(event.id), event.type, key, fence, body)


def _publish(publisher: Publisher, message: Message) -> None:
    """Publish; a connection that broke while it was idle is made anew, once."""
    try:
        publisher.publish(message)
    except PublishError:  # an answer, which a new connection would not change
        raise
    except Exception as error:
        log.debug("event %s is published again on a new connection: %s", message.id, error)
        publisher.close()
        publisher.publish(message)
