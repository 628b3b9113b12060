"""A program asks for other events than its place was for: what continues, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from pgevents.errors import ConfigurationError
from pgevents.store.layout import TableSpec
from pgevents.store.ordering import streams_json
from pgevents.store.processing import where_sql
from pgevents.streams import Stream
from pgevents.subscriptions.definition import VIEW_KEY, Question, Work
from pgevents.subscriptions.lane_rows import Row, all_rows, every_lane
from pgevents.subscriptions.lanes import ensure
from pgevents.type_registry import EventTypes

__all__ = ["StandsByError", "check_key", "settle"]

log = logging.getLogger("pgevents")


class StandsByError(ConfigurationError):
    """A newer program has widened the question; this one leaves the subscription to it."""


def settle(work: Work) -> None:
    """Make sure that the stored place answers what the program asks; makes it if there is none.

    Raises:
        ConfigurationError: It does not; the message lists what can be done.
        StandsByError: It answers more than that.
    """
    check_key(work)
    rows = all_rows(work.client, work.name)
    if not rows:
        ensure(work)
        rows = all_rows(work.client, work.name)
    if rows[0].lanes != work.lanes and (work.question.key or rows[0].lanes != 1):
        log.info(
            "subscription %r has %d lanes; the %d that the program says are ignored (resize changes them)",
            work.name,
            rows[0].lanes,
            work.lanes,
        )
    if any(row.is_hashed_otherwise for row in rows):
        _deal_out_anew(work)
    if all(row.question == work.question for row in rows):
        return
    _widen(work)


def check_key(work: Work) -> None:
    """Check that every class of the streams has the field that the lanes go by.

    Raises:
        ConfigurationError: One lacks it.
    """
    if not work.question.key or work.question.key == VIEW_KEY:
        return
    types: EventTypes = work.client.types
    for stream in work.question.streams:
        for name in stream.types or ():
            found = types.find(name)
            if found is None:
                continue
            fields = [field.name for field in getattr(found.cls, "__attrs_attrs__", ())]
            if fields and work.question.key[0] not in fields:
                raise ConfigurationError(
                    f"subscription {work.name!r}: {found.cls.__qualname__} has no field "
                    f"{work.question.key[0]!r} to go by; it has {fields}"
                )


def _deal_out_anew(work: Work) -> None:
    """Another server hashes in another way. If all lanes are at one place, that does not matter."""
    with every_lane(work.client, work.name) as rows:
        places = {row.position for row in rows}
        if len(places) > 1 or any(row.layers for row in rows):
            raise ConfigurationError(
                f"this server assigns the keys of {work.name!r} to other lanes than the server that its "
                f"places come from, and its lanes stand at different places, from {min(places)} to "
                f"{max(places)}: which events between were handled is not known. "
                f"reset(position={min(places)}) repeats some, reset(position={max(places)}) leaves some out"
            )
        work.statements.run("same_hash", name=work.name)
        work.statements.run("hash_parked", name=work.name)


def _widen(work: Work) -> None:
    with every_lane(work.client, work.name) as rows:
        old, new = rows[0].question, work.question
        if old == new:
            return
        if old.key == new.key and _covers(old, new):
            raise StandsByError(
                f"subscription {work.name!r} was widened by a newer program; this one waits until it is "
                "updated"
            )
        if old.key == new.key and _covers(new, old):
            reason = _why_not_widen(work, old, rows)
            if reason is None:
                work.statements.run("ask_again", name=work.name, question=json.dumps(new.as_json()))
                log.info("subscription %r: its question was widened", work.name)
                return
        else:
            reason = "what the old question left out before its place would be skipped"
            if old.key != new.key:
                reason = f"its key was {_shown(old.key)} and is {_shown(new.key)} now"
        low, high = min(row.position for row in rows), max(row.position for row in rows)
        raise ConfigurationError(
            f"subscription {work.name!r} was for other streams: {reason}. Choose one: another name (it "
            "begins with the first event, and this place stays); reset(position=0), which repeats all from "
            f"the start and loses nothing; reset(position={low}), which continues from where it is now"
            f"{'' if low == high else f' and repeats some up to {high}'}, and never gives what the old "
            "question left out before"
        )


def _shown(key: Sequence[str]) -> str:
    return repr(key[0]) if key else "none"


def _covers(wide: Question, narrow: Question) -> bool:
    """Whether every event of one question is one of the other's, as far as can be told from the streams."""
    return all(any(_is_within(inner, outer) for outer in wide.streams) for inner in narrow.streams)


def _is_within(inner: Stream[Any], outer: Stream[Any]) -> bool:
    if outer.types is not None and (inner.types is None or not set(inner.types) <= set(outer.types)):
        return False
    return all(
        any(field == name and set(texts) <= set(values) for name, texts in inner.match)
        for field, values in outer.match
    )


def _why_not_widen(work: Work, old: Question, rows: Sequence[Row]) -> str | None:
    """Why the places do not answer the wider question, or None: nothing that it adds stands before them."""
    high = max(row.position for row in rows)
    session, spec = work.client.session, work.client.events.pgevents_spec
    streams = work.question.streams
    bound = session.execute(
        f"SELECT {spec.qualified('_final_bound')}(%s)", [streams_json(streams)]
    ).fetchone()
    if bound[0] < high:
        return f"events up to {high} of what was added are not final yet; try again"
    new_sql, new_params = _any_of(spec, streams)
    old_sql, old_params = _any_of(spec, old.streams)
    found = session.execute(
        f"SELECT min(e.id), count(*) FROM {spec.qualified()} AS e WHERE e.id <= %s AND ({new_sql}) AND "
        f"NOT ({old_sql})",
        [high, *new_params, *old_params],
    ).fetchone()
    if found[1]:
        return f"{found[1]} events that it adds stand before its place, the first at {found[0]}"
    return None


def _any_of(spec: TableSpec, streams: Sequence[Stream[Any]]) -> tuple[str, list[Any]]:
    parts: list[str] = []
    params: list[Any] = []
    for stream in streams:
        sql, values = where_sql(spec, stream)
        parts.append(f"coalesce({sql}, false)")
        params += values
    return " OR ".join(parts) or "false", params
