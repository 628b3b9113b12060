"""What can be asked of subscriptions: how far behind, who works, what is parked, and whether all is well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.store.ordering import holder_text
from pgevents.store.processing import ONLY_TIMES, read_lanes, split_error
from pgevents.subscriptions.control import parked_rows
from pgevents.subscriptions.definition import VIEW_KEY
from pgevents.subscriptions.items import Layer, is_passed
from pgevents.subscriptions.lane_rows import Row, all_rows, state_of, statements_of
from pgevents.subscriptions.timer_report import timer_problems

__all__ = ["LaneReport", "ParkedEvent", "SubscriptionReport", "check", "overview", "parked"]

GONE_AFTER = 30.0
MOST_COUNTED = 100_000
MOST_READ = 10_000


@attrs.frozen
class LaneReport:
    """One lane.

    Attributes:
        lane: Its number.
        position: Every event of the lane up to here is dealt with.
        state: "active", "waiting" (for a retry, or for a lease to end), "paused" or "stopped".
        error: The last error, if it stands.
        attempts: Failures at this place.
        interruptions: Errors of the database at this place.
        stack: Where that error was raised, from the handler on.
    """

    lane: int
    position: int
    state: str
    error: str | None
    attempts: int
    interruptions: int
    stack: str | None = None


@attrs.frozen
class ParkedEvent:
    """An event that is set aside.

    Attributes:
        key: Its key; '' without one.
        event_id: The event.
        state: "retrying" (due at a time), "parked" (waits for a person), "queued" (behind one of these), or
            "discarded".
        attempts: How many times the handler failed.
        due_at: When it is tried again.
        error: The last error.
        failed_at: When that was.
        parked_at: When it was set aside.
        note: Who discarded it or tried it again, and why.
        stack: Where the last error was raised, from the handler on.
    """

    key: str
    event_id: int
    state: str
    attempts: int
    due_at: datetime | None
    error: str | None
    failed_at: datetime | None
    parked_at: datetime
    note: str | None
    stack: str | None = None


@attrs.frozen
class SubscriptionReport:
    """One subscription.

    Attributes:
        name: Its name.
        state: The gravest of its lanes'.
        lag: How many of its events stand above their lanes' places (counted up to 100,000).
        lag_seconds: For how long the oldest of them has been in the log, as far as anybody looked; 0 without
            lag.
        moved_seconds: For how long no place has moved.
        position: The least place.
        parked: How many events are set aside.
        parked_keys: Of how many keys.
        oldest_parked: When the first of them was set aside.
        attempts: Failures that stand, of lanes and parked events.
        workers: How many workers were seen for it in the last 30 seconds.
        notes: What runners say about it.
        lanes: Its lanes.
        problems: What is wrong with it, in words; empty if nothing is.
        batch_seconds: How long a batch takes, at the slowest of its runners; 0 before the first one. With
            effects outside it is not measured.
    """

    name: str
    state: str
    lag: int
    lag_seconds: float
    moved_seconds: float
    position: int
    parked: int
    parked_keys: int
    oldest_parked: datetime | None
    attempts: int
    workers: int
    notes: tuple[str, ...]
    lanes: tuple[LaneReport, ...]
    problems: tuple[str, ...] = ()
    batch_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return attrs.asdict(self)


def parked(
    client: EventClient,
    name: str,
    *,
    key: str | None = None,
    limit: int = 1_000,
    discarded: bool = False,
    after: tuple[str, int] | None = None,
) -> list[ParkedEvent]:
    """What is set aside of a subscription, by key and id.

    Args:
        client: A client of the same events table.
        name: The subscription.
        key: Of this key only.
        limit: At most this many.
        discarded: Also what was discarded, with who and why.
        after: Above this key and event id only, for the next page.
    """
    rows = parked_rows(client, name, key=key, limit=limit, discarded=discarded, after=after)
    return [_parked(row) for row in rows]


def _parked(row: Any) -> ParkedEvent:
    make: Any = ParkedEvent
    error, stack = split_error(row[5])
    event: ParkedEvent = make(*row[:5], error, *row[6:], stack)
    return event


def overview(
    client: EventClient,
    names: Sequence[str] | None = None,
    *,
    max_lag: float = 30.0,
    most: int = MOST_COUNTED,
) -> list[SubscriptionReport]:
    """How subscriptions are doing.

    Args:
        client: A client of the same events table.
        names: Those that should exist; by default those that exist.
        max_lag: Seconds after which an event that is not dealt with is a problem.
        most: Up to how many events of the lag are counted; where there are more, one more is counted.

    Example:
        ```python
        from pgevents.subscriptions import overview

        for report in overview(client):
            print(report.name, report.lag, report.problems)
        ```
    """
    return [report for report, _ in reports_and_waiting(client, names, max_lag, most)]


def reports_and_waiting(
    client: EventClient, names: Sequence[str] | None, max_lag: float, most: int
) -> list[tuple[SubscriptionReport, list[tuple[int, float]]]]:
    """What `overview` gives, each with the events that wait, as `waiting_events` has them."""
    client.check_installed()
    statements = statements_of(client)
    (last, is_read_only) = statements.rows("arrivals")[0]
    if not is_read_only:  # a standby, or a transaction that only reads
        statements.run("saw", last=last)
    stored_names = [row[0] for row in statements.rows("names")]
    at_work = statements.rows("at_work")
    return [
        _report(client, name, at_work, max_lag, most) if name in stored_names else (_missing(name), [])
        for name in (stored_names if names is None else names)
    ]


def check(client: EventClient, names: Sequence[str] | None = None, *, max_lag: float = 30.0) -> list[str]:
    """What is wrong, in words; empty if all is well. For probes.

    It looks at lag, stopped and paused lanes, parked events, runners that are gone, timers that are late or
    parked, and the horizon.

    Args:
        client: A client of the same events table.
        names: The subscriptions that should exist; by default those that exist.
        max_lag: Seconds after which an event that is not dealt with, or a timer that is due, is a problem.
    """
    problems = [
        f"{report.name}: {problem}"
        for report in overview(client, names, max_lag=max_lag, most=10_000)
        for problem in report.problems
    ]
    problems += timer_problems(client, max_lag)
    for holder in client.horizon().holders:
        age = (datetime.now(timezone.utc) - holder.since).total_seconds() if holder.since else None
        if age is None or age > max_lag:
            since = "since nobody knows when" if age is None else f"for {age:.0f} s"
            problems.append(f"{holder_text(holder)} holds the horizon at {holder.published} {since}")
    return problems


def _missing(name: str) -> SubscriptionReport:
    return SubscriptionReport(
        name, "missing", 0, 0.0, 0.0, 0, 0, 0, None, 0, 0, (), (), ("it was declared, but has never run",)
    )


def _report(
    client: EventClient, name: str, at_work: Sequence[Any], max_lag: float, most: int
) -> tuple[SubscriptionReport, list[tuple[int, float]]]:
    statements = statements_of(client)
    rows = all_rows(client, name)
    waiting = waiting_events(client, rows, most)
    lag, oldest = len(waiting), waiting[0][0] if waiting else 0
    seconds = float(statements.value("seen_since", event_id=oldest) or 0.0) if oldest else 0.0
    aside, aside_keys, oldest_aside, failures = statements.rows("parked_sum", name=name)[0]
    lanes = tuple(
        LaneReport(row.lane, row.position, _state(row), row.error, row.attempts, row.interruptions, row.stack)
        for row in rows
    )
    mine = [row for row in at_work if name in row[4]]
    here = [row for row in mine if row[7] <= GONE_AFTER]
    notes = tuple(
        f"{row[1]} {row[2]}: {json.loads(row[5])[name]}" for row in here if name in json.loads(row[5])
    )
    moved = min(row.seconds_since_moved for row in rows if row.position == min(r.position for r in rows))
    report = SubscriptionReport(
        name,
        state_of(rows),
        lag,
        seconds,
        moved,
        min(row.position for row in rows),
        aside,
        aside_keys,
        oldest_aside,
        sum(row.attempts for row in rows) + failures,
        sum(row[3] for row in here),
        notes,
        lanes,
        batch_seconds=float(statements.value("batch_seconds", name=name) or 0.0),
    )
    problems = [*_delays(report, oldest, max_lag, most), *_parked_and_runners(report, mine, bool(here), most)]
    return attrs.evolve(report, problems=tuple(problems)), waiting


def _delays(report: SubscriptionReport, oldest: int, max_lag: float, most: int) -> Iterator[str]:
    """Whether it is held, stuck or behind; `oldest` is its first event that waits, 0 for none."""
    if report.state != "active":
        error = next((lane.error for lane in report.lanes if lane.error), None)
        yield f"{report.state}{f': {error}' if error and report.state == 'stopped' else ''}"
    seconds, moved = report.lag_seconds, report.moved_seconds
    if oldest and seconds > max_lag and (moved > max_lag or seconds > 10 * max_lag):
        yield f"stuck: event {oldest} came {seconds:.0f} s ago, and its lane has not moved for {moved:.0f} s"
    elif oldest and seconds > max_lag:
        count = _count(report.lag, most)
        yield f"behind: event {oldest} came {seconds:.0f} s ago; {count} events are to be dealt with"


def _parked_and_runners(
    report: SubscriptionReport, runners: Sequence[Any], is_seen: bool, most: int
) -> Iterator[str]:
    if report.parked:
        events = "1 event" if report.parked == 1 else f"{report.parked} events"
        keys = "1 key" if report.parked_keys == 1 else f"{report.parked_keys} keys"
        yield f"{events} of {keys} {'is' if report.parked == 1 else 'are'} parked"
    if runners and not is_seen:
        yield f"its runner on {runners[0][1]} was not seen for {runners[0][7]:.0f} s"
    if not runners and report.lag:
        yield f"no runner, and {_count(report.lag, most)} events are to be dealt with"


def _count(lag: int, most: int) -> str:
    return f"more than {most:,}" if lag > most else str(lag)


def _state(row: Row) -> str:
    if row.state != "active":
        return row.state
    is_waiting = row.due_at is not None and row.due_at > datetime.now(timezone.utc)
    return "waiting" if is_waiting or row.is_leased else "active"


def waiting_events(client: EventClient, rows: Sequence[Row], most: int) -> list[tuple[int, float]]:
    """The events above the places of their lanes, at most one more than `most`, by id.

    Returns:
        The id of each, and its time in seconds since 1970.
    """
    question, statements = rows[0].question, statements_of(client)
    if question.key == VIEW_KEY:  # which lanes an event belongs to, the program alone knows
        rows = [attrs.evolve(min(rows, key=lambda row: row.position), layers=())]
        question = attrs.evolve(question, key=())
    layers: list[tuple[Layer, ...]] = [row.layers for row in rows]
    is_divided = any(layers)
    found: list[tuple[int, float]] = []
    places, limit = [row.position for row in rows], min(most, MOST_READ) + 1
    while len(found) <= most:
        read = read_lanes(
            statements, question.streams, question.key, list(places), limit, columns=ONLY_TIMES
        ).rows
        found += [
            (row[0], float(row[4]))
            for row in read
            if not (is_divided and is_passed(layers[int(row[7]) % len(rows)], row[0], row[7]))
        ]
        if len(read) < limit:
            break
        places = [max(place, read[-1][0]) for place in places]
    return found[: most + 1]
