"""Events in the transactions of an SQLAlchemy program: `joined`, and what Alembic has to leave alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, UnsupportedTransactionError
from pgevents.store.removal import table_names

__all__ = ["include_name", "joined"]


def joined(client: EventClient, session: Any) -> AbstractContextManager[None]:
    """A block in which the client works in the transaction of an SQLAlchemy session or connection.

    A session begins its transaction by itself. What it has not flushed yet is not in the database: call
    `session.flush()` before a save that relies on it. `session.begin_nested()` that is rolled back takes its
    events along. `pgevents_after_commit` runs after the session's commit, for events that are in the log.

    Args:
        client: The client.
        session: A `Session`, or a `Connection`: the latter does not say when it has committed, so a client
            with a `pgevents_after_commit` plugin refuses to save on it.

    Raises:
        UnsupportedTransactionError: `isolation_level="AUTOCOMMIT"`.
        ConfigurationError: Not a session or connection, or not by psycopg2 (`postgresql+psycopg2://`).

    Example:
        ```python
        from pgevents.sqlalchemy import joined

        with Session(engine) as session, session.begin(), joined(client, session):
            session.add(Order(cart="c1"))
            client.save_event(OrderPlaced("c1"))
        ```
    """
    sqlalchemy: Any = import_module("sqlalchemy")
    orm: Any = import_module("sqlalchemy.orm")
    if isinstance(session, orm.scoped_session):
        session = session()
    if isinstance(session, orm.Session):
        return client.joined(_SessionHost(session))
    if isinstance(session, sqlalchemy.Connection):
        return client.joined(_ConnectionHost(session))
    raise ConfigurationError(
        f"joined takes an SQLAlchemy Session or Connection, not {type(session).__name__}; of an AsyncSession "
        "give the sync_session inside run_sync(), by psycopg2"
    )


@attrs.frozen(eq=False)
class _ConnectionHost:
    connected: Any

    def connection(self) -> Any:
        if not self.connected.in_transaction():
            self.connected.begin()  # as its next statement would
        return self.connected.connection.driver_connection

    def after_commit(self, callback: Callable[[], None]) -> None:
        raise UnsupportedTransactionError(
            "pgevents_after_commit cannot see when an SQLAlchemy Connection has committed; nothing was "
            "written: join a Session, which may be bound to the connection"
        )


@attrs.frozen(eq=False)
class _SessionHost:
    session: Any

    def connection(self) -> Any:
        return self.session.connection().connection.driver_connection

    def after_commit(self, callback: Callable[[], None]) -> None:
        waiting = _waiting.get(self.session)
        if waiting is None:
            waiting = _waiting[self.session] = _Waiting()
            listen: Any = import_module("sqlalchemy").event.listen
            listen(self.session, "after_commit", waiting.note_commit)
            listen(self.session, "after_transaction_end", waiting.end)
        waiting.callbacks.append(callback)


@attrs.define(eq=False)
class _Waiting:
    """What a session's program waits for: the end of its outermost transaction."""

    callbacks: list[Callable[[], None]] = attrs.field(factory=list[Callable[[], None]])
    is_committed: bool = False

    def note_commit(self, _session: Any) -> None:
        """Also called for savepoints; the log says in the end which events stand."""
        self.is_committed = True

    def end(self, _session: Any, transaction: Any) -> None:
        if transaction.parent is not None:
            return
        callbacks, is_committed = self.callbacks, self.is_committed
        self.callbacks, self.is_committed = [], False
        for callback in callbacks if is_committed else ():
            callback()


_waiting: weakref.WeakKeyDictionary[Any, _Waiting] = weakref.WeakKeyDictionary()


def include_name(
    client: EventClient, *others: EventClient
) -> Callable[[str | None, str, Mapping[str, Any]], bool]:
    """What Alembic's `include_name` takes, so that autogenerate leaves the tables of clients alone.

    Without it Alembic sees tables that are not in the program's metadata, and writes a migration that drops
    them.

    Args:
        client: The client.
        *others: Others in the same database.

    Returns:
        A function that answers False for their tables.

    Example:
        ```python
        context.configure(
            connection=connection, target_metadata=Base.metadata, include_name=include_name(client)
        )
        ```
    """
    ours = {
        name
        for each_client in (client, *others)
        for name in table_names(each_client.events, each_client.projections)
    }
    ours |= {(None, name) for schema, name in ours if schema == "public"}  # so Alembic names the default one

    def is_included(name: str | None, kind: str, parents: Mapping[str, Any]) -> bool:
        schema = parents.get("schema_name")
        return kind != "table" or (schema, name) not in ours

    return is_included
