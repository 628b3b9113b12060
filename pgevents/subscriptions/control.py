"""What a person does to a subscription: pause, resume, reset, resize, rename; retry, discard what is parked.

Each takes the subscription's gate for itself and locks all its lanes in order, so that it returns when
batches in hand have ended, and raises the generation, so that who handles an event outside finds its lane
taken away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.store.options import check_id
from pgevents.subscriptions.definition import Question, check_lanes, check_name
from pgevents.subscriptions.lane_rows import Row, all_rows, every_lane, state_of, statements_of
from pgevents.subscriptions.notes import forget_old_notes

__all__ = [
    "Lease",
    "discard",
    "parked_rows",
    "pause",
    "rename",
    "replay",
    "reset",
    "resize",
    "resume",
    "stop",
]


@attrs.frozen
class Lease:
    """An event that is still being handled outside, whose lane was taken away.

    Attributes:
        lane: The lane.
        event_id: The event; None between two events.
        until: When the lease ends, by the server's clock.
    """

    lane: int
    event_id: int | None
    until: datetime


def pause(client: EventClient, name: str) -> list[Lease]:
    """Give no more events to a subscription, until `resume`; returns when batches in hand have ended.

    Args:
        client: A client of the same events table.
        name: The subscription.

    Returns:
        Events still being handled outside: their handlers run to their end, but their places do not move any
        more.

    Raises:
        ConfigurationError: There is no such subscription.
        RetryableError: A batch did not end within 10 seconds.

    Example:
        ```python
        from pgevents.subscriptions import pause, resume

        pause(client, "invoices")
        resume(client, "invoices")
        ```
    """
    return _set_state(client, name, "paused", None)


def stop(client: EventClient, name: str, error: str) -> None:
    """Stop a subscription at an error, until `resume`."""
    _set_state(client, name, "stopped", error)


def resume(client: EventClient, name: str) -> None:
    """Give events again to a subscription that was paused, or that has stopped at an error.

    Raises:
        ConfigurationError: There is no such subscription.
        RetryableError: Another command on it did not end within 10 seconds.
    """
    _set_state(client, name, "active", None)
    statements_of(client).run("forget_error", name=name)


def _set_state(client: EventClient, name: str, state: str, error: str | None) -> list[Lease]:
    statements = statements_of(client)
    with every_lane(client, name):
        leases = [Lease(*row) for row in statements.rows("leases", name=name)]
        statements.run("set_state", name=name, state=state, error=error)
    return leases


def reset(client: EventClient, name: str, position: int = 0, question: Question | None = None) -> list[Lease]:
    """Start a subscription again above an id.

    Events above it that were handled come again; events at or below it that were not never come. What is
    parked above it is discarded, with a note, for it comes again.

    Args:
        client: A client of the same events table.
        name: The subscription.
        position: The id.
        question: What it asks from now on; None for what it asked before.

    Returns:
        Events still being handled outside.

    Raises:
        ConfigurationError: There is no such subscription, or the id was not issued yet.
        RetryableError: A batch did not end within 10 seconds.
    """
    check_id(position, "position")
    statements = statements_of(client)
    with every_lane(client, name) as rows:
        last = statements.value("arrivals")
        if position > last:
            raise ConfigurationError(f"position={position} is ahead of the log, which ends at {last}")
        if position > min(row.position for row in rows) and statements.rows("kept", name=name):
            raise ConfigurationError(
                f"{name!r} are kept views, and their place is not moved forward by hand: they would lack the "
                "events that are left out"
            )
        leases = [Lease(*row) for row in statements.rows("leases", name=name)]
        question_json = json.dumps((question or rows[0].question).as_json())
        statements.run("reset", name=name, position=position, question=question_json)
        who, reason = _role(client), f"reset to {position}: it comes again"
        note = f"reset to {position} by {who}: it comes again"
        statements.run("discard_above", name=name, position=position, note=note, by=who, reason=reason)
        forget_old_notes(statements_of(client), name)
        statements.run("hash_parked", name=name)  # this server may hash in another way than the last one
    return leases


def resize(client: EventClient, name: str, lanes: int) -> None:
    """Change the number of lanes. No event is lost, doubled or given out of order.

    The new lanes start at the least place of the old ones; those remember which events the old ones had
    handled, until they have passed them.

    Args:
        client: A client of the same events table.
        name: The subscription.
        lanes: How many.

    Raises:
        ConfigurationError: No such subscription, no key, or a number that cannot work.
        RetryableError: A batch did not end within 10 seconds.
    """
    check_lanes(lanes)
    statements = statements_of(client)
    with every_lane(client, name) as rows:
        if not rows[0].question.key:
            raise ConfigurationError(f"subscription {name!r} has no key, so it has one lane")
        key_hash, _, generation = statements.rows("key_hash", name=name)[0]
        kept: list[list[Any]] = [[count, list(places)] for count, places in _kept_layers(rows)]
        kept.append([len(rows), [row.position for row in rows]])
        question = json.dumps(rows[0].question.as_json())
        statements.run("delete_rows", name=name)
        statements.run(
            "deal_out",
            name=name,
            lanes=lanes,
            question=question,
            key_hash=key_hash,
            position=min(row.position for row in rows),
            layers=json.dumps(kept),
            generation=generation + 1,
            state=state_of(rows),
        )


def _kept_layers(rows: Sequence[Row]) -> list[Any]:
    """Earlier divisions that any lane still needs. A lane that has dropped one has passed all its places."""
    kept: list[Any] = []
    for row in rows:
        for layer in row.layers:
            if layer not in kept:
                kept.append(layer)
    return kept


def rename(client: EventClient, name: str, new: str) -> None:
    """Give a subscription another name; programs that use the old one begin anew, so stop them first.

    Raises:
        ConfigurationError: No such subscription, or the new name is taken or not valid.
        RetryableError: A batch did not end within 10 seconds.
    """
    check_name(new)
    statements = statements_of(client)
    with every_lane(client, name):
        if all_rows(client, new):
            raise ConfigurationError(f"there is a subscription {new!r} already")
        statements.run("rename", name=name, new=new)
        statements.run("rename_parked", name=name, new=new)


def replay(
    client: EventClient,
    name: str,
    key: str | None = None,
    event_id: int | None = None,
    *,
    reason: str = "",
    by: str | None = None,
    states: Sequence[str] = ("parked", "retrying"),
) -> int:
    """Try again what is parked: the event of this id, the first event of this key, or of every key.

    The workers do it, in order; with its last event a key is free.

    Args:
        client: A client of the same events table.
        name: The subscription.
        key: Of this key only.
        event_id: This event only.
        reason: Why; `parking_notes` shows it with who did it.
        by: Who does it; by default the role of the session.
        states: Those in these states; an event that is still "retrying" is tried at once, too, and its
            attempts are counted anew.

    Returns:
        How many events are to be tried; those that queue behind them follow.

    Raises:
        ConfigurationError: There is no such subscription.
        RetryableError: A batch did not end within 10 seconds.
    """
    who = by or _role(client)
    note = f"tried again by {who}: {reason}" if reason.strip() else None
    given: dict[str, Any] = {
        "key": key,
        "event_id": event_id,
        "note": note,
        "by": who,
        "reason": reason.strip(),
        "states": list(states),
    }
    with every_lane(client, name):
        count = int(statements_of(client).run("retry", name=name, **given).rowcount)
        forget_old_notes(statements_of(client), name)
    return count


def discard(
    client: EventClient,
    name: str,
    event_id: int,
    reason: str,
    key: str | None = None,
    *,
    by: str | None = None,
) -> None:
    """Give up a parked event: it is never handled, and those behind it go on. Who and why is kept.

    Args:
        client: A client of the same events table.
        name: The subscription.
        event_id: The event.
        reason: Why.
        key: Its key, if the id is not enough.
        by: Who does it; by default the role of the session.

    Raises:
        ConfigurationError: No reason, or no such parked event.
        RetryableError: A batch did not end within 10 seconds.
    """
    if not reason.strip():
        raise ConfigurationError("discard needs a reason; it is kept with who did it")
    statements = statements_of(client)
    with every_lane(client, name):
        rows = parked_rows(client, name, key=key, limit=1_000_000)
        found = [row for row in rows if row[1] == event_id]
        if not found:
            raise ConfigurationError(f"event {event_id} is not parked in subscription {name!r}")
        who = by or _role(client)
        given: dict[str, Any] = {
            "event_id": event_id,
            "note": f"{who}: {reason}",
            "by": who,
            "reason": reason.strip(),
        }
        statements.run("discard", name=name, key=found[0][0], **given)
        forget_old_notes(statements_of(client), name)
        statements.run("promote", name=name, keys=[found[0][0]])
        statements.run("complete", name=name)  # of kept views, if nothing else waits


def parked_rows(
    client: EventClient,
    name: str,
    *,
    key: str | None = None,
    limit: int,
    discarded: bool = False,
    after: tuple[str, int] | None = None,
) -> list[Any]:
    """Rows of what is set aside, by key and id."""
    after_key, after_id = (None, None) if after is None else after
    return statements_of(client).rows(
        "parked_rows", name=name, key=key, all=discarded, limit=limit, after_key=after_key, after_id=after_id
    )


def _role(client: EventClient) -> str:
    return str(client.session.execute("SELECT session_user").fetchone()[0])
