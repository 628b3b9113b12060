"""Views that a client keeps between its decisions on busy streams: it then reads only what came since."""

from __future__ import annotations

import pickle
import time
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import attrs

from pgevents.caches import CACHES, Cache
from pgevents.events import Event
from pgevents.store.ordering import Position

__all__ = ["KeptView", "KeptViews", "keep_view"]

LARGEST = 50_000
"""Bytes of a view, beyond which it is not kept."""
MOST_EVENTS = 1_000
"""Events that a view was folded from, beyond which it is not kept."""
NAME = "views between decisions"
"""Of the cache, which says how many views a client keeps, and for how long."""


@attrs.frozen
class KeptView:
    """A view as it was read under the lock of its streams, so that nothing can be saved below its last id.

    Attributes:
        pickled: The view. Whoever goes on from it gets a copy, for reducers and deciders may change theirs.
        position: Where it was read. A save is checked against all of its ids.
        redactions: How often the log had been changed under maintenance.
        connection: The connection that read it: another one may lead to another database.
        until: When it is no longer used, by `time.monotonic()`.
    """

    pickled: bytes
    position: Position
    redactions: str
    connection: weakref.ref[Any]
    until: float

    def copy(self) -> Any:
        """The view."""
        return pickle.loads(self.pickled)

    def position_with(self, events: Sequence[Event[Any]]) -> Position:
        """The position of the view after some more events."""
        if not events:
            return self.position
        ids = [*self.position.ids, *[event.id for event in events]]
        return attrs.evolve(self.position, last_id=ids[-1], count=len(ids), ids=ids)


def keep_view(view: object, position: Position, redactions: str, connection: Any) -> KeptView | None:
    """A view to be kept; None if it is too large, or of a class that cannot be pickled."""
    is_whole = len(position.ids) == position.count <= MOST_EVENTS
    if not is_whole or position.uncommitted is not None:
        return None
    try:
        pickled = pickle.dumps(view, pickle.HIGHEST_PROTOCOL)
    except Exception:  # whatever a class of the user's raises; deepcopy would raise it, too
        return None
    if len(pickled) > LARGEST:
        return None
    return KeptView(
        pickled, position, redactions, weakref.ref(connection), time.monotonic() + CACHES[NAME].seconds
    )


def _no_views() -> Cache[Hashable, KeptView]:
    return Cache("views between decisions")


@attrs.define(eq=False)
class KeptViews:
    """The views that a client keeps. One that is taken is gone until it is put back, as no two may use it."""

    _views: Cache[Hashable, KeptView] = attrs.field(init=False, factory=_no_views)

    def take(self, key: Hashable, connection: Any) -> KeptView | None:
        """The view under a key, if it is young and of this connection; None if there is none."""
        kept = self._views.pop(key, None)
        if kept is None or kept.connection() is not connection or kept.until < time.monotonic():
            return None
        return kept

    def put(self, key: Hashable, kept: KeptView) -> None:
        """Keep a view; where there are too many, all others go."""
        self._views[key] = kept
