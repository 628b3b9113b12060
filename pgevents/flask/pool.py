"""The connection pool of an app: each connection is lent to a context and comes back clean at its end."""

from __future__ import annotations

import atexit
import os
import selectors
import threading
import weakref
from contextlib import ExitStack
from typing import Any

import peewee
import psycopg2
from flask import g, has_app_context
from peewee import PostgresqlDatabase
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from pgevents.embedded import embedded_database
from pgevents.errors import DatabaseUnavailableError
from pgevents.flask.context import active_store
from pgevents.store.connections import open_database, setting_that_breaks

__all__ = ["Pool", "UnavailableError", "give_back"]

CLEAN_SQL = """\
CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all();
DISCARD TEMP; DISCARD SEQUENCES; DEALLOCATE ALL"""
"""DISCARD ALL without DISCARD PLANS: the cached plans of functions do not depend on the request."""


class UnavailableError(DatabaseUnavailableError):
    """All connections of the app's pool were in use for as long as `PGEVENTS_POOL_TIMEOUT` allows."""


class Pool(PostgresqlDatabase):
    """A Peewee database whose connections belong to the contexts of one app.

    Peewee keeps the connection of each thread; the `g` of a context records which connection it took. So a
    nested context leaves the connection of the outer context alone, and the thread of an async view cannot
    keep a connection.

    Attributes:
        lent: The connections that contexts use.
        idle: The connections that are free.
    """

    def __init__(self, url: str, folder: str, *, size: int, timeout: float, name: str) -> None:
        """Nothing connects yet.

        Args:
            url: `postgresql://...`, or `embedded` or `embedded:folder` for a server that starts when it is
                needed.
            folder: The folder of such a server's data, if the URL names none.
            size: The greatest number of connections.
            timeout: Seconds to wait for a free connection.
            name: The `application_name` of the connections, if the URL gives none.

        Raises:
            ConfigurationError: The URL is not valid.
        """
        scheme, _, path = url.partition(":")
        self.lent: list[Any] = []
        self.idle: list[Any] = []
        self._size = size
        self._timeout = timeout
        self._folder = os.path.abspath(path or folder)
        self._renew_locks()
        base: Any = super()
        self._starts_server = scheme == "embedded"
        if self._starts_server:
            base.__init__("pgevents")  # the first connection starts the server and sets its address
        else:
            plain: Any = open_database(url)
            options = {"fallback_application_name": name, "connect_timeout": "5", **plain.connect_params}
            base.__init__(plain.database, **options)
        _pools.add(self)

    def _renew_locks(self) -> None:
        self._starting = threading.Lock()
        self._free = threading.Semaphore(self._size)
        self.changing = threading.RLock()

    # -- a context takes a connection, and gives it back ------------------------------------------------

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Take a connection from the pool, or open one.

        Raises:
            RuntimeError: No context of the pool's app is active.
            UnavailableError: All connections are in use.
            DatabaseUnavailableError: The server cannot be reached.
        """
        if not has_app_context() or active_store().client.db is not self:
            raise RuntimeError(
                "a connection belongs to a context of its app, which gives it back: `with app.app_context():`"
            )
        if self._starts_server:
            self._start_server()
        if not self.is_closed():
            return super().connect(reuse_if_open)
        if not self._free.acquire(timeout=self._timeout):
            raise UnavailableError(
                f"all {self._size} connections of the pool were in use for {self._timeout} s "
                "(PGEVENTS_MAX_CONNECTIONS, PGEVENTS_POOL_TIMEOUT); nothing was written"
            )
        try:
            with self.changing:
                super().connect()
        except BaseException as error:
            self._free.release()
            if isinstance(error, peewee.OperationalError):
                raise DatabaseUnavailableError(
                    f"no connection to the database: {str(error).strip()}; nothing was written"
                ) from error
            raise
        connection = self._of_this_thread()
        self.lent.append(connection)
        g.setdefault("pgevents_lent", _Lent(self)).append(connection)
        return True

    def close(self) -> bool:
        """Clean this thread's connection and return it to the pool; close it if it cannot be cleaned."""
        if not self.is_closed() and not self.in_transaction():
            _clean(self._of_this_thread())
        with self.changing:
            return super().close()

    def take_back(self, connection: Any) -> None:
        """End the loan of a connection: an open transaction is rolled back."""
        if connection not in self.lent:
            return
        if self.is_closed() or self._of_this_thread() is not connection:  # taken by another thread
            connection.close()
            self._end_loan(connection)
            return
        this: Any = self
        while this.in_transaction():
            this.pop_transaction()
        self.close()

    def _of_this_thread(self) -> Any:
        """This thread's connection."""
        this: Any = self
        return this.connection()

    def _connect(self) -> Any:
        """Called by Peewee to open a connection for this thread."""
        while self.idle:
            connection = self.idle.pop()
            if _is_alive(connection):
                return connection
            connection.close()
        base: Any = super()
        return base._connect()

    def _close(self, conn: Any) -> None:
        """Called by Peewee to close the connection of this thread."""
        self._end_loan(conn)

    def _end_loan(self, connection: Any) -> None:
        if connection in self.lent:
            self.lent.remove(connection)
            if not connection.closed:
                self.idle.append(connection)
            self._free.release()

    # -- the pool as a whole ------------------------------------------------------------

    def close_all(self) -> None:
        """Close all connections, also those in use."""
        with self.changing:
            for connection in (*self.idle, *self.lent):
                connection.close()
            self.idle.clear()

    def forget(self) -> None:
        """In a forked child: drop connections and locks, which belong to the parent."""
        self.idle, self.lent = [], []  # psycopg2 leaves the parent's sessions alone
        self._renew_locks()
        self.dispose()

    def _start_server(self) -> None:
        with self._starting:
            if not self._starts_server:
                return
            os.makedirs(self._folder, exist_ok=True)
            server = ExitStack()
            started: Any = server.enter_context(embedded_database(self._folder))
            atexit.register(server.close)
            pool: Any = self
            pool.init(started.database, **started.connect_params)
            self._starts_server = False


