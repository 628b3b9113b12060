"""What is remembered, and what makes it forgotten."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import pgevents
from pgevents import caches, event
from pgevents.caches import CACHES, Cache, RevisedCache, TimedCache, Until, remembered
from pgevents.event_types import type_names
from pgevents.type_registry import EventTypes

SOURCES = {path: path.read_text() for path in Path(pgevents.__file__).parent.rglob("*.py")}
MADE = re.compile(r'(?:remembered|Cache)\(\s*"([^"]+)"')


def test_no_module_makes_a_cache_by_other_means() -> None:
    """Only the module of caches imports those of `functools`."""
    for path, source in SOURCES.items():
        imported = {
            alias.name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ImportFrom) and node.module == "functools"
            for alias in node.names
        }
        assert path.name == "caches.py" or not {"cache", "lru_cache", "cached_property"} & imported, path


def test_every_cache_is_in_the_table_and_made_in_one_place() -> None:
    """The table names all that there are, and nothing else."""
    made = [name for source in SOURCES.values() for name in MADE.findall(source)]
    assert sorted(made) == sorted(CACHES)


def test_a_new_class_is_among_those_that_its_base_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the names of the base were asked for, and remembered, before."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("BASE")
    class Base:
        pass

    assert type_names(Base) == ("BASE",)

    @event("DERIVED")
    class Derived(Base):
        pass

    assert type_names(Base) == ("BASE", "DERIVED")


def test_a_function_is_asked_again_after_it_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, or by what has happened."""
    monkeypatch.setattr(caches, "_functions", {})
    asked: list[int] = []

    @remembered("names of event types")
    def double(number: int) -> int:
        asked.append(number)
        return 2 * number

    assert [double(1), double(1)] == [2, 2]
    caches.forget("paths of fields")
    caches.forget(Until.CONVERTER_CHANGED)
    assert double(1) == 2
    assert asked == [1]
    for reason in ("names of event types", Until.CLASS_ADDED):
        caches.forget(reason)
        double(1)
    assert asked == [1, 1, 1]


def test_a_cache_forgets_all_when_it_is_full() -> None:
    """So that it never has more entries than its policy says."""
    squares: Cache[int, int] = Cache("stored shapes", lambda number: number * number)
    most = CACHES["stored shapes"].most
    assert [squares[number] for number in range(most)][-1] == (most - 1) ** 2
    assert len(squares) == most
    assert squares[most] == most**2
    assert dict(squares) == {most: most**2}


def test_what_was_looked_up_before_a_revision_is_not_used_after_it() -> None:
    """Also if it is written late, by another thread."""
    answers: RevisedCache[str, str] = RevisedCache("older names of fields")
    before = answers.at(1)
    before["a"] = "old"
    assert answers.at(1) == {"a": "old"}
    after = answers.at(2)
    before["b"] = "late"
    assert after == answers.at(2) == {}


def test_a_timed_entry_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After as many seconds as its policy says."""
    now, looked_up = 100.0, 0

    def look_up() -> int:
        nonlocal looked_up
        looked_up += 1
        return looked_up

    monkeypatch.setattr("pgevents.caches.time.monotonic", lambda: now)
    cache: TimedCache[str, Any] = TimedCache("kept views")
    assert [cache.get("a", look_up), cache.get("a", look_up)] == [1, 1]
    now += CACHES["kept views"].seconds + 0.1
    assert cache.get("a", look_up) == 2
