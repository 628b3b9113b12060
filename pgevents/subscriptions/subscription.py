"""`Subscription` and `@subscription`: how a program says what follows the log."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, shown
from pgevents.events import Event
from pgevents.streams import Stream, stream
from pgevents.subscriptions import scripts
from pgevents.subscriptions.definition import (
    Effects,
    ErrorPolicy,
    Question,
    Work,
    check_lanes,
    check_name,
    key_names,
)
from pgevents.subscriptions.keeping import Keep

__all__ = ["FunctionSubscription", "Subscription", "declared", "listed", "subscription", "work_of"]

D = TypeVar("D")
Handler = Callable[..., object]
LANES = 16


class Subscription(Generic[D]):
    """A named handler that is given every event of its streams, in order, each at least once.

    Its place stands in the database and moves in the transaction of what the handler writes there: that
    happens exactly once. Subclass it for batches and a setup; `@subscription` makes one of a function; and
    with a client a script processes events by itself.

    Attributes:
        name: Names the place.
        streams: What to follow; by default the whole log.
        key: A field of the events: events of one value are handled one after the other, those of different
            values by different workers. None: all events in one order. A tuple names the field and its former
            names.
        lanes: How many groups the values of the key fall into; the most workers that can work at once.
        effects: "inside": the handler runs in the transaction that moves the place. "outside": in none.
        on_error: What an error means.
        lease: With effects outside, the seconds after which an event whose worker is gone goes to another. An
            event must not take longer.
        batch_size: At most this many events in a transaction.
        client: The client; given to it by the runner.

    Example:
        ```python
        from pgevents.subscriptions import Subscription

        class Totals(Subscription):
            name = "totals"
            streams = (stream(CartEvent),)

            def handle_batch(self, events):
                ...
        ```
    """

    name: str = ""
    streams: Sequence[Stream[D]] | None = None
    key: str | Sequence[str] | None = None
    lanes: int | None = None
    effects: Effects = "inside"
    on_error: ErrorPolicy = ErrorPolicy()
    lease: float = 60.0
    batch_size: int = 2000
    client: EventClient

    def __init__(
        self,
        client: EventClient | None = None,
        name: str | None = None,
        streams: Sequence[Stream[D]] | None = None,
        **options: Any,
    ) -> None:
        """Nothing is asked of the database yet.

        Args:
            client: The client to read and write with.
            name: In place of the class's.
            streams: In place of the class's.
            **options: Any other attribute in place of the class's.

        Raises:
            ConfigurationError: A name, a stream or an option that cannot work.
        """
        if client is not None:
            self.client = client
        if name is not None:
            self.name = name
        if streams is not None:
            self.streams = streams
        unknown = set(options) - {"key", "lanes", "effects", "on_error", "lease", "batch_size"}
        if unknown:
            raise ConfigurationError(f"a subscription has no option {sorted(unknown)[0]!r}")
        vars(self).update(options)
        _check(self)

    def setup(self) -> None:
        """Called once in each process before the first event; the client is there."""

    def handle(self, event: Event[D]) -> None:
        """Handle one event; override this or `handle_batch`."""
        raise ConfigurationError(f"{type(self).__name__} overrides neither handle nor handle_batch")

    def handle_batch(self, events: Sequence[Event[D]]) -> None:
        """Handle events in order; by default one by one with `handle`."""
        for event in events:
            self.handle(event)

    # -- for scripts --------------------------------------------------------------------

    @contextmanager
    def batch(self, limit: int = 500) -> Generator[Sequence[Event[D]], None, None]:
        """The next events, in a transaction that moves the place on when the block ends well.

        Args:
            limit: At most this many.

        Raises:
            ConfigurationError: The subscription was used for other streams before, stands ahead of the log,
                or is paused or stopped.
        """
        with scripts.batch(work_of(None, self), limit) as events:
            yield events

    def process(self, handler: Callable[[Event[D]], object], limit: int = 500) -> int:
        """Give the next events to a handler; how many there were.

        A transaction ends after an event whose handler has saved events. An error of the handler is raised;
        its transaction is rolled back.

        Args:
            handler: Called with each event, in order.
            limit: At most this many events.
        """
        return scripts.process(work_of(None, self), handler, limit)

    def run(
        self,
        handler: Callable[[Event[D]], object],
        *,
        poll: float = 0.05,
        stop: threading.Event | None = None,
    ) -> None:
        """Give every event to a handler, without an end; connects anew when the server was gone.

        An error of the handler ends it and rolls its transaction back; the same event comes again the next
        time.

        Args:
            handler: Called with each event, in order, inside a transaction.
            poll: Seconds between looks when nothing comes; shorter while events come.
            stop: Ends the loop when it is set, after the event in hand.
        """
        scripts.run(work_of(None, self), handler, poll, stop)

    def position(self) -> int:
        """Events up to this id were dealt with, in all lanes."""
        return scripts.position(work_of(None, self))

    def reset(self, position: int = 0) -> None:
        """Start again above an id, with the streams as they are now; see `pgevents.subscriptions.reset`."""
        scripts.reset(work_of(None, self), position)


class FunctionSubscription(Subscription[D]):
    """A subscription made of a function by `@subscription`; calling it calls the function."""

    def __init__(self, function: Handler, name: str, streams: Sequence[Stream[D]], **options: Any) -> None:
        super().__init__(None, name, streams, **options)
        self.function = function
        self.takes_client = _takes_client(function, name)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__wrapped__ = function

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the function itself, as a test does."""
        return self.function(*arguments, **keywords)

    def handle(self, event: Event[D]) -> None:
        """Give the function one event."""
        if self.takes_client:
            self.function(event, self.client)
        else:
            self.function(event)


