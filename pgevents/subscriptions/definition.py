"""What a worker needs to know of a subscription: its question, its handler, and what errors mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.fields import check_field
from pgevents.merging import merge_streams
from pgevents.store.processing import Statements
from pgevents.streams import Stream, refuse_for_reads

__all__ = [
    "VIEW_KEY",
    "Effects",
    "ErrorPolicy",
    "Question",
    "Work",
    "gate_of",
    "check_lanes",
    "check_name",
    "key_names",
    "park",
    "retry",
    "stop",
]

HELD = "a subscription stores its question, and finds events by single values of identifiers"
"""Why a subscription's stream has no comparison."""

Effects = Literal["inside", "outside"]
MOST_LANES = 1024
VIEW_KEY = ("$view",)
"""In place of a key: the lanes go by ids of views, which the program finds for an event."""


@attrs.frozen
class ErrorPolicy:
    """What happens to an event whose handler raises; made by `retry()`, `park()` and `stop()`.

    Attributes:
        attempts: How many times the handler is called for the event before `then`.
        then: "park" sets the event aside, and with a key all later events of its key; "stop" stops the
            subscription at the event. None: "park" with a key, "stop" without.
        delay: Seconds until the second attempt; each later delay is twice the one before.
        longest: No delay is longer, in seconds.
        after_death: Seconds until the next attempt, at least, when the worker's process died of the event:
            long enough to start it again.
    """

    attempts: int = 5
    then: Literal["park", "stop"] | None = None
    delay: float = 1.0
    longest: float = 300.0
    after_death: float = 5.0

    def then_park(self) -> ErrorPolicy:
        """Afterwards set the event aside and go on."""
        return attrs.evolve(self, then="park")

    def then_stop(self) -> ErrorPolicy:
        """Afterwards stop the subscription."""
        return attrs.evolve(self, then="stop")

    def delay_after(self, attempts: int, *, died: bool = False) -> float:
        """Seconds to wait after this number of attempts, the last of which may have ended its process."""
        delay = float(min(self.delay * 2 ** min(attempts - 1, 60), self.longest))
        return max(delay, self.after_death) if died else delay


def retry(
    attempts: int, *, delay: float = 1.0, longest: float = 300.0, after_death: float = 5.0
) -> ErrorPolicy:
    """Call the handler several times for an event, with growing delays.

    Args:
        attempts: At least 1.
        delay: Seconds until the second attempt; then twice as many each time.
        longest: No delay is longer, in seconds.
        after_death: Seconds until the next attempt, at least, when the worker's process died of the event.
            Choose it longer than a worker takes to start again: else one event can end all of them.

    Raises:
        ConfigurationError: No attempt at all, or a negative delay.

    Example:
        ```python
        from pgevents.subscriptions import retry, subscription

        @subscription("warehouse", stream(CartEvent), key="cart_id", on_error=retry(5).then_park())
        def reserve(event): ...
        ```
    """
    if type(attempts) is not int or attempts < 1 or not min(delay, longest, after_death) >= 0:
        raise ConfigurationError(
            f"retry takes a number of attempts from 1 on and delays from 0 on, not {attempts!r}, "
            f"{delay!r}, {longest!r}, {after_death!r}"
        )
    return ErrorPolicy(attempts, None, delay, longest, after_death)


def park() -> ErrorPolicy:
    """Set an event aside at its first error, and go on."""
    return ErrorPolicy(1, "park")


def stop() -> ErrorPolicy:
    """Stop the subscription at the first error."""
    return ErrorPolicy(1, "stop")


@attrs.frozen
class Question:
    """What a place answers: which events, dealt out by which key. Order of writing does not matter.

    Attributes:
        streams: Merged and sorted.
        key: The field that the lanes go by, and the names that it had before; empty for none.
    """

    streams: tuple[Stream[Any], ...]
    key: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The form in which it is stored."""
        return {"streams": [stream.as_json() for stream in self.streams], "key": list(self.key)}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Question:
        """A stored question."""
        return Question.of([Stream.from_json(form) for form in stored["streams"]], stored["key"])

    @staticmethod
    def of(streams: Sequence[Stream[Any]], key: Sequence[str] = ()) -> Question:
        """The question about these streams, by a key's names.

        Raises:
            ConfigurationError: A stream that is for reads alone.
        """
        refuse_for_reads(streams, HELD)
        return Question(_sorted(streams), tuple(key))


def _sorted(streams: Sequence[Stream[Any]]) -> tuple[Stream[Any], ...]:
    canonical: list[Stream[Any]] = [
        Stream(
            None if stream.types is None else tuple(sorted(stream.types)),
            tuple(sorted((field, tuple(sorted(values))) for field, values in stream.match)),
        )
        for stream in merge_streams(streams)
    ]
    return tuple(
        sorted(canonical, key=lambda stream: (stream.types is not None, stream.types or (), stream.match))
    )


def check_name(name: object) -> None:
    """Check the name of a subscription.

    Raises:
        ConfigurationError: It cannot be one.
    """
    if not isinstance(name, str) or not name or len(name.encode()) > 200 or min(name) < " ":
        raise ConfigurationError(
            f"a subscription's name has from 1 to 200 bytes and no control characters, not {name!r}"
        )


def check_lanes(lanes: object, where: str = "") -> None:
    """Check a number of lanes.

    Raises:
        ConfigurationError: Another number, or none; `where` begins its message.
    """
    if type(lanes) is not int or not 1 <= lanes <= MOST_LANES:
        raise ConfigurationError(f"{where}lanes are a number from 1 to {MOST_LANES}, not {lanes!r}")


def key_names(key: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of a key: of the field, and those that it had before.

    Raises:
        ConfigurationError: One that cannot be a field's name.
    """
    if key is None:
        return ()
    return tuple(check_field(name) for name in ((key,) if isinstance(key, str) else key))


@attrs.frozen(eq=False)
class Work:
    """A subscription as its workers see it; whatever follows the log is made one of these.

    Attributes:
        client: Reads, and is what the handler saves with.
        name: Names the place.
        question: Which events, dealt out by which key.
        lanes: How many lanes it begins with.
        effects: "inside" or "outside".
        policy: What an error means; `then` is decided.
        lease: Seconds that an event may take, with effects outside.
        batch_size: At most this many events in a transaction.
        handle: Takes events in order.
        takes_batches: Whether it takes all events of a batch at once, rather than one by one.
        setup: Called once in a process before the first event.
        keeper: Of a kept view: what takes the lanes in place of the handler.
    """

    client: EventClient
    name: str
    question: Question
    lanes: int
    effects: Effects
    policy: ErrorPolicy
    lease: float
    batch_size: int
    handle: Callable[[Sequence[Event[Any]]], None]
    takes_batches: bool
    setup: Callable[[], None]
    keeper: Any = None

    @property
    def statements(self) -> Statements:
        """The SQL of its tables."""
        return Statements(self.client.session, self.client.events.pgevents_spec)

    @property
    def gate(self) -> str:
        """What the name of its gate key is hashed from."""
        return gate_of(self.client, self.name)


def gate_of(client: EventClient, name: str) -> str:
    """The text of a subscription's gate key: shared by those who work, exclusive for who changes all
    lanes."""
    return f"pgevents.subscription {client.events.pgevents_spec.qualified()} {name}"
