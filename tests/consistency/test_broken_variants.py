"""The laboratory proves something only if it sees the faults: each of these has been made in a prototype or a
product."""

from __future__ import annotations

import attrs
import pytest

from .lab import Race
from .oracle import judge
from .variants import BROKEN

RACES: dict[str, Race] = {
    "check by last id after an ordinary read": Race("one key", weights={"plain": 5, "by_position": 5}),
    "lock and check in one statement": Race("one key", weights={"by_position": 1}),
    "plain saves without locks": Race("one key", weights={"plain": 5, "by_position": 5}),
    "validated saves without BULK while batches run": Race(
        "one key", weights={"bulk_batch": 4, "by_position": 5}
    ),
    "lock and check in one statement, one event": Race("one key", weights={"by_position": 1}),
    "check by a count without a digest": Race("one key", weights={"plain": 10, "withdrawn_premise": 5}),
    "own events taken for final": Race("one key", weights={"plain": 10, "withdrawn_premise": 5}),
    "newest alone, and not that it stands": Race("one key", weights={"plain": 10, "withdrawn_newest": 5}),
    "plain saves without locks, one event": Race("one key", weights={"plain": 5, "by_position": 5}),
    "validated saves without BULK while batches run, one event": Race(
        "one key", weights={"bulk_batch": 4, "by_position": 5}
    ),
    "values of a list without locks": Race("many", weights={"plain": 5, "by_position": 5}),
    "values of a list without locks, one event": Race("many", weights={"plain": 5, "by_position": 5}),
    "the older name of a field is not locked": Race("renamed", weights={"plain": 5, "by_position": 5}),
    "bound read after the events": Race("types", weights={"plain": 5, "final": 5, "snapshot": 2}),
    "bound inside the reading statement": Race("types", weights={"plain": 5, "final": 5, "snapshot": 2}),
    "bound inside the reading statement, one value": Race(
        "one key", weights={"plain": 5, "final": 5, "snapshot": 2}
    ),
    "publication once per transaction": Race("types", weights={"plain": 3, "withdrawn_first": 5, "final": 8}),
    "snapshot at the last id seen": Race("one key", weights={"plain": 5, "snapshot": 5}),
}
"""For each fault the race that brings it out soonest."""


@pytest.mark.long
@pytest.mark.parametrize("fault", BROKEN)
def test_the_laboratory_sees_the_fault(url: str, fault: str) -> None:
    """With the fault in it, the race has anomalies."""
    race = attrs.evolve(RACES[fault], seconds=1.0, pause=0.02, variant=BROKEN[fault], followers=False)
    for _ in range(30):  # on a busy machine the processes seldom meet
        report = judge(url, race.shape, race.run(url))
        assert report.failures == []
        if report.anomalies:
            print(f"\n{len(report.anomalies)} anomalies, such as: {report.anomalies[0]}")
            return
    pytest.fail(f"the laboratory does not see this fault: {fault}")


@pytest.mark.long
@pytest.mark.parametrize("fault", BROKEN)
def test_the_same_race_is_clean_without_the_fault(url: str, fault: str) -> None:
    """What the laboratory reports of a broken variant is the variant's fault, not the laboratory's."""
    race = attrs.evolve(RACES[fault], seconds=1.0, pause=0.02, followers=False)
    report = judge(url, race.shape, race.run(url))
    assert report.failures == []
    assert report.anomalies == []
