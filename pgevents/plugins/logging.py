"""Logs saves, conflicts and snapshots with the standard library's logging, with structured extras."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents import ConfigurationError, Conflict, Event, EventClient, Snapshot, hookimpl

__all__ = ["Logging"]


def _is_logger(_instance: object, _attribute: object, value: Any) -> None:
    if not isinstance(value, (logging.Logger, logging.LoggerAdapter)):
        raise ConfigurationError(
            f"Logging(logger=...) takes a logger, as in logging.getLogger('shop'), not {value!r}"
        )


def _is_switch(_instance: object, attribute: attrs.Attribute[bool], value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(f"Logging({attribute.name}=...) is True or False, not {value!r}")


@attrs.frozen(eq=False)
class Logging:
    """Logs durable events (INFO), conflicts (WARNING) and snapshots (DEBUG).

    Each record has a dict `pgevents` among its extras, for formatters that write JSON: `table`; for events
    their `ids`, `types` and `metadata`; for a conflict the identifiers of its streams. The data of events
    are not logged unless `payload` is set.

    Attributes:
        logger: The logger; by default `pgevents.events`.
        payload: Whether to log the events' data as `data`.

    Raises:
        ConfigurationError: An option has a wrong type.

    Example:
        ```python
        from pgevents.plugins.logging import Logging

        client = create_event_client(db, events, views, plugins=[Logging()])
        ```
    """

    logger: logging.Logger | logging.LoggerAdapter[Any] = attrs.field(
        factory=lambda: logging.getLogger("pgevents.events"), validator=_is_logger
    )
    payload: bool = attrs.field(default=False, validator=_is_switch)

    @hookimpl
    def pgevents_after_commit(self, client: EventClient, events: Sequence[Event[Any]]) -> None:
        """Log a record for each save."""
        if not self.logger.isEnabledFor(logging.INFO):
            return
        extra: dict[str, Any] = {
            "table": client.events.pgevents_spec.qualified(),
            "ids": [event.id for event in events],
            "types": [event.type for event in events],
            "metadata": [event.metadata for event in events],
        }
        if self.payload:
            extra["data"] = [client.serializer.encode(event.data, event.type) for event in events]
        types = ", ".join(dict.fromkeys(extra["types"]))
        self.logger.info("saved %d event(s): %s", len(events), types, extra={"pgevents": extra})

    @hookimpl
    def pgevents_validation_conflict(self, client: EventClient, conflict: Conflict) -> None:
        """Log a record for each refused save."""
        extra = {
            "table": client.events.pgevents_spec.qualified(),
            "types": [new.type for new in conflict.events],
            "streams": [stream.as_json() for stream in conflict.streams],
            "expected_id": conflict.expected_id,
            "conflicting_ids": list(conflict.conflicting_ids),
            "attempt": conflict.attempt,
        }
        self.logger.warning(
            "conflict at try %d: expected nothing new after event %d, found %s",
            *(conflict.attempt, conflict.expected_id, list(conflict.conflicting_ids)),
            extra={"pgevents": extra},
        )

    @hookimpl
    def pgevents_after_snapshot(self, client: EventClient, snapshot: Snapshot, status: str) -> None:
        """Log a record for each snapshot."""
        extra = {
            "table": client.projections.pgevents_spec.qualified(),
            "type": snapshot.type,
            "id": snapshot.id,
            "status": status,
            "latest_event_id": snapshot.latest_event_id,
            "events_folded": len(snapshot.events),
        }
        self.logger.debug(
            "snapshot of %s %s: %s", snapshot.type, snapshot.id, status, extra={"pgevents": extra}
        )
