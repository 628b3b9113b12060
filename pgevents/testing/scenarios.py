"""Given what happened, when a decider decides, then this comes of it."""

from __future__ import annotations

import copy
import difflib
import pprint
import re
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

import attrs

from pgevents.codec.jsontext import dump_json, load_json
from pgevents.codec.previews import plain_serializer, preview
from pgevents.deciding import decided_wrongly
from pgevents.errors import ConfigurationError, EventDecodeError, EventEncodeError, UnknownEventTypeError
from pgevents.event_types import event_type_of
from pgevents.events import Event
from pgevents.fields import texts_in, value_in
from pgevents.identifiers import Identifiers
from pgevents.newest import LatestEvent
from pgevents.testing.capturing import capture_events
from pgevents.testing.histories import (
    History,
    class_of,
    numbered,
    shown,
)
from pgevents.timers import Cancel, Later
from pgevents.type_registry import EventTypes

if TYPE_CHECKING:
    from pgevents.client import EventClient
    from pgevents.codec.serialization import Serializer
    from pgevents.streams import Stream

__all__ = ["Given", "Outcome", "given"]


def given(*past: Any, client: EventClient | None = None) -> Given:
    """Say what a decision starts from.

    Args:
        *past: In any order: events (instances, dicts, a `history(...)`, saved events), projections and
            `latest(...)` that the decision rests on, or ready views. Each projection is folded from those of
            the events that its own streams find.
        client: None: all happens in memory. A client: the events are saved with it at once, and the decision
            is made by `client.decide`, with hooks, locks and the save.

    Raises:
        UnknownEventTypeError: An object that is neither event, projection nor view.

    Example:
        ```python
        def test_a_closed_cart_takes_no_more_items():
            past = [CartCreated("c1", "u1"), CartCheckedOut("c1", NOW)]
            given(CartProjection("c1"), *past).when(add_item, "p1").then(CartClosed)
        ```
    """
    from pgevents.projections import MultiStreamProjectionBase, ProjectionBase

    now = datetime.now(timezone.utc)
    events: list[Event[Any]] = []
    views: list[Any] = []
    premise: Any
    client_of_types = _client_of_types(client, past)
    serializer = plain_serializer() if client_of_types is None else client_of_types.serializer
    for premise in past:
        if isinstance(premise, (ProjectionBase, MultiStreamProjectionBase)):
            views.append(premise)
        elif isinstance(premise, (History, list, tuple)) or _is_event(premise):
            parts = (
                cast("Sequence[Any]", premise) if isinstance(premise, (History, list, tuple)) else [premise]
            )
            with nullcontext() if client_of_types is not None else _naming_the_client():
                events += [preview(part, now, serializer=serializer) for part in parts]
        elif attrs.has(class_of(premise)):
            views.append(premise)
        else:
            raise UnknownEventTypeError(
                f"given(...) takes events, projections and views, not {premise!r}", class_of(premise)
            )
    if client is not None:
        if any(not _is_projection(view) and not isinstance(view, LatestEvent) for view in views):
            raise ConfigurationError("a decision in a store rests on projections, not on ready views")
        events = History(now, tuple(events)).save(client)
    found = tuple(events) if client is not None else numbered(events)
    return Given(found, tuple(views), client, serializer)


def _client_of_types(client: EventClient | None, past: Sequence[Any]) -> EventClient | None:
    """The client, or that of the first projection that has one: its converters are those of the events."""
    clients = [client, *(premise.client for premise in past if _is_projection(premise))]
    return next((client for client in clients if client is not None), None)


@contextmanager
def _naming_the_client() -> Generator[None, None, None]:
    """Say of an event that cannot be made in memory that a plugin may be what lacks."""
    try:
        yield
    except (EventDecodeError, EventEncodeError) as error:
        hint = "If a plugin teaches the converter a type of it, say given(..., client=client)"
        error.args = (f"{error}. {hint}", *error.args[1:])
        raise


def _is_event(value: object) -> bool:
    if isinstance(value, (Event, Mapping)):
        return True
    with suppress(UnknownEventTypeError):
        event_type_of(class_of(value))
        return True
    return False


