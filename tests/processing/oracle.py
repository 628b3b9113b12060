"""What handlers have written, measured by the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from pgevents import EventClient

Kind = Literal["missing", "twice", "order"]


def judge(
    client: EventClient, subscriptions: Sequence[str], faults: Counter[Kind] | None = None
) -> list[str]:
    """What is wrong with what the handlers' table holds, measured by the log.

    Args:
        client: Of the log.
        subscriptions: Which.
        faults: How many events are wrong in which way is added here.
    """
    wrong: list[str] = []
    faults = Counter() if faults is None else faults
    log = [row[0] for row in client.db.execute_sql("SELECT id FROM my_app.events ORDER BY id").fetchall()]
    for name in subscriptions:
        rows = client.db.execute_sql(
            "SELECT event_id, key FROM handled WHERE subscription = %s ORDER BY n", [name]
        ).fetchall()
        wrong += _judge_one(name, log, rows, faults)
    return wrong


def _judge_one(
    name: str, log: Sequence[int], rows: Sequence[tuple[int, str]], faults: Counter[Kind]
) -> Iterator[str]:
    given = [event_id for event_id, _ in rows]
    missing = set(log) - set(given)
    if missing:
        faults["missing"] += len(missing)
        yield f"{name}: {len(missing)} events were never handled, such as {min(missing)}"
    if set(given) - set(log):
        yield f"{name}: {len(set(given) - set(log))} events were handled that are not in the log"
    if name != "outside" and len(given) != len(set(given)):
        twice = sorted(event_id for event_id, count in Counter(given).items() if count > 1)
        faults["twice"] += len(twice)
        yield f"{name}: {len(twice)} events were handled twice, such as {twice[0]}"
    newest: dict[str, int] = {}
    seen: set[int] = set()
    for event_id, key in rows:
        if event_id in seen:
            continue
        seen.add(event_id)
        if event_id < newest.get(key, 0):
            faults["order"] += 1
            yield f"{name}: {event_id} was handled after {newest[key]} of the same key"
            return
        newest[key] = event_id
