"""Errors that say nothing about an event: the database's own."""

from __future__ import annotations

from typing import Any

import peewee
import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

from pgevents.client import EventClient
from pgevents.errors import (
    ConnectionLostError,
    DatabaseUnavailableError,
    MovedError,
    RetryableError,
    UnsupportedTransactionError,
)
from pgevents.store.connections import is_broken

__all__ = ["OURS_ENDED", "check_ours", "is_deadlock", "is_transient", "let_go"]

TRANSIENT_CLASSES = ("08", "40", "53", "57")  # connection, rollback, resources, operator intervention
TRANSIENT_CODES = ("55P03", "25P03", "25P04")  # lock not available, the server's time-outs of a transaction
OURS_ENDED = (
    "the handler ended the transaction that it was called in (a commit or rollback of its own): what it "
    "wrote and its place no longer commit together. Use db.atomic(), or effects='outside'"
)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed when it is made again."""
    if isinstance(error, MovedError):  # with another client
        return False
    if isinstance(
        error,
        (
            RetryableError,
            ConnectionLostError,
            DatabaseUnavailableError,
            peewee.InterfaceError,
            psycopg2.InterfaceError,
        ),
    ):
        return True
    code = _code(error)
    if code is not None:
        return code[:2] in TRANSIENT_CLASSES or code in TRANSIENT_CODES
    return isinstance(error, (peewee.OperationalError, psycopg2.OperationalError)) or is_broken(error)


def is_deadlock(error: BaseException) -> bool:
    """Whether two transactions waited for each other."""
    found: BaseException | None = error
    while found is not None:
        if _code(found) == "40P01":
            return True
        found = found.__cause__
    return False


def _code(error: BaseException) -> str | None:
    for raised in (error, getattr(error, "orig", None), error.__cause__):
        code = getattr(raised, "pgcode", None) or getattr(raised, "sqlstate", None)
        if isinstance(code, str) and code:
            return code
    return None


def let_go(client: EventClient) -> None:
    """Close this thread's connection, if it is of no more use, so that the next call connects anew."""
    db = client.db
    if not db.is_closed() and client.session.connection().closed and not db.in_transaction():
        db.close()


def check_ours(connection: Any) -> None:
    """Check after a handler that its transaction is still whole.

    Args:
        connection: The psycopg2 connection on which it was begun.

    Raises:
        UnsupportedTransactionError: An SQL error was swallowed in it, or the handler ended it.
        ConnectionLostError: The connection broke, and the handler went on.
    """
    if connection.closed:
        raise ConnectionLostError("the connection broke while the handler worked")
    status = connection.get_transaction_status()
    if status == TRANSACTION_STATUS_INERROR:
        raise UnsupportedTransactionError(
            "an SQL error was swallowed in the handler's transaction, which PostgreSQL can now only roll "
            "back; let it through, or guard the statement by db.atomic()"
        )
    if status != TRANSACTION_STATUS_INTRANS:
        raise UnsupportedTransactionError(OURS_ENDED)
