"""What must be true of the log after a race; computed from the log alone, without the library's help."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import psycopg2

from .lab import NEWEST_ALONE, Journal, Tally


@attrs.define
class Log:
    """The log as it is in the end."""

    rows: list[tuple[int, str, dict[str, Any]]]
    _found: dict[str, list[int]] = attrs.field(factory=dict, init=False)

    @classmethod
    def read(cls, url: str) -> Log:
        connection = psycopg2.connect(url)
        cursor = connection.cursor()
        cursor.execute("SELECT id, type, data FROM lab.events ORDER BY id")
        rows = [(event_id, kind, _renamed(kind, data)) for event_id, kind, data in cursor.fetchall()]
        connection.close()
        return cls(rows)

    def ids(self, streams: str) -> list[int]:
        """Ids of the events that match one of the streams, in order."""
        if streams not in self._found:
            wanted = [
                (
                    one["types"] and set(one["types"]),
                    [(field, set(values)) for field, values in one["match"].items()],
                )
                for one in json.loads(streams)
            ]
            self._found[streams] = [
                event_id
                for event_id, kind, data in self.rows
                if any(
                    (types is None or kind in types)
                    and all(not values.isdisjoint(_values(data.get(field))) for field, values in match)
                    for types, match in wanted
                )
            ]
        return self._found[streams]


def _values(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _renamed(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """What is `k` in the second version of the type R is `o` in the first."""
    return data | {"k": data["o"]} if kind == "R" and "o" in data else data


@attrs.frozen
class Report:
    """What a race came to."""

    shape: str
    counts: Counter[str]
    anomalies: list[str]
    failures: list[str]

    def row(self) -> str:
        """A line of the table that a long race prints."""
        count = self.counts
        return (
            f"{self.shape:12} | {count['validated']:9} | {count['conflicts']:9} | {count['retryable']:9} | "
            f"{count['plain']:8} | {count['snapshots']:9} | {count['final reads']:11} | "
            f"{len(self.anomalies):9}"
        )


HEADER = "shape        | validated | conflicts | retryable | plain    | snapshots | final reads | anomalies"


def judge(url: str, shape: str, journal: Journal) -> Report:
    """Compare what was seen and told with the log."""
    log = Log.read(url)
    anomalies = [
        *_decisions(log),
        *_all_or_nothing(log, journal),
        *_final_reads(log, journal),
        *_snapshots(log, journal),
        *_followers(log, journal),
        *_repeats(log, journal),
    ]
    return Report(shape, journal.counts, anomalies, journal.failures)


def _decisions(log: Log) -> Iterator[str]:
    """Each validated save saw exactly the matching events that precede it in the log; one that rests on the
    newest alone saw which that is."""
    for event_id, _, data in log.rows:
        if data.get("saw_streams"):
            ids = log.ids(data["saw_streams"])
            before = bisect_left(ids, event_id)
            last = ids[before - 1] if before else 0
            if data["saw_count"] not in (before, NEWEST_ALONE) or data["saw_last"] != last:
                saw = f"saw {data['saw_count']} up to {data['saw_last']}"
                yield f"decision: {event_id} {saw}, but {before} up to {last} precede it"


def _all_or_nothing(log: Log, journal: Journal) -> Iterator[str]:
    """What was acknowledged is in the log once, under its id; what was refused or rolled back is not."""
    markers = Counter(data["m"] for _, _, data in log.rows)
    ids = {data["m"]: event_id for event_id, _, data in log.rows}
    for marker, count in markers.items():
        if count > 1:
            yield f"twice: {marker} is {count} times in the log"
    for marker, event_id in journal.saved.items():
        if ids.get(marker) != event_id:
            yield f"lost: {marker} was acknowledged as {event_id} and is {ids.get(marker)}"
    for marker in journal.withdrawn & ids.keys():
        yield f"half: {marker} was refused or rolled back, and is in the log as {ids[marker]}"


def _final_reads(log: Log, journal: Journal) -> Iterator[str]:
    """At or below the bound of a final read nothing ever appears that it had not returned, nor does anything
    vanish."""
    for final in journal.finals:
        ids = log.ids(final.streams)
        stands = set(ids[bisect_right(ids, final.after) : bisect_right(ids, final.bound)])
        late, gone = sorted(stands - set(final.ids)), sorted(set(final.ids) - stands)
        if late:
            yield f"late: {late} appeared at or below the bound {final.bound} of {final.streams}"
        if gone and not final.own:
            yield f"gone: {gone} were final at {final.bound} of {final.streams} and are not in the log"


def _snapshots(log: Log, journal: Journal) -> Iterator[str]:
    """Each snapshot is the fold from the start up to its id."""
    for taken in journal.snapshots:
        ids = log.ids(taken.streams)
        folded = Tally()
        for event_id in ids[: bisect_right(ids, taken.upto)]:
            folded = folded.add(event_id)
        if folded != taken.tally:
            yield f"snapshot: {taken.tally} at {taken.upto}, but the log folds to {folded}"


def _followers(log: Log, journal: Journal) -> Iterator[str]:
    """Each follower got the log: every event, in order, none twice."""
    for streams, ids in journal.followed.items():
        expected = log.ids(streams)
        if ids != expected:
            missed, extra = sorted(set(expected) - set(ids)), len(ids) - len(set(ids))
            in_order = ids == sorted(ids)
            yield f"follower: missed {missed[:5]} ({len(missed)}), {extra} twice, in order: {in_order}"


def _repeats(log: Log, journal: Journal) -> Iterator[str]:
    """All who repeat a key hear of the same save."""
    for key, answers in journal.repeats.items():
        if len(answers) > 1:
            yield f"repeat: key {key} was answered with {sorted(answers)}"
