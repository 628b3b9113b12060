"""Threads with a connection each, on which calls of an asyncio program run, one after the other."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import psycopg2

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError

__all__ = ["Worker", "Workers", "ended"]

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """A thread with its own connection.

    Args:
        client: The client whose calls run here; Peewee keeps a connection for each thread.
        interrupt: Ends what runs, when its task is cancelled; by default its statement is cancelled.
    """

    def __init__(self, client: EventClient, interrupt: Callable[[], object] | None = None) -> None:
        self._client = client
        self._interrupt = interrupt or self._cancel_statement
        self._connection: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pgevents-aio")

    async def run(self, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Call a function on this thread, in the context of the task.

        If the task is cancelled meanwhile, the statement that runs is cancelled, too, and the function ends
        before this does: nothing goes on behind the task's back.
        """
        context = contextvars.copy_context()
        is_cancelled = threading.Event()

        def call() -> R:
            self._connection = self._client.session.connection()
            if is_cancelled.is_set():
                raise asyncio.CancelledError  # while it connected, there was no statement to cancel
            return context.run(function, *arguments, **keywords)

        future = self._thread.submit(call)
        outcome = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            is_cancelled.set()
            if future.cancel() or future.done():
                raise  # it had not begun, so what runs here is another task's; or it has ended
            await ended(outcome, interrupt=self._interrupt)
            await ended(self._on_thread(self._await_cancellation))
            raise

    def _cancel_statement(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):  # it is closed
                self._connection.cancel()

    def _await_cancellation(self) -> None:
        """Let a request to cancel that came too late for its statement hit one that does nothing."""
        db: Any = self._client.db
        if not db.is_closed() and not db.in_transaction():
            with suppress(Exception):
                db.execute_sql("SELECT 1")

    def _on_thread(self, function: Callable[[], object]) -> Awaitable[object]:
        return asyncio.wrap_future(self._thread.submit(function))

    async def close(self) -> None:
        """Close the connection, and end the thread once what runs has ended."""
        await ended(self._on_thread(self._client.db.close))
        self._thread.shutdown(wait=False)


async def ended(call: Awaitable[Any], interrupt: Callable[[], object] | None = None) -> None:
    """Wait until a call has ended, whatever it gives, also if this task is cancelled again.

    Args:
        call: The call.
        interrupt: What makes it end sooner; it runs on a thread.
    """
    awaited = [call] if interrupt is None else [call, asyncio.to_thread(interrupt)]
    for waiting in [asyncio.ensure_future(_outcome(awaitable)) for awaitable in awaited]:
        while not waiting.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)


async def _outcome(call: Awaitable[Any]) -> None:
    with suppress(BaseException):
        await call


class Workers:
    """A bounded number of workers, started when they are needed, lent to one task at a time.

    Args:
        client: The client that they work with.
        limit: How many there are at most.
    """

    def __init__(self, client: EventClient, limit: int) -> None:
        self._client = client
        self._free = asyncio.Semaphore(limit)
        self._idle: list[Worker] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    @asynccontextmanager
    async def lent(self) -> AsyncGenerator[Worker, None]:
        """A worker for the time of the block; waits while all are lent.

        Raises:
            ConfigurationError: The client was closed, or is used in another event loop.
        """
        self._check()
        async with self._free:
            worker = self._idle.pop() if self._idle else Worker(self._client)
            try:
                yield worker
            finally:
                if self._is_closed:
                    await worker.close()
                else:
                    self._idle.append(worker)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise ConfigurationError("this AsyncEventClient was closed")
        if self._loop not in (None, loop):
            raise ConfigurationError("an AsyncEventClient belongs to one event loop; make one for each")
        self._loop = loop

    async def close(self) -> None:
        """Close the connections; those that are lent, when they come back."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().close()
