"""Tables, maintenance, the horizon, and waiting for a subscription."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

from pgevents.client.parts import ClientParts
from pgevents.errors import ConfigurationError, shown
from pgevents.premises import Projection
from pgevents.store import installation, maintenance
from pgevents.store.grants import grant
from pgevents.store.kept import kept_name
from pgevents.store.options import check_flag
from pgevents.store.ordering import Horizon, horizon_of
from pgevents.store.processing import Statements
from pgevents.store.removal import remove_sql
from pgevents.waiting import Awaited, wait_for

__all__ = ["TableCalls"]


class TableCalls(ClientParts):
    """The calls about the tables as a whole."""

    def create_tables(self, *, grant_writer: str | None = None, grant_reader: str | None = None) -> None:
        """Make schema, tables, indexes, functions and guards, or bring them up to date; safe to call again.

        Tables of an earlier version keep their rows and get the columns that they lack. A snapshot of such a
        table is folded anew.

        Processes that call it at once wait for each other. Functions are replaced only if they differ, and
        then while nobody is in the middle of a save. A table that names no schema is made in the first one of
        the connection's search path.

        The role that calls it owns the tables and can do everything with them. Other roles can do what they
        are granted, here or at a later call.

        Args:
            grant_writer: A role that may save, decide, snapshot and follow the log. The append functions
                insert for it, so that it can neither change nor forge events.
            grant_reader: A role that may read.

        Raises:
            ConfigurationError: A table or index of that name is not pgevents' own, or not complete; the
                database's encoding is SQL_ASCII; or there is no such role. Nothing was changed.
            RetryableError: A transaction that has written to the tables, or has used one that gets new
                columns, did not end within 10 seconds, or another `create_tables()` within a minute; the
                message names it. Nothing was changed, and trying again is safe.
            peewee.PeeweeException: The server refused, for example for lack of a privilege.
        """
        with self.session.atomic():
            installation.install(self.session, self.events, self.projections)
            self.plugins.hook.pgevents_create_tables(client=self)
            for role, may_write in ((grant_writer, True), (grant_reader, False)):
                if role is not None:
                    grant(self.session, self.events, self.projections, role, may_write=may_write)
        self._is_checked = False

    def create_tables_sql(self, *, down: bool = False) -> str:
        """The SQL that `create_tables()` runs on a new database, for review or for a migration tool; without
        the tables of plugins. Tables that name no schema are made in `public`. Only `create_tables()`
        updates tables of an earlier version.

        Args:
            down: Instead the SQL that drops all of it, and what `pgevents import` has noted: tables with
                their events, functions, and a schema that is empty then. Tables of plugins stay.

        Raises:
            ConfigurationError: `down` is neither True nor False.
        """
        sql_of = remove_sql if check_flag(down, "down") else installation.install_sql
        return sql_of(self.events, self.projections)

    def maintenance(self, reason: str) -> AbstractContextManager[None]:
        """A transaction in which the log may be changed by SQL: for redaction, with an audit trail.

        Every UPDATE, DELETE or TRUNCATE of the events table leaves a row in `<events>_maintenance`: when, by
        which role, why, how many events were changed, and the ids of the first 1,000. Of the statement it
        keeps the part before its first value, so that the trail holds nothing that was erased. The
        reason is kept as it is: name a request, not a person. The owner of the tables can change the trail.

        Blocks nest: the reason of the innermost one counts.

        Args:
            reason: Why, in words.

        Raises:
            ConfigurationError: No reason, or one that is not text.

        Example:
            ```python
            with client.maintenance("erasure request 17"):
                client.db.execute_sql("UPDATE my_app.events SET data = data - 'email' WHERE id = 5")
            ```
        """
        return maintenance.maintenance(self.session, self.events.pgevents_spec, reason)

    def horizon(self) -> Horizon:
        """Up to where the log can no longer change, and who holds that back."""
        self.check_installed()
        return horizon_of(self.session.execute, self.events.pgevents_spec)

    def wait(
        self,
        subscription: str | type[Projection[Any]],
        event: Awaited,
        *,
        timeout: float = 10.0,
        parked_counts: bool = False,
    ) -> Literal["handled", "not followed"]:
        """Wait until a subscription has dealt with an event.

        Args:
            subscription: The subscription's name, or a projection's class whose views a runner keeps.
            event: A saved event, a list of them, or an id: then everything up to it.
            timeout: Seconds to wait at most.
            parked_counts: Whether an event that was set aside counts as dealt with.

        Returns:
            "handled", or at once "not followed": the event is not in the subscription's streams.

        Raises:
            WaitError: It is parked, or the subscription is paused or stopped (at once); or it took too long.
                The message names who holds the event back, if it is not final.
            ConfigurationError: There is no such subscription; or called in a handler or in a transaction.

        Example:
            ```python
            saved = client.save_event(CartCheckedOut("c1", now()))
            client.wait("invoices", saved, timeout=2)
            ```
        """
        self.check_installed()
        statements = Statements(self.session, self.events.pgevents_spec)
        if not isinstance(subscription, str):
            cls: Any = subscription
            if not hasattr(cls, "declared_for"):
                raise ConfigurationError(
                    f"wait takes a subscription's name, or a projection's class, not {shown(cls)}"
                )
            spec = self.projections.pgevents_spec
            subscription = kept_name(cls.projection_type, cls.version, spec)
        return wait_for(statements, subscription, event, timeout, parked_counts)
