"""Events in their envelopes without a store, as a read would give them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, cast

from pgevents.caches import remembered
from pgevents.codec.serialization import Serializer, dump_json, load_json
from pgevents.errors import EventEncodeError
from pgevents.event_types import event_type_of
from pgevents.events import Event
from pgevents.type_registry import EventTypes

__all__ = ["plain_serializer", "preview"]


@remembered("serializer without a client")
def plain_serializer() -> Serializer:
    """A serializer without the converters of any client."""
    return Serializer()


def preview(
    given: Any,
    now: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
    serializer: Serializer | None = None,
) -> Event[Any]:
    """An event as a read would give it, with id 0.

    Its data are encoded to JSON and decoded again, so data that cannot be stored are refused here.

    Args:
        given: An event in its envelope, which stays as it is; an instance of an event class; or a dict.
        now: When it happened; by default now.
        metadata: Its metadata, beside those of a dict.
        serializer: A client's; by default one without anybody's converters.

    Raises:
        EventEncodeError: The data cannot be stored, or a dict is not an event.
        UnknownEventTypeError: The object is not an event.
    """
    cls: Any = given.__class__
    if cls is Event:
        return cast("Event[Any]", given)
    codec = plain_serializer() if serializer is None else serializer
    all_metadata = {**(metadata or {})}
    if isinstance(given, Mapping):
        form = cast("Mapping[str, Any]", given)
        name, data = form.get("type"), form.get("data", {})
        if not isinstance(name, str) or not name:
            raise EventEncodeError(
                f'an event as a dict has the form {{"type": ..., "data": {{...}}}}, not {given!r}'
            )
        all_metadata |= form.get("metadata", {})
        event_type = EventTypes.everything.find(name)
    else:
        event_type = event_type_of(cls)
        name, data = event_type.name, given
    plain: Any = load_json(dump_json(codec.encode(data, name), name))
    if event_type is not None:
        plain = codec.decode(plain, event_type.cls, event_id=None, event_type=name)
    when = datetime.now(timezone.utc) if now is None else now
    return Event(0, name, plain, all_metadata, when, when)
