"""The database at work: opened from a URL, asked in one round trip, its errors told in pgevents' terms."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from logging import DEBUG, getLogger
from typing import Any, NoReturn, cast

import attrs
import peewee
import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_INERROR, make_dsn, parse_dsn

from pgevents.errors import (
    AppendOnlyError,
    ConfigurationError,
    ConnectionLostError,
    EventEncodeError,
    IdempotencyError,
    NotInstalledError,
    PgEventsError,
    RetryableError,
    UnsupportedTransactionError,
)

__all__ = ["Session", "open_database"]

EXECUTE_SQL: Any = cast(Any, peewee).Database.execute_sql
CURSOR: Any = cast(Any, peewee).Database.cursor
ARE_PEEWEES_OWN = all(
    getattr(method, "__globals__", None) is vars(peewee) for method in (EXECUTE_SQL, CURSOR)
)
"""Whether nobody had put something of his own in their place before this module was imported."""
Connection = psycopg2.extensions.connection
NO_SPARE: tuple[Any, Any, Any] = (None, None, None)
sql_log = getLogger("peewee")
RETRYABLE = {
    "40001": "a serialization failure",
    "40P01": "a deadlock",
    "55P03": "a lock timeout",
    "57014": "a statement timeout or a cancel request",
}
SWALLOWED = (
    "an SQL error was swallowed in this transaction, which PostgreSQL can now only roll back; "
    "let the error through, or guard the statement by a savepoint (db.atomic())"
)
REFUSED: dict[str, type[PgEventsError]] = {
    "PGE01": UnsupportedTransactionError,
    "PGE02": ConfigurationError,
    "PGE03": AppendOnlyError,
}


def open_database(db: peewee.Database | str) -> peewee.PostgresqlDatabase:
    """A Peewee database from itself or from a URL; nothing connects yet.

    Raises:
        ConfigurationError: Not PostgreSQL, or a URL that cannot be read. A password is never repeated.
    """
    if isinstance(db, str):
        if not db.startswith(("postgresql://", "postgres://")):
            raise ConfigurationError(
                "the connection URL starts with postgresql://, as in postgresql://user:password@host:5432/database"
            )
        try:
            parts = parse_dsn(db)
            if _spilt(parts):
                raise psycopg2.ProgrammingError
            database = peewee.PostgresqlDatabase(
                parts.pop("dbname", None) or parts.get("user") or "postgres", **parts
            )
        except (psycopg2.Error, ValueError):
            raise ConfigurationError(
                "the connection URL cannot be read; it has the form "
                "postgresql://user:password@host:5432/database, "
                "with special characters in the password as %XX"
            ) from None
        return database
    if isinstance(db, peewee.DatabaseProxy):
        raise ConfigurationError(
            "initialize the DatabaseProxy first and give the client its database (proxy.obj)"
        )
    if not isinstance(db, peewee.PostgresqlDatabase):
        raise ConfigurationError(
            f"pgevents needs a peewee.PostgresqlDatabase or a URL, not {type(db).__name__}"
        )
    return db


def _spilt(parts: Mapping[str, str]) -> bool:
    """Whether a part of an unescaped password was taken for host, port or database, which error messages
    name."""
    host, port, name = parts.get("host", ""), parts.get("port", ""), parts.get("dbname", "")
    return (
        "@" in name
        or ("@" in host[1:] and host[0] != "/")
        or (not port.replace(",", "").isdecimal() and port != "")
    )


def url_of(db: peewee.PostgresqlDatabase) -> str:
    """The libpq connection string of a database, for other processes; it holds the password, if there is
    one."""
    params = {key: str(value) for key, value in db.connect_params.items() if isinstance(value, (str, int))}
    name = str(db.database)
    return name if name.startswith("postgresql://") else make_dsn(dbname=name, **params)


def _as_peewee(error: psycopg2.Error) -> peewee.PeeweeException:
    """The driver's error as Peewee would raise it."""
    try:
        with cast(Any, peewee).__exception_wrapper__:
            raise error
    except peewee.PeeweeException as wrapped:
        return wrapped


class _Spare(threading.local):
    """What one thread keeps for its next call; it ends with the thread, whose connection it would else keep
    open."""

    def __init__(self) -> None:
        self.cursors: list[tuple[Any, Any, Any]] = []
        """A connection, its cursor factory, and a cursor made by these that nobody uses at the moment; or
        nothing."""


