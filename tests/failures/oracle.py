"""What the clients of a load were told, compared with the log that is left."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from pgevents import EventClient

from ..processing.oracle import Kind
from ..processing.oracle import judge as judge_handled
from .load import SUBSCRIPTIONS, Journal


@attrs.define
class Verdict:
    """What is wrong, counted.

    Attributes:
        acknowledged: Events that clients were told are saved.
        refused: Events that clients were told are not saved.
        lost: Acknowledged events that are not in the log under their id.
        doubled: Events that are in the log more than once.
        appeared: Refused events that are in the log.
        wrong_decisions: Validated events that did not see what precedes them in the log.
        decisions: Validated events in the log.
        handled: Events that the two subscriptions handled.
        faults: Handled events that are missing, twice or out of order.
        followed: Events that a follower outside was given.
        misled: Followed events that are not in the log, or that are missing or out of order.
        places_refused: How often the follower's place was refused.
        examples: Some words about what is wrong.
    """

    acknowledged: int = 0
    refused: int = 0
    lost: int = 0
    doubled: int = 0
    appeared: int = 0
    wrong_decisions: int = 0
    decisions: int = 0
    handled: int = 0
    faults: Counter[Kind] = attrs.field(factory=Counter)
    followed: int = 0
    misled: int = 0
    places_refused: int = 0
    examples: list[str] = attrs.field(factory=list)

    @property
    def is_right(self) -> bool:
        return not (
            self.lost
            or self.doubled
            or self.appeared
            or self.wrong_decisions
            or self.misled
            or sum(self.faults.values())
            or self.examples
        )

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} events acknowledged, {self.lost} lost, {self.doubled} doubled; "
            f"{self.refused} refused, {self.appeared} of them in the log; {self.decisions} decisions, "
            f"{self.wrong_decisions} wrong; {self.handled} events handled, missing {self.faults['missing']}, "
            f"twice {self.faults['twice']}, out of order {self.faults['order']}; {self.followed} followed "
            f"outside, {self.misled} wrong, place refused {self.places_refused} times"
        )


def judge(client: EventClient, folder: Path) -> Verdict:
    """Compare the journals in a folder with the log."""
    rows = client.db.execute_sql("SELECT id, data FROM my_app.events ORDER BY id").fetchall()
    verdict = Verdict()
    _saves(rows, folder, verdict)
    _decisions(rows, verdict)
    _followers(rows, folder, verdict)
    verdict.handled = client.db.execute_sql("SELECT count(*) FROM handled").fetchone()[0]
    verdict.examples += judge_handled(client, SUBSCRIPTIONS, verdict.faults)
    return verdict


def _journals(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(f"{kind}-*")):
        yield from Journal.read(path)


def _saves(rows: Sequence[tuple[int, Any]], folder: Path, verdict: Verdict) -> None:
    markers = Counter(data["m"] for _, data in rows)
    ids = {data["m"]: event_id for event_id, data in rows}
    for marker, count in markers.items():
        if count > 1:
            verdict.doubled += 1
            verdict.examples.append(f"{marker} is {count} times in the log")
    for line in _journals(folder, "saver"):
        if line["what"] == "ok":
            for marker, event_id in zip(line["m"], line["ids"], strict=True):
                verdict.acknowledged += 1
                if ids.get(marker) != event_id:
                    verdict.lost += 1
                    verdict.examples.append(
                        f"{marker} was acknowledged as {event_id} and is {ids.get(marker)}"
                    )
        elif line["what"] == "no":
            for marker in line["m"]:
                verdict.refused += 1
                if marker in ids:
                    verdict.appeared += 1
                    verdict.examples.append(
                        f"{marker} was refused ({line['error']}) and is in the log as {ids[marker]}"
                    )


def _decisions(rows: Sequence[tuple[int, Any]], verdict: Verdict) -> None:
    """Each validated event says how many events of its stream were read and which was the last."""
    of_key: dict[str, list[int]] = {}
    for event_id, data in rows:
        of_key.setdefault(data["cart_id"], []).append(event_id)
    for event_id, data in rows:
        if "saw_last" not in data:
            continue
        verdict.decisions += 1
        ids = of_key[data["cart_id"]]
        before = bisect_left(ids, event_id)
        last = ids[before - 1] if before else 0
        if data["saw_last"] != last or data.get("saw_count", before) != before:
            verdict.wrong_decisions += 1
            verdict.examples.append(f"{event_id} saw {data}, but {before} up to {last} precede it")


def _followers(rows: Sequence[tuple[int, Any]], folder: Path, verdict: Verdict) -> None:
    """Each follower that was never killed got the log, in order."""
    log = [(event_id, data["m"]) for event_id, data in rows]
    for path in sorted(folder.glob("follower-*")):
        lines = list(Journal.read(path))
        verdict.places_refused += sum(line["what"] == "refused" for line in lines)
        given = [(line["id"], line["m"]) for line in lines if line["what"] == "followed"]
        given = list(dict.fromkeys(given))  # from a checkpoint on they may come again
        verdict.followed += len(given)
        wrong = len(set(given) - set(log)) + len(set(log[: len(given)]) - set(given))
        if given != log[: len(given)]:
            verdict.misled += max(1, wrong)
            verdict.examples.append(f"{path.name} was given {wrong} events that differ from the log")


def longest_gaps(folder: Path, moments: Sequence[float]) -> list[float]:
    """For each moment, the longest time that a saver was without an acknowledgment before the next moment.

    Args:
        folder: Of the journals.
        moments: When something was broken, by the monotonic clock, ascending.
    """
    gaps = [0.0] * len(moments)
    for path in folder.glob("saver-*"):
        times = [line["t"] for line in Journal.read(path) if line["what"] == "ok"]
        for earlier, later in zip(times, times[1:], strict=False):
            number = bisect_left(moments, later) - 1
            if number >= 0 and earlier < later:
                gaps[number] = max(gaps[number], later - max(earlier, moments[number]))
    return gaps
