"""Subscriptions deliberately broken: the laboratory must see each of these."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from pgevents.caches import forget
from pgevents.store import processing
from pgevents.subscriptions import lanes, parking, worker
from pgevents.subscriptions.lane_rows import all_rows


def change_statement(name: str, old: str, new: str) -> None:
    """Replace a part of a statement, which must be there."""
    sections = dict(processing._sections())
    assert old in sections[name], f"{old!r} is not in {name}"
    sections[name] = sections[name].replace(old, new)
    forget("statements of subscriptions")
    processing._sections = lambda: sections  # type: ignore[assignment]


def change_reads(pattern: str, new: str) -> None:
    """Replace a part of what reads events, which must be there."""
    read = processing.read_lanes

    class Changed:
        def __init__(self, session: Any) -> None:
            self.session = session

        def execute(self, sql: str, params: Any) -> Any:
            changed, count = re.subn(pattern, new, sql)
            assert count, pattern
            return self.session.execute(changed, params)

    def broken(statements: Any, *arguments: Any, **keywords: Any) -> Any:
        changed = attrs.evolve(statements, session=Changed(statements.session))
        return read(changed, *arguments, **keywords)

    lanes.read_lanes = broken  # type: ignore[assignment]


def place_apart() -> None:
    """The place is written after the commit of the effects."""
    move, step = worker.move, worker.step
    later: list[Any] = []
    worker.move = lambda *arguments: later.append(arguments)  # type: ignore[assignment,misc]

    def broken(work: Any, *arguments: Any) -> Any:
        later.clear()
        outcome = step(work, *arguments)
        if later:
            with work.client.session.atomic():
                move(*later.pop())
        return outcome

    worker.step = broken  # type: ignore[assignment]


def no_lock() -> None:
    change_statement("claim", "FOR UPDATE OF c SKIP LOCKED", "")


def not_final() -> None:
    last = r"(SELECT last_value FROM my_app.\1_id_seq WHERE %s <> '')"
    change_reads(r'"\w+"\."(\w+)_final_bound"\(%s\)', last)


def key_null() -> None:
    change_reads(r"hashtextextended\(coalesce\((e\.data->>'\w+'), ''\), 0\)", r"hashtextextended(\1, 0)")


def replay_unlocked() -> None:
    """Whoever finds a retry due takes it, whether or not he has the lane."""
    begin = worker.Step._begin

    def broken(step: Any, numbers: Any, share: Any) -> Any:
        work = step.work
        rows = all_rows(work.client, work.name)
        seen = [
            lanes.Lane(
                *(row.lane, row.lanes, row.question, row.position, row.layers, row.generation),
                *(False, 0, None, 0, None, 0, False, False),
            )
            for row in rows
        ]
        tried = parking.due(work, seen)
        if tried is not None:
            return step._retry(tried)
        return begin(step, numbers, share)

    worker.Step._begin = broken  # type: ignore[method-assign]


BROKEN: Mapping[str, Callable[[], None]] = {
    "the place committed apart from the effects": place_apart,
    "lanes without the lock": no_lock,
    "places past what is not final": not_final,
    "an event without the key in no lane": key_null,
    "replay without the lane's lock": replay_unlocked,
}
