"""Promises 1 to 8 under fire: nothing goes wrong in any shape of question, whatever runs beside it."""

from __future__ import annotations

import pytest

from .lab import SHAPES, Race
from .oracle import HEADER, Report, judge


def race(url: str, **options: object) -> Report:
    """One race and its verdict."""
    one = Race(**options)  # type: ignore[arg-type]
    return judge(url, one.shape, one.run(url))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_of_question_has_an_anomaly(url: str, shape: str) -> None:
    """Every validated save, final read, snapshot and follower of a short race is exact."""
    report = race(url, shape=shape, seconds=1.5)
    print(f"\n{HEADER}\n{report.row()}")
    assert report.failures == []
    assert report.anomalies == []
    assert report.counts["validated"] > 5
    assert report.counts["conflicts"] > 0
