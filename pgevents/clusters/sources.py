"""Where a worker reads the events of a range: from the database or from a standby."""

from __future__ import annotations

import time
from collections.abc import Iterator

import attrs

from pgevents.client import EventClient
from pgevents.client.standbys import REPLAYED_SQL
from pgevents.errors import ConfigurationError, NotInstalledError, RetryableError
from pgevents.store.identity import same_log
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.lanes import Batch, Lane
from pgevents.subscriptions.view_folding import PAGE
from pgevents.subscriptions.view_reading import read

__all__ = ["Standby", "pages", "wait_for_replay"]

REPLAY_WAIT = 60.0
"""Seconds to wait for a standby to replay what was committed when the fold's bound was taken."""


@attrs.frozen
class Standby:
    """A standby to read from.

    Attributes:
        credentials: The name of the environment variable that holds its URL.
        position: A position in the write-ahead log, taken after the bound: with it all events up to the bound
            are replayed, and all changes under maintenance before.
    """

    credentials: str
    position: str


def pages(work: Work, lane: Lane, bound: int) -> Iterator[Batch]:
    """The events of a range up to a final id, from the start of the log.

    Args:
        work: The kept view, with the client that reads.
        lane: The range, as one of as many lanes as there are ranges.
        bound: The id.
    """
    is_full = True
    while is_full:
        batch = read(work.keeper.rule, work, [lane], PAGE, bound)
        yield batch
        lane, is_full = attrs.evolve(lane, position=batch.to), batch.is_full


def wait_for_replay(primary: EventClient, standby: EventClient, position: str) -> None:
    """Wait until a standby has replayed a position.

    Raises:
        ConfigurationError: It is not a copy of the primary.
        RetryableError: It has not within a minute.
    """
    deadline = time.monotonic() + REPLAY_WAIT
    while not _has_replayed(primary, standby, position):
        if time.monotonic() > deadline:
            raise RetryableError(
                f"the standby has not replayed {position} within {REPLAY_WAIT:.0f} s; pg_stat_replication on "
                "the primary says how far it is"
            )
        time.sleep(0.05)


def _has_replayed(primary: EventClient, standby: EventClient, position: str) -> bool:
    try:
        is_copy = same_log(primary.session.execute, standby.session.execute, primary.events.pgevents_spec)
    except NotInstalledError:  # it has not replayed the making of the tables
        return False
    if not is_copy:
        raise ConfigurationError(
            "the standby to read from is not a physical copy of the primary with this log: its events are "
            "others"
        )
    return bool(standby.session.execute(REPLAYED_SQL, [position]).fetchone()[0])
