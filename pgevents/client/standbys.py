"""Standbys that answer reads which only show something; never a read on which a decision rests."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, cast

import attrs

from pgevents.errors import (
    ConfigurationError,
    ConnectionLostError,
    DatabaseUnavailableError,
    NotInstalledError,
    RetryableError,
)
from pgevents.events import Event
from pgevents.snapshots import Snapshots
from pgevents.store.identity import same_log
from pgevents.store.read import Reader
from pgevents.store.session import Session

__all__ = ["REPLAYED_SQL", "Source", "Standby", "Standbys"]

R = TypeVar("R")
D = TypeVar("D")
AWAY = 5.0
"""Seconds for which a standby that did not answer is not asked."""
REPLAY_WAIT = 1.0
"""Seconds to wait for a standby to come as far as a bookmark; then the primary answers."""
REPLAYED_SQL = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, NOT pg_is_in_recovery())"
GIVES_UP: tuple[type[Exception], ...] = (
    ConnectionLostError,
    DatabaseUnavailableError,
    NotInstalledError,  # it has not replayed the making of the tables yet
    RetryableError,  # replay cancelled the query
)


class Source(Protocol):
    """What reads are made with: a standby's parts, or the client's own."""

    @property
    def reader(self) -> Reader: ...
    @property
    def snapshots(self) -> Snapshots: ...


@attrs.define(eq=False)
class Standby:
    """One standby: its session, and what reads events and snapshots on it."""

    session: Session
    reader: Reader
    snapshots: Snapshots
    is_checked: bool = False
    away_until: float = 0.0


class Standbys:
    """Standbys in turn; the primary, where none can answer.

    Args:
        primary: The client's own session.
        standbys: The standbys.
    """

    def __init__(self, primary: Session, standbys: list[Standby]) -> None:
        self._primary = primary
        self.all = standbys
        self._turn = itertools.count()
        self._lock = threading.Lock()
        self._bookmark: ContextVar[str | None] = ContextVar("pgevents_bookmark", default=None)

    @contextmanager
    def reading_after(self, bookmark: str) -> Generator[None]:
        """Inside the block, no read is older than the bookmark."""
        token = self._bookmark.set(bookmark)
        try:
            yield
        finally:
            self._bookmark.reset(token)

    def ask(self, work: Callable[[Source], R], primary: Source) -> R:
        """What `work` gives with a standby's parts, or with the primary's if no standby can answer."""
        for standby in self._in_turn():
            try:
                return work(standby)
            except GIVES_UP as error:
                self._note(standby, error)
        return work(primary)

    def iterate(
        self, work: Callable[[Source, Event[D] | None, int], Iterator[Event[D]]], primary: Source
    ) -> Iterator[Event[D]]:
        """The same for events one after the other; where a standby fails, another source goes on.

        Args:
            work: Gives the iterator of a source, after the last event and the number of events so far.
            primary: The client's own parts.
        """
        last: Event[D] | None = None
        given = 0
        for source in itertools.chain(self._in_turn(), [primary]):
            try:
                for event in work(source, last, given):
                    yield event
                    last, given = event, given + 1
                return
            except GIVES_UP as error:
                if source is primary:
                    raise
                self._note(cast(Standby, source), error)

    def _in_turn(self) -> Iterator[Standby]:
        """The standbys that can be asked, beginning with another one each time."""
        first = next(self._turn)
        for number in range(len(self.all)):
            standby = self.all[(first + number) % len(self.all)]
            if time.monotonic() < standby.away_until:
                continue
            try:
                self._check(standby)
                if self._has_come_as_far(standby):
                    yield standby
            except GIVES_UP as error:
                self._note(standby, error)

    def _check(self, standby: Standby) -> None:
        """Check that it is a standby of this primary; done once."""
        if standby.is_checked:
            return
        with self._lock:
            if not same_log(self._primary.execute, standby.session.execute, standby.reader.spec):
                raise ConfigurationError(
                    "read_from names a server that is not a physical copy of the primary with this log: its "
                    "events are others"
                )
            standby.is_checked = True

    def _has_come_as_far(self, standby: Standby) -> bool:
        bookmark = self._bookmark.get()
        if bookmark is None:
            return True
        deadline = time.monotonic() + REPLAY_WAIT
        while not standby.session.execute(REPLAYED_SQL, [bookmark]).fetchone()[0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _note(self, standby: Standby, error: Exception) -> None:
        if isinstance(error, (ConnectionLostError, DatabaseUnavailableError)):
            standby.away_until = time.monotonic() + AWAY
