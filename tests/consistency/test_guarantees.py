"""The page of guarantees names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guarantees.md"


def test_the_page_of_guarantees_names_tests_that_exist() -> None:
    """Each promise has the tests that hold it."""
    page = PAGE.read_text(encoding="utf-8")
    sections = re.split(r"(?m)^## (?=\d)", page)[1:]
    numbers = [int(section.split(".")[0]) for section in sections]
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    files = [*HERE.parent.glob("test_*.py"), *HERE.parent.glob("*/test_*.py")]
    known = set(re.findall(r"(?m)^def (test_\w+)", "".join(path.read_text() for path in files)))
    for section in sections:
        named = set(re.findall(r"\btest_\w+\b", section)) - {path.stem for path in files}
        assert named, section.splitlines()[0]
        assert named <= known, named - known
