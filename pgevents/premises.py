"""What a decision rests on: projections, as far as a client that decides needs them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, TypeVar

from pgevents.errors import ConfigurationError, StagedEventsError, shown
from pgevents.events import Event
from pgevents.snapshots import SavedProjection, SaveResult, SnapshotKey
from pgevents.store.ordering import Position
from pgevents.streams import Stream

__all__ = ["Keepable", "PlainProjection", "Projection", "projections_of"]

V_co = TypeVar("V_co", covariant=True)


class Projection(Protocol[V_co]):
    """What a client needs of a projection, so that it stands below the module of projections."""

    @property
    def view(self) -> V_co:
        """The view."""
        ...

    @property
    def position(self) -> Position:
        """Where in the log it was read."""
        ...

    @property
    def has_staged_events(self) -> bool:
        """Whether it holds events that are not saved."""
        ...

    @classmethod
    def view_class(cls) -> type[Any]:
        """The view's class."""
        ...

    def get_streams(self) -> Sequence[Stream[Any]]:
        """What it is folded from."""
        ...

    def refresh(self) -> Any:
        """Forget what was read."""
        ...

    def load(self, lock: Sequence[Stream[Any]] = ..., *, is_undisturbed: bool = ...) -> Any:
        """Read, with some streams locked before if any are given."""
        ...

    def snapshot_key(self) -> SnapshotKey:
        """Where its snapshot stands."""
        ...

    def save_projection(self) -> SaveResult[V_co]:
        """Save a snapshot."""
        ...


class Keepable(Projection[Any], Protocol):
    """A projection whose view a client may keep between its decisions."""

    def keeping_key(self) -> Hashable | None:
        """The key under which it is kept; None if it must not be."""
        ...

    def go_on_from(self, view: Any, events: Sequence[Event[Any]], position: Position) -> None:
        """Take a kept view, and fold what came since."""
        ...


class PlainProjection(Projection[V_co], Protocol[V_co]):
    """A projection without a class of its own; it can do what every projection can."""

    @property
    def projection_events(self) -> list[Event[Any]]:
        """The events folded on top of the snapshot."""
        ...

    @property
    def saved_projection(self) -> SavedProjection[V_co] | None:
        """The snapshot that the view starts from, or None."""
        ...

    def as_json(self) -> dict[str, Any]:
        """The view as a JSON-ready dict."""
        ...

    def apply(self, *events: Any) -> Any:
        """Stage events."""
        ...

    def delete_projection(self) -> bool:
        """Remove the snapshot; whether there was one."""
        ...


def projections_of(projections: Sequence[Any]) -> Sequence[Projection[Any]]:
    """The projections that a decision rests on.

    Raises:
        ConfigurationError: None, or something else in their place.
        StagedEventsError: One with staged events, or an `as_of`.
    """
    if not projections:
        raise ConfigurationError("decide needs at least one projection to decide on")
    for projection in projections:
        if isinstance(projection, type):
            name = projection.__name__
            raise ConfigurationError(f"{name} is a class; decide on an instance of it: {name}(id, client)")
        if not hasattr(projection, "get_streams"):
            hint = (
                "first the projection, then the decider" if callable(projection) else "in the decider's order"
            )
            raise ConfigurationError(
                f"decide takes a projection or latest(...), or a list or tuple of them, and a decider, not "
                f"{shown(projection)} ({hint})"
            )
        if projection.has_staged_events or projection.as_of is not None:
            raise StagedEventsError(
                f"decide needs the saved present; {shown(projection)} has staged events or an as_of"
            )
    return projections