@attrs.frozen
class Given:
    """What a decision starts from; made by `given()`.

    Attributes:
        events: What has happened.
        sources: The projections and views, in the order given.
        client: The store's client, or None.
        serializer: Makes JSON of the events, and the reverse, as the client's converters say.
    """

    events: tuple[Event[Any], ...]
    sources: tuple[Any, ...] = ()
    client: EventClient | None = None
    serializer: Serializer = attrs.field(factory=plain_serializer, eq=False, repr=False)

    @property
    def views(self) -> tuple[Any, ...]:
        """The views, in the order given."""
        return tuple(map(self._view_of, self.folded()))

    def _view_of(self, source: Any) -> Any:
        if isinstance(source, LatestEvent):
            return self._latest(cast(Any, source))
        return source.view if _is_projection(source) else source

    def _latest(self, latest: LatestEvent[Any]) -> Event[Any] | None:
        """The latest event of a stream, as a decision on it gets it."""
        if self.client is not None:
            return next(iter(self.client.reader.newest([latest.stream])), None)
        found = self._matching([latest.stream])
        return found[-1] if found else None

    @property
    def view(self) -> Any:
        """The view, if there is one: `assert given(CartProjection("c1"), *past).view == CartView(...)`."""
        (view,) = self.views
        return view

    def folded(self) -> tuple[Any, ...]:
        """The projections over the events, and the views as they are."""
        return tuple(self._fold(source) if _is_projection(source) else source for source in self.sources)

    def _fold(self, projection: Any) -> Any:
        if self.client is not None:
            return type(projection)(projection.id, self.client, as_of=projection.as_of)
        limit: Any = projection.as_of
        events = self._matching(projection.get_streams())
        if limit is not None:
            events = [
                event
                for event in events
                if limit >= (event.id if isinstance(limit, int) else event.created_at)
            ]
        return class_of(projection).from_history(projection.id, copy.deepcopy(events), projection.client)

    def _matching(self, streams: Sequence[Stream[Any]]) -> list[Event[Any]]:
        wanted = Identifiers(plain_serializer(), EventTypes(())).check(streams)
        return [
            event
            for event in self.events
            if any(_matches(event, stream, self.serializer) for stream in wanted)
        ]

    def when(self, decide: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Decide.

        Args:
            decide: Called with the views, in the order given. Without any: with the client if there is one (a
                function that saves by itself), else with the list of events.
            *args: Passed on after them.
            **kwargs: Passed on.
        """
        outcome = Outcome(self)

        def kept(*views: Any) -> Any:
            decided = decide(*views, *args, **kwargs)
            if not isinstance(decided, (list, tuple, Iterator, Later, Cancel)):
                return decided
            parts = [decided] if isinstance(decided, (Later, Cancel)) else list(cast("Any", decided))
            outcome.timers = tuple(part for part in parts if isinstance(part, (Later, Cancel)))
            return parts

        try:
            outcome.decided = tuple(self._decide(kept))
        except Exception as error:  # what the decider raises is its answer, for .then() to look at
            outcome.error = error
        return outcome

    def _decide(self, decide: Callable[..., Any]) -> list[Event[Any]]:
        client = self.client
        if client is None:
            first = self.views if self.sources else (list(self.events),)
            return _as_events(decide(*first), self.serializer)
        with capture_events(client, uncommitted=client.db.in_transaction()) as saved:
            if self.sources:
                client.decide(self.folded(), decide)
            else:
                decide(client)
        return list(saved)


def _is_projection(source: object) -> bool:
    return hasattr(source, "get_streams")


def _as_events(decided: Any, serializer: Serializer) -> list[Event[Any]]:
    if decided is None:
        return []
    parts: Any = decided if isinstance(decided, (list, tuple)) else [decided]  # pyright: ignore[reportUnknownVariableType]
    now = datetime.now(timezone.utc)
    events = [part for part in parts if not isinstance(part, (Later, Cancel))]
    try:
        return [preview(event, now, serializer=serializer) for event in events]
    except UnknownEventTypeError as error:
        raise decided_wrongly(events, error) from error


def _matches(event: Event[Any], stream: Stream[Any], serializer: Serializer) -> bool:
    """Whether a stream finds an event, by the rules of its SQL."""
    if stream.types is not None and event.type not in stream.types:
        return False
    data: Any = {}
    if stream.match or stream.compared:
        data = load_json(dump_json(serializer.encode(event.data, event.type), event.type))
    return all(
        not set(values).isdisjoint(texts_in(field, data, event.metadata)) for field, values in stream.match
    ) and all(
        comparison.holds(value_in(field, data, event.metadata)) for field, comparison in stream.compared
    )


class Outcome:
    """What came of a decision; made by `Given.when()`, and to be checked by `then()`.

    Attributes:
        decided: The events, in their envelopes; saved ones if there is a client.
        timers: The timers that were decided: `later(...)` and `cancel(...)`.
        error: What was raised instead.
    """

    def __init__(self, before: Given) -> None:
        self.before = before
        self.decided: tuple[Event[Any], ...] = ()
        self.timers: tuple[Later | Cancel, ...] = ()
        self.error: Exception | None = None
        self._is_checked = False

    @property
    def events(self) -> list[Any]:
        """The events that were decided, as instances of their classes (or dicts).

        Raises:
            AssertionError: An error was raised instead.
        """
        self._is_checked = True
        if self.error is not None:
            raise AssertionError(f"no event was decided, but {self.error!r} was raised") from self.error
        return [event.data for event in self.decided]

    @property
    def view(self) -> Any:
        """The view when the events that were decided are folded, too."""
        __tracebackhide__ = True
        _ = self.events  # what was raised instead is raised here, also under python -O
        if self.before.client is not None:
            return self.before.view
        return attrs.evolve(self.before, events=numbered([*self.before.events, *self.decided])).view

    def then(self, *expected: Any, match: str | None = None) -> Outcome:
        """Check what was decided.

        Args:
            *expected: All events in order: instances or dicts, or a class for one with any data; nothing for
                no event; and among them `later(...)` and `cancel(...)` for all timers in order. Or one
                error: its class, or an instance with the same message.
            match: A regular expression to be found in the error's message.

        Raises:
            AssertionError: Something else was decided.

        Example:
            ```python
            given(CartProjection("c1"), CartCreated("c1", "u1")).when(add_item, "p1").then(ItemAddedToCart)
            given(CartProjection("c1")).when(add_item, "p1").then(LookupError, match="no cart")
            ```
        """
        __tracebackhide__ = True
        self._is_checked = True
        if len(expected) == 1 and _is_error(expected[0]):
            self._check_error(expected[0], match)
            return self
        if match is not None:
            raise ConfigurationError("match= goes with an error: then(CartClosed, match='c1')")
        self._check_events([item for item in expected if not isinstance(item, (Later, Cancel))])
        timers = tuple(item for item in expected if isinstance(item, (Later, Cancel)))
        if timers != self.timers:
            raise AssertionError(f"other timers were decided: {self.timers}, not {timers}")
        return self

    def _check_error(self, expected: Any, match: str | None) -> None:
        __tracebackhide__ = True
        error, name = self.error, expected.__name__ if isinstance(expected, type) else repr(expected)
        if error is None:
            raise AssertionError(f"{name} was to be raised, but this was decided: {self.events}")
        kind = cast("type[Exception]", expected if isinstance(expected, type) else type(expected))
        is_same = isinstance(expected, type) or str(error) == str(expected)
        if not isinstance(error, kind) or not is_same:
            raise AssertionError(f"{name} was to be raised, but this was: {error!r}") from error
        if match is not None and not re.search(match, str(error)):
            raise AssertionError(f"{match!r} is not found in the message of {error!r}") from error

    def _check_events(self, expected: Sequence[Any]) -> None:
        __tracebackhide__ = True
        if self.error is not None:
            raise AssertionError(
                f"events were to be decided, but this was raised: {self.error!r}"
            ) from self.error
        wanted = [
            item if isinstance(item, type) else shown(preview(item, serializer=self.before.serializer))
            for item in expected
        ]
        found = [shown(event) for event in self.decided]
        for place, (item, event) in enumerate(zip(wanted, self.decided, strict=False)):
            if isinstance(item, type) and event.type in event_type_of(item).names:
                wanted[place] = found[place]
        if wanted != found:
            old, new = (pprint.pformat(side, width=100).splitlines() for side in (wanted, found))
            diff = "\n".join(line.rstrip() for line in difflib.ndiff(old, new))
            raise AssertionError(f"other events were decided (- expected, + decided):\n{diff}")

    def __del__(self) -> None:
        if not getattr(self, "_is_checked", True):
            warnings.warn("when(...) without then(...): nothing was checked", stacklevel=2)


def _is_error(expected: object) -> bool:
    return isinstance(expected, BaseException) or (
        isinstance(expected, type) and issubclass(expected, BaseException)
    )
