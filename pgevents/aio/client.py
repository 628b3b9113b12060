"""`AsyncEventClient`: the calls of an `EventClient`, awaited."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

import peewee

from pgevents.aio import transactions
from pgevents.aio.workers import Worker, Workers
from pgevents.client import EventClient
from pgevents.deciding import Decided, DecideOptions, Several
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.newest import LatestEvent
from pgevents.premises import Projection
from pgevents.saved_terms import Partial
from pgevents.snapshots import SavedProjection, SavedViews
from pgevents.store.options import AsOf, OnUndecodable
from pgevents.store.results import EventStream
from pgevents.streams import Stream
from pgevents.subscriptions import follow

if TYPE_CHECKING:
    from typing_extensions import Self, TypeForm, Unpack

__all__ = ["AsyncEventClient"]

D = TypeVar("D")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")
W = TypeVar("W")
Types = str | Sequence[str | type[Any]] | None

CONNECTIONS = 10
CHUNK = 200
"""How many events of an iteration are handed over to the event loop at once."""


def _awaited(
    method: Callable[Concatenate[EventClient, P], R],
) -> Callable[Concatenate[AsyncEventClient, P], Coroutine[Any, Any, R]]:
    """A call of the sync client as one that is awaited."""

    @functools.wraps(method)
    async def call(self: AsyncEventClient, /, *arguments: P.args, **keywords: P.kwargs) -> R:
        return await self.run(method, *arguments, **keywords)

    return call


class AsyncEventClient:
    """The calls of an `EventClient`, awaited; arguments, results and errors are the same.

    The sync client does the work, on threads with a connection each: all SQL, hooks and promises are those of
    the sync client. A task that is cancelled waits until its call has ended, and its statement is cancelled:
    nothing is left half done, and no connection is given back with a transaction open. As with every client
    that is cancelled, a save may have been committed just before: repeat it with an `idempotency_key`.

    Deciders, reducers and hooks stay plain functions, and run on these threads. A projection's properties
    read from the database: use them inside `run`, or by `view`.

    Args:
        client: The client that does the work. Its database keeps a connection for each thread, as Peewee's do
            by default.
        connections: How many calls and transactions run at once at most; others wait.

    Raises:
        ConfigurationError: Not a client, a database whose connection all threads share, or no connections.

    Example:
        ```python
        from pgevents.aio import AsyncEventClient

        async with AsyncEventClient(client) as shop:
            await shop.save_event(CartCreated("c1", "u1"))
            async for event in shop.iter_event_stream(CartEvent, cart_id="c1"):
                print(event.data)
        ```

    Attributes:
        client: The sync client.
    """

    def __init__(self, client: EventClient, *, connections: int = CONNECTIONS) -> None:
        if not isinstance(client, EventClient):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"AsyncEventClient takes an EventClient, not {client!r}")
        if type(connections) is not int or connections < 1:
            raise ConfigurationError(f"connections is a whole number from 1 on, not {connections!r}")
        if not client.db.thread_safe:
            raise ConfigurationError(
                "the database has one connection for all threads: leave out thread_safe=False"
            )
        self.client = client
        self._workers = Workers(client, connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls that run end first, and new ones are refused."""
        await self._workers.close()

    async def run(
        self, function: Callable[Concatenate[EventClient, P], R], *arguments: P.args, **keywords: P.kwargs
    ) -> R:
        """Call a function with the sync client, on one of the threads; in a transaction, on its connection.

        Args:
            function: A plain function; its first argument is the sync client.
            *arguments: Its other arguments.
            **keywords: And keywords.

        Returns:
            What it returns.

        Example:
            ```python
            total = await shop.run(lambda client: CartProjection("c1", client).view.total)
            ```
        """
        transaction = transactions.current(self.client)
        if transaction is not None:
            return await transaction.worker.run(function, self.client, *arguments, **keywords)
        async with self._workers.lent() as worker:
            return await worker.run(function, self.client, *arguments, **keywords)

    def atomic(self) -> AbstractAsyncContextManager[Any]:
        """A transaction: the calls of this task in the block are committed together, or not at all.

        Inside another one it is a savepoint. The block holds one connection. If its task is cancelled, it is
        rolled back.

        Raises:
            UnsupportedTransactionError: A savepoint in a transaction of another task.

        Example:
            ```python
            async with shop.atomic():
                await shop.save_event(CartCreated("c1", "u1"))
                await shop.run(lambda client: Cart.create(id="c1"))
            ```
        """
        return transactions.begin(self.client, self._workers)

    def reading_after(self, bookmark: str) -> AbstractContextManager[None]:
        """A block in which no read of this task is older than a bookmark; see `EventClient.reading_after`.

        Example:
            ```python
            with shop.reading_after(seen):
                cart = await shop.get_event_stream(CartEvent, cart_id="c1")
            ```
        """
        return self.client.reading_after(bookmark)

    async def view(self, projection: Projection[V]) -> V:
        """A projection's view, folded now.

        Args:
            projection: `CartProjection("c1", shop.client)`.
        """
        return await self.run(lambda _: projection.view)

    async def follow(
        self, streams: Sequence[Stream[D]] | None = None, *, after: int | str = 0, poll: float = 0.05
    ) -> AsyncGenerator[Event[D], None]:
        """Every event of some streams, in order, as soon as it is final; without an end.

        It has a thread and a connection of its own, beside those of the calls, until the loop is left.

        Args:
            streams: Made by `stream(...)`; by default the whole log.
            after: Start above this id, or at a text from `pgevents.subscriptions.checkpoint`.
            poll: Seconds between looks when nothing comes; shorter while events come.

        Raises:
            ConfigurationError: As for `pgevents.subscriptions.follow`.
        """
        stop = threading.Event()
        worker = Worker(self.client, interrupt=stop.set)
        iterator = follow(self.client, streams, after=after, poll=poll, stop=stop)
        try:
            while (event := await worker.run(lambda: next(iterator, None))) is not None:
                yield event
        finally:
            stop.set()
            await worker.close()

    async def _iterate(
        self,
        make: Callable[Concatenate[EventClient, P], Iterator[T]],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> AsyncGenerator[T, None]:
        iterator = await self.run(make, *arguments, **keywords)
        while chunk := await self.run(lambda _: list(islice(iterator, CHUNK))):
            for item in chunk:
                yield item

    # -- the calls of the sync client ------------------------------------------------------------

    create_tables = _awaited(EventClient.create_tables)
    check_installed = _awaited(EventClient.check_installed)
    horizon = _awaited(EventClient.horizon)
    wait = _awaited(EventClient.wait)
    save_event = _awaited(EventClient.save_event)
    save_events = _awaited(EventClient.save_events)
    save_event_with_stream_validation = _awaited(EventClient.save_event_with_stream_validation)
    save_events_with_stream_validation = _awaited(EventClient.save_events_with_stream_validation)
    schedule = _awaited(EventClient.schedule)
    unschedule = _awaited(EventClient.unschedule)
    scheduled = _awaited(EventClient.scheduled)
    retry_timers = _awaited(EventClient.retry_timers)
    get_event_streams = _awaited(EventClient.get_event_streams)
    get_event = _awaited(EventClient.get_event)
    get_saved = _awaited(EventClient.get_saved)
    bookmark = _awaited(EventClient.bookmark)
    save_projection = _awaited(EventClient.save_projection)
    delete_projection = _awaited(EventClient.delete_projection)
    count_projections = _awaited(EventClient.count_projections)
    get_projection_ids = _awaited(EventClient.get_projection_ids)
    refresh_projections = _awaited(EventClient.refresh_projections)
    save_snapshot = _awaited(EventClient.save_snapshot)

    def iter_event_streams(
        self,
        streams: Sequence[Stream[D]],
        *,
        after: int = 0,
        limit: int | None = None,
        reverse: bool = False,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> AsyncGenerator[Event[D], None]:
        """Like `get_event_streams`, one event at a time in constant memory."""
        return self._iterate(
            EventClient.iter_event_streams,
            streams,
            after=after,
            limit=limit,
            reverse=reverse,
            final=final,
            as_of=as_of,
            on_undecodable=on_undecodable,
        )

    @overload
    async def get_event_stream(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        limit: int | None = ...,
        reverse: bool = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> EventStream[D]: ...
    @overload
    async def get_event_stream(
        self,
        types: Types = ...,
        /,
        *,
        after: int = ...,
        limit: int | None = ...,
        reverse: bool = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> EventStream[Any]: ...
    def get_event_stream(self, /, *arguments: Any, **keywords: Any) -> Any:
        return self.run(EventClient.get_event_stream, *arguments, **keywords)

    @overload
    async def get_latest_event(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        **identifier: Any,
    ) -> Event[D] | None: ...
    @overload
    async def get_latest_event(
        self,
        types: Types = ...,
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        **identifier: Any,
    ) -> Event[Any] | None: ...
    def get_latest_event(self, /, *arguments: Any, **keywords: Any) -> Any:
        return self.run(EventClient.get_latest_event, *arguments, **keywords)

    @overload
    async def get_projection(self, projection: str, id: Any) -> SavedProjection[dict[str, Any]] | None: ...
    @overload
    async def get_projection(self, projection: type[Projection[V]], id: Any) -> SavedProjection[V] | None: ...
    def get_projection(self, *arguments: Any, **keywords: Any) -> Any:
        return self.run(EventClient.get_projection, *arguments, **keywords)

    @overload
    async def query_projections(
        self,
        projection: type[Projection[V]],
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        partial: Partial = ...,
        max_lag: float = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> SavedViews[V]: ...
    @overload
    async def query_projections(
        self,
        projection: str,
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        partial: Partial = ...,
        max_lag: float = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> SavedViews[dict[str, Any]]: ...
    @overload
    async def query_projections(
        self,
        projection: Sequence[type[Projection[Any]] | str],
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        partial: Partial = ...,
        max_lag: float = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> SavedViews[Any]: ...
    def query_projections(self, /, *arguments: Any, **keywords: Any) -> Any:
        return self.run(EventClient.query_projections, *arguments, **keywords)

    @overload
    async def decide(
        self, projections: Projection[V], decider: Callable[[V], Several[T]], **options: Unpack[DecideOptions]
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self, projections: Projection[V], decider: Callable[[V], Decided[T]], **options: Unpack[DecideOptions]
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: LatestEvent[D],
        decider: Callable[[Event[D] | None], Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: LatestEvent[D],
        decider: Callable[[Event[D] | None], Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: tuple[Projection[V], Projection[W]],
        decider: Callable[[V, W], Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: tuple[Projection[V], Projection[W]],
        decider: Callable[[V, W], Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: tuple[Projection[V], LatestEvent[D]],
        decider: Callable[[V, Event[D] | None], Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: tuple[Projection[V], LatestEvent[D]],
        decider: Callable[[V, Event[D] | None], Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: tuple[LatestEvent[D], Projection[V]],
        decider: Callable[[Event[D] | None, V], Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: tuple[LatestEvent[D], Projection[V]],
        decider: Callable[[Event[D] | None, V], Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: Sequence[Projection[Any] | LatestEvent[Any]],
        decider: Callable[..., Several[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    @overload
    async def decide(
        self,
        projections: Sequence[Projection[Any] | LatestEvent[Any]],
        decider: Callable[..., Decided[T]],
        **options: Unpack[DecideOptions],
    ) -> list[Event[T]]: ...
    def decide(self, *arguments: Any, **keywords: Any) -> Any:
        return self.run(EventClient.decide, *arguments, **keywords)

    @overload
    def iter_event_stream(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        limit: int | None = ...,
        reverse: bool = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> AsyncGenerator[Event[D], None]: ...
    @overload
    def iter_event_stream(
        self,
        types: Types = ...,
        /,
        *,
        after: int = ...,
        limit: int | None = ...,
        reverse: bool = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> AsyncGenerator[Event[Any], None]: ...
    def iter_event_stream(self, /, *arguments: Any, **keywords: Any) -> Any:
        return self._iterate(EventClient.iter_event_stream, *arguments, **keywords)