declared: dict[str, FunctionSubscription[Any] | type[Subscription[Any]]] = {}
"""The subscriptions made by `@subscription`, by name; of one name the last."""


def subscription(
    name: str,
    *streams: Any,
    key: str | Sequence[str] | None = None,
    lanes: int | None = None,
    effects: Effects = "inside",
    on_error: ErrorPolicy | None = None,
    lease: float = 60.0,
) -> Callable[[Handler], FunctionSubscription[Any]]:
    """Make a function a subscription: a `Runner` gives it every event of its streams.

    Args:
        name: Names the place in the log; it stays when the function moves.
        *streams: Event classes, type names, or `stream(...)`; none means the whole log.
        key: A field that every event has: events of one value come in order, one after the other; those of
            different values are handled side by side. None: all in one order, one worker at a time.
        lanes: With a key, how many workers can work at once at most; 16 by default. The number that is
            stored counts: see `resize`.
        effects: "inside" (the default): the function runs in a transaction of this database, and what it
            writes there happens exactly once. "outside": it runs in no transaction, at least once; a repeat
            has the same `event.id`.
        on_error: `retry(...)`, `park()` or `stop()`; by default five attempts, then the event is parked (with
            a key) or the subscription stops (without).
        lease: With effects outside, how many seconds one event may take at most.

    Returns:
        A decorator for a function that takes `(event)` or `(event, client)`.

    Raises:
        ConfigurationError: A name, a stream, a key or a number that cannot work.

    Example:
        ```python
        from pgevents.subscriptions import subscription

        @subscription("invoices", CartCheckedOut)
        def write_invoice(event):
            Invoice.create(event_id=event.id, cart_id=event.data.cart_id)
        ```
    """
    if callable(name):
        raise ConfigurationError('write @subscription("name", Type, ...): it needs a name for its place')
    questions: list[Stream[Any]] = [
        given if isinstance(given, Stream) else stream(given) for given in streams
    ]

    def decorate(function: Handler) -> FunctionSubscription[Any]:
        declaration: FunctionSubscription[Any] = FunctionSubscription(
            function,
            name,
            questions or [stream()],
            key=key,
            lanes=lanes,
            effects=effects,
            on_error=on_error or ErrorPolicy(),
            lease=lease,
        )
        declared[name] = declaration
        return declaration

    return decorate


