"""`Tenants`: clients by tenant, and tenants by server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import peewee

from pgevents.client import EventClient, create_event_client
from pgevents.errors import (
    ConfigurationError,
    InvalidValueError,
    MovedError,
    PgEventsError,
    TenantsError,
    shown,
)
from pgevents.store.connections import open_database
from pgevents.store.session import Session
from pgevents.store.tables import EventsModel, ProjectionsModel
from pgevents.tenants.directory import Directory, Tenant
from pgevents.tenants.moving import Moved, Mover, Recovery, closing, explain
from pgevents.tenants.schemas import check_tenant, in_schema, refuse_citus

__all__ = ["Tenants"]

R = TypeVar("R")


def _nothing(client: EventClient) -> None:
    """What is to be made beside the log: nothing."""


class Tenants:
    """Event logs of many tenants on several ordinary PostgreSQL servers.

    Each tenant is a schema of its name, with its own events and projections; a directory says on which server
    it is. All promises hold for each tenant as they do for a single log. There is no order and no transaction
    across tenants.

    Attributes:
        nodes: The servers' databases by their names.
        retry_for: Seconds for which `run` repeats a block while a tenant moves.
        lock_wait: Seconds for which a move waits for transactions that use the tenant's tables.
    """

    retry_for: float = 30.0
    lock_wait: float = 10.0

    def __init__(
        self,
        directory: peewee.PostgresqlDatabase | str,
        nodes: Mapping[str, peewee.PostgresqlDatabase | str],
        events: type[EventsModel],
        projections: type[ProjectionsModel],
        event_types: Any = None,
        *,
        plugins: Iterable[Any] | Callable[[str], Iterable[Any]] = (),
        prepare: Callable[[EventClient], object] = _nothing,
        grant_writer: str | None = None,
        grant_reader: str | None = None,
    ) -> None:
        """
        Args:
            directory: The database of the directory, as for `create_event_client`; any server will do.
            nodes: The servers by name, as databases or URLs. Clients of one server share its connections.
            events: From `create_events_table()`, without a schema: each tenant gets a table like it.
            projections: From `create_projections_table()`, without a schema.
            event_types: As for `create_event_client`.
            plugins: As for `create_event_client`, for all tenants; or a function that gives a tenant's own.
            prepare: Makes what else a tenant's schema holds, such as tables that handlers write to, given the
                tenant's client. It is called in the transaction that makes the tenant's tables, also where a
                tenant moves to: then the rows are copied.
            grant_writer: As for `create_tables()`.
            grant_reader: As for `create_tables()`.

        Raises:
            ConfigurationError: No nodes, models that name a schema, or a node that is not a database.

        Example:
            ```python
            from pgevents import create_events_table, create_projections_table
            from pgevents.tenants import Tenants

            tenants = Tenants(
                "postgresql://localhost/directory",
                {"n1": "postgresql://one.example/shop", "n2": "postgresql://two.example/shop"},
                create_events_table(data_indexes=["cart_id"]),
                create_projections_table(),
            )
            ```
        """
        if not nodes or not all(isinstance(name, str) and name for name in nodes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"nodes are databases by name, such as {{'n1': url}}, not {shown(nodes)}"
            )
        for model, base, factory in (
            (events, EventsModel, "create_events_table"),
            (projections, ProjectionsModel, "create_projections_table"),
        ):
            if not (isinstance(model, type) and issubclass(model, base)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"{shown(model)} is not a model made by {factory}()")
            if model.pgevents_spec.schema is not None:
                raise ConfigurationError(
                    f"{factory}() names the schema {model.pgevents_spec.schema!r}, but each tenant has "
                    "one of its own: leave it out"
                )
        self.nodes = {name: open_database(db) for name, db in nodes.items()}
        self._directory = Directory(Session(open_database(directory)))
        self._events, self._projections, self._event_types = events, projections, event_types
        self._plugins, self._prepare = plugins, prepare
        self._grants: dict[str, str | None] = {"grant_writer": grant_writer, "grant_reader": grant_reader}
        self._clients: dict[str, EventClient] = {}
        self._lock = threading.Lock()

    # -- the directory ------------------------------------------------------------

    def create_tables(self) -> None:
        """Make the directory's tables; safe to call again.

        `tenants.each(lambda client: client.create_tables())` brings those of the tenants up to date.
        """
        self._directory.create_tables()

    def list(self) -> list[Tenant]:
        """All tenants, by name."""
        return self._directory.all()

    def add(self, tenant: str, node: str | None = None) -> Tenant:
        """Make a tenant's schema and tables, and note where it is; safe to call again.

        Args:
            tenant: Its name: letters, digits and underscores, at most 48 bytes, without capitals.
            node: The server; by default the one with the fewest tenants.

        Returns:
            The tenant. One that is there already stays where it is.

        Raises:
            InvalidValueError: A name that a schema cannot have.
            ConfigurationError: No such server, or one on which its tables cannot be made.
        """
        check_tenant(tenant)
        if node is not None:
            self._check_node(node)

        def choose(counts: dict[str, int]) -> str:
            return node or min(self.nodes, key=lambda name: counts.get(name, 0))

        def make(chosen: str) -> None:
            client = self._client_at(tenant, self.nodes[chosen])
            with client.session.atomic():
                self._prepared(client)

        return self._directory.add(tenant, choose, make)

    # -- clients ------------------------------------------------------------

    def client(self, tenant: str) -> EventClient:
        """A tenant's client; the same one until the tenant moves. The directory is asked once.

        Raises:
            InvalidValueError: There is no such tenant.
            DatabaseUnavailableError: The directory cannot be asked, and was not asked before.
        """
        open_client = self._clients.get(tenant)
        if open_client is not None:
            return open_client
        place = self._find(tenant)
        client = self._client_at(tenant, self.nodes[self._check_node(place.node)])
        client.session.when_missing = lambda message: self._moved(tenant, place.node, client, message)
        with self._lock:
            return self._clients.setdefault(tenant, client)

    def run(self, tenant: str, work: Callable[[EventClient], R]) -> R:
        """Call `work` with the tenant's client, and again with its new one if the tenant has moved.

        The whole block is repeated. If it saves several times in transactions of their own, give them
        idempotency keys, as wherever a call may be repeated.

        Raises:
            MovedError: The move did not end in time.

        Example:
            ```python
            saved = tenants.run("acme", lambda client: client.save_event(CartCreated("c1")))
            ```
        """
        deadline = time.monotonic() + self.retry_for
        pause = 0.005
        while True:
            try:
                return work(self.client(tenant))
            except MovedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 0.1)

    def each(self, work: Callable[[EventClient], R]) -> dict[str, R]:
        """Call `work` with the client of each tenant, one after the other.

        Returns:
            What it gave, by tenant.

        Raises:
            TenantsError: It failed for some of them; it was called for the others all the same.

        Example:
            ```python
            tenants.each(lambda client: client.create_tables())
            ```
        """
        results: dict[str, R] = {}
        errors: dict[str, Exception] = {}
        for tenant in self.list():
            try:
                results[tenant.name] = self.run(tenant.name, work)
            except Exception as error:
                errors[tenant.name] = error
        if errors:
            first = ", ".join(f"{name}: {explain(error)}" for name, error in [*errors.items()][:3])
            rest = f", and {len(errors) - 3} more" if len(errors) > 3 else ""
            raise TenantsError(
                f"it failed for {len(errors)} of {len(errors) + len(results)} tenants ({first}{rest})",
                results=results,
                errors=errors,
            )
        return results

    # -- moves ------------------------------------------------------------

    def move(self, tenant: str, *, to: str) -> Moved:
        """Move a tenant to another server, while it is in use.

        Final events are copied while writers go on. For the rest they wait; from then on whoever works with
        the former place gets `MovedError`. Maintenance of the tenant's log waits for the end of the move.
        Transactions that use the tables keep it from its end for at most `lock_wait` seconds.

        Args:
            tenant: The tenant.
            to: The name of the server.

        Returns:
            What was copied, and how long the tenant took no saves.

        Raises:
            RetryableError: Transactions use the tenant's tables; the message names them. Nothing was done.
            ConfigurationError: It lives there already, an earlier move was interrupted (see `recover`), its
                schema holds what is not made at the target, or its tables are distributed by Citus. Nothing
                was done.
            InvalidValueError: There is no such tenant or server.
        """
        mover = self._mover(tenant, to)
        try:
            with closing(mover.source, mover.target):
                return mover.run()
        except Exception as error:  # its connections are closed, and so it is no longer at work
            try:
                has_moved = self.recover(tenant)
            except PgEventsError as fault:
                raise ConfigurationError(
                    f"the move of {tenant!r} to {to!r} was interrupted ({explain(error)}) and could not be "
                    f"finished ({explain(fault)}): call tenants.recover({tenant!r}) when the "
                    "servers are there"
                ) from error
            if has_moved:
                raise ConfigurationError(
                    f"{tenant!r} has moved to {to!r}, but not everything went well: {explain(error)}"
                ) from error
            raise

    def recover(self, tenant: str) -> bool | None:
        """Finish an interrupted move: forward if it was committed at the target, else back.

        Returns:
            Whether the tenant has moved; None if no move was interrupted.

        Raises:
            RetryableError: The move is still running.
            DatabaseUnavailableError: A server cannot be asked, so it is not known; call again.
        """
        self._find(tenant)
        move = self._directory.open_move(tenant)
        if move is None:
            return None
        source, target = Session(self._apart(move.source)), Session(self._apart(move.target))
        with closing(source, target):
            return Recovery(move, self._directory, source, target).run()

    def _mover(self, tenant: str, to: str) -> Mover:
        """A move that is noted in the directory and has done nothing yet."""
        place, target = self._find(tenant), self._check_node(to)
        if place.node == target:
            raise ConfigurationError(f"the tenant {tenant!r} lives on {to!r} already")
        self._directory.refuse_open(tenant)
        here = self._client_at(tenant, self._apart(place.node))
        there = self._client_at(tenant, self._apart(target))
        with closing(here, there):
            refuse_citus(here.session, tenant)
            here.check_installed()
            if there.session.execute("SELECT to_regnamespace(%s) IS NOT NULL", [f'"{tenant}"']).fetchone()[0]:
                raise ConfigurationError(
                    f"{to!r} has a schema {tenant!r} already, which is not this tenant; nothing was done"
                )
            move = self._directory.begin(tenant, place.node, target)
        return Mover(move, self._directory, here, there, self._prepared, self.lock_wait)

    def _prepared(self, client: EventClient) -> None:
        client.create_tables(**self._grants)
        self._prepare(client)
        # Citus may distribute new tables by itself.
        refuse_citus(client.session, str(client.events.pgevents_spec.schema))

    # -- parts ------------------------------------------------------------

    def _find(self, tenant: str) -> Tenant:
        check_tenant(tenant)
        found = self._directory.find(tenant)
        if found is None:
            raise InvalidValueError(f"there is no tenant {tenant!r}: tenants.add({tenant!r})")
        return found

    def _check_node(self, node: str) -> str:
        if node not in self.nodes:
            raise InvalidValueError(f"there is no node {shown(node)}; there are {sorted(self.nodes)}")
        return node

    def _apart(self, node: str) -> peewee.PostgresqlDatabase:
        """A server's database with connections of its own."""
        db = self.nodes[self._check_node(node)]
        return peewee.PostgresqlDatabase(str(db.database), **db.connect_params)

    def _client_at(self, tenant: str, db: peewee.PostgresqlDatabase) -> EventClient:
        return create_event_client(
            db,
            in_schema(self._events, tenant),
            in_schema(self._projections, tenant),
            self._event_types,
            plugins=self._plugins(tenant) if callable(self._plugins) else self._plugins,
        )

    def _moved(self, tenant: str, node: str, client: EventClient, message: str) -> PgEventsError | None:
        """The error of a client whose tables are not there any more; None if they were never made."""
        with self._lock:
            if self._clients.get(tenant) is client:
                del self._clients[tenant]
        try:
            place = self._directory.find(tenant)
        except PgEventsError as error:
            return MovedError(
                f"{message}: the tenant {tenant!r} has moved, and the directory cannot be asked where to "
                f"({error})",
                tenant=tenant,
            )
        if place is None:
            return None
        if place.moving_to is not None:
            return MovedError(
                f"the tenant {tenant!r} is being moved from {place.node!r} to {place.moving_to!r}: try again",
                tenant=tenant,
            )
        if place.node == node:
            return None
        return MovedError(
            f"the tenant {tenant!r} lives on {place.node!r} now: repeat it with tenants.client({tenant!r})",
            tenant=tenant,
            node=place.node,
        )
