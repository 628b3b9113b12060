"""Saves a snapshot whenever many events were folded into a view."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Sequence
from typing import Any, cast

import attrs

from pgevents import ConfigurationError, Event, EventClient, UnsupportedTransactionError, hookimpl

__all__ = ["SnapshotPolicy"]

log = logging.getLogger("pgevents.snapshots")


def _at_least_one(_instance: object, _attribute: object, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"SnapshotPolicy(every={value!r}): every is a number of events, 1 or more")


def _are_types(_instance: object, _attribute: object, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, str) or not isinstance(value, Collection) or not value:
        raise ConfigurationError(
            f"SnapshotPolicy(types={value!r}): types is a list of projection types, as in ['CART']"
        )
    for name in cast("Collection[object]", value):
        if not isinstance(name, str):
            raise ConfigurationError(
                "SnapshotPolicy(types=...) names types by their text (CartProjection.projection_type), "
                f"not {name!r}"
            )


@attrs.frozen(eq=False)
class SnapshotPolicy:
    """Saves a snapshot after a view was folded from many events, so that the next fold starts from it.

    Inside a transaction the snapshot is saved after the commit. An error is logged; the read continues.

    Attributes:
        every: Save after this many events on top of the last snapshot.
        types: The projection types to snapshot; by default all.

    Raises:
        ConfigurationError: An option has a wrong type or value.

    Example:
        ```python
        from pgevents.plugins.snapshots import SnapshotPolicy

        client = create_event_client(db, events, views, plugins=[SnapshotPolicy(every=100)])
        ```
    """

    every: int = attrs.field(default=100, validator=_at_least_one)
    types: Collection[str] | None = attrs.field(default=None, validator=_are_types)

    @hookimpl
    def pgevents_after_fold(self, client: EventClient, projection: Any, events: Sequence[Event[Any]]) -> None:
        """Save a copy, so that view and position of the projection in use stay consistent."""
        if len(events) < self.every or (
            self.types is not None and projection.projection_type not in self.types
        ):
            return
        copied = copy.copy(projection)

        def save() -> None:
            try:
                copied.save_projection()
            except UnsupportedTransactionError as error:  # a standby, say, answers reads only
                log.debug("no snapshot of %s %s: %s", projection.projection_type, projection.id, error)
            except Exception:  # a snapshot only saves time: the read must not fail without it
                log.exception("the snapshot of %s %s failed", projection.projection_type, projection.id)

        if client.db.in_transaction():
            client.db.after_commit(save)
        else:
            save()
