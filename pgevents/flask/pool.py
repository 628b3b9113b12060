"""The connections of one app: each is lent to a context, which gives it back when it ends, whatever
happened."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import peewee
from flask import g, has_app_context

from pgevents.embedded import embedded_database
from pgevents.errors import PgEventsError
from pgevents.flask.context import active_store
from pgevents.store.session import open_database

if TYPE_CHECKING:  # playhouse has no types
    from peewee import PostgresqlDatabase as PooledPostgresqlDatabase

    MaxConnectionsExceeded = ValueError
else:
    from playhouse.pool import MaxConnectionsExceeded, PooledPostgresqlDatabase

__all__ = ["Pool", "UnavailableError", "give_back"]


class UnavailableError(PgEventsError, ConnectionError):
    """There was no connection to be had: the server cannot be reached, or all connections of the pool are in
    use."""


class Pool(PooledPostgresqlDatabase):
    """A Peewee database whose connections belong to the contexts of one app.

    Peewee keeps the connection of each thread; which context took it is noted in the context's `g`. So a
    nested context leaves its outer one's connection alone, and the thread of an async view cannot keep one.
    """

    def __init__(self, url: str, folder: str, *, size: int, timeout: float, name: str) -> None:
        """Nothing connects yet.

        Args:
            url: `postgresql://...`, or `embedded` or `embedded:folder` for a server that starts when it is
                needed.
            folder: Where the data of such a server stand, if the URL does not say.
            size: How many connections at most.
            timeout: Seconds to wait for one of them.
            name: What the server calls the connections, if the URL does not say.

        Raises:
            ConfigurationError: The URL cannot be read.
        """
        options: dict[str, Any] = {"max_connections": size, "timeout": timeout}
        kind, _, given = url.partition(":")
        self._folder = os.path.abspath(given or folder)
        self._starting = threading.Lock()
        pooled: Any = super()
        if kind == "embedded":
            pooled.__init__(None, **options)
        else:
            plain: Any = open_database(url)
            options |= {"fallback_application_name": name, "connect_timeout": "5", **plain.connect_params}
            pooled.__init__(plain.database, **options)
        _pools.add(self)

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Take a connection from the pool, or make one.

        Raises:
            RuntimeError: No context of its app is active.
            UnavailableError: There is none to be had.
        """
        if not has_app_context() or active_store().client.db is not self:
            raise RuntimeError(
                "a connection belongs to a context of its app, which gives it back: `with app.app_context():`"
            )
        if self.deferred:
            self._start_server()
        if not self.is_closed():
            return super().connect(reuse_if_open)
        try:
            super().connect()
        except (peewee.OperationalError, MaxConnectionsExceeded) as error:
            raise UnavailableError(f"no connection to the database: {str(error).strip()}") from error
        pool: Any = self
        g.setdefault("pgevents_lent", _Lent(self)).append(pool._in_use[id(pool.connection())])
        return True

    def take_back(self, taken: Any) -> None:
        """The end of a loan: whatever is open on the connection is rolled back."""
        pool: Any = self
        if pool._in_use.get(id(taken.connection)) is not taken:
            return
        if pool.is_closed() or pool.connection() is not taken.connection:  # another thread's
            pool._close(taken.connection, close_conn=True)
            return
        while pool.in_transaction():
            pool.pop_transaction()
        pool.close()

    def forget(self) -> None:
        """In a forked child: connections and locks are its parent's."""
        pool: Any = self
        pool._lock, pool._pool_lock = threading.Lock(), threading.RLock()
        pool._pool_available = threading.Condition(pool._pool_lock)
        pool.dispose()

    def _start_server(self) -> None:
        with self._starting:
            if not self.deferred:
                return
            os.makedirs(self._folder, exist_ok=True)
            server = ExitStack()
            started: Any = server.enter_context(embedded_database(self._folder))
            atexit.register(server.close)
            pool: Any = self
            pool.init(started.database, **started.connect_params)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in list(_pools):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class _Lent(list[Any]):
    """What one context has of a pool."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool

    def give_back(self) -> None:
        while self:
            self._pool.take_back(self.pop())

    __del__ = give_back  # for when another teardown function raised before ours, or asked something after it


def give_back(error: BaseException | None) -> None:
    """At the end of a context: its connections, however it ended."""
    lent: _Lent | None = g.get("pgevents_lent")
    if lent is not None:
        lent.give_back()
