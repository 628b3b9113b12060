"""Connections: a database from a URL, and whether pgevents can work with a connection of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import peewee
import psycopg2
from psycopg2.extensions import parse_dsn
from psycopg2.extras import NamedTupleCursor, RealDictCursor

from pgevents.errors import ConfigurationError

__all__ = ["check_kind", "is_broken", "is_lost", "open_database", "setting_that_breaks"]


class _Database(peewee.PostgresqlDatabase):
    """What a URL is made into: it connects anew if its connection broke while it was idle."""

    def begin(self, isolation_level: Any = None) -> None:
        """Begin a transaction; nothing has happened in it, so a second try on a new connection is safe."""
        base: Any = super()
        try:
            base.begin(isolation_level)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            this: Any = self
            if this.is_closed() or this.in_transaction() or not is_lost(this.connection(), error):
                raise
            this.close()
            base.begin(isolation_level)


def is_broken(error: BaseException) -> bool:
    """Whether an error is libpq's own and not an answer of the server.

    The connection is of no more use then, though psycopg2 calls it closed only at the next statement.
    """
    orig: Any = getattr(error, "orig", error)  # where Peewee keeps the driver's error
    return type(orig) is psycopg2.DatabaseError and orig.pgcode is None


def is_lost(connection: Any, error: BaseException) -> bool:
    """Whether a connection was lost with this error; then it is closed."""
    if not connection.closed and is_broken(error):
        connection.close()
    return bool(connection.closed)


def open_database(db: peewee.Database | str) -> peewee.PostgresqlDatabase:
    """A Peewee database from itself or from a URL; nothing connects yet.

    Raises:
        ConfigurationError: Not PostgreSQL by psycopg2, or a URL that cannot be read. A password is never
            repeated.
    """
    if isinstance(db, str):
        if not db.startswith(("postgresql://", "postgres://")):
            raise ConfigurationError(
                "the connection URL starts with postgresql://, as in postgresql://user:password@host:5432/database"
            )
        try:
            parts = parse_dsn(db)
            if _is_misread(parts):
                raise psycopg2.ProgrammingError
            return _Database(parts.pop("dbname", None) or parts.get("user") or "postgres", **parts)
        except (psycopg2.Error, ValueError):
            raise ConfigurationError(
                "the connection URL cannot be read; it has the form "
                "postgresql://user:password@host:5432/database, "
                "with special characters in the password as %XX"
            ) from None
    if isinstance(db, peewee.DatabaseProxy):
        raise ConfigurationError(
            "initialize the DatabaseProxy first and give the client its database (proxy.obj)"
        )
    if not isinstance(db, peewee.PostgresqlDatabase):
        raise ConfigurationError(
            f"pgevents needs a peewee.PostgresqlDatabase or a URL, not {type(db).__name__}"
        )
    return db


def _is_misread(parts: Mapping[str, str]) -> bool:
    """Whether part of an unescaped password was taken for host, port or database, which error messages
    name."""
    host, port, name = parts.get("host", ""), parts.get("port", ""), parts.get("dbname", "")
    return (
        "@" in name
        or ("@" in host[1:] and host[0] != "/")
        or (not port.replace(",", "").isdecimal() and port != "")
    )


def check_kind(connection: Any) -> None:
    """Check that pgevents can work with a connection.

    Raises:
        ConfigurationError: Says what to change.
    """
    if not isinstance(connection, psycopg2.extensions.connection):
        raise ConfigurationError(
            f"pgevents works with psycopg2, and this database connects by {type(connection).__module__}: "
            "leave out prefer_psycopg3, and use Peewee's PostgresqlDatabase"
        )
    if isinstance(connection.cursor(), (RealDictCursor, NamedTupleCursor)):
        raise ConfigurationError(
            "rows by name (RealDictCursor, NamedTupleCursor) cannot hold columns without one: make the "
            "database without that cursor_factory or connection_factory"
        )
    for whose, name in (
        ("database", connection.get_parameter_status("server_encoding")),
        ("connection", connection.encoding),
    ):
        if str(name).replace("_", "").upper() == "SQLASCII":
            raise ConfigurationError(
                f"the encoding of the {whose} is SQL_ASCII, in which text is bytes without a meaning: "
                + ("use a UTF8 database" if whose == "database" else "connect with client_encoding=UTF8")
            )


def setting_that_breaks(connection: Any) -> str | None:
    """What SQL has set on a connection so that the driver goes wrong without noticing, in a sentence."""
    encoding, of_driver = connection.get_parameter_status("client_encoding"), connection.encoding
    date_style = connection.get_parameter_status("DateStyle")
    if encoding != of_driver and encoding and _plain(encoding) != _plain(of_driver):
        return (
            f"client_encoding was set to {encoding} by SQL, which the driver does not notice: it would send "
            f"text as {of_driver}. Use connection.set_client_encoding(...), or give "
            "client_encoding when connecting"
        )
    if date_style and not date_style.startswith("ISO"):
        return f"DateStyle was set to {date_style}, and the driver reads ISO dates only: SET DateStyle TO ISO"
    return None


def _plain(encoding: str) -> str:
    """An encoding's name without what the driver and the server write differently: EUC_JP and EUCJP."""
    return encoding.replace("_", "").replace("-", "").upper()
