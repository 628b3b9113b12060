"""Events in the transactions of a Django program: `joined`, its database for the client, and a migration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import attrs
import peewee

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, UnsupportedTransactionError

__all__ = ["DjangoDatabase", "create_tables", "joined"]

NOT_LIBPQ = {"isolation_level", "assume_role", "pool", "server_side_binding", "cursor_factory"}
"""Options that Django takes itself, or that belong to another driver."""


def _django(name: str) -> Any:
    return import_module(f"django.{name}")


def joined(client: EventClient, using: str = "default") -> AbstractContextManager[None]:
    """A block in which the client works in the current `transaction.atomic()` of Django.

    A savepoint of Django (an inner `atomic()`) that is rolled back takes its events along.
    `pgevents_after_commit` runs by `transaction.on_commit`, for events that are in the log then.

    Args:
        client: The client.
        using: Which of Django's databases.

    Raises:
        UnsupportedTransactionError: Outside of `transaction.atomic()`, or Django will roll back.
        ConfigurationError: Not PostgreSQL by psycopg2: Django takes psycopg 3 where that is installed.

    Example:
        ```python
        from django.db import transaction
        from pgevents.django import joined

        with transaction.atomic(), joined(client):
            order = Order.objects.create(cart="c1")
            client.save_event(OrderPlaced("c1", order.pk))
        ```
    """
    return client.joined(_Host(using))


@attrs.frozen(eq=False)
class _Host:
    using: str

    def connection(self) -> Any:
        wrapper = _django("db").connections[self.using]
        if wrapper.vendor != "postgresql":
            raise ConfigurationError(f"Django's database {self.using!r} is {wrapper.vendor}, not PostgreSQL")
        if not wrapper.in_atomic_block:
            raise UnsupportedTransactionError(
                f"Django is in autocommit mode on {self.using!r}, so there is no transaction to join. "
                "Nothing was written: use it inside transaction.atomic()"
            )
        if wrapper.needs_rollback:
            raise UnsupportedTransactionError(
                "Django will roll this transaction back, because an error was caught inside it. Nothing was "
                "written: let errors leave their atomic() block"
            )
        wrapper.ensure_connection()
        return wrapper.connection

    def after_commit(self, callback: Callable[[], None]) -> None:
        _django("db.transaction").on_commit(callback, using=self.using)


class DjangoDatabase(peewee.PostgresqlDatabase):
    """The client's own connections to a database of Django's settings, also to the one of Django's tests.

    What runs after the commit, outside of requests, and in a runner uses them.

    Args:
        using: Which of Django's databases.

    Example:
        ```python
        client = create_event_client(DjangoDatabase(), events, views)
        ```
    """

    def __init__(self, using: str = "default") -> None:
        self._using = using
        base: Any = super()
        base.__init__(f"of Django's {using}")

    def _connect(self) -> Any:
        """Look the settings up at each connection: Django's tests change the name."""
        this: Any = self
        this.init(**_parameters(_django("db").connections[self._using].settings_dict))
        base: Any = super()
        return base._connect()


def _parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = {"NAME": "database", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    given = {key: settings[name] for name, key in names.items() if settings.get(name)}
    options = {key: value for key, value in settings.get("OPTIONS", {}).items() if key not in NOT_LIBPQ}
    if "service" in options and "database" not in given:
        given["database"] = f"service={options.pop('service')}"
    return {**options, **given}


def create_tables(client: EventClient) -> Any:
    """A migration's operation that makes the client's tables or brings them up to date.

    It is run in the migration's transaction. Undoing the migration leaves the tables: events are not
    dropped by a migration. Django does not know the tables, so `makemigrations` neither changes nor drops
    them; a model of them has `managed = False`.

    Args:
        client: The client.

    Returns:
        A `RunPython`.

    Example:
        ```python
        class Migration(migrations.Migration):
            initial = True
            operations = [create_tables(client)]
        ```
    """
    operations = _django("db.migrations")

    def make(_apps: Any, editor: Any) -> None:
        with joined(client, editor.connection.alias):
            client.create_tables()

    return operations.RunPython(make, operations.RunPython.noop)