@attrs.frozen
class Session:
    """Runs SQL on a Peewee database and raises pgevents' errors."""

    db: peewee.PostgresqlDatabase
    _spare: _Spare = attrs.field(init=False, eq=False, repr=False, factory=_Spare)

    def execute(self, sql: str, params: Any = None) -> Any:
        """One statement (or several in one message) on this thread's connection; a cursor.

        Raises:
            RetryableError: Deadlock, lock or statement timeout, serialization failure.
            ConnectionLostError: The connection broke.
            NotInstalledError: Table or function does not exist.
            UnsupportedTransactionError: Wrong isolation level, standby, or autocommit switched off.
        """
        try:
            connection = self._only_driver()
            if connection is None:
                return cast(Any, self.db).execute_sql(sql, params)
            cursor = connection.cursor()
            cursor.execute(sql, params or ())
            return cursor
        except psycopg2.Error as error:
            self._translate(_as_peewee(error))
        except peewee.PeeweeException as error:
            self._translate(error)

    def value(self, sql: str, params: tuple[Any, ...]) -> Any:
        """The one value that a short statement gives; errors as for `execute`.

        It keeps its cursor, and so statement and connection, for the thread's next call: where the caches are
        cold, a new one costs as much as all parameters together. Whoever uses it has taken it away first, so
        that no signal handler can come between.
        """
        try:
            connection = self._only_driver()
            if connection is None:
                return cast(Any, self.db).execute_sql(sql, params).fetchone()[0]
            factory = connection.cursor_factory
            spare = self._spare.cursors
            try:
                of, made_by, cursor = spare.pop()
            except IndexError:
                of, made_by, cursor = NO_SPARE
            if of is not connection or made_by is not factory or cursor.closed:
                cursor = connection.cursor()
            cursor.execute(sql, params)
            value = cursor.fetchone()[0]
            spare[:] = [(connection, factory, cursor)]
            return value
        except psycopg2.Error as error:
            self._translate(_as_peewee(error))
        except peewee.PeeweeException as error:
            self._translate(error)

    def _only_driver(self) -> Any:
        """This thread's psycopg2 connection, if all that Peewee would do with a statement is to hand it on;
        else None."""
        db: Any = self.db
        connection = db._state.conn  # what Peewee's own cursor() uses
        if connection is None:
            if not db.autoconnect:
                return None
            connection = db.connection()
        if (connection.closed or not connection.autocommit) and not db.in_transaction():
            if not connection.closed:
                raise UnsupportedTransactionError(
                    "autocommit was switched off on this connection, so nobody would commit; "
                    "leave it as Peewee sets it and use db.atomic() for transactions"
                )
            db.close()
            return None
        cls: Any = db.__class__
        own: dict[str, Any] = db.__dict__
        if (
            "execute_sql" in own
            or "cursor" in own
            or cls.execute_sql is not EXECUTE_SQL
            or cls.cursor is not CURSOR
        ):
            return None  # overridden
        is_watched = db.query_hooks or sql_log.isEnabledFor(DEBUG)
        return (
            connection if ARE_PEEWEES_OWN and not is_watched and isinstance(connection, Connection) else None
        )

    def connection(self) -> Any:
        """This thread's psycopg2 connection."""
        return cast(Any, self.db).connection()

    def atomic(self) -> AbstractContextManager[Any]:
        """`db.atomic()`: a transaction, or a savepoint inside one."""
        return cast("AbstractContextManager[Any]", cast(Any, self.db).atomic())

    def check_alive(self) -> None:
        """Inside a transaction: that it was not lost to an SQL error which somebody swallowed.

        PostgreSQL answers the COMMIT of such a transaction with a silent ROLLBACK.

        Raises:
            UnsupportedTransactionError: The transaction can only be rolled back.
        """
        if self.connection().get_transaction_status() == TRANSACTION_STATUS_INERROR:
            raise UnsupportedTransactionError(SWALLOWED)

    def _translate(self, error: peewee.PeeweeException) -> NoReturn:
        orig: object = getattr(error, "orig", None)  # where Peewee keeps the driver's error
        cause = orig if isinstance(orig, psycopg2.Error) else None
        code = cause.pgcode if cause is not None else None
        diagnosis = cause.diag if cause is not None else None
        message = (diagnosis.message_primary if diagnosis is not None else None) or str(error)
        detail = diagnosis.message_detail if diagnosis is not None else None
        if code in RETRYABLE:
            whole = "; run the whole db.atomic() block again" if self.db.in_transaction() else ""
            extra = f" ({detail})" if detail else ""
            raise RetryableError(
                f"{RETRYABLE[code]}: {message}{extra}; nothing was written{whole}"
            ) from error
        if code == "PGE04":
            raise IdempotencyError(message, key="") from error
        if code in REFUSED:
            raise REFUSED[code](message) from error
        if code == "25006":
            raise UnsupportedTransactionError(
                f"{message}: this server is a standby, or the transaction is READ ONLY; "
                "write on the primary, without READ ONLY"
            ) from error
        if code == "25P02":
            raise UnsupportedTransactionError(SWALLOWED) from error
        if code == "54000" and "index row" in message:
            raise EventEncodeError(
                f"{message}: the value of a data index may have some 2,700 bytes; nothing was written"
            ) from error
        if code == "54000" and "string buffer" in f"{message} {detail}":
            raise ConfigurationError(
                "this is more than a gigabyte of text, which PostgreSQL neither takes nor gives in one "
                "piece: save fewer "
                "events at once, or read fewer, with after= or a snapshot, "
                "or one after the other with iter_event_stream()"
            ) from error
        if code in {"42P01", "42883", "3F000"}:
            raise NotInstalledError(f"{message}: run client.create_tables()") from error
        if not self.db.is_closed() and self.connection().closed:
            if not self.db.in_transaction():
                self.db.close()
            raise ConnectionLostError(
                f"the connection broke: {message.strip()}. A save may or may not have been committed: "
                "repeat it with its idempotency_key. The next call connects anew"
            ) from error
        raise error
