"""A transaction of another program: its connection as a Peewee database, for the time of a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol, TypeVar

import attrs
import peewee
import psycopg2.extensions

from pgevents.errors import ConfigurationError, UnsupportedTransactionError

__all__ = ["Host", "JoinedDatabase", "PlainHost", "current", "joined", "outside"]

Callback = Callable[[], None]
R = TypeVar("R")


class Host(Protocol):
    """Whose transaction is joined."""

    def connection(self) -> Any:
        """The psycopg2 connection on which the transaction runs; asked before each statement.

        Raises:
            UnsupportedTransactionError: There is no transaction now.
        """
        ...

    def after_commit(self, callback: Callback) -> None:
        """Call a function once the transaction has been committed.

        Raises:
            UnsupportedTransactionError: The end of the transaction cannot be observed.
        """
        ...


@attrs.frozen(eq=False)
class PlainHost:
    """A psycopg2 connection, and how its program runs something after the commit."""

    given: Any
    register: Callable[[Callback], object] | None

    def connection(self) -> Any:
        return self.given

    def after_commit(self, callback: Callback) -> None:
        if self.register is None:
            raise UnsupportedTransactionError(
                "pgevents_after_commit cannot see the end of this transaction; nothing was written: give "
                "joined(connection, after_commit=...) the function by which the program runs something after "
                "its commit"
            )
        self.register(callback)


class JoinedDatabase(peewee.PostgresqlDatabase):
    """What Peewee and pgevents run on while a transaction is joined: all of it on the host's connection.

    The transaction's end is the host's, so `atomic()` is always a savepoint here.
    """

    def __init__(self, host: Host, outer: peewee.PostgresqlDatabase) -> None:
        self._host = host
        self.outer = outer
        base: Any = super()
        base.__init__(outer.database or "joined")
        self.connect()

    def _connect(self) -> Any:
        return self.connection()

    def connection(self) -> Any:
        """The host's connection.

        Raises:
            UnsupportedTransactionError: Autocommit is on, so there is no transaction to join.
            ConfigurationError: Not a connection of psycopg2.
        """
        connection = self._host.connection()
        if not isinstance(connection, psycopg2.extensions.connection):
            raise ConfigurationError(
                f"a transaction is joined on its psycopg2 connection, not on {_kind(connection)}. Nothing "
                "was written: have the program connect by psycopg2 (Django takes psycopg 3 where that is "
                "installed; SQLAlchemy's URL is postgresql+psycopg2://)"
            )
        if connection.autocommit:
            raise UnsupportedTransactionError(
                "autocommit is on, so there is no transaction to join, and each statement would be committed "
                "by itself. Nothing was written: begin one first (Django: transaction.atomic(); SQLAlchemy: "
                "no isolation_level='AUTOCOMMIT'; psycopg2: connection.autocommit = False)"
            )
        return connection

    def cursor(self, named_cursor: Any = None) -> Any:
        """A cursor of the host's connection."""
        return self.connection().cursor()

    def in_transaction(self) -> bool:
        """Always: psycopg2 begins a transaction by itself, if the host has run no statement yet."""
        return True

    def transaction_depth(self) -> int:
        """At least 1, so that Peewee begins no transaction of its own."""
        base: Any = super()
        return 1 + int(base.transaction_depth())

    def top_transaction(self) -> Any:
        """What stands for the host's transaction."""
        return self

    def after_commit(self, fn: Callable[[], R]) -> Callable[[], R]:
        """Call a function after the host's commit, outside of the joined transaction."""

        def call() -> None:
            with outside(), _closing_again(self.outer):
                fn()

        self._host.after_commit(call)
        return fn

    def begin(self, isolation_level: Any = None) -> NoReturn:
        """Refused: beginning and ending the transaction is the host's.

        Raises:
            UnsupportedTransactionError: Always.
        """
        raise UnsupportedTransactionError(
            "this transaction was joined: the program that began it ends it. Use db.atomic() for a savepoint"
        )

    commit = rollback = begin

    def close(self) -> bool:
        """Nothing: the connection is the host's."""
        return False

    def _close(self, conn: Any) -> None:
        pass


@contextmanager
def _closing_again(db: peewee.PostgresqlDatabase) -> Generator[None, None, None]:
    """Leave a database as it was: what runs after a commit needs a connection, and threads come and go."""
    any_db: Any = db
    was_closed = any_db.is_closed()
    try:
        yield
    finally:
        if was_closed and not any_db.is_closed() and not any_db.in_transaction():
            any_db.close()


def _kind(connection: Any) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"


# -- which block this is ------------------------------------------------------------

Block = tuple[object, int, JoinedDatabase]
_blocks: ContextVar[tuple[Block, ...]] = ContextVar("pgevents_joined", default=())
"""The blocks that this task or thread is in: of which session, on which thread, with which database."""


def current(session: object) -> JoinedDatabase | None:
    """The database of the innermost block of a session, or None.

    A thread that inherits the context of another one is outside: a transaction belongs to its thread.
    """
    blocks = _blocks.get()
    if not blocks:  # most often, and this is asked before each statement
        return None
    for owner, thread, database in reversed(blocks):
        if owner is session and thread == threading.get_ident():
            return database
    return None


@contextmanager
def joined(session: object, database: JoinedDatabase) -> Generator[None, None, None]:
    """A block in which a session works on another database."""
    token = _blocks.set((*_blocks.get(), (session, threading.get_ident(), database)))
    try:
        yield
    finally:
        _blocks.reset(token)


@contextmanager
def outside() -> Generator[None, None, None]:
    """Outside of all blocks, for what runs after a commit."""
    token = _blocks.set(())
    try:
        yield
    finally:
        _blocks.reset(token)
