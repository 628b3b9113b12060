"""The database at work: statements and transactions, and errors of the driver in pgevents' terms."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, cast

import attrs
import peewee
import psycopg2
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
)

from pgevents.errors import (
    ConfigurationError,
    ConnectionLostError,
    DatabaseUnavailableError,
    EventEncodeError,
    NotInstalledError,
    PgEventsError,
    UnsupportedTransactionError,
)
from pgevents.store import joined
from pgevents.store.connections import check_kind, is_lost, setting_that_breaks
from pgevents.store.envelopes import Envelope
from pgevents.store.refusals import RETRYABLE, SWALLOWED, error_of

if TYPE_CHECKING:  # playhouse has no types
    MaxConnectionsExceeded = ValueError
else:
    from playhouse.pool import MaxConnectionsExceeded

__all__ = ["Session"]

USUAL_DATES = "ISO, MDY"
LOST_IN_TRANSACTION = (
    "the connection broke inside a transaction, which PostgreSQL has rolled back: "
    "leave the block and run all of it again"
)
MISSING = {"42P01", "42883", "3F000", "42P10"}  # the last: a projections table with another key
DROPPED = "XX000"  # could not open relation with OID: dropped while the statement waited for it
_Connections = weakref.WeakSet[Any]


def _no_connection() -> None:
    """In place of a weak reference."""


@attrs.define(eq=False)
class Session:
    """Runs SQL on a Peewee database, by Peewee's public methods alone, and raises pgevents' errors.

    Each connection is looked at once, without a round trip: whether it is one of this process, by psycopg2,
    with rows that can be unpacked and an encoding that holds text.
    """

    _db: peewee.PostgresqlDatabase
    when_missing: Callable[[str], PgEventsError | None] | None = attrs.field(default=None, repr=False)
    """What stands behind it if tables are missing, for tenants; None: they were never made."""
    _sound: _Connections = attrs.field(init=False, repr=False, factory=_Connections)
    _latest: Callable[[], Any] = attrs.field(init=False, repr=False, default=_no_connection)
    _inherited: _Connections | None = attrs.field(init=False, repr=False, default=None)

    def __attrs_post_init__(self) -> None:
        _sessions.add(self)

    @property
    def db(self) -> peewee.PostgresqlDatabase:
        """The Peewee database; inside `joined()` that of the joined transaction."""
        return joined.current(self) or self._db

    def joined(self, host: joined.Host) -> AbstractContextManager[None]:
        """A block in which everything runs in a transaction of another program.

        Raises:
            UnsupportedTransactionError: There is no transaction now.
            ConfigurationError: Not on a connection of psycopg2.
        """
        return joined.joined(self, joined.JoinedDatabase(host, self._db))

    def execute(self, sql: str, params: Any = None) -> Any:
        """One statement (or several in one message) on this thread's connection; a cursor.

        Raises:
            RetryableError: Deadlock, lock or statement timeout, serialization failure.
            ConnectionLostError: The connection broke.
            DatabaseUnavailableError: There is no connection to be had.
            NotInstalledError: Table or function does not exist.
            UnsupportedTransactionError: Wrong isolation level, standby, or autocommit switched off.
            DatabaseError: The server refused the statement for another reason.
        """
        db: Any = joined.current(self) or self._db
        self._connection_of(db)
        try:
            return db.execute_sql(sql, params)
        except peewee.PeeweeException as error:
            self._translate(error)
        except ValueError as error:  # of the driver, before it sends anything
            self.raise_for(error)

    def connection(self) -> Any:
        """This thread's psycopg2 connection: open, of this process, and of a kind that pgevents can use.

        Raises:
            ConnectionLostError: It broke inside a transaction.
            DatabaseUnavailableError: There is none to be had.
            ConfigurationError: pgevents cannot use it; the message says why.
            UnsupportedTransactionError: Autocommit was switched off on it.
        """
        return self._connection_of(self.db)

    def _connection_of(self, db: Any) -> Any:
        if self._inherited is not None and db is self._db:
            self._leave_parent(self._inherited)
        if db.is_closed():
            self._connect()
        connection = db.connection()
        if connection is not self._latest():  # most programs use one connection for many statements
            if connection not in self._sound:
                check_kind(connection)
                self._sound.add(connection)
            self._latest = weakref.ref(connection)
        if connection.closed:
            if db.in_transaction():
                raise ConnectionLostError(LOST_IN_TRANSACTION)
            db.close()
            return self._connection_of(db)
        setting = connection.get_parameter_status
        if setting("client_encoding") != connection.encoding or setting("DateStyle") != USUAL_DATES:
            unreadable = setting_that_breaks(connection)
            if unreadable is not None:
                raise ConfigurationError(unreadable)
        if not connection.autocommit and not db.in_transaction():
            raise UnsupportedTransactionError(
                "autocommit was switched off on this connection, so nobody would commit; "
                "leave it as Peewee sets it and use db.atomic() for transactions"
            )
        return connection

    def _connect(self) -> None:
        db: Any = self.db
        if db.deferred:
            raise ConfigurationError("the database is not initialized yet: call db.init(name, ...) first")
        if not db.autoconnect:
            raise ConfigurationError(
                "the database is not connected, and autoconnect is off: call db.connect()"
            )
        try:
            db.connect(reuse_if_open=True)
        except (peewee.PeeweeException, MaxConnectionsExceeded) as error:
            raise _unavailable(error) from error

    def _leave_parent(self, inherited: _Connections) -> None:
        """In a forked process: leave the parent's connections to it. psycopg2 does not close them."""
        db: Any = self.db
        is_inherited = not db.is_closed() and db.connection() in inherited
        if is_inherited and db.in_transaction():
            raise UnsupportedTransactionError(
                "this process was forked inside a transaction of its parent, whose connection it must not "
                "use: fork outside db.atomic()"
            )
        if is_inherited or db.is_closed():  # a closed pool may hold idle ones of the parent
            db.dispose()
        self._inherited = None

    def note_fork(self) -> None:
        """What is open now belongs to the parent process."""
        db: Any = self._db
        self._inherited, self._sound, self._latest = self._sound, _Connections(), _no_connection
        if not db.is_closed():
            self._inherited.add(db.connection())

    # -- transactions ------------------------------------------------------------

    def in_transaction(self) -> bool:
        """Whether a transaction is open on this thread's connection, whoever began it."""
        return self._status() in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR)

    def _status(self) -> int:
        status = int(self.connection().get_transaction_status())
        if status == TRANSACTION_STATUS_IDLE and self.db is not self._db:
            return int(TRANSACTION_STATUS_INTRANS)  # psycopg2 begins it with the first statement
        return status

    @contextmanager
    def atomic(self, envelope: Envelope | None = None) -> Generator[Any, None, None]:
        """A transaction; inside one, whoever began it, a savepoint.

        Args:
            envelope: Sends BEGIN and COMMIT, if they are to be sent; see `store/transactions.py`.

        Raises:
            ConnectionLostError: The connection broke at the end. If it broke while it was idle before the
                transaction, a new one is used.
            UnsupportedTransactionError: Inside `db.manual_commit()` without a transaction.
        """
        transaction = self._begin(envelope)
        try:
            yield transaction
        except BaseException as error:
            try:
                transaction.__exit__(type(error), error, error.__traceback__)
            except peewee.PeeweeException as fault:
                if not self._is_lost(fault):  # a lost connection has rolled back by itself
                    self._translate(fault)
                self._drop()
            raise
        try:
            transaction.__exit__(None, None, None)
        except peewee.PeeweeException as fault:
            self._translate(fault)

    def _begin(self, envelope: Envelope | None) -> Any:
        db: Any = self.db
        status = self._status()
        if status == TRANSACTION_STATUS_IDLE and db.in_transaction():
            raise UnsupportedTransactionError(
                "this is inside db.manual_commit() or a transaction that was ended by SQL, and no "
                "transaction is open: nobody would know its end. Nothing was written: use db.atomic()"
            )
        is_outermost = status == TRANSACTION_STATUS_IDLE
        outermost = db.atomic if envelope is None else envelope.transaction
        transaction = outermost() if is_outermost else db.savepoint()
        try:
            transaction.__enter__()
        except peewee.PeeweeException as error:
            if is_outermost and db.is_closed():  # it was lost while it was idle, and there is no other one
                raise _unavailable(error) from error
            if not is_outermost or not self._is_lost(error):
                self._translate(error)
            self._drop()
            self.connection()
            transaction = outermost()
            try:
                transaction.__enter__()
            except peewee.PeeweeException as again:
                self._translate(again)
        return transaction

    def check_alive(self) -> None:
        """Inside a transaction, check that it was not lost to an SQL error which somebody swallowed.

        PostgreSQL answers the COMMIT of such a transaction with a silent ROLLBACK.

        Raises:
            UnsupportedTransactionError: The transaction can only be rolled back.
        """
        if self._status() == TRANSACTION_STATUS_INERROR:
            raise UnsupportedTransactionError(SWALLOWED)

    # -- errors ------------------------------------------------------------

    def not_installed(self, message: str) -> PgEventsError:
        """The error to raise where tables or functions are missing.

        Args:
            message: What is missing.
        """
        found = None if self.when_missing is None else self.when_missing(message)
        return found or NotInstalledError(f"{message}: run client.create_tables()")

    def refuse_moved(self, message: str) -> None:
        """Refuse to make tables where they are missing because their tenant lives elsewhere.

        Args:
            message: What is missing.

        Raises:
            MovedError: Names the new place, if it is known.
        """
        found = None if self.when_missing is None else self.when_missing(message)
        if found is not None:
            raise found

    def _is_lost(self, error: BaseException) -> bool:
        db: Any = self.db
        return not db.is_closed() and is_lost(db.connection(), error)

    def _drop(self) -> None:
        """Let go of a connection that broke, unless a transaction of Peewee's still has to be left."""
        db: Any = self.db
        if not db.in_transaction():
            db.close()

    def raise_for(self, error: Exception) -> NoReturn:
        """Raise what an error of the driver means, also of a statement that did not go through `execute`.

        Args:
            error: What the driver raised; anything else is raised as it is.
        """
        if isinstance(error, UnicodeEncodeError):
            raise EventEncodeError(
                f"the connection's encoding ({self.connection().encoding}) cannot hold "
                f"{error.object[error.start : error.end]!r}: "
                "use a UTF8 database, and connect with client_encoding=UTF8"
            ) from error
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError):  # a NUL character
            raise ConfigurationError(f"PostgreSQL cannot take this text: {error}") from error
        if not isinstance(error, psycopg2.Error):
            raise error
        wrapped: Any = peewee.DatabaseError(str(error))
        wrapped.orig = error
        self._translate(wrapped)

    def _translate(self, error: peewee.PeeweeException) -> NoReturn:
        """Raise what the driver's error means."""
        orig: object = getattr(error, "orig", None)  # where Peewee keeps the driver's error
        cause = orig if isinstance(orig, psycopg2.Error) else None
        code = cause.pgcode if cause is not None else None
        diagnosis = cause.diag if cause is not None else None
        message = ((diagnosis.message_primary if diagnosis is not None else None) or str(error)).strip()
        detail = (diagnosis.message_detail if diagnosis is not None else None) or ""
        if self._is_lost(error):
            is_inside = cast(Any, self.db).in_transaction()
            self._drop()
            if is_inside:
                raise ConnectionLostError(f"{LOST_IN_TRANSACTION} ({message})") from error
            raise ConnectionLostError(
                f"the connection broke: {message}. A save may or may not have been committed: "
                "repeat it with its idempotency_key. The next call connects anew"
            ) from error
        is_dropped = code == DROPPED and self.when_missing is not None
        if code in MISSING or is_dropped:
            raise self.not_installed(message) from error
        is_inside = code in RETRYABLE and self.in_transaction()
        raise error_of(code or "", message, detail, is_inside=is_inside) from error


def _unavailable(error: Exception) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        f"no connection to the database: {str(error).strip()}; nothing was written"
    )


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _note_fork() -> None:
    for session in list(_sessions):
        session.note_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
