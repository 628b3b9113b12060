"""When a save is durable, which is when `pgevents_after_commit` is called, and only then."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs
import peewee
from psycopg2.extensions import TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

from pgevents.errors import UnsupportedTransactionError
from pgevents.events import Event

if TYPE_CHECKING:
    from pgevents.client import EventClient

__all__ = ["refuse_unseen_end", "when_durable"]

log = logging.getLogger("pgevents")


def refuse_unseen_end(client: EventClient, hook: str) -> None:
    """Refuse a transaction whose end nobody will tell, before anything is written in it.

    Raises:
        UnsupportedTransactionError: `db.manual_commit()`, or a BEGIN that went round Peewee.
    """
    db: Any = client.db
    if isinstance(db.top_transaction(), cast(Any, peewee)._manual):
        raise UnsupportedTransactionError(
            f"{hook} cannot know the end of a manual_commit() block; nothing was written: use db.atomic()"
        )
    if not db.in_transaction() and _is_in_transaction(client):
        raise UnsupportedTransactionError(
            f"{hook} cannot know the end of a transaction that was begun without Peewee; "
            "nothing was written: use db.atomic()"
        )


def _is_in_transaction(client: EventClient) -> bool:
    status = client.session.connection().get_transaction_status()
    return status in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR)


def when_durable(client: EventClient, saved: Sequence[Event[Any]]) -> None:
    """Tell `pgevents_after_commit`, now or when the outermost transaction is over.

    Peewee runs its callbacks also after a COMMIT that PostgreSQL turned into a ROLLBACK, and for what was
    rolled
    back with a savepoint: so the log itself is asked afterwards which events are in it. And it stops at the
    first callback that raises, so ours stands before the caller's.
    """
    if not _is_in_transaction(client):
        client.plugins.tell("pgevents_after_commit", events=saved)
        return
    callbacks: list[Any] = cast(Any, client.db)._state.commit_callbacks
    if not callbacks or not isinstance(callbacks[0], _Committed):
        callbacks.insert(0, _Committed())
    callbacks[0].saves.append((client, saved))


@attrs.frozen(eq=False)
class _Committed:
    """What Peewee calls after the COMMIT: all saves of the transaction, in order."""

    saves: list[tuple[EventClient, Sequence[Event[Any]]]] = attrs.field(
        init=False, factory=list["tuple[EventClient, Sequence[Event[Any]]]"]
    )

    def __call__(self) -> None:
        durable: dict[int, set[int]] = {}
        for client, _ in self.saves:
            if id(client) not in durable:
                durable[id(client)] = self._in_log(client)
        for client, saved in self.saves:
            if all(event.id in durable[id(client)] for event in saved):
                client.plugins.tell("pgevents_after_commit", events=saved)

    def _in_log(self, client: EventClient) -> set[int]:
        ids = [event.id for one, saved in self.saves if one is client for event in saved]
        sql = f"SELECT id FROM {client.events.pgevents_spec.qualified()} WHERE id = ANY(%s)"
        try:
            return {row[0] for row in client.session.execute(sql, [ids]).fetchall()}
        except (
            Exception
        ):  # raised here, in a callback after the COMMIT, it would look as if the save had failed
            log.exception(
                "whether events are durable could not be asked; pgevents_after_commit was not called"
            )
            return set()