def _clean(connection: Any) -> None:
    """Undo what a request has left on a connection: a transaction, settings, temporary tables, locks.

    Close it if the driver's settings were changed, because the driver would apply them again.
    """
    has_our_settings = connection.autocommit and all(
        setting is None
        for setting in (connection.isolation_level, connection.readonly, connection.deferrable)
    )
    try:
        if not has_our_settings or connection.closed:
            connection.close()
            return
        with connection.cursor() as cursor:
            if connection.get_transaction_status() != TRANSACTION_STATUS_IDLE:
                cursor.execute("ROLLBACK")
            cursor.execute(CLEAN_SQL)
            if not connection.get_parameter_status("DateStyle").startswith("ISO"):
                cursor.execute("SET DateStyle TO ISO")  # the role has another style; the driver needs ISO
        if setting_that_breaks(connection) is not None:
            connection.close()  # the request changed a setting that the driver relies on
    except psycopg2.Error:
        connection.close()


def _is_alive(connection: Any) -> bool:
    """Whether an idle connection can be used: when the server ends it, its socket becomes readable."""
    if connection.closed:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return not selector.select(0)


# -- forked processes ------------------------------------------------------------

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_held: list[Pool] = []


def _hold() -> None:
    """Before a fork: wait until no thread is connecting, so that no lock of Peewee is held in the child."""
    for pool in list(_pools):
        pool.changing.acquire()
        _held.append(pool)


def _go_on() -> None:
    while _held:
        _held.pop().changing.release()


def _forget_all() -> None:
    _held.clear()
    for pool in list(_pools):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_forget_all)


class _Lent(list[Any]):
    """The connections of a pool that a context has taken."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool

    def give_back(self) -> None:
        while self:
            self._pool.take_back(self.pop())

    __del__ = give_back  # if another teardown function raised before ours, or used a connection after it


def give_back(error: BaseException | None) -> None:
    """At the end of a context: return its connections to the pool, also after an error."""
    lent: _Lent | None = g.get("pgevents_lent")
    if lent is not None:
        lent.give_back()
