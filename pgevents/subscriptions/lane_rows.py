"""All lanes of a subscription as they stand in the table, to be looked at, or to be changed together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.store.processing import Statements, split_error
from pgevents.subscriptions.definition import Question, Work, gate_of
from pgevents.subscriptions.items import Layer
from pgevents.subscriptions.lanes import layers_of, question_of

__all__ = ["Row", "all_rows", "every_lane", "refuse_stuck", "state_of", "statements_of"]

PATIENCE = "10s"
"""For how long a command waits for batches in hand."""


@attrs.frozen
class Row:
    """One lane as it stands in the table; see `processing.sql`."""

    lane: int
    lanes: int
    question: Question
    position: int
    layers: tuple[Layer, ...]
    generation: int
    state: str
    is_hashed_otherwise: bool
    careful: int
    announced: int | None
    attempts: int
    interruptions: int
    error: str | None
    due_at: datetime | None
    is_leased: bool
    seconds_since_moved: float
    state_at: datetime
    stack: str | None


def statements_of(client: EventClient) -> Statements:
    """The SQL of a client's subscriptions."""
    return Statements(client.session, client.events.pgevents_spec)


def all_rows(client: EventClient, name: str) -> list[Row]:
    """All lanes of a subscription, in order."""
    return [_row(row) for row in statements_of(client).rows("rows", name=name)]


def _row(row: Any) -> Row:
    make: Any = Row
    error, stack = split_error(row[12])
    places = (*row[:2], question_of(row[2]), row[3], layers_of(row[4]))
    lane: Row = make(*places, *row[5:12], error, row[13], bool(row[14]), *row[15:], stack)
    return lane


def state_of(rows: Sequence[Row]) -> str:
    """The state of a subscription: "stopped" or "paused" if any of its lanes is, else "active"."""
    states = {row.state for row in rows}
    return next(state for state in ("stopped", "paused", "active") if state in states)


@contextmanager
def every_lane(client: EventClient, name: str) -> Generator[list[Row], None, None]:
    """A transaction that has all lanes of a subscription, and keeps workers out.

    Raises:
        ConfigurationError: There is no such subscription.
        RetryableError: A batch did not end in time.
    """
    statements = statements_of(client)
    refused: ConfigurationError | None = None
    with client.session.atomic():
        patience = f"SELECT set_config('lock_timeout', '{PATIENCE}', true);\n"
        statements.run("gate", before=patience, gate=gate_of(client, name))
        statements.run("lock_rows", name=name)
        rows = all_rows(client, name)
        if not rows:
            raise statements.unknown(name)
        try:
            yield rows
        except ConfigurationError as error:  # before anything was written
            refused = error
    if refused is not None:
        # After the commit: an aborted transaction would look as if a worker had died with its lanes.
        raise refused


def refuse_stuck(work: Work) -> None:
    """Refuse a subscription that nobody may work on at present.

    Raises:
        ConfigurationError: It is paused or stopped.
    """
    for row in all_rows(work.client, work.name):
        if row.state != "active":
            why = f": {row.error}" if row.error else ""
            raise ConfigurationError(f"{work.name!r} is {row.state}{why}; resume it, then try again")
