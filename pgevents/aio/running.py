"""Subscriptions whose handlers are awaited, and a runner for them."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from pgevents.aio.client import AsyncEventClient
from pgevents.aio.workers import ended
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.subscriptions import ErrorPolicy, Runner
from pgevents.subscriptions import subscription as plain_subscription
from pgevents.subscriptions.subscription import listed

__all__ = ["AsyncRunner", "subscription"]

AsyncHandler = Callable[[Event[Any]], Awaitable[object]]


class _AwaitedHandler:
    """An async handler as the plain one that a worker thread calls."""

    def __init__(self, handler: AsyncHandler, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._handler = handler
        self._name = name
        self.__doc__ = handler.__doc__
        self.__name__ = getattr(handler, "__name__", name)

    def __call__(self, event: Event[Any]) -> None:
        if self.loop is None:
            raise ConfigurationError(f"the handler of {self._name!r} is async: an AsyncRunner runs it")
        asyncio.run_coroutine_threadsafe(self._awaited(event), self.loop).result()

    async def _awaited(self, event: Event[Any]) -> None:
        await self._handler(event)


def subscription(
    name: str,
    *streams: Any,
    key: str | Sequence[str] | None = None,
    lanes: int | None = None,
    on_error: ErrorPolicy | None = None,
    lease: float = 60.0,
) -> Callable[[AsyncHandler], AsyncHandler]:
    """Make an async function a subscription with effects outside: an `AsyncRunner` awaits it for each event.

    It runs in no transaction, at least once for each event, in the order of its key; a repeat has
    the same `event.id`. What must happen exactly once in this database belongs in a plain handler, which runs
    in a transaction on a worker thread.

    Args:
        name: As for `pgevents.subscriptions.subscription`, and so are the others.
        *streams: Event classes, type names, or `stream(...)`.
        key: A field: events of one value come in order.
        lanes: How many events are handled at once at most, with a key.
        on_error: `retry(...)`, `park()` or `stop()`.
        lease: How many seconds one event may take at most.

    Returns:
        A decorator, which gives back the function as it is.

    Raises:
        ConfigurationError: Not an async function, or arguments that cannot work.

    Example:
        ```python
        from pgevents.aio import subscription

        @subscription("mails", CartCheckedOut)
        async def send_mail(event):
            await mailer.send(event.data.user_id, key=f"mail-{event.id}")
        ```
    """

    def decorate(handler: AsyncHandler) -> AsyncHandler:
        if not inspect.iscoroutinefunction(handler):
            raise ConfigurationError(
                f"the handler of {name!r} is not an async function: use pgevents.subscriptions.subscription"
            )
        awaited = _AwaitedHandler(handler, name)
        options: dict[str, Any] = {"key": key, "lanes": lanes, "on_error": on_error, "lease": lease}
        _subscriptions[handler] = plain_subscription(name, *streams, effects="outside", **options)(awaited)
        return handler

    return decorate


_subscriptions: dict[Any, Any] = {}
"""What a runner runs for a decorated function."""


class AsyncRunner:
    """Gives subscriptions their events while an event loop runs: async handlers are awaited in it.

    Args:
        client: The client; what async handlers save, they save with it.
        subscriptions: Functions made by `pgevents.aio.subscription`, and all that
            `pgevents.subscriptions.Runner` takes: plain handlers run on its threads.
        poll: Seconds between looks when nothing comes.

    Raises:
        ConfigurationError: As for `Runner`.

    Example:
        ```python
        from pgevents.aio import AsyncEventClient, AsyncRunner

        async with AsyncEventClient(client) as shop:
            await AsyncRunner(shop, [send_mail]).run(workers=4)  # until the task is cancelled
        ```
    """

    def __init__(self, client: AsyncEventClient, subscriptions: Iterable[Any], *, poll: float = 0.05) -> None:
        found = [
            _subscriptions.get(given, given) if callable(given) else given for given in listed(subscriptions)
        ]
        self._handlers = [
            function
            for declared in found
            if isinstance(function := getattr(declared, "function", None), _AwaitedHandler)
        ]
        self._runner = Runner(client.client, found, poll=poll)

    async def run(self, workers: int = 1) -> None:
        """Work until `stop()` is called or the task is cancelled; events in hand are handled to their end.

        Args:
            workers: How many events are handled at once at most.
        """
        loop = asyncio.get_running_loop()
        for handler in self._handlers:
            handler.loop = loop
        done: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(target=self._run, args=(workers, loop, done), name="pgevents-aio-runner")
        thread.start()
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            self._runner.stop()
            await ended(done)
            raise
        finally:
            thread.join()

    def stop(self) -> None:
        """End `run()`; may be called from anywhere."""
        self._runner.stop()

    def _run(self, workers: int, loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
        try:
            self._runner.run(workers)
        except BaseException as error:
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, None)
