"""What handlers have written, measured by the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgevents import EventClient


def judge(client: EventClient, subscriptions: Sequence[str]) -> list[str]:
    """What is wrong with what the handlers' table holds, measured by the log."""
    wrong: list[str] = []
    log = [row[0] for row in client.db.execute_sql("SELECT id FROM my_app.events ORDER BY id").fetchall()]
    for name in subscriptions:
        rows = client.db.execute_sql(
            "SELECT event_id, key FROM handled WHERE subscription = %s ORDER BY n", [name]
        ).fetchall()
        wrong += _judge_one(name, log, rows)
    return wrong


def _judge_one(name: str, log: Sequence[int], rows: Sequence[tuple[int, str]]) -> Iterator[str]:
    given = [event_id for event_id, _ in rows]
    missing = set(log) - set(given)
    if missing:
        yield f"{name}: {len(missing)} events were never handled, such as {min(missing)}"
    if set(given) - set(log):
        yield f"{name}: {len(set(given) - set(log))} events were handled that are not in the log"
    if name != "outside" and len(given) != len(set(given)):
        twice = sorted({event_id for event_id in given if given.count(event_id) > 1})
        yield f"{name}: {len(twice)} events were handled twice, such as {twice[0]}"
    newest: dict[str, int] = {}
    seen: set[int] = set()
    for event_id, key in rows:
        if event_id in seen:
            continue
        seen.add(event_id)
        if event_id < newest.get(key, 0):
            yield f"{name}: {event_id} was handled after {newest[key]} of the same key"
            return
        newest[key] = event_id
