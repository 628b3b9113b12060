"""Working in a transaction of another program."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pgevents.client.parts import ClientParts
from pgevents.store.joined import Host, PlainHost

__all__ = ["JoiningCalls"]


class JoiningCalls(ClientParts):
    """The call that joins a transaction which was not begun by this client's database."""

    def joined(
        self, connection: Any, *, after_commit: Callable[[Callable[[], None]], object] | None = None
    ) -> AbstractContextManager[None]:
        """A block in which the client works in a transaction of another program, on its connection.

        Saves, reads, decisions, hooks and views in the block are part of that transaction, which the other
        program commits or rolls back. `client.db` is that connection then, and `client.db.atomic()` a
        savepoint. Other threads and tasks are not in the block.

        `pgevents.django.joined` and `pgevents.sqlalchemy.joined` find connection and commit by themselves.

        Args:
            connection: A psycopg2 connection that is not in autocommit mode; or a `Host`, which names the
                connection before each statement.
            after_commit: Takes a function, and calls it once the transaction has been committed. A client
                with a `pgevents_after_commit` plugin needs it. These hooks run outside of the transaction, on
                the client's own connection, and only for events that are in the log.

        Raises:
            UnsupportedTransactionError: The connection is in autocommit mode: nothing would hold the
                statements together.
            ConfigurationError: It is not a connection of psycopg2.

        Example:
            ```python
            connection = psycopg2.connect("dbname=shop")
            with connection, client.joined(connection):  # psycopg2 commits at the end
                connection.cursor().execute("INSERT INTO payments VALUES ('c1')")
                client.save_event(CartCreated("c1", "u1"))
            ```
        """
        is_host = hasattr(connection, "connection") and hasattr(connection, "after_commit")
        host: Host = connection if is_host else PlainHost(connection, after_commit)
        return self.session.joined(host)