def listed(subscriptions: Any) -> list[Any]:
    """The subscriptions that a call was given, as a list.

    Raises:
        ConfigurationError: Not a list; the message says so of a single subscription, too.
    """
    if isinstance(subscriptions, (str, bytes, Mapping)) or not isinstance(subscriptions, Iterable):
        raise ConfigurationError(
            f"subscriptions are a list, such as [keep(CartProjection), write_invoice], not "
            f"{shown(cast(object, subscriptions))}"
        )
    return list(subscriptions)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def work_of(client: EventClient | None, given: Any) -> Work:
    """What a worker needs, from what a runner takes: an instance, a class, or a decorated function.

    Args:
        client: The runner's client; None for a subscription that has its own.
        given: The subscription.

    Raises:
        ConfigurationError: Something else, or a subscription with another client or with none.
    """
    if isinstance(given, Work):
        return given
    if isinstance(given, Keep):
        if client is None:
            raise ConfigurationError("a kept view is kept by a Runner")
        return given.work(client)
    if isinstance(given, type) and issubclass(given, Subscription):
        given = cast(Any, given)(client)
    if not isinstance(given, Subscription):
        raise ConfigurationError(
            "a runner takes functions made by @subscription, Subscription classes, and keep(...) of a "
            f"projection's class, not {shown(given)}"
        )
    found: Subscription[Any] = cast(Any, given)
    its_client: EventClient | None = getattr(found, "client", None)
    if client is None and its_client is None:
        raise ConfigurationError(f"subscription {found.name!r} has no client: Subscription(client, ...)")
    if client is not None and its_client is not None and its_client is not client:
        raise ConfigurationError(
            f"subscription {found.name!r} has another client than its runner: one client, one database "
            "object, else what it writes is outside the transaction"
        )
    if client is not None and its_client is None:  # a copy: the same function may work with several clients
        copy: Subscription[Any] = object.__new__(type(found))
        vars(copy).update(vars(found))
        copy.client = client
        found = copy
    policy = found.on_error
    if policy.then is None:
        policy = policy.then_park() if found.key is not None else policy.then_stop()
    takes_batches = cast(Any, type(found)).handle_batch is not Subscription[Any].handle_batch
    return Work(
        found.client,
        found.name,
        _question(found),
        found.lanes or (LANES if found.key is not None else 1),
        found.effects,
        policy,
        found.lease,
        found.batch_size,
        found.handle_batch,
        takes_batches,
        found.setup,
    )


def _question(found: Subscription[Any]) -> Question:
    streams: Sequence[Stream[Any]] = [stream()] if found.streams is None else list(found.streams)
    client: EventClient | None = getattr(found, "client", None)
    if client is not None:  # a decorated function has none before a runner takes it
        streams = client.identifiers.check(streams)
        lists = set(key_names(found.key)) & set(client.events.pgevents_spec.lists)
        if lists:
            raise ConfigurationError(
                f"subscription {found.name!r}: {sorted(lists)[0]!r} has many values in one event, which can "
                "be in one lane only; give another key"
            )
    return Question.of(streams, key_names(found.key))


def _takes_client(function: Handler, name: str) -> bool:
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"the handler of {name!r} is async: a runner works in threads; write def")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    needed = [parameter for parameter in positional if parameter.default is parameter.empty]
    if len(needed) > 2 or not (
        positional or any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    ):
        raise ConfigurationError(f"the handler of {name!r} takes (event) or (event, client)")
    return len(needed) == 2


def _check(subscription: Subscription[Any]) -> None:
    name: Any = subscription.name
    check_name(name)
    if isinstance(subscription.streams, (Stream, str)):
        raise ConfigurationError(f"subscription {name!r}: streams are a list of stream(...)")
    question = _question(subscription)
    if subscription.effects not in ("inside", "outside"):
        raise ConfigurationError(
            f"subscription {name!r}: effects are 'inside' or 'outside', not {subscription.effects!r}"
        )
    if subscription.lanes is not None:
        check_lanes(subscription.lanes, f"subscription {name!r}: ")
    if subscription.lanes not in (None, 1) and not question.key:
        raise ConfigurationError(f"subscription {name!r}: more lanes than one need a key to go by")
    if not isinstance(subscription.on_error, ErrorPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"subscription {name!r}: on_error is retry(...), park() or stop()")
    if not subscription.lease > 0:
        raise ConfigurationError(
            f"subscription {name!r}: a lease has some seconds, not {subscription.lease!r}"
        )
