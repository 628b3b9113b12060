"""Following the log: every event, in order, none skipped; exactly once for effects in the same database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.events import Event
from pgevents.store.identity import log_identity
from pgevents.store.read import EventStream, check_id
from pgevents.streams import Stream, merge_streams, stream

__all__ = ["Subscription", "checkpoint", "follow"]

D = TypeVar("D")

BATCH = 500
FIRST_PAUSE = 0.005

FIRST_SQL = (
    "INSERT INTO {checkpoints} (name, position, streams) VALUES (%s, 0, %s) ON CONFLICT (name) DO NOTHING"
)
TAKE_SQL = "SELECT position, streams::text FROM {checkpoints} WHERE name = %s FOR UPDATE SKIP LOCKED"
MOVE_SQL = (
    "UPDATE {checkpoints} SET position = %s, streams = %s, updated_at = clock_timestamp() WHERE name = %s"
)


def follow(
    client: EventClient,
    streams: Sequence[Stream[D]] | None = None,
    *,
    after: int | str = 0,
    poll: float = 0.5,
    stop: threading.Event | None = None,
) -> Iterator[Event[D]]:
    """Every event of some streams, in order, as soon as it is final; without an end.

    Where it stands is for the caller to keep: the last event's id, or `checkpoint(client, event.id)` if it is
    kept outside the database.

    Args:
        client: The client to read with.
        streams: Made by `stream(...)`; by default the whole log.
        after: Start above this id, or at a text from `checkpoint()`.
        poll: Seconds between looks when nothing comes; shorter while events come.
        stop: Ends the loop when it is set.

    Raises:
        ConfigurationError: `after` is ahead of the log, or comes from another server or another past of this
            one.

    Example:
        ```python
        from pgevents.subscriptions import follow

        for event in follow(client, [stream(CartCheckedOut)], after=last_id):
            send_invoice(event.data)
        ```
    """
    wanted: Sequence[Stream[Any]] = [stream()] if streams is None else streams
    last = _start(client, after)
    pause = FIRST_PAUSE
    while stop is None or not stop.is_set():
        batch: EventStream[Any] = client.reader.read_final(wanted, after=last, limit=BATCH)
        yield from batch
        last = max(last, batch.position.base)
        pause = FIRST_PAUSE if batch else min(poll, pause * 2)
        if len(batch) < BATCH:
            (stop or _never).wait(pause)


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


@attrs.frozen
class Subscription(Generic[D]):
    """A named follower whose checkpoint stands in the database.

    What a handler writes to the same database commits with the checkpoint: exactly once. What it does
    elsewhere happens at least once. Several processes may run one subscription; one works, the others stand
    by.

    Attributes:
        client: The client to read and write with.
        name: The checkpoint's name.
        streams: What to follow; by default the whole log.

    Example:
        ```python
        from pgevents.subscriptions import Subscription

        def on_event(event):
            Mail.create(event_id=event.id)

        Subscription(client, "mailer", [stream("CART_CHECKED_OUT")]).run(on_event)
        ```
    """

    client: EventClient
    name: str
    streams: Sequence[Stream[D]] = attrs.field(factory=lambda: [stream()])

    @contextmanager
    def batch(self, limit: int = BATCH) -> Generator[Sequence[Event[D]], None, None]:
        """The next events, in a transaction that moves the checkpoint on when the block ends well.

        Args:
            limit: At most so many.

        Raises:
            ConfigurationError: The subscription was used for other streams before, or stands ahead of the
                log.
        """
        client = self.client
        client.check_installed()
        wanted = json.dumps([one.as_json() for one in merge_streams(self.streams)])
        if (
            self._found() is None
        ):  # in a transaction of its own: another process' first batch is not to be waited for
            self._execute(FIRST_SQL, [self.name, wanted])
        with client.session.atomic():
            row = self._execute(TAKE_SQL, [self.name]).fetchone()
            if row is None:  # another process is at it
                yield ()
                return
            position, known = row
            if json.loads(known) != json.loads(wanted):
                raise ConfigurationError(
                    f"subscription {self.name!r} was for other streams: "
                    "what it left out before its checkpoint would "
                    "be skipped. Give it another name, or reset() it"
                )
            _check_ahead(client, position)
            events: EventStream[D] = client.reader.read_final(self.streams, after=position, limit=limit)
            yield events
            if events.position.base > position:
                self._execute(MOVE_SQL, [events.position.base, wanted, self.name])

    def process(self, handler: Callable[[Event[D]], object], limit: int = BATCH) -> int:
        """Give the next events to a handler, in one transaction; how many there were."""
        with self.batch(limit) as events:
            for event in events:
                handler(event)
            return len(events)

    def run(
        self, handler: Callable[[Event[D]], object], *, poll: float = 0.5, stop: threading.Event | None = None
    ) -> None:
        """Give every event to a handler, without an end; an error of the handler ends it and redelivers its
        batch.

        Args:
            handler: Called with each event, in order, inside the transaction of its batch.
            poll: Seconds between looks when nothing comes; shorter while events come.
            stop: Ends the loop when it is set.
        """
        pause = FIRST_PAUSE
        while stop is None or not stop.is_set():
            count = self.process(handler)
            pause = FIRST_PAUSE if count else min(poll, pause * 2)
            if count < BATCH:
                (stop or _never).wait(pause)

    def position(self) -> int:
        """The checkpoint: events up to this id were dealt with."""
        return self._found() or 0

    def _found(self) -> int | None:
        row = self._execute("SELECT position FROM {checkpoints} WHERE name = %s", [self.name]).fetchone()
        return None if row is None else int(row[0])

    def reset(self, position: int = 0) -> None:
        """Start again above an id, with the streams as they are now."""
        wanted = json.dumps([one.as_json() for one in merge_streams(self.streams)])
        with self.client.session.atomic():
            self._execute(FIRST_SQL, [self.name, wanted])
            self._execute(MOVE_SQL, [check_id(position, "position"), wanted, self.name])

    def _execute(self, sql: str, params: Sequence[Any]) -> Any:
        checkpoints = self.client.events.pgevents_spec.qualified("_checkpoints")
        return self.client.session.execute(sql.format(checkpoints=checkpoints), params)


_never = threading.Event()


def _start(client: EventClient, after: int | str) -> int:
    client.check_installed()
    if isinstance(after, str):
        place, _, last = after.rpartition("/")
        if place.count("/") != 1 or not (last.isascii() and last.isdigit()):
            raise ConfigurationError(
                f"a checkpoint has the form system.database.table/timeline/id, not {after!r}"
            )
        here = _identity(client)
        if place != here:
            raise ConfigurationError(
                f"the checkpoint {after!r} comes from another log or another timeline than this one "
                f"({here}): ids may have been given out anew. Start from an id that you are sure of"
            )
        after = int(last)
    _check_ahead(client, check_id(after, "after"))
    return after


def _check_ahead(client: EventClient, position: int) -> None:
    last = client.horizon().last_issued
    if position > last:
        raise ConfigurationError(
            f"the follower stands at {position}, ahead of the log, which ends at {last}: "
            "the database was set back, "
            "and ids will be given out anew. Start from an id that you are sure of"
        )
