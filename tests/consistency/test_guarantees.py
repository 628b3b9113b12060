"""The page of guarantees names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guarantees.md"


def test_the_page_of_guarantees_names_tests_that_exist() -> None:
    """Eight promises, each with the tests that hold it."""
    page = PAGE.read_text(encoding="utf-8")
    sections = re.split(r"(?m)^## (?=\d)", page)[1:]
    assert [section[0] for section in sections] == list("12345678")
    known = set(
        re.findall(
            r"(?m)^def (test_\w+)", "".join(path.read_text() for path in HERE.parent.rglob("test_*.py"))
        )
    )
    for section in sections:
        named = set(re.findall(r"\btest_\w+\b", section)) - {
            path.stem for path in HERE.parent.rglob("test_*.py")
        }
        assert named, section.splitlines()[0]
        assert named <= known, named - known
