"""Handlers whose models write outside the transaction are found before they do."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, cast

import peewee

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.subscriptions.definition import Work

__all__ = ["check_models"]


def check_models(client: EventClient, works: Iterable[Work]) -> None:
    """Check that the models which the handlers' code can name are bound to the client's database object.

    Raises:
        ConfigurationError: One is bound to another object of the same database: its writes would be in
            another transaction.
    """
    for work in works:
        if work.effects == "outside":
            continue
        wrong = sorted({model.__name__ for model in _models(work) if _is_beside(client, model)})
        if wrong:
            raise ConfigurationError(
                f"subscription {work.name!r}: {', '.join(wrong)} is bound to another Peewee object of "
                "the same database, so what it writes is not in the transaction of the place: bind it to "
                "client.db (db.bind([...])), use effects='outside', or allow it: "
                "Runner(..., other_databases=True)"
            )


def _models(work: Work) -> Iterator[Any]:
    owner: Any = getattr(work.handle, "__self__", None)
    cls: Any = owner.__class__
    function = getattr(owner, "function", None) or getattr(cls, "handle", None)
    for handler in (function, getattr(cls, "handle_batch", None)):
        code = inspect.unwrap(handler) if callable(handler) else None
        if not inspect.isfunction(code):
            continue
        found = inspect.getclosurevars(code)
        for value in (*found.globals.values(), *found.nonlocals.values()):
            if inspect.isclass(value) and issubclass(value, peewee.Model):
                yield value


def _is_beside(client: EventClient, model: Any) -> bool:
    other = model._meta.database  # Peewee documents it as Model._meta
    ours: Any = client.db
    if other is None or other is ours or not isinstance(other, peewee.PostgresqlDatabase):
        return False
    theirs = cast(Any, other)
    if isinstance(theirs, peewee.DatabaseProxy):
        return False

    def server(db: Any) -> Any:
        return db.database, db.connect_params.get("host"), db.connect_params.get("port")

    return bool(server(theirs) == server(ours))
