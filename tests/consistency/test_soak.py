"""The same races for minutes: `pytest -m soak tests/consistency`; PGEVENTS_SOAK says how many validated saves
per shape."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest

from .lab import SHAPES, WEIGHTS, Race
from .oracle import HEADER, Report, judge

SAVES = int(os.environ.get("PGEVENTS_SOAK", "2000"))
DENSE = {
    **WEIGHTS,
    "by_position": 70,
    "by_id": 12,
    "by_tail": 12,
    "decide": 12,
    "transaction": 4,
    "final": 3,
    "snapshot": 3,
}


@pytest.mark.soak
@pytest.mark.parametrize("shape", SHAPES)
def test_long_races_have_no_anomaly(url: str, shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Race after race, with and without pauses in the functions, until enough validated saves were
    committed."""
    total = Report(shape, Counter(), [], [])
    for number in itertools.count():
        if number % 5 == 0:
            race = Race(shape, seconds=10, pause=0.003)
        else:
            race = Race(shape, seconds=10, processes=4, weights=DENSE, pause=0, followers=number % 2 == 0)
        report = judge(url, shape, race.run(url))
        total.counts.update(report.counts)
        total.anomalies.extend(report.anomalies)
        total.failures.extend(report.failures)
        if report.anomalies or report.failures or total.counts["validated"] >= SAVES:
            break
    with capsys.disabled():
        print(f"\n{HEADER}\n{total.row()}")
    assert total.failures == []
    assert total.anomalies == []
