"""Events as CloudEvents 1.0 and back (https://github.com/cloudevents/spec, version 1.0.2)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

import attrs

from pgevents.client import EventClient
from pgevents.codec.times import parse_datetime
from pgevents.errors import ConfigurationError, EventEncodeError
from pgevents.events import Event, UndecodedData

__all__ = ["ReceivedCloudEvent", "from_cloudevent", "to_cloudevent"]

SPEC_VERSION = "1.0"
METADATA = "pgeventsmetadata"
"""The extension attribute that holds an event's metadata, as JSON text: an attribute cannot be an object."""
LINKS = {"correlation_id": "correlationid", "causation_id": "causationid"}
"""Metadata that CloudEvents has extension attributes for ("Correlation")."""
ATTRIBUTE = re.compile(r"[a-z0-9]+")


@attrs.frozen
class ReceivedCloudEvent:
    """A CloudEvent, ready to be saved.

    Attributes:
        event: The event as `save_event` takes it: type, data and metadata.
        idempotency_key: Made of `source` and `id`, which no other event has together: saved with it, an
            event that is delivered twice is saved once.
        created_at: Its `time`; None if it has none.

    Example:
        ```python
        received = from_cloudevent(request.get_json())
        client.save_event(
            received.event, idempotency_key=received.idempotency_key, created_at=received.created_at
        )
        ```
    """

    event: dict[str, Any]
    idempotency_key: str
    created_at: datetime | None


def to_cloudevent(
    client: EventClient, event: Event[Any], *, source: str, subject: str | None = None
) -> dict[str, Any]:
    """A saved event as a CloudEvent in the JSON format's structured mode.

    `correlation_id` and `causation_id` of the metadata become `correlationid` and `causationid`; the rest of
    the metadata stand in `pgeventsmetadata`, as JSON text.

    Args:
        client: The client that the event was read or saved by.
        event: The event.
        source: Names the log, as a URI reference: "/shop/events". With the event's id it names the event.
        subject: What the event is about within the source, for receivers that filter by it.

    Returns:
        A dict of JSON values; `CloudEvent.from_json` of the CloudEvents SDK takes its JSON text.

    Raises:
        ConfigurationError: An empty source or subject.
        EventEncodeError: The event was not saved yet, or could not be decoded.

    Example:
        ```python
        from pgevents.exchange import to_cloudevent

        to_cloudevent(client, saved, source="/shop/events", subject=saved.data.cart_id)
        ```
    """
    given: dict[str, Any] = {"source": source, "subject": "-" if subject is None else subject}
    for name, text in given.items():
        if not isinstance(text, str) or not text:
            raise ConfigurationError(f"{name} is a non-empty text, not {text!r}")
    if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EventEncodeError(f"a saved event becomes a CloudEvent, in its envelope, not {event!r:.80}")
    if isinstance(event.data, UndecodedData):
        raise EventEncodeError(f"event {event.id} could not be read: {event.data.error}")
    if event.id == 0:
        raise EventEncodeError(f"the event {event.type!r} is a preview; save it before it is sent")
    attributes: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": str(event.id),
        "source": source,
        "type": event.type,
        "time": event.created_at.isoformat(),
        "datacontenttype": "application/json",
    }
    if subject is not None:
        attributes["subject"] = subject
    rest = dict(event.metadata)
    for name, attribute in LINKS.items():
        if isinstance(rest.get(name), str) and rest[name]:
            attributes[attribute] = rest.pop(name)
    if rest:
        attributes[METADATA] = json.dumps(rest, ensure_ascii=False)
    return {**attributes, "data": client.serializer.encode(event.data, event.type)}


def from_cloudevent(cloudevent: Mapping[str, Any] | str | bytes) -> ReceivedCloudEvent:
    """A CloudEvent in structured mode as an event to save.

    Args:
        cloudevent: Its JSON text, or the dict that it is parsed to.

    Returns:
        The event, its key, and its time. Metadata are those that `to_cloudevent` wrote, and `source`,
        `subject`, `dataschema` and other extension attributes under "cloudevent".

    Raises:
        EventEncodeError: It is not a CloudEvent 1.0, or its data are not a JSON object.
    """
    given = _parsed(cloudevent)
    for name in ("specversion", "id", "source", "type"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise EventEncodeError(
                f"this is not a CloudEvent: {name!r} is a non-empty text, not {given.get(name)!r}"
            )
    if given["specversion"] != SPEC_VERSION:
        raise EventEncodeError(f"CloudEvents of version {given['specversion']!r} cannot be read, only 1.0")
    data: Any = given.get("data")
    if not isinstance(data, dict) or "data_base64" in given:
        raise EventEncodeError(
            f"the data of a CloudEvent to save are a JSON object, not {type(cast(object, data)).__name__}"
        )
    event_attributes = {
        "specversion",
        "id",
        "type",
        "time",
        "data",
        "datacontenttype",
        METADATA,
        *LINKS.values(),
    }
    rest = {
        name: value for name, value in given.items() if name not in event_attributes and value is not None
    }
    for name in rest:
        if not isinstance(name, str) or not ATTRIBUTE.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EventEncodeError(
                f"{name!r} is not an attribute of a CloudEvent: names are lower-case letters and digits"
            )
    metadata = {**_metadata(given.get(METADATA)), "cloudevent": {"id": given["id"], **rest}}
    for name, attribute in LINKS.items():
        if attribute in given:
            metadata[name] = given[attribute]
    event: dict[str, Any] = {"type": given["type"], "data": data, "metadata": metadata}
    return ReceivedCloudEvent(event, f"{given['source']} {given['id']}", _time(given.get("time")))


def _parsed(cloudevent: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
    if isinstance(cloudevent, (str, bytes)):
        try:
            cloudevent = json.loads(cloudevent)
        except (ValueError, RecursionError) as error:
            raise EventEncodeError(f"this is not a CloudEvent: {error}") from error
    if not isinstance(cloudevent, Mapping):
        raise EventEncodeError(f"a CloudEvent is a JSON object, not {type(cloudevent).__name__}")
    return cloudevent


def _metadata(text: object) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        metadata = json.loads(cast(str, text))
    except (TypeError, ValueError):
        metadata = None
    if not isinstance(metadata, dict):
        raise EventEncodeError(f"{METADATA!r} is the JSON text of an object, not {text!r:.80}")
    return cast("dict[str, Any]", metadata)


def _time(text: object) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_datetime(cast(str, text))
    except (TypeError, ValueError) as error:
        raise EventEncodeError(
            f"the time of a CloudEvent has the form of RFC 3339, not {text!r:.80}"
        ) from error
