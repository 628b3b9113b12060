"""Read, decide, save: optimistic at first, and locked where optimism would starve."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from pgevents.errors import ConcurrencyError, ConfigurationError, RetryableError, StagedEventsError
from pgevents.events import Event
from pgevents.hooks.details import Operation
from pgevents.saving import SaveOptions
from pgevents.streams import Stream

if TYPE_CHECKING:
    from pgevents.client import EventClient

__all__ = ["Decision"]

OPTIMISTIC_TRIES = 2
HOT_SECONDS = 1.0
"""For how long after its optimistic tries were in vain a client locks the same streams at the first try."""
HOT_LIMIT = 1_000
"""How many hot streams a client remembers."""


@attrs.frozen
class Decision:
    """One call of `EventClient.decide`."""

    client: EventClient
    projections: Sequence[Any]
    decider: Callable[..., Any]
    retries: int
    metadata: Mapping[str, Any] | None
    key: str | None

    def run(self) -> list[Event[Any]]:
        """Try until it holds; the last conflict is raised."""
        if not self.projections:
            raise ConfigurationError("decide needs at least one projection to decide on")
        if self.retries < 0:
            raise ConfigurationError(f"retries is 0 or more, not {self.retries}")
        for projection in self.projections:
            if projection.has_staged_events or projection.as_of is not None:
                raise StagedEventsError(
                    f"decide needs the saved present; {projection!r} has staged events or an as_of"
                )
        kinds = ", ".join(dict.fromkeys(projection.projection_type for projection in self.projections))
        with self.client.plugins.observed(Operation("decide", projection=kinds)) as operation:
            saved = self._run(operation)
            operation.events = len(saved)
        return saved

    def _run(self, operation: Operation) -> list[Event[Any]]:
        client = self.client
        if client.session.in_transaction():
            return self._try_locked(1, is_ours=False)
        attempt, last = 0, self.retries + 1
        optimistic = (
            0 if client.hot and client.hot.get(self._streams(), 0.0) > time.monotonic() else OPTIMISTIC_TRIES
        )
        while True:
            attempt += 1
            operation.attempt = attempt
            try:
                if attempt <= optimistic:
                    return self._try(attempt)
                with client.session.atomic():
                    return self._try_locked(attempt, is_ours=True)
            except RetryableError as error:
                if attempt == optimistic:
                    if len(client.hot) >= HOT_LIMIT:
                        client.hot.clear()
                    client.hot[self._streams()] = time.monotonic() + HOT_SECONDS
                delay = error.retry_after if isinstance(error, ConcurrencyError) else None
                if attempt >= last:
                    if delay is None:
                        raise
                    last += 1
                time.sleep(random.uniform(0, 0.005 * attempt) if delay is None else delay)

    def _streams(self) -> tuple[Stream[Any], ...]:
        return tuple([one for projection in self.projections for one in projection.get_streams()])

    def _try(self, attempt: int) -> list[Event[Any]]:
        decided = self.decider(*[projection.refresh().view for projection in self.projections])
        positions = [projection.position for projection in self.projections]
        return self._save(decided, attempt, positions)

    def _try_locked(self, attempt: int, *, is_ours: bool) -> list[Event[Any]]:
        """Nothing can come between, for the locks stand until the commit; what is checked all the same is
        that they are still the right ones, should the data indexes be changed meanwhile."""
        client = self.client
        client.check_installed()
        first, *others = self.projections
        first.refresh().load(lock=self._streams(), is_undisturbed=is_ours)
        for projection in others:
            projection.refresh().load(is_undisturbed=is_ours)
        decided = self.decider(*[projection.view for projection in self.projections])
        return self._save(decided, attempt, [projection.position for projection in self.projections])

    def _save(self, decided: Any, attempt: int, positions: Any) -> list[Event[Any]]:
        if decided is None:
            return []
        several = cast("Sequence[Any]", decided if isinstance(decided, (list, tuple)) else [decided])
        options = SaveOptions(self.metadata, self.key, None, positions, positions, attempt)
        saved = self.client.saver.save(several, options)
        for projection in self.projections:
            projection.refresh()
        return saved
