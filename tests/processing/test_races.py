"""Nothing is missing, doubled or out of order, whatever happens to workers; and the laboratory sees the
faults."""

from __future__ import annotations

import attrs
import pytest

from .lab import Race, Variant, run
from .variants import BROKEN


@pytest.mark.parametrize("seconds", [1.5, pytest.param(4.0, marks=pytest.mark.long)])
def test_no_event_is_missing_doubled_or_out_of_order(url: str, seconds: float) -> None:
    """Workers are killed, stopped and cut off, lanes resized, subscriptions paused, events fail."""
    assert run(url, Race(seconds=seconds, kills=2.0, changes=2.0)) == []


QUIET = Race(subscriptions=("keyed",), seconds=1.5, rate=150, changes=0, deaths=0, kills=0, patience=8)
FAULTS = {
    "the place committed apart from the effects": (QUIET, "twice"),
    "lanes without the lock": (QUIET, "twice"),
    "places past what is not final": (QUIET, "never handled"),
    "an event without the key in no lane": (QUIET, "never handled"),
    "replay without the lane's lock": (attrs.evolve(QUIET, failures=0.2), "twice"),
}
"""For each fault a race that brings it out, and what the oracle says."""


@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS)
def test_the_laboratory_sees_the_fault(url: str, name: str) -> None:
    """With the fault in it, the oracle finds what is missing or doubled."""
    race, words = FAULTS[name]
    found = run(url, attrs.evolve(race, variant=Variant(name, BROKEN[name])))
    assert any(words in one for one in found), found


@pytest.mark.long
def test_the_same_race_is_clean_without_a_fault(url: str) -> None:
    """So it is the fault that is seen."""
    assert run(url, attrs.evolve(QUIET, failures=0.2, patience=60)) == []
