"""Events in their envelopes without a store, as a read would bring them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from typing import Any, cast

from pgevents.codec.serialization import Serializer, dump_json, load_json
from pgevents.errors import EventEncodeError
from pgevents.events import Event, EventTypes, event_type_of

__all__ = ["plain_serializer", "preview"]


@cache
def plain_serializer() -> Serializer:
    """A serializer without the converters of any client."""
    return Serializer()


def preview(
    given: Any,
    now: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
    serializer: Serializer | None = None,
) -> Event[Any]:
    """An event as a read would bring it, with id 0: its data has been JSON in between, so what cannot be
    stored
    fails here.

    Args:
        given: An event in its envelope, which stays as it is; an instance of an event class; or a dict.
        now: When it happened; by default now.
        metadata: Its metadata, beside those of a dict.
        serializer: A client's; by default one without anybody's converters.

    Raises:
        EventEncodeError: Data that cannot be stored, or a dict that is no event.
        UnknownEventTypeError: No event.
    """
    cls: Any = given.__class__
    if cls is Event:
        return cast("Event[Any]", given)
    codec = plain_serializer() if serializer is None else serializer
    known = {**(metadata or {})}
    if isinstance(given, Mapping):
        form = cast("Mapping[str, Any]", given)
        name, data = form.get("type"), form.get("data", {})
        if not isinstance(name, str) or not name:
            raise EventEncodeError(
                f'an event as a dict has the form {{"type": ..., "data": {{...}}}}, not {given!r}'
            )
        known |= form.get("metadata", {})
        kind = EventTypes.everything.find(name)
    else:
        kind = event_type_of(cls)
        name, data = kind.name, given
    plain: Any = load_json(dump_json(codec.encode(data, name), name))
    if kind is not None:
        plain = codec.decode(plain, kind.cls, event_id=None, event_type=name)
    when = datetime.now(timezone.utc) if now is None else now
    return Event(0, name, plain, known, when, when)
