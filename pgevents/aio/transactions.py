"""Transactions of a task: each stays on the worker that it began on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import attrs

from pgevents.aio.workers import Worker, Workers
from pgevents.client import EventClient
from pgevents.errors import UnsupportedTransactionError

__all__ = ["Transaction", "begin", "current"]

_open: ContextVar[tuple[Transaction, ...]] = ContextVar("pgevents_aio_transactions", default=())


@attrs.define(eq=False)
class Transaction:
    """A block of `client.atomic()`.

    Attributes:
        client: The client.
        worker: The worker whose connection has the transaction.
        task: The task that began it.
        is_over: Whether the block has ended; a task that was started in it may still have it in its context.
    """

    client: EventClient
    worker: Worker
    task: asyncio.Task[Any] | None
    is_over: bool = False


def current(client: EventClient) -> Transaction | None:
    """The innermost transaction of this task with a client.

    Raises:
        UnsupportedTransactionError: This task was started in a transaction that has ended since.
    """
    for transaction in reversed(_open.get()):
        if transaction.client is client:
            if transaction.is_over:
                raise UnsupportedTransactionError(
                    "this task was started inside a transaction that has ended: await it in the block, or "
                    "start it outside"
                )
            return transaction
    return None


@asynccontextmanager
async def begin(client: EventClient, workers: Workers) -> AsyncGenerator[Any, None]:
    """A transaction; inside one of the same task a savepoint.

    Raises:
        UnsupportedTransactionError: A task inside a transaction of another one begins a savepoint, which
            others would become part of.
    """
    outer = current(client)
    if outer is None:
        async with workers.lent() as worker, _block(client, worker) as transaction:
            yield transaction
    elif outer.task is not asyncio.current_task():
        raise UnsupportedTransactionError(
            "a transaction belongs to the task that began it: other tasks may save and read in it, but "
            "cannot begin a savepoint"
        )
    else:
        async with _block(client, outer.worker) as transaction:
            yield transaction


@asynccontextmanager
async def _block(client: EventClient, worker: Worker) -> AsyncGenerator[Any, None]:
    block = client.session.atomic()
    entered: list[Any] = []
    try:
        await worker.run(lambda: entered.append(block.__enter__()))
    except asyncio.CancelledError as error:
        if entered:  # as it had begun
            await _leave(worker, block, error)
        raise
    transaction = Transaction(client, worker, asyncio.current_task())
    token = _open.set((*_open.get(), transaction))
    try:
        yield entered[0]
    except BaseException as error:
        transaction.is_over = True
        await _leave(worker, block, error)
        raise
    else:
        transaction.is_over = True
        await worker.run(block.__exit__, None, None, None)
    finally:
        _open.reset(token)


async def _leave(worker: Worker, block: Any, error: BaseException) -> None:
    """Roll back. An error of the rollback replaces the one that ended the block, unless they are the same."""
    rollback = asyncio.ensure_future(worker.run(block.__exit__, type(error), error, error.__traceback__))
    while not rollback.done():
        try:
            await asyncio.shield(rollback)
        except asyncio.CancelledError:
            continue  # a rollback ends before its task does
        except BaseException:
            break
    fault = rollback.exception()
    if fault is not None and fault is not error:
        raise fault from error
