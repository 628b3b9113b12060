"""What is noted of a fold in the database: its bound, and which ranges of ids are folded.

The bound and the state of the log are noted before anything is folded, and used again by whoever goes on:
with a second bound, ranges that are done would lack the events between the two.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import attrs

from pgevents.errors import ConfigurationError
from pgevents.store.ordering import streams_json
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.lane_rows import Row, every_lane
from pgevents.views import digest

__all__ = ["Plan", "begin", "finish"]


@attrs.frozen
class Plan:
    """A fold of all views of a projection's version.

    Attributes:
        fold: Its name; another one whenever it begins anew.
        ranges: Into how many ranges the hashes of ids are divided.
        bound: The final id up to which all of them are folded.
        redactions: How often the log had been changed under maintenance.
        todo: The ranges that are not folded yet.
    """

    fold: str
    ranges: int
    bound: int
    redactions: str
    todo: tuple[int, ...]


def begin(work: Work, ranges: int, at_most: int | None = None) -> Plan:
    """The fold that was begun before, or a new one.

    Args:
        work: The kept view, registered before: from then on changes of the log under maintenance remove rows.
        ranges: Into how many ranges a new one divides the ids.
        at_most: The last id that can be read, if not all of the log can.

    Raises:
        RetryableError: The log is being changed under maintenance.
    """
    statements, question = work.statements, _digest_of(work)
    with work.client.session.atomic():
        statements.run("gate", gate=f"{work.gate} ranges")
        redactions = statements.value("hold_redactions")
        plan = _stored(work, question)
        if plan is not None and plan.redactions == redactions:
            return plan
        statements.run("drop_ranges", name=work.name)
        bound = statements.value("final_bound", streams=streams_json(work.question.streams))
        bound = bound if at_most is None else min(bound, at_most)
        fold = uuid4().hex
        statements.run(
            "begin_ranges",
            name=work.name,
            ranges=ranges,
            fold=fold,
            bound=bound,
            redactions=redactions,
            question=question,
        )
    return Plan(fold, ranges, bound, redactions, tuple(range(ranges)))


def finish(work: Work, plan: Plan) -> bool:
    """Move all lanes to the bound, if all ranges are done; the live keeping goes on from there.

    Returns:
        Whether that is done, by this call or by another one; else the fold is to go on, or to begin anew.

    Raises:
        ConfigurationError: Keeping the views was paused or stopped, or a newer program asks for other events.
        RetryableError: A keeper's batch did not end in time, or the log is being changed under maintenance.
    """
    statements = work.statements
    with every_lane(work.client, work.name) as rows:
        redactions = statements.value("hold_redactions")  # to the commit nobody changes the log
        statements.run("lock_ranges", name=work.name)
        stored = _stored(work, _digest_of(work))
        if stored is None:
            return min(row.position for row in rows) >= plan.bound
        if stored.fold != plan.fold or stored.redactions != redactions or stored.todo:
            return False
        _check(work, rows)
        _move(work, rows, stored.bound)
        statements.run("complete", name=work.name)
        statements.run("drop_ranges", name=work.name)
    return True


def _stored(work: Work, question: str) -> Plan | None:
    """The fold that is noted, if it is of the same views, and keys are still hashed in the same way."""
    rows = work.statements.rows("ranges", name=work.name)
    if not rows:
        return None
    _, ranges, fold, bound, redactions, stored_question, is_hashed_alike, _ = rows[0]
    if stored_question != question or not is_hashed_alike:
        return None
    return Plan(fold, ranges, bound, redactions, tuple(row[0] for row in rows if not row[7]))


def _digest_of(work: Work) -> str:
    """A digest of what is folded: from which events, and into views of which shape."""
    rule: Any = work.keeper.rule
    declared = rule.projection.declared_for(work.client.snapshots, work.client.types)
    return digest(f"{json.dumps(work.question.as_json())} {declared.shape}")


def _check(work: Work, rows: list[Row]) -> None:
    for row in rows:
        if row.state != "active":
            raise ConfigurationError(
                f"{work.name!r} is {row.state}, so its places stay; resume it, then call rebuild again: all "
                "ranges are folded"
            )
        if row.question != work.question:
            raise ConfigurationError(
                f"{work.name!r} asks for other events by now: call rebuild with the newer program"
            )


def _move(work: Work, rows: list[Row], bound: int) -> None:
    """A lane that a keeper has moved further stays there."""
    behind = [row for row in rows if row.position < bound]
    work.statements.run(
        "move",
        name=work.name,
        lanes=[row.lane for row in behind],
        positions=[bound] * len(behind),
        handled=[0] * len(behind),
    )
    for row in behind:
        if row.layers and bound >= max(max(places) for _, places in row.layers):
            work.statements.run("drop_layers", name=work.name, lane=row.lane)
