"""Decisions: read, decide, and save only if what was read still holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pgevents.client.parts import ClientParts
from pgevents.deciding import Decided, DecideOptions, Several
from pgevents.events import Event
from pgevents.newest import LatestEvent
from pgevents.premises import Projection

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DecidingCalls"]

D = TypeVar("D")
T = TypeVar("T")
V = TypeVar("V")
W = TypeVar("W")


class DecidingCalls(ClientParts):
    """The call that decides."""

    @overload
    def decide(
        self, projections: Projection[V], decider: Callable[[V], Several[T]], **options: Unpack[DecideOptions]
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self, projections: Projection[V], decider: Callable[[V], Decided[T]], **options: Unpack[DecideOptions]
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: LatestEvent[D],
        decider: Callable[[Event[D] | None], Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: LatestEvent[D],
        decider: Callable[[Event[D] | None], Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: tuple[Projection[V], Projection[W]],
        decider: Callable[[V, W], Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: tuple[Projection[V], Projection[W]],
        decider: Callable[[V, W], Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: tuple[Projection[V], LatestEvent[D]],
        decider: Callable[[V, Event[D] | None], Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: tuple[Projection[V], LatestEvent[D]],
        decider: Callable[[V, Event[D] | None], Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: tuple[LatestEvent[D], Projection[V]],
        decider: Callable[[Event[D] | None, V], Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: tuple[LatestEvent[D], Projection[V]],
        decider: Callable[[Event[D] | None, V], Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: Sequence[Projection[Any] | LatestEvent[Any]],
        decider: Callable[..., Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    def decide(
        self,
        projections: Sequence[Projection[Any] | LatestEvent[Any]],
        decider: Callable[..., Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    def decide(
        self,
        projections: Any,
        decider: Callable[..., Any],
        *,
        retries: int = 5,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> list[Event[Any]]:
        """Read, decide, and save what was decided, only if all that was read still holds; retried on a
        conflict.

        Two tries are optimistic. From the third on, and inside `db.atomic()` at once, the streams are locked
        before they are read, so that the try succeeds. For 1 to 16 seconds afterwards, this client locks
        streams of the same types and fields at the first try: those of other carts, too.

        Args:
            projections: A projection, `latest(...)`, or several of them that the decision rests on.
            decider: Called with the view (or views, in order; of `latest(...)` the event, or None if there
                is none). It returns an event, a list of events, or None for nothing, or yields events; among
                them `later(...)` and `cancel(...)` for timers, which are part of the same transaction. It may
                be called several times, so it should do nothing but decide.
            retries: How many times to try again.
            metadata: As for `save_events`.
            idempotency_key: Names the command: repeated with its key, it gives what it saved at first, also
                if that was nothing, and the decider is not called.

        Returns:
            The saved events, typed as what the decider returns. (For a single event of a union mypy infers
            `object`; it understands a list of the union.)

        Raises:
            ConcurrencyError: The last try met a conflict, too.
            RetryableError: The last try met a deadlock or a lock timeout.
            StagedEventsError: A projection has staged events, or an `as_of`.
            ConfigurationError: Not a projection, or an async decider.

        Example:
            ```python
            client.decide(CartProjection("c1", client), lambda cart: CartCheckedOut(cart.id))
            ```
        """
        return self.decider.decide(projections, decider, retries, metadata, idempotency_key)
