"""The pages of subscriptions: how far behind, who works on which lane, and what is parked."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import attrs

from pgevents.browser.filters import FilterError
from pgevents.browser.lag import MOST, Samples, Waiting, line_of, waiting_of
from pgevents.browser.log import iso
from pgevents.client import EventClient
from pgevents.subscriptions import ParkedEvent, ParkingNote, SubscriptionReport, parked, parking_notes
from pgevents.subscriptions.health import reports_and_waiting
from pgevents.subscriptions.holding import holder_of
from pgevents.subscriptions.lane_rows import statements_of

__all__ = ["subscription_page", "subscriptions_page"]

PAGE = 50
"""Parked events on a page."""
PAGE_OF_NOTES = 20
"""Notes of what was done with parked events on a page."""
LONG = 30.0
"""Seconds after which an event that waits is a problem."""


def subscriptions_page(client: EventClient, samples: Samples) -> dict[str, Any]:
    """All subscriptions, and the runners that work for them."""
    found = [(report, waiting_of(events)) for report, events in reports_and_waiting(client, None, LONG, MOST)]
    samples.add({report.name: waiting.count for report, waiting in found})
    return {
        "subscriptions": [_summary(report, waiting, samples) for report, waiting in found],
        "runners": _runners(client),
        "count_limit": MOST,
    }


def subscription_page(
    client: EventClient,
    name: str,
    samples: Samples,
    *,
    key: str | None,
    discarded: bool,
    after: str | None,
    before: int | None = None,
) -> dict[str, Any] | None:
    """One subscription with its lanes and a page of what is parked; None if there is no such one.

    Args:
        client: Whose subscription.
        name: Its name.
        samples: How far behind it was.
        key: Parked events of this key only.
        discarded: Also what was discarded.
        after: Where the page of parked events starts, as the link to it says.
        before: Above which number the page of notes ends, as the link to it says.
    """
    if name not in {row[0] for row in statements_of(client).rows("names")}:
        return None
    ((report, events),) = reports_and_waiting(client, [name], LONG, MOST)
    waiting = waiting_of(events)
    place = None if after is None else _place_of(after)
    found = parked(client, name, key=key, limit=PAGE + 1, discarded=discarded, after=place)
    types = _types_of(client, [parked.event_id for parked in found])
    is_more = len(found) > PAGE
    done = parking_notes(client, name, key=key, before=before, limit=PAGE_OF_NOTES + 1)
    return {
        **_summary(report, waiting, samples),
        "count_limit": MOST,
        "lanes": _lanes(client, report),
        "runners": [runner for runner in _runners(client) if name in runner["names"]],
        "key": key,
        "discarded": discarded,
        "parked_events": [_parked(parked, types) for parked in found[:PAGE]],
        "next": json.dumps([found[PAGE - 1].key, found[PAGE - 1].event_id]) if is_more else None,
        "parking_notes": [_shown(note) for note in done[:PAGE_OF_NOTES]],
        "notes_before": before,
        "older_notes": done[PAGE_OF_NOTES - 1].number if len(done) > PAGE_OF_NOTES else None,
    }


def _summary(report: SubscriptionReport, waiting: Waiting, samples: Samples) -> dict[str, Any]:
    return {
        "name": report.name,
        "state": report.state,
        "lag": waiting.count,
        "lag_seconds": report.lag_seconds,
        "position": report.position,
        "lane_count": len(report.lanes),
        "workers": report.workers,
        "parked": report.parked,
        "parked_keys": report.parked_keys,
        "oldest_parked": None if report.oldest_parked is None else iso(report.oldest_parked),
        "notes": list(report.notes),
        "problems": list(report.problems),
        "line": line_of(samples.of(report.name), waiting),
    }


def _lanes(client: EventClient, report: SubscriptionReport) -> list[dict[str, Any]]:
    """Each lane, and who has it at this moment."""
    rows = {row[0]: row for row in statements_of(client).rows("at_lanes", name=report.name)}
    found: list[dict[str, Any]] = []
    for lane in report.lanes:
        _, pid, application, address, seconds, leased_until, event_id, leased_by = rows[lane.lane]
        holder, application = holder_of(leased_by if pid is None else application)
        runner = None if holder is None else attrs.asdict(holder)
        worker = lease = None
        if pid is not None:
            worker = {"pid": pid, "application": application, "address": address, "seconds": seconds}
        if leased_until is not None:
            lease = {"until": iso(leased_until), "event_id": event_id}
        found.append({**attrs.asdict(lane), "runner": runner, "worker": worker, "lease": lease})
    return found


def _runners(client: EventClient) -> list[dict[str, Any]]:
    """The runners that were seen within a day."""
    names = ("id", "host", "pid", "workers", "names", "notes", "seen_at", "seconds")
    rows = statements_of(client).rows("at_work")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    return [{**row, "notes": json.loads(row["notes"]), "seen_at": iso(row["seen_at"])} for row in found]


def _parked(parked: ParkedEvent, types: dict[int, str]) -> dict[str, Any]:
    return {**_shown(parked), "type": types.get(parked.event_id)}


def _shown(record: ParkedEvent | ParkingNote) -> dict[str, Any]:
    return {
        name: iso(value) if isinstance(value, datetime) else value
        for name, value in attrs.asdict(record).items()
    }


def _types_of(client: EventClient, ids: list[int]) -> dict[int, str]:
    sql = f"SELECT id, type FROM {client.events.pgevents_spec.qualified()} WHERE id = ANY (%s)"
    return dict(client.session.execute(sql, [ids]).fetchall()) if ids else {}


def _place_of(after: str) -> tuple[str, int]:
    try:
        key, event_id = json.loads(after)
    except (ValueError, TypeError):
        key = event_id = None
    if not isinstance(key, str) or type(event_id) is not int:
        raise FilterError("after is what the link to the next page says")
    return key, event_id
