"""`follow`: events as they become final, for programs that keep their place themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.store.identity import former_identities, log_identity
from pgevents.store.options import ReadOptions, check_id
from pgevents.store.results import EventStream
from pgevents.streams import Stream, stream
from pgevents.subscriptions.transient import is_transient, let_go

__all__ = ["checkpoint", "follow"]

D = TypeVar("D")
BATCH = 500
FIRST_PAUSE = 0.005


def follow(
    client: EventClient,
    streams: Sequence[Stream[D]] | None = None,
    *,
    after: int | str = 0,
    poll: float = 0.05,
    stop: threading.Event | None = None,
) -> Iterator[Event[D]]:
    """Every event of some streams, in order, as soon as it is final; without an end.

    The caller stores how far it has come: the last event's id, or `checkpoint(client, event.id)` outside the
    database. When the connection breaks it connects again; if it then finds another server, or one that was
    restored, it ends with an error rather than leave events out.

    Args:
        client: The client to read with.
        streams: Made by `stream(...)`; by default the whole log.
        after: Start above this id, or at a text from `checkpoint()`.
        poll: Seconds between looks when nothing comes; shorter while events come.
        stop: Ends the loop when it is set, after the event in hand.

    Raises:
        ConfigurationError: `after` is ahead of the log, or comes from another server or another past of this
            one; or the server was replaced or restored meanwhile.

    Example:
        ```python
        from pgevents.subscriptions import follow

        for event in follow(client, [stream(CartCheckedOut)], after=last_id):
            send_invoice(event.data)
        ```
    """
    wanted: Sequence[Stream[Any]] = [stream()] if streams is None else streams
    ended = stop or threading.Event()
    last = _start(client, after)
    server = _identity(client)
    pause = FIRST_PAUSE
    while not ended.is_set():
        try:
            batch: EventStream[Any] = client.reader.read_final(wanted, ReadOptions(last, BATCH))
            now = _identity(client)  # after the read: what was read before a change is of the server then
        except Exception as error:
            if not is_transient(error) or client.db.in_transaction():
                raise
            let_go(client)
            pause = min(max(poll, 0.1), max(pause * 2, 0.1))
            ended.wait(pause)
            continue
        if now != server:
            raise ConfigurationError(
                f"the server was replaced or restored while it was followed ({server} became {now}): ids "
                f"after {last} may have been assigned again. Start from an id that you are sure of"
            )
        for event in batch:
            yield event
            last = event.id
            if ended.is_set():
                return
        last = max(last, batch.position.base)
        pause = FIRST_PAUSE if batch else min(max(poll, FIRST_PAUSE), pause * 2)
        if len(batch) < BATCH:
            _check_ahead(client, last)
            ended.wait(pause)


def checkpoint(client: EventClient, event_id: int) -> str:
    """A place in the log, to be kept outside the database: it names the log and its server's timeline.

    Args:
        client: The client that read the event.
        event_id: Id of the last event that was dealt with.

    Raises:
        UnsupportedTransactionError: The server is a standby.
    """
    return f"{_identity(client)}/{check_id(event_id, 'event_id')}"


def _identity(client: EventClient) -> str:
    return str(log_identity(client.session.execute, client.events.pgevents_spec))


def _former(client: EventClient) -> list[str]:
    return former_identities(client.session.execute, client.events.pgevents_spec)


def _start(client: EventClient, after: int | str) -> int:
    client.check_installed()
    if isinstance(after, str):
        place, _, last = after.rpartition("/")
        if place.count("/") != 1 or not (last.isascii() and last.isdigit()):
            raise ConfigurationError(
                f"a checkpoint has the form system.database.table/timeline/id, not {after!r}"
            )
        here = _identity(client)
        if place != here and place not in _former(client):
            raise ConfigurationError(
                f"the checkpoint {after!r} comes from another log or another timeline than this one "
                f"({here}): ids may have been assigned again. Start from an id that you are sure of"
            )
        after = int(last)
    _check_ahead(client, check_id(after, "after"))
    return after


def _check_ahead(client: EventClient, position: int) -> None:
    (last,) = client.session.execute(
        f"SELECT (last_value - (NOT is_called)::int)::bigint FROM "
        f"{client.events.pgevents_spec.qualified('_id_seq')}"
    ).fetchone()
    if position > last:
        raise ConfigurationError(
            f"the follower stands at {position}, ahead of the log, which ends at {last}: the database was "
            "set back, and ids will be assigned again. Start from an id that you are sure of"
        )
